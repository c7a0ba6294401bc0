"""Which hosts to ask for a registry's content: hosts.toml, Docker's mirrors and insecure registries (sans-I/O).

Format: containerd docs/hosts.md; what the directories hold is read by `lading.remotes.hostfiles`.
"""

import os.path
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Flag, auto
from typing import Final
from urllib.parse import urlsplit

from lading.errors import InvalidArgumentError
from lading.remotes.connection import Origin
from lading.remotes.dial import Trust
from lading.remotes.names import is_insecure, is_loopback, split_host, split_mirror

DOCKER_HUB: Final = "docker.io"
DOCKER_HUB_HOST: Final = "registry-1.docker.io"
_HOST_KEYS: Final = frozenset(
    {
        "server",
        "capabilities",
        "ca",
        "client",
        "skip_verify",
        "header",
        "override_path",
        "dial_timeout",
        "auth",
        "host",
    }
)


class Capability(Flag):
    """What a host may be asked for."""

    PULL = auto()
    RESOLVE = auto()
    PUSH = auto()
    REFERRERS = auto()


ALL: Final = Capability.PULL | Capability.RESOLVE | Capability.PUSH | Capability.REFERRERS
MIRROR: Final = Capability.PULL | Capability.RESOLVE | Capability.REFERRERS


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One host of a registry.

    ``schemes`` are tried in order; the second only if the peer does not speak TLS. ``namespace`` is sent as ``?ns=`` if
    not empty. ``upstream_auth``: the registry's own credentials make the tokens that this mirror is sent.
    """

    host: str
    port: int | None = None
    path: str = "/v2"
    schemes: tuple[str, ...] = ("https",)
    capabilities: Capability = ALL
    trust: Trust = field(default_factory=Trust)
    header: tuple[tuple[str, str], ...] = ()
    dial_timeout: float | None = None
    namespace: str = ""
    upstream_auth: bool = False

    def origin(self, scheme: str) -> Origin:
        """Where it is, by this scheme."""
        return Origin(scheme, self.host, self.port or {"http": 80, "https": 443}[scheme])

    @property
    def name(self) -> str:
        """Host and port, as people write it."""
        name = f"[{self.host}]" if ":" in self.host else self.host
        return name if self.port is None else f"{name}:{self.port}"

    def __repr__(self) -> str:
        return f"Host({self.schemes[0]}://{self.name}{self.path}, {self.capabilities})"


def default_host(namespace: str, *, insecure: bool, trust: Trust | None = None) -> Host:
    """The registry itself, when nothing is configured for it."""
    host, port = split_host(DOCKER_HUB_HOST if namespace == DOCKER_HUB else namespace)
    schemes = ("https",)
    if insecure:
        schemes = ("http",) if port == 80 else ("https", "http")
    trust = trust or Trust()
    return Host(
        host=host,
        port=port,
        schemes=schemes,
        trust=replace(trust, skip_verify=True) if insecure else trust,
    )


def mirror_hosts(mirrors: Iterable[str], insecure: Iterable[str]) -> tuple[Host, ...]:
    """Docker's ``registry-mirrors``, which are for docker.io only. Raises `InvalidArgumentError`."""
    found: list[Host] = []
    for text in mirrors:
        parts = split_mirror(text)
        host, port = split_host(parts.netloc)
        found.append(
            Host(
                host=host,
                port=port,
                path=parts.path.rstrip("/") + "/v2",
                schemes=(parts.scheme,),
                capabilities=MIRROR,
                trust=Trust(skip_verify=is_insecure(parts.netloc, insecure)),
                namespace=DOCKER_HUB,
                upstream_auth=is_loopback(host),
            )
        )
    return tuple(found)


def parse(text: str, *, directory: str, namespace: str, insecure: bool = False) -> tuple[Host, ...]:
    """Read a hosts.toml: its ``[host]`` tables in the order of the file, then its ``server``.

    Relative paths are relative to ``directory``.

    Raises:
        InvalidArgumentError: The file is malformed; the message says where.

    """
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise InvalidArgumentError(f"hosts.toml of {namespace} is malformed: {exc}") from exc
    reader = _Reader(directory, namespace, insecure)
    tables = tree.pop("host", {})
    hosts: list[Host] = []
    for name, table in reader.tables(tables, "host").items():
        hosts.append(reader.host(name, reader.table(table, f"host {name!r}"), server=False))
    server = tree.get("server", "")
    if not isinstance(server, str):
        raise reader.wrong("server", "text")
    if not server:
        server = DOCKER_HUB_HOST if namespace == DOCKER_HUB else namespace
        if insecure and not tree:
            return (*hosts, default_host(namespace, insecure=True))
    return (*hosts, reader.host(server, tree, server=True))


class _Reader:
    """Turns tables of a hosts.toml into hosts."""

    def __init__(self, directory: str, namespace: str, insecure: bool) -> None:
        self._directory = directory
        self._namespace = namespace
        self._insecure = insecure

    def wrong(self, key: str, wanted: str) -> InvalidArgumentError:
        return InvalidArgumentError(f"hosts.toml of {self._namespace}: {key} must be {wanted}")

    def table(self, value: object, key: str) -> dict[str, object]:
        if not isinstance(value, dict):
            raise self.wrong(key, "a table")
        return value  # pyright: ignore[reportUnknownVariableType]

    def tables(self, value: object, key: str) -> dict[str, object]:
        return self.table(value, key)

    def host(self, name: str, table: Mapping[str, object], *, server: bool) -> Host:
        text = name if "://" in name else f"https://{name}"
        parts = urlsplit(text)
        if parts.scheme not in {"http", "https"} or not parts.netloc:
            raise self.wrong(f"host {name!r}", "a URL of http or https")
        unknown = [key for key in table if key not in _HOST_KEYS]
        if unknown:
            raise InvalidArgumentError(
                f"hosts.toml of {self._namespace}: unknown key {unknown[0]!r} in {name!r}"
            )
        host, port = split_host(parts.netloc)
        insecure = is_loopback(host) or (server and self._insecure)
        trust = Trust(
            ca=tuple(self._path(item) for item in self._texts(table.get("ca", ()), "ca")),
            client=self._pairs(table.get("client", ())),
            skip_verify=self._flag(table.get("skip_verify", insecure), "skip_verify"),
        )
        path = parts.path.rstrip("/")
        if not self._flag(table.get("override_path", False), "override_path"):
            path = path if path.endswith("/v2") else path + "/v2"
        return Host(
            host=host,
            port=port,
            path=path,
            schemes=self._schemes(
                parts.scheme, port, trust, named="://" in name, insecure=insecure, table=table
            ),
            capabilities=self._capabilities(table.get("capabilities")),
            trust=trust,
            header=self._header(table.get("header", {})),
            dial_timeout=self._duration(table.get("dial_timeout")),
            namespace=self._ns(host, port),
            upstream_auth=self._auth(table.get("auth"), default=not server and is_loopback(host)),
        )

    @staticmethod
    def _schemes(
        scheme: str,
        port: int | None,
        trust: Trust,
        *,
        named: bool,
        insecure: bool,
        table: Mapping[str, object],
    ) -> tuple[str, ...]:
        explicit_tls = bool(trust.ca or trust.client) or "skip_verify" in table
        if scheme == "http":
            return ("https", "http") if explicit_tls and port not in {80, None} else ("http",)
        return ("https", "http") if insecure and not named else ("https",)

    def _ns(self, host: str, port: int | None) -> str:
        if split_host(self._namespace) == (host, port):
            return ""
        if self._namespace == DOCKER_HUB and (host, port) == (DOCKER_HUB_HOST, None):
            return ""
        return self._namespace

    def _auth(self, value: object, *, default: bool) -> bool:
        if value is None:
            return default
        if value not in {"upstream", "own"}:
            raise self.wrong("auth", 'either "upstream" or "own"')
        return value == "upstream"

    def _capabilities(self, value: object) -> Capability:
        if value is None:
            return ALL
        found = Capability(0)
        for word in self._texts(value, "capabilities"):
            if word.upper() not in Capability.__members__:
                raise InvalidArgumentError(f"hosts.toml of {self._namespace}: unknown capability {word!r}")
            found |= Capability[word.upper()]
        return found

    def _texts(self, value: object, key: str) -> tuple[str, ...]:
        items: list[object] = list(value) if isinstance(value, list | tuple) else [value]  # pyright: ignore[reportUnknownArgumentType]
        texts = tuple(item for item in items if isinstance(item, str))
        if len(texts) != len(items):
            raise self.wrong(key, "text, or a list of texts")
        return texts

    def _pairs(self, value: object) -> tuple[tuple[str, str], ...]:
        if isinstance(value, str):
            return ((self._path(value), ""),)
        if not isinstance(value, list | tuple):
            raise self.wrong("client", "a path, a list of paths, or a list of pairs")
        found: list[tuple[str, str]] = []
        items: list[object] = list(value)  # pyright: ignore[reportUnknownArgumentType]
        for item in items:
            names = self._texts(item, "client")
            if len(names) not in {1, 2}:
                raise self.wrong("client", "a list of pairs of certificate and key")
            key = self._path(names[1]) if len(names) == 2 and names[1] else ""
            found.append((self._path(names[0]), key))
        return tuple(found)

    def _path(self, name: str) -> str:
        return os.path.join(self._directory, name)

    def _flag(self, value: object, key: str) -> bool:
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def _header(self, value: object) -> tuple[tuple[str, str], ...]:
        found: list[tuple[str, str]] = []
        for name, values in self.table(value, "header").items():
            for item in self._texts(values, f"header {name!r}"):
                if any(c in item or c in name for c in "\r\n\0"):
                    raise self.wrong(f"header {name!r}", "without line breaks")
                found.append((name, item))
        return tuple(found)

    def _duration(self, value: object) -> float | None:
        if value is None:
            return None
        units = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
        if isinstance(value, str):
            number = value.rstrip("smh")
            unit = units.get(value[len(number) :])
            if (
                unit is not None
                and number.replace(".", "", 1).isascii()
                and number.replace(".", "", 1).isdigit()
            ):
                return float(number) * unit
        raise self.wrong("dial_timeout", 'a duration such as "3s"')
