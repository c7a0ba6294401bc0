"""`HttpRegistries`: the registry client of one daemon."""

import random
from collections.abc import Awaitable, Callable, Mapping

import anyio
from typing_extensions import override

from lading.core.remotes import Credentials, Registries, Resolver
from lading.remotes.auth import Authorizer
from lading.remotes.client import Client
from lading.remotes.config import Config
from lading.remotes.dial import Dialer, Resolve, resolve
from lading.remotes.keychain import DockerKeychain, Keychain, NoKeychain
from lading.remotes.resolver import HttpResolver
from lading.remotes.session import Shared


class HttpRegistries(Registries):
    """Registries over HTTP. Belongs to the event loop that uses it.

    Args:
        config: See `Config`.
        keychain: Where credentials come from for requests that bring none; by default, ``config.docker_config``.
        resolver: Finds addresses.
        sleep: Waits between attempts.
        jitter: A number in [0, 1) for waiting times.

    """

    def __init__(
        self,
        config: Config | None = None,
        *,
        keychain: Keychain | None = None,
        resolver: Resolve = resolve,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        config = config or Config()
        if keychain is None:
            named = config.docker_config
            keychain = DockerKeychain(named, config.helper_path) if named else NoKeychain()
        dialer = Dialer(config.proxies, idle=config.limits.idle, resolver=resolver)
        client = Client(dialer, config.limits, config.user_agent)
        self._shared = Shared(
            config=config,
            client=client,
            authorizer=Authorizer(client, config.limits, config.trusted_realms),
            keychain=keychain,
            resolve=resolver,
            sleep=sleep,
            jitter=jitter,
        )

    @override
    def resolver(
        self, credentials: Credentials | None = None, *, headers: Mapping[str, str] | None = None
    ) -> Resolver:
        return HttpResolver(self._shared, credentials, headers)

    @override
    async def close(self) -> None:
        await self._shared.client.close()
