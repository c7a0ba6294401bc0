"""netavark, the program: its documents and its runs.

It makes bridge and veth pair, gives addresses, writes firewall rules through nftables (or iptables where there is no nft),
and keeps aardvark-dns, which answers look-ups on the bridge. One run makes or takes away one endpoint. Documents:
netavark(1), and ``podman network inspect`` of podman 5, which writes the same ones.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import anyio
import msgspec

from lading.core import addresses
from lading.core.networks import Endpoint, Network, PortMapping, SandboxID
from lading.errors import UnavailableError
from lading.kit import aio

PLACES: Final = ("/usr/local/lib/lading", "/usr/lib/podman", "/usr/libexec/podman")
"""Where distributions keep it, and where ``make setup`` puts it."""
OLDEST: Final = (1, 10)
"""The first version that speaks to nftables."""
_METRIC: Final = 100
_NAMES: Final = 3
"""Where names stand in a line of aardvark-dns."""
_RESOLVER_SECONDS: Final = 2.0
_VERSION: Final = re.compile(r"(\d+)\.(\d+)")
_HINT: Final = (
    "install netavark 1.10 or newer and aardvark-dns, or run containers with --network host or none"
)


class Netavark:
    """Runs of the program. ``directory`` holds its own files, and ends with the boot.

    Args:
        directory: Where it keeps what it knows of rules and names.
        program, resolver: Paths of netavark and aardvark-dns; looked for where distributions put them if empty.

    """

    def __init__(self, directory: Path, *, program: str = "", resolver: str = "") -> None:
        self._directory = directory
        self._program = program
        self._resolver = resolver
        self._checked = False
        self._resolver_pid = 0

    async def setup(
        self, path: str, sandbox: SandboxID, network: Network, endpoint: Endpoint, *, rules: bool = True
    ) -> None:
        """Make the endpoint in the namespace at ``path``. Raises `UnavailableError` in the program's words.

        ``rules`` false: leave the firewall as it is, which is right where the network has its rules and the endpoint publishes
        nothing; the program would only find that out by running nft four times.
        """
        await self._run("setup", path, document(sandbox, network, endpoint), rules=rules)
        self._resolver_pid = await aio.run(aio.DISK, self._read_pid) or self._resolver_pid

    async def teardown(
        self,
        path: str,
        sandbox: SandboxID,
        network: Network,
        endpoint: Endpoint,
        *,
        rules: bool = True,
        keep: bool = False,
    ) -> None:
        """Take away what there is of it. ``rules`` false: the firewall stays as it is, since others are in the network.

        The bridge goes with the last endpoint, and with it the network's rules; ``keep``: it stays, as do all rules.
        Raises `UnavailableError` if something was missing; what was there may then not all be gone.
        """
        await self._run("teardown", path, document(sandbox, network, endpoint, keep=keep), rules=rules)
        await self._collect_resolver()

    def rename(self, sandbox: SandboxID, network: Network, names: Sequence[str]) -> None:
        """Have the resolver know an endpoint by other names. Blocking. Raises `OSError`.

        The program has no word for it, so the resolver's file is rewritten: a line for each sandbox, of its ID, IPv4 and IPv6
        addresses, names, and servers of its own.
        """
        path = self._directory / "aardvark-dns" / network.name
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        for number, line in enumerate(lines):
            words = line.rstrip("\n").split(" ")
            if len(words) > _NAMES and words[0] == sandbox:
                words[_NAMES] = ",".join(names)
                lines[number] = " ".join(words) + "\n"
        # In place: another name in this directory would be taken for another network.
        path.write_text("".join(lines), encoding="utf-8")
        if pid := self._read_pid():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGHUP)

    async def wait_for_others(self) -> None:
        """Wait until no run is under way that an earlier daemon began and left behind."""
        for pid in await aio.run(aio.DISK, _others, str(self._directory)):
            try:
                fd = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            try:
                with anyio.move_on_after(10):
                    await anyio.wait_readable(fd)
            finally:
                os.close(fd)

    def _read_pid(self) -> int:
        """The resolver's process, 0 if none runs. Blocking."""
        try:
            return int((self._directory / "aardvark-dns" / "aardvark.pid").read_text(encoding="ascii"))
        except (OSError, ValueError):
            return 0

    async def _collect_resolver(self) -> None:
        """The resolver ends with its last network. It is an orphan, and this process a subreaper: see that no zombie stays."""
        pid = self._resolver_pid
        if not pid or await aio.run(aio.DISK, self._read_pid):
            return
        self._resolver_pid = 0
        with contextlib.suppress(ProcessLookupError):
            fd = os.pidfd_open(pid)
            try:
                with anyio.move_on_after(_RESOLVER_SECONDS):
                    await anyio.wait_readable(fd)
            finally:
                os.close(fd)
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)  # noqa: ASYNC222 - does not wait

    async def _run(
        self, verb: Literal["setup", "teardown"], path: str, what: Mapping[str, Any], *, rules: bool
    ) -> None:
        if not self._checked:
            await self._check()
        firewall = _firewall() if rules else "none"
        words = [
            *(self._program, "--config", str(self._directory), "--rootless", "false"),
            *("--firewall-driver", firewall, "--aardvark-binary", self._resolver, verb, path),
        ]
        done = await self._start(words, msgspec.json.encode(what))
        if done.returncode:
            raise UnavailableError(f"netavark {verb}: {_error(done)}", subject=str(what["container_id"]))

    @staticmethod
    async def _start(words: Sequence[str], data: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
        try:
            return await anyio.run_process(words, input=data, check=False)
        except OSError as exc:
            raise UnavailableError(f"{words[0]} does not run: {exc.strerror}", hint=_HINT) from exc

    async def _check(self) -> None:
        """Find the programs, once. Raises `UnavailableError` with what to install."""
        self._program = self._program or _find("netavark")
        self._resolver = self._resolver or _find("aardvark-dns")
        version = (await self._start([self._program, "--version"])).stdout.decode(errors="replace").strip()
        found = _VERSION.search(version)
        if found is None or (int(found[1]), int(found[2])) < OLDEST:
            raise UnavailableError(
                f"{self._program} is too old for networks: {version or 'no version'}", hint=_HINT
            )
        self._checked = True


def _find(name: str) -> str:
    path = shutil.which(name, path=os.pathsep.join((*PLACES, os.environ.get("PATH", os.defpath))))
    if path is None:
        raise UnavailableError(f"networks need the program {name}, which is not installed", hint=_HINT)
    return path


def _firewall() -> str:
    return "nftables" if shutil.which("nft") else "iptables"


def _error(done: "subprocess.CompletedProcess[bytes]") -> str:
    """The program says ``{"error": …}`` on standard output; what comes before it may be a log on standard error."""
    try:
        return str(msgspec.json.decode(done.stdout)["error"])
    except (msgspec.MsgspecError, KeyError, TypeError):
        return (done.stderr or done.stdout).decode(errors="replace").strip()[
            -500:
        ] or f"status {done.returncode}"


def _others(directory: str) -> list[int]:
    """Processes that run the program on this directory. Blocking. proc(5)."""
    found: list[int] = []
    wanted = b"\0--config\0" + os.fsencode(directory) + b"\0"
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                line = Path(f"/proc/{name}/cmdline").read_bytes()
            except OSError:
                continue
            if wanted in line and (b"\0setup\0" in line or b"\0teardown\0" in line):
                found.append(int(name))
    return found


# Documents.


def document(
    sandbox: SandboxID, network: Network, endpoint: Endpoint, *, keep: bool = False
) -> dict[str, Any]:
    """What the program reads: one sandbox in one network. ``keep``: it leaves the bridge and the firewall as they are."""
    names = list(endpoint.names) or [sandbox]
    return {
        "container_id": sandbox,
        "container_name": names[0],
        "port_mappings": port_mappings(endpoint.ports),
        **({"dns_servers": list(endpoint.resolvers)} if endpoint.resolvers else {}),
        "networks": {
            network.name: {
                "interface_name": endpoint.interface,
                "static_ips": [each for each in (endpoint.ipv4, endpoint.ipv6) if each],
                "static_mac": endpoint.mac,
                "aliases": names[1:],
            }
        },
        "network_info": {network.name: _network(network, _options(network, endpoint, keep=keep))},
    }


def _network(network: Network, options: Mapping[str, str]) -> dict[str, Any]:
    # Of each version the subnet in which the endpoint has its address, in the order of `static_ips`: the program pairs them by
    # their place.
    found = [subnet for version in (4, 6) if (subnet := addresses.of_version(network.subnets, version))]
    return {
        "name": network.name,
        "id": network.id,
        "driver": network.driver,
        "network_interface": network.interface,
        "created": "1970-01-01T00:00:00Z",  # must be there, and means nothing
        "subnets": [{"subnet": each.subnet, "gateway": each.gateway} for each in found],
        "ipv6_enabled": addresses.of_version(network.subnets, 6) is not None,
        "internal": network.internal,
        "dns_enabled": network.resolves_names,
        "ipam_options": {"driver": "host-local"},
        "options": options,
    }


def _options(network: Network, endpoint: Endpoint, *, keep: bool) -> dict[str, str]:
    given = network.options
    made: dict[str, str] = {}
    if mtu := given.get("com.docker.network.driver.mtu"):
        made["mtu"] = mtu
    if network.driver == "bridge":
        # As with Docker, no bridge reaches another one; and of several default routes the best endpoint's counts.
        made |= {"isolate": "true", "metric": str(max(1, _METRIC - endpoint.priority))}
        if keep:
            made["mode"] = "unmanaged"
    elif mode := given.get(f"{network.driver}_mode"):
        made["mode"] = mode
    return made


def port_mappings(ports: Sequence[PortMapping]) -> list[dict[str, Any]]:
    """Published ports; neighbours that lead to neighbours become one range."""
    made: list[dict[str, Any]] = []
    for each in sorted(ports, key=lambda port: (port.protocol, port.host_ip, port.host_port, port.port)):
        last = made[-1] if made else None
        if last and (last["protocol"], last["host_ip"]) == (each.protocol, each.host_ip):
            length = last["range"]
            if (last["host_port"] + length, last["container_port"] + length) == (each.host_port, each.port):
                last["range"] += 1
                continue
        made.append(
            {
                "protocol": each.protocol,
                "host_ip": each.host_ip,
                "host_port": each.host_port,
                "container_port": each.port,
                "range": 1,
            }
        )
    return made
