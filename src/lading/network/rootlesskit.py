"""Ports of the machine, through RootlessKit: its process outside of our namespaces listens, and passes connections in.

Its "builtin" driver connects from inside the network namespace, in which the bridges are, so that it reaches an endpoint's own
address. The mappings go with RootlessKit, which ends with this daemon. API: its ``pkg/api/openapi.yaml``, version 1.
"""

import http.client
import json
import random
import socket
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from typing_extensions import override

from lading.core.networks import Endpoint, PortMapping
from lading.errors import (
    ConflictError,
    LadingError,
    PermissionDeniedError,
    UnavailableError,
    UnsupportedError,
)
from lading.kit import aio
from lading.network.ports import Ports

_TRIES: Final = 64
_SECONDS: Final = 10.0
_RANGE: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
_TAKEN: Final = ("address already in use", "conflict")
_FORBIDDEN: Final = ("privileged port", "permission denied")


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("rootlesskit", timeout=_SECONDS)
        self._path = path

    @override
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_SECONDS)
        self.sock.connect(self._path)


class RootlessPorts(Ports):
    """`Ports` of RootlessKit, on its socket at ``path``."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._held: dict[str, list[int]] = {}

    @override
    async def reserve(
        self, holder: str, wanted: Sequence[PortMapping], endpoint: Endpoint
    ) -> tuple[PortMapping, ...]:
        held: list[int] = []
        got: list[PortMapping] = []
        try:
            for mapping in sorted(wanted, key=lambda each: not each.host_port):
                published = await aio.run(aio.DISK, self._publish, mapping, endpoint, held)
                got.append(published)
        except LadingError:
            await aio.run(aio.DISK, self._take_back, held)
            raise
        self._held.setdefault(holder, []).extend(held)
        return tuple(sorted(got))

    @override
    def local(self, holder: str) -> Sequence[socket.socket]:
        return ()  # RootlessKit listens there itself

    @override
    async def release(self, holder: str) -> None:
        await aio.run(aio.DISK, self._take_back, self._held.pop(holder, []))

    @override
    def close(self) -> None:
        self._held.clear()

    def _publish(self, mapping: PortMapping, endpoint: Endpoint, held: list[int]) -> PortMapping:
        """Blocking; adds to ``held`` what it made."""
        if mapping.protocol not in ("tcp", "udp"):
            raise UnsupportedError(
                f"a rootless daemon cannot publish {mapping.protocol} ports", hint="only tcp and udp"
            )
        refused: ConflictError | None = None
        for port in _candidates(mapping):
            made: list[int] = []
            try:
                specs = _specs(replace(mapping, host_port=port), endpoint)
                made.extend(map(self._add, specs))
            except ConflictError as exc:
                self._take_back(made)
                refused = exc
                continue
            except LadingError:
                self._take_back(made)
                raise
            held += made
            return replace(mapping, host_port=port, host_last=0)
        raise refused or ConflictError("no port of the machine is free")

    def _add(self, spec: dict[str, Any]) -> int:
        status, body = self._call("POST", "/v1/ports", json.dumps(spec))
        if status in (http.client.OK, http.client.CREATED):
            return int(json.loads(body)["id"])
        shown = f"{spec['parentIP']}:{spec['parentPort']}"
        reason = _reason(body)
        if any(word in reason for word in _TAKEN):
            raise ConflictError(
                f"Bind for {shown} failed: port is already allocated",
                hint=f"RootlessKit says: {reason}; choose another port, or stop what listens on it",
                subject=shown,
            )
        if any(word in reason for word in _FORBIDDEN):
            raise PermissionDeniedError(
                f"a rootless daemon cannot publish {shown}: {reason}",
                hint="choose a larger port, or as root lower net.ipv4.ip_unprivileged_port_start (sysctl)",
                subject=shown,
            )
        raise UnavailableError(f"RootlessKit does not publish {shown}: {reason}", subject=shown)

    def _take_back(self, ids: Sequence[int]) -> None:
        """One that is gone is fine."""
        for id_ in ids:
            self._call("DELETE", f"/v1/ports/{id_}")

    def _call(self, method: str, target: str, body: str | None = None) -> tuple[int, bytes]:
        connection = _Connection(self._path)
        try:
            connection.request(method, target, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read(65536)
        except (OSError, http.client.HTTPException) as exc:
            raise UnavailableError(f"RootlessKit does not answer on {self._path}: {exc}") from exc
        finally:
            connection.close()


def _candidates(mapping: PortMapping) -> Iterator[int]:
    if mapping.host_port:
        yield from range(mapping.host_port, max(mapping.host_port, mapping.host_last) + 1)
        return
    # Where the kernel takes its own from; which of them are free out there is found by trying.
    first, last = map(int, _RANGE.read_text("ascii").split())
    yield from random.sample(range(first, last + 1), min(_TRIES, last + 1 - first))


def _specs(mapping: PortMapping, endpoint: Endpoint) -> Iterator[dict[str, Any]]:
    """What RootlessKit is to listen on: an address of each version that the endpoint has, and was asked for."""
    for version, any_address, target in ((4, "0.0.0.0", endpoint.ipv4), (6, "::", endpoint.ipv6)):  # noqa: S104
        asked = mapping.host_ip or any_address
        if target and (":" in asked) == (version == 6):
            yield {
                "proto": f"{mapping.protocol}{version}",
                "parentIP": asked,
                "parentPort": mapping.host_port,
                "childIP": target,
                "childPort": mapping.port,
            }


def _reason(body: bytes) -> str:
    text = body.decode(errors="replace").strip()
    try:
        return str(json.loads(text)["message"])[:500]
    except (ValueError, KeyError, TypeError):
        return text[:500]
