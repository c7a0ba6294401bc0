"""``/etc/hosts``, ``/etc/hostname`` and ``/etc/resolv.conf`` of a container. Blocking."""

from pathlib import Path
from typing import Final

from lading.containers.request import HostConfig
from lading.errors import InvalidArgumentError

_LOCALHOST: Final = """127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::\tip6-localnet
ff00::\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""


def write(directory: Path, host: HostConfig, hostname: str, domainname: str) -> dict[str, str]:
    """Write the three files below ``directory``; path in the container to path on the host."""
    on_host_network = host.network_mode == "host"
    hosts = (_host_file("/etc/hosts") if on_host_network else "") or _LOCALHOST
    if not on_host_network:
        full = f"{hostname}.{domainname} {hostname}" if domainname else hostname
        hosts += f"127.0.0.1\t{full}\n"
    for entry in host.extra_hosts or ():
        name, address = split_extra_host(entry)
        hosts += f"{address}\t{name}\n"
    files = {"hosts": hosts, "hostname": f"{hostname}\n", "resolv.conf": resolv_conf(host)}
    for name, text in files.items():
        path = directory / name
        path.write_text(text, encoding="utf-8")
        path.chmod(0o644)
    return {f"/etc/{name}": str(directory / name) for name in files}


def split_extra_host(entry: str) -> tuple[str, str]:
    """Name and address of ``name:address``. Raises `InvalidArgumentError`."""
    name, _, address = entry.partition(":")
    if not name or not address or any(char.isspace() for char in entry):
        raise InvalidArgumentError(f"bad format for add-host: {entry!r}")
    if address == "host-gateway":
        raise InvalidArgumentError(
            "HostConfig.ExtraHosts: host-gateway needs a bridge network, which is not available"
        )
    return name, address.strip("[]")


def resolv_conf(host: HostConfig) -> str:
    """The host's resolver configuration with what ``--dns``, ``--dns-search`` and ``--dns-option`` replace."""
    replaced = {
        "nameserver": [f"nameserver {address}" for address in host.dns or ()],
        "search": [f"search {' '.join(host.dns_search)}"] if host.dns_search else [],
        "options": [f"options {' '.join(host.dns_options)}"] if host.dns_options else [],
    }
    kept: list[str] = []
    for line in _host_file("/etc/resolv.conf").splitlines():
        keyword = line.split(maxsplit=1)[0] if line.strip() else ""
        if not replaced.get("search" if keyword == "domain" else keyword):
            kept.append(line)
    lines = [*kept, *(line for lines in replaced.values() for line in lines)]
    text = "\n".join(line for line in lines if line != "search .")
    return text + "\n" if text else ""


def _host_file(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
