"""`NetavarkNetworks`: the port of networks, on netavark.

Order makes it safe against ``kill -9``: an endpoint is written down before the program makes it and until it has taken it away.
`recover` therefore finds in the files everything that can be there.
"""

import contextlib
import secrets
import time
from collections.abc import AsyncGenerator, Collection, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import anyio
import structlog
from typing_extensions import override

from lading.core import addresses, networks
from lading.core.addresses import Pools
from lading.core.networks import (
    BRIDGE,
    HOST,
    NONE,
    Endpoint,
    EndpointRequest,
    Network,
    NetworkID,
    NetworkRequest,
    Sandbox,
    SandboxID,
    Subnet,
)
from lading.errors import (
    AlreadyExistsError,
    InvalidArgumentError,
    LadingError,
    NotFoundError,
    PermissionDeniedError,
)
from lading.kit import aio
from lading.network import announcing, definitions, lent, links, places
from lading.network.guard import Guard
from lading.network.links import Link
from lading.network.netavark import Netavark
from lading.network.ports import Ports, Reservations
from lading.network.relay import Relays, Way, open_relays
from lading.network.rootlesskit import RootlessPorts
from lading.network.state import Place, Record, State, check_id

_RUNS: Final = 4
"""Runs of the program at once."""
_log: Final = structlog.get_logger("lading.network")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the administrator may say. ``bridge`` is the default bridge's interface; empty: there is no such network.

    ``bip`` is its gateway in CIDR form; ``host_ip`` the address on which ports are published that name none.
    """

    bridge: str = "lading0"
    bip: str = ""
    mtu: int = 0
    pools: Pools = addresses.DEFAULT_POOLS
    host_ip: str = ""
    program: str = ""
    resolver: str = ""
    nft: str = ""
    rootlesskit: str = ""
    """RootlessKit's socket, if the machine's ports are behind it."""


@dataclass(slots=True)
class _Live:
    """A sandbox in memory. ``lock`` orders what changes it."""

    record: Record
    lock: anyio.Lock = field(default_factory=anyio.Lock)


class NetavarkNetworks(networks.Networks):
    """See `lading.core.networks`. Make it with `open_networks`."""

    def __init__(self, store: networks.Store, root: Path, settings: Settings, relays: Relays) -> None:
        self._store = store
        self._settings = settings
        self._state = State(root)
        self._program = Netavark(self._state.programs, program=settings.program, resolver=settings.resolver)
        self._guard = Guard(settings.nft)
        self._relays = relays
        self._ports: Ports = RootlessPorts(settings.rootlesskit) if settings.rootlesskit else Reservations()
        self._networks: dict[NetworkID, Network] = {}
        self._locks: dict[NetworkID, anyio.Lock] = {}
        self._live: dict[SandboxID, _Live] = {}
        self._defining = anyio.Lock()
        self._runs = anyio.CapacityLimiter(_RUNS)

    async def _open(self) -> None:
        await aio.run(aio.DISK, self._state.prepare)
        for record in await aio.run(aio.DISK, self._state.load):
            self._live[record.id] = _Live(record)
        stored = await self._store.list()
        self._networks = {each.id: each for each in (*definitions.PREDEFINED, *stored)}
        await self._define_bridge()

    async def _define_bridge(self) -> None:
        """The predefined bridge as the settings have it; its ID stays as long as they do."""
        old = next(
            (each for each in self._networks.values() if each.predefined and each.name == BRIDGE), None
        )
        settings = self._settings
        link = await _link(settings.bridge)
        request = definitions.bridge_request(settings.bridge, settings.bip, settings.mtu)
        if link is not None and not settings.bip:  # the bridge itself says
            request = lent.completed(request, link)
        if old is not None and definitions.is_same(old, request):
            return
        if old is not None:
            await self._store.delete(old.id)
            del self._networks[old.id]
        if settings.bridge:
            await self._define(request, predefined=True)

    def _close(self) -> None:
        self._ports.close()

    # Networks.

    @override
    async def create(self, request: NetworkRequest) -> Network:
        definitions.check(request)
        async with self._defining:
            if any(each.name == request.name for each in self._networks.values()):
                raise AlreadyExistsError(
                    f"network with name {request.name} already exists", subject=request.name
                )
            return await self._define(request)

    async def _define(self, request: NetworkRequest, *, predefined: bool = False) -> Network:
        id_ = NetworkID(secrets.token_hex(32))
        interface = definitions.interface_of(request, id_)
        link = await _link(interface) if request.driver == BRIDGE else None
        if link is not None:
            request = lent.completed(request, link)
        busy = await aio.run(aio.DISK, definitions.machine_subnets)
        others = [subnet for each in self._networks.values() for subnet in each.subnets]
        subnets = addresses.subnets_for(
            request,
            taken=[addresses.network(each.subnet) for each in others],
            busy=busy,
            pools=self._settings.pools,
        )
        if link is not None and not (predefined and self._settings.bip):
            lent.check(link, subnets)
        if interface and any(each.interface == interface for each in self._networks.values()):
            raise PermissionDeniedError(
                f"the interface {interface} belongs to another network", subject=interface
            )
        network = Network(
            id=id_,
            name=request.name,
            driver=request.driver,
            created=time.time_ns(),
            subnets=subnets,
            ipv4=request.ipv4,
            ipv6=request.ipv6,
            internal=request.internal,
            attachable=request.attachable,
            labels=dict(request.labels),
            options=dict(request.options),
            ipam_options=dict(request.ipam_options),
            interface=interface,
            predefined=predefined,
        )
        await self._store.create(network)
        self._networks[id_] = network
        return network

    @override
    def find(self, name: str) -> Network:
        exact = self._networks.get(NetworkID(name))
        named = next((each for each in self._networks.values() if each.name == name), None)
        found = exact or named
        if found is not None:
            return found
        matches = [each for id_, each in self._networks.items() if name and id_.startswith(name)]
        if len(matches) > 1:
            raise InvalidArgumentError(f"network {name} is ambiguous ({len(matches)} matches found on name)")
        if not matches:
            raise NotFoundError(f"network {name} not found", subject=name)
        return matches[0]

    @override
    def list(self) -> Sequence[Network]:
        return sorted(self._networks.values(), key=lambda each: each.created)

    @override
    async def remove(self, id: NetworkID) -> None:
        network = self._known(id)
        if network.predefined:
            raise PermissionDeniedError(f"{network.name} is a pre-defined network and cannot be removed")
        async with self._lock(id):
            self._known(id)
            connected = [sandbox for sandbox, _ in self.endpoints(id)]
            if connected:
                raise PermissionDeniedError(
                    f"error while removing network: network {network.name} id {id} has active endpoints "
                    f"({', '.join(each[:12] for each in connected)})"
                )
            await self._store.delete(id)
            del self._networks[id]
        self._locks.pop(id, None)

    @override
    def endpoints(self, id: NetworkID) -> Sequence[tuple[SandboxID, Endpoint]]:
        return [
            (sandbox, place.endpoint)
            for sandbox, live in self._live.items()
            for place in live.record.places
            if place.network.id == id
        ]

    def _places(self, id: NetworkID) -> Iterator[Place]:
        return (p for live in self._live.values() for p in live.record.places if p.network.id == id)

    def _known(self, id: NetworkID) -> Network:
        try:
            return self._networks[id]
        except KeyError:
            raise NotFoundError(f"network {id} not found", subject=id) from None

    def _lock(self, id: NetworkID) -> anyio.Lock:
        return self._locks.setdefault(id, anyio.Lock())

    # Sandboxes.

    @override
    async def open_sandbox(self, id: SandboxID, *, owner: str = "", existing: str = "") -> Sandbox:
        check_id(id)
        live = self._live.get(id)
        if live is None:
            live = self._live[id] = _Live(Record(id=id))
            async with live.lock:
                with anyio.CancelScope(shield=True):
                    try:
                        await aio.run(aio.DISK, self._state.make, live.record, owner, existing)
                    except OSError as exc:
                        del self._live[id]
                        await aio.run(aio.DISK, self._state.drop, id)
                        raise places.refused("make a network namespace", exc) from exc
        async with live.lock:  # another call may be making it
            return self.sandbox(id)

    @override
    def sandbox(self, id: SandboxID) -> Sandbox:
        return self._state.view(self._at(id).record)

    def _at(self, id: SandboxID) -> _Live:
        try:
            return self._live[id]
        except KeyError:
            raise NotFoundError(f"no sandbox {id}", subject=id) from None

    @override
    async def connect(self, id: SandboxID, network: NetworkID, request: EndpointRequest) -> Endpoint:
        places.check(request)
        live = self._at(id)
        async with live.lock, self._lock(network):
            known, record = self._known(network), self._at(id).record
            places.check_joinable(known, record)
            endpoint = places.choose(known, record, request, self.endpoints(network))
            with anyio.CancelScope(shield=True):
                is_lent = await self._is_lent(known)
                endpoint = await self._publish(known, id, endpoint, request)
                place = Place(endpoint=endpoint, network=known, lent=is_lent, asked=request.priority)
                await self._make(record, place)
            return endpoint

    async def _is_lent(self, network: Network) -> bool:
        """Whether the bridge is the administrator's: it was there before the network's first endpoint."""
        if network.driver != BRIDGE:
            return False
        here = next((place for place in self._places(network.id)), None)
        if here is not None:
            return here.lent
        link = await _link(network.interface)
        if link is None:
            return False
        lent.check(link, network.subnets)
        self._guard.check()
        try:
            await aio.run(aio.DISK, lent.prepare, network)
        except OSError as exc:
            raise places.refused(f"use the bridge {network.interface}", exc) from exc
        return True

    async def _publish(
        self, network: Network, id: SandboxID, endpoint: Endpoint, request: EndpointRequest
    ) -> Endpoint:
        if not request.ports:
            return endpoint
        wanted = places.ports_of(network, request, default=self._settings.host_ip)
        ports = await self._ports.reserve(_holder(id, network.id), wanted, endpoint)
        return places.with_ports(endpoint, ports)

    async def _make(self, record: Record, place: Place) -> None:
        first = not self.endpoints(place.network.id)
        rules = self._needs_rules(place)
        record.places.append(place)
        try:
            await aio.run(aio.DISK, self._state.save, record)
            local = places.local_ports(place.endpoint)
            if first or local:
                await self._close_guard(place.network)
            async with self._runs:
                await self._program.setup(
                    self._state.path(record.id), record.id, place.network, place.endpoint, rules=rules
                )
            place.settled = True
            await aio.run(aio.DISK, self._state.save, record)
            self._relay(record.id, place)
            await self._announce(record, place)
        except (LadingError, OSError) as exc:
            await self._take_away(record, place)
            if isinstance(exc, OSError):
                raise places.refused("write down an endpoint", exc) from exc
            raise

    def _relay(self, id: SandboxID, place: Place) -> None:
        ports, holder = places.local_ports(place.endpoint), _holder(id, place.network.id)
        sockets = [(each, ports.get(each.getsockname()[1])) for each in self._ports.local(holder)]
        ways = [Way(listener, place.endpoint.ipv6, port) for listener, port in sockets if port]
        if ways:
            self._relays.start(holder, ways)

    async def _close_guard(self, network: Network) -> None:
        local = {port for _, each in self.endpoints(network.id) for port in places.local_ports(each)}
        await self._guard.close(network, local)

    async def _announce(self, record: Record, place: Place) -> None:
        if place.network.driver == "ipvlan":  # its MAC address is the parent's, which stays
            return
        try:
            await aio.run(aio.DISK, announcing.announce, self._state.path(record.id), place.endpoint)
        except OSError as exc:
            _log.warning(
                "addresses_not_announced", sandbox=record.id, network=place.network.name, reason=str(exc)
            )

    @override
    async def rename(self, id: SandboxID, network: NetworkID, names: Sequence[str]) -> None:
        live = self._live.get(id)
        if live is None:
            return
        places.check(EndpointRequest(names=tuple(names)))
        async with live.lock, self._lock(network):
            place = live.record.place(network)
            if place is None:
                return
            place.endpoint = replace(place.endpoint, names=tuple(names))
            with anyio.CancelScope(shield=True):
                try:
                    await aio.run(aio.DISK, self._state.save, live.record)
                    if place.network.resolves_names:
                        await aio.run(aio.DISK, self._program.rename, id, place.network, tuple(names))
                except OSError as exc:
                    raise places.refused("write down an endpoint's names", exc) from exc

    @override
    async def disconnect(self, id: SandboxID, network: NetworkID) -> None:
        live = self._live.get(id)
        if live is None:
            return
        async with live.lock, self._lock(network):
            place = live.record.place(network)
            if place is not None:
                with anyio.CancelScope(shield=True):
                    await self._take_away(live.record, place)

    @override
    async def close_sandbox(self, id: SandboxID) -> None:
        live = self._live.get(id)
        if live is None:
            return
        with anyio.CancelScope(shield=True):
            for place in list(live.record.places):
                await self.disconnect(id, place.network.id)
            async with live.lock:
                if self._live.get(id) is live:
                    await aio.run(aio.DISK, self._state.drop, id)
                    del self._live[id]

    async def _take_away(self, record: Record, place: Place) -> None:
        """Goes on as far as it can; nothing of the endpoint counts as taken afterwards."""
        network = place.network
        if place.settled:
            place.settled = False
            with contextlib.suppress(OSError):  # a full disk: it is taken away all the same
                await aio.run(aio.DISK, self._state.save, record)
        await self._tear_down(record, place)
        record.places.remove(place)
        try:
            if not self.endpoints(network.id):
                await self._guard.open(network)
                if place.lent:
                    await self._guard.forget(network.interface)
            elif places.local_ports(place.endpoint):
                await self._close_guard(network)
        except LadingError as exc:
            _log.warning("rules_not_removed", network=network.name, reason=exc.message)
        self._relays.stop(_holder(record.id, network.id))
        await self._ports.release(_holder(record.id, network.id))
        with contextlib.suppress(OSError):
            await aio.run(aio.DISK, self._state.save, record)

    async def _tear_down(self, record: Record, place: Place) -> None:
        # The program takes a network's rules away together with its bridge. A lent one stays: the rules go with a stand-in.
        stays = place.lent and self._is_alone(place)
        try:
            async with self._runs:
                await self._program.teardown(
                    self._state.path(record.id),
                    record.id,
                    place.network,
                    place.endpoint,
                    rules=self._needs_rules(place),
                    keep=stays,
                )
        except LadingError as exc:
            _log.info(
                "endpoint_was_incomplete", sandbox=record.id, network=place.network.name, reason=exc.message
            )
        else:
            if not stays:
                return
        await self._sweep(record, place, f"sw-{place.network.id[:12]}" if stays else place.network.interface)

    def _needs_rules(self, place: Place) -> bool:
        """Whether the firewall changes with an endpoint: it publishes ports, or is the only one that is wholly there."""
        return bool(place.endpoint.ports) or self._is_alone(place)

    def _is_alone(self, place: Place) -> bool:
        """Whether no other endpoint of its network is wholly there."""
        return not any(other.settled for other in self._places(place.network.id) if other is not place)

    async def _sweep(self, record: Record, place: Place, interface: str) -> None:
        """Make an endpoint whole elsewhere, on the bridge ``interface``, and take it away there. For what the program did not
        take away, because it stopped half-way where something was missing, or because the bridge stays.
        """
        network = replace(place.network, interface=interface)
        id_ = SandboxID(f"sweep-{secrets.token_hex(8)}")
        path = self._state.path(id_)
        await aio.run(aio.DISK, self._state.make, Record(id=id_))
        try:
            for run in (self._program.setup, self._program.teardown):
                async with self._runs:
                    await run(path, record.id, network, place.endpoint)
        except LadingError as exc:
            _log.warning(
                "endpoint_not_swept", sandbox=record.id, network=place.network.name, reason=exc.message
            )
        finally:
            await aio.run(aio.DISK, self._state.drop, id_)

    @override
    async def recover(self, keep: Collection[SandboxID]) -> Sequence[SandboxID]:
        if not self._live:
            return []
        await self._program.wait_for_others()
        await self._guard.sweep([each for id_, each in self._networks.items() if not self.endpoints(id_)])
        gone: list[SandboxID] = []
        for id_, live in list(self._live.items()):
            alive = await aio.run(aio.DISK, self._state.alive, id_)
            if id_ not in keep or not alive:
                gone.append(id_)
                await self.close_sandbox(id_)
                continue
            for place in list(live.record.places):
                if place.settled:
                    await self._reserve_again(id_, place)
                else:
                    await self.disconnect(id_, place.network.id)
        return gone

    async def _reserve_again(self, id: SandboxID, place: Place) -> None:
        """Ports of a kept endpoint work without this daemon; it only sees to it that nobody else takes them."""
        endpoint = place.endpoint
        try:
            await self._ports.reserve(_holder(id, place.network.id), endpoint.ports, endpoint)
            self._relay(id, place)
        except LadingError as exc:
            _log.warning("port_not_reserved_again", sandbox=id, reason=exc.message)


async def _link(interface: str) -> Link | None:
    """What the machine has under that name."""
    if not interface:
        return None
    try:
        return await aio.run(aio.DISK, links.find, interface)
    except OSError as exc:
        raise places.refused(f"look for the interface {interface}", exc) from exc


def _holder(id: SandboxID, network: NetworkID) -> str:
    return f"{id}/{network}"


@asynccontextmanager
async def open_networks(
    store: networks.Store, root: Path, settings: Settings | None = None
) -> AsyncGenerator[NetavarkNetworks]:
    """Networks with their records in ``store`` and what goes with the boot below ``root``. Leaving leaves everything as it is."""
    async with open_relays() as relays:
        made = NetavarkNetworks(store, root, settings or Settings(), relays)
        await made._open()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        try:
            yield made
        finally:
            made._close()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]


__all__ = ["HOST", "NONE", "NetavarkNetworks", "Settings", "Subnet", "open_networks"]
