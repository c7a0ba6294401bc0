"""What stands for the registry client until somebody needs it: a daemon answers sooner if it need not import that."""

from collections.abc import Callable, Mapping
from typing import Final

import anyio
from typing_extensions import override

from lading.core.remotes import Credentials, Registries, Resolver
from lading.daemon import launch
from lading.daemon.config import Config
from lading.errors import UnavailableError
from lading.kit import aio

_MOMENT: Final = 0.05
"""Seconds."""


class ReloadableRegistries(Registries):
    """The registry client of the present configuration. Work under way goes on with the one that it began with."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._all: list[Registries] = []
        self._current: Registries | None = None
        self._closed = False

    def reload(self, config: Config) -> None:
        """Use a new configuration from now on."""
        self._config = config
        self._current = None

    async def warm(self) -> None:
        """Have the client ready for the first who asks; background work, once who waited for the daemon was answered."""
        await anyio.sleep(_MOMENT)
        await aio.run(aio.DISK, _load_ahead)

    @override
    def resolver(
        self, credentials: Credentials | None = None, *, headers: Mapping[str, str] | None = None
    ) -> Resolver:
        return self._client().resolver(credentials, headers=headers)

    def _client(self) -> Registries:
        if self._closed:
            raise UnavailableError("the daemon is stopping")
        if self._current is None:
            self._current = _load()(self._config)
            self._all.append(self._current)
        return self._current

    @override
    async def close(self) -> None:
        self._closed = True
        for each in self._all:
            await each.close()


def _load_ahead() -> None:
    with launch.late_imports("registries"):
        _load()


def _load() -> Callable[[Config], Registries]:
    """Import what makes a client. Blocking."""
    from lading.daemon import registry_client  # noqa: PLC0415 - see above

    return registry_client.make
