"""What clients see of containers: rows of the list, and the inspect document."""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lading.containers import links, listing, logdriver, netviews, views
from lading.containers.directories import Directories
from lading.containers.environment import Environment
from lading.containers.model import Container
from lading.containers.networking import Networking
from lading.errors import LadingError, NotFoundError


class Display:
    """Shows containers. ``find`` gives one by name or ID, ``every`` all of them, newest first."""

    def __init__(
        self,
        environment: Environment,
        directories: Directories,
        networking: Networking,
        find: Callable[[str], Container],
        every: Callable[[], Sequence[Container]],
    ) -> None:
        self._env = environment
        self._directories = directories
        self._networking = networking
        self._find = find
        self._all = every

    async def inspect(self, container: Container, *, size: bool = False) -> dict[str, Any]:
        """The inspect document."""
        networking = self._networking
        return views.inspect(
            container,
            log_path=self._log_path(container),
            directory=str(self._directories.durable(container)),
            driver=container.record.snapshotter,
            trees=await self._env.trees(container.record.snapshot_key) if self._env.trees else {},
            cgroup_v2=self._env.cgroup_v2,
            volume_path=self._volume_path,
            network=netviews.settings(
                container,
                networking.placed(container),
                networking.sandbox(container) if container.state.running else None,
            ),
            sizes=await self.sizes(container) if size else None,
        )

    async def list(
        self, filters: Mapping[str, Sequence[str]], *, all: bool = False, limit: int = 0, size: bool = False
    ) -> "list[dict[str, Any]]":
        """Rows of the container list, newest first; only running ones unless ``all``, ``limit`` or a status was asked for."""
        listing.check(filters)
        every = self._all()
        if limit > 0 or all or filters.get("status") or filters.get("exited"):
            chosen = every
        else:
            chosen = [c for c in every if c.state.running or c.state.restarting]
        for key, sign in (("before", -1), ("since", 1)):
            for value in filters.get(key, ()):
                pivot = self._find(value).document.created
                chosen = [c for c in chosen if (c.document.created - pivot) * sign > 0]
        ancestors = await self._ancestors(filters.get("ancestor", ()))

        def passes(c: Container) -> bool:
            places = self._networking.placed(c)
            names = {word for p in places for word in (p.name, p.network.id if p.network else "")}
            return listing.matches(
                c,
                filters,
                lambda name: ancestors.get(name, frozenset()),
                names,
                netviews.published_ports(places),
            )

        rows = [c for c in chosen if passes(c)]
        rows = rows[:limit] if limit > 0 else rows
        now = time.time_ns()
        given = links.names_given(every, self._find)
        return [await self._row(c, now, given.get(c.id, ()), size=size) for c in rows]

    def _volume_path(self, name: str) -> str:
        try:
            return self._env.volumes.path(name)
        except NotFoundError:  # removed by force while no daemon looked
            return ""

    async def _row(
        self, container: Container, now: int, linked: Sequence[str], *, size: bool
    ) -> dict[str, Any]:
        places = self._networking.placed(container)
        return views.summary(
            container,
            now=now,
            linked=linked,
            networks=netviews.networks(container, places),
            ports=netviews.port_rows(container, places),
            volume_path=self._volume_path,
            sizes=await self.sizes(container) if size else None,
        )

    async def _ancestors(self, names: Sequence[str]) -> dict[str, frozenset[str]]:
        found: dict[str, frozenset[str]] = {}
        for name in names:
            with contextlib.suppress(LadingError):
                image = await self._env.images.open(name, None)
                found[name] = frozenset({str(image.target.digest), str(image.manifest.digest)})
        return found

    async def sizes(self, container: Container) -> tuple[int, int]:
        """Bytes of the writable layer, and of the whole stack."""
        snapshotter = self._env.snapshotter
        own = total = 0
        try:
            key: str | None = container.record.snapshot_key
            while key is not None:
                used = (await snapshotter.usage(key)).size
                own = own or (used if key == container.record.snapshot_key else 0)
                total += used
                key = (await snapshotter.stat(key)).parent
        except NotFoundError:
            return own, total
        return own, total

    def _log_path(self, container: Container) -> str:
        """As inspect shows it: only a json-file has one."""
        config = container.host.log_config
        driver = (config and config.type) or logdriver.DEFAULT
        directory = self._directories.durable(container)
        return str(logdriver.json_path(directory, container.id)) if driver == logdriver.DEFAULT else ""
