"""Ports through RootlessKit's socket, against a stand-in that answers as RootlessKit 1.1 does."""

import json
import socketserver
import threading
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from lading.core.networks import Endpoint, NetworkID, PortMapping
from lading.errors import ConflictError, PermissionDeniedError, UnavailableError, UnsupportedError
from lading.network.rootlesskit import RootlessPorts

pytestmark = pytest.mark.anyio


class Kit:
    """What listens: port to mapping. ``taken`` are others' ports of the machine."""

    def __init__(self) -> None:
        self.ports: dict[int, dict[str, Any]] = {}
        self.taken: set[int] = set()
        self.refusal = ""
        self._number = 0

    def add(self, spec: dict[str, Any]) -> tuple[int, Any]:
        port, key = spec["parentPort"], (spec["proto"], spec["parentPort"])
        if self.refusal:
            return 500, {"message": self.refusal}
        if port < 1024:
            return 500, {
                "message": f"cannot expose privileged port {port}, you can add ...: permission denied"
            }
        if port in self.taken:
            return 500, {"message": f"listen tcp4 0.0.0.0:{port}: bind: address already in use"}
        if key in {(each["proto"], each["parentPort"]) for each in self.ports.values()}:
            return 500, {"message": "conflict with ID 1"}
        self._number += 1
        self.ports[self._number] = spec
        return 201, {"id": self._number, "spec": spec}


@pytest.fixture
def kit(tmp_path: Path) -> Generator[Kit]:
    made = Kit()

    class Handler(BaseHTTPRequestHandler):
        def address_string(self) -> str:
            return ""

        def log_message(self, format: str, *args: object) -> None:
            pass

        def answer(self, status: int, body: Any) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def do_POST(self) -> None:
            assert self.path == "/v1/ports"
            self.answer(*made.add(json.loads(self.rfile.read(int(self.headers["Content-Length"])))))

        def do_DELETE(self) -> None:
            del made.ports[int(self.path.removeprefix("/v1/ports/"))]
            self.answer(200, None)

    server = socketserver.UnixStreamServer(str(tmp_path / "api.sock"), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def ports(tmp_path: Path, kit: Kit) -> RootlessPorts:
    return RootlessPorts(str(tmp_path / "api.sock"))


def endpoint(ipv6: str = "") -> Endpoint:
    return Endpoint(id="e", network=NetworkID("n"), interface="eth0", mac="", ipv4="10.1.0.2", ipv6=ipv6)


async def test_it_listens_outside_and_leads_to_the_endpoint(kit: Kit, ports: RootlessPorts):
    got = await ports.reserve("c", [PortMapping(port=80, host_port=8080)], endpoint())
    assert got == (PortMapping(port=80, host_port=8080),)
    spec = {
        "proto": "tcp4",
        "parentIP": "0.0.0.0",
        "parentPort": 8080,
        "childIP": "10.1.0.2",
        "childPort": 80,
    }
    assert list(kit.ports.values()) == [spec]
    await ports.release("c")
    await ports.release("c")
    assert kit.ports == {}


async def test_addresses_of_both_versions_and_a_named_one(kit: Kit, ports: RootlessPorts):
    wanted = [
        PortMapping(port=53, protocol="udp", host_port=5353),
        PortMapping(port=80, host_port=8080, host_ip="192.0.2.1"),
    ]
    await ports.reserve("c", wanted, endpoint("fd00::2"))
    found = {(each["proto"], each["parentIP"], each["childIP"]) for each in kit.ports.values()}
    assert found == {
        ("udp4", "0.0.0.0", "10.1.0.2"),
        ("udp6", "::", "fd00::2"),
        ("tcp4", "192.0.2.1", "10.1.0.2"),
    }


async def test_a_free_port_is_found_and_a_range_gone_through(kit: Kit, ports: RootlessPorts):
    kit.taken = {9000, 9001}
    got = await ports.reserve("c", [PortMapping(port=80, host_port=9000, host_last=9002)], endpoint())
    assert got[0].host_port == 9002
    got = await ports.reserve("d", [PortMapping(port=80)], endpoint())
    assert got[0].host_port in {each["parentPort"] for each in kit.ports.values()}


async def test_a_taken_port_is_a_conflict_and_nothing_stays(kit: Kit, ports: RootlessPorts):
    kit.taken = {9000}
    wanted = [PortMapping(port=81, host_port=8081), PortMapping(port=80, host_port=9000)]
    with pytest.raises(ConflictError, match="9000 failed: port is already allocated"):
        await ports.reserve("c", wanted, endpoint())
    assert kit.ports == {}


async def test_privileged_ports_and_sctp_are_refused_with_the_remedy(kit: Kit, ports: RootlessPorts):
    with pytest.raises(PermissionDeniedError, match="ip_unprivileged_port_start"):
        await ports.reserve("c", [PortMapping(port=80, host_port=80)], endpoint())
    with pytest.raises(UnsupportedError, match="sctp"):
        await ports.reserve("c", [PortMapping(port=80, host_port=8080, protocol="sctp")], endpoint())
    kit.refusal = "no such driver"
    with pytest.raises(UnavailableError, match="no such driver"):
        await ports.reserve("c", [PortMapping(port=80, host_port=8080)], endpoint())


async def test_a_silent_kit_is_named(tmp_path: Path):
    with pytest.raises(UnavailableError, match="RootlessKit does not answer"):
        await RootlessPorts(str(tmp_path / "none")).reserve(
            "c", [PortMapping(port=80, host_port=8080)], endpoint()
        )
