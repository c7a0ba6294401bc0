"""The daemon's configuration: dockerd's flags and daemon.json, read into one frozen record.

Only this module and the command line read the environment. Unknown names are refused with a suggestion; a name that stands
both on the command line and in the file is refused in dockerd's words, because neither could win without surprising someone.
"""

import difflib
import ipaddress
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final, Literal, cast, get_args, get_type_hints

import msgspec

from lading.containers import logdriver, storage
from lading.daemon import options, places
from lading.daemon.options import Kind, Meaning, Option
from lading.errors import FailedPreconditionError, InvalidArgumentError, UnsupportedError

DEFAULT_CONFIG_FILE: Final = "/etc/lading/daemon.json"
DEFAULT_HOST: Final = "unix:///run/lading/lading.sock"
_BOOLEANS: Final = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}
_LEVELS: Final = ("debug", "info", "warn", "error", "fatal")
_CONFIG_LIMIT: Final = 4 * 1024 * 1024
_PROXIES: Final[tuple[Literal["http-proxy", "https-proxy", "no-proxy"], ...]] = (
    "http-proxy",
    "https-proxy",
    "no-proxy",
)
_BUILT: Final = frozenset({"runtimes", "lading", "features", "default-address-pools", *_PROXIES})
"""Options that are more than their value."""
Values = dict[str, Any]
_SNAPSHOTTER: Final = "containerd-snapshotter"


@dataclass(frozen=True, slots=True, kw_only=True)
class LadingSettings:
    """The object ``lading`` of daemon.json: what dockerd has no word for."""

    durability: Literal["lazy", "strict"] = "lazy"
    """``lazy``: unpacked layers may be flushed after the pull is acknowledged; ``strict``: before (core/snapshots.py)."""
    layers_keep: Literal["both", "compressed", "unpacked"] = "both"
    """``both``: a pulled layer stays compressed, for pushing, and ready to be mounted. ``compressed``: what is mounted is only a
    cache, made again from the compressed layer when a container needs it, and of a large layer only what the container reads
    (erofs only). ``unpacked``: the compressed layer is only a cache, made again byte by byte when it is pushed or saved; one that
    cannot be made again stays."""
    layers_cache: int = 0
    """Bytes that this cache may take; what is in use counts and stays, what was unused for longest goes first."""
    layers_refetch: bool = False
    """With ``unpacked``: it is enough that a registry has the compressed layer, from which it is fetched again. If the registry
    deletes it meanwhile, the image can still be run, and no longer be pushed or saved."""
    gc_interval: int = 600
    """Longest time in seconds between two runs of the garbage collector; it also runs whenever something was let go."""
    registry_idle_timeout: int = 30
    """Seconds without a byte after which a registry's connection counts as stalled, and is made anew where it stood."""
    netavark: str = ""
    """Path of netavark; looked for where distributions put it if empty."""
    aardvark_dns: str = ""
    """Path of aardvark-dns; likewise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What the daemon was told. Names are dockerd's flags; ``warnings`` are for the log."""

    data_root: Path = Path("/var/lib/lading")
    exec_root: Path = Path("/run/lading")
    pidfile: Path = Path("/run/lading.pid")
    hosts: tuple[str, ...] = (DEFAULT_HOST,)
    group: str = ""
    """Group of Unix sockets; empty means ``docker`` if that group exists."""
    debug: bool = False
    log_level: str = "info"
    log_format: Literal["text", "json"] = "text"
    tls: bool = False
    tlsverify: bool = False
    tlscacert: str = ""
    tlscert: str = ""
    tlskey: str = ""
    containerd_namespace: str = "moby"
    storage_driver: str = ""
    containerd_snapshotter: bool | None = None
    """The feature of that name: whether the containerd store is used; ``None`` leaves it to the rules (daemon/selection.py)."""
    insecure_registries: tuple[str, ...] = ()
    registry_mirrors: tuple[str, ...] = ()
    max_concurrent_downloads: int = 3
    max_concurrent_uploads: int = 5
    max_download_attempts: int = 5
    labels: tuple[str, ...] = ()
    shutdown_timeout: int = 10
    oom_score_adjust: int = -500
    default_runtime: str = "runc"
    storage_opts: tuple[str, ...] = ()
    log_driver: str = logdriver.DEFAULT
    log_opts: Mapping[str, str] = field(default_factory=dict[str, str])
    init: bool = False
    runtimes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    http_proxy: str = field(default="", repr=False)
    https_proxy: str = field(default="", repr=False)
    no_proxy: str = ""
    bridge: str = ""
    bip: str = ""
    mtu: int = 0
    ip: str = ""
    default_address_pools: tuple[tuple[ipaddress.IPv4Network, int], ...] = ()
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_opts: tuple[str, ...] = ()
    host_gateway_ips: tuple[str, ...] = ()
    rootless: bool = False
    """Whether the daemon is a user's who is not root, in a user namespace (daemon/rootless.py)."""
    userns_remap: str = ""
    """Whose subordinate IDs containers have (daemon/userns.py); empty for the machine's own."""
    lading: LadingSettings = LadingSettings()
    config_file: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def level(self) -> str:
        """The level to log at."""
        return "debug" if self.debug else self.log_level


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What the command line asks for."""

    action: Literal["run", "validate", "version", "help"]
    config: Config


def load(arguments: Sequence[str]) -> Command:
    """Read the command line and the file that it names.

    Raises:
        InvalidArgumentError: A name or a value is wrong, or stands in both places.
        UnsupportedError: An option that this daemon must not ignore.

    """
    flags, given = parse_flags(arguments)
    for action in ("help", "version"):
        if flags.get(action):
            return Command(action=cast("Any", action), config=Config())
    named = flags.pop("config-file", "")
    own = places.of_user() if places.is_unprivileged() else None
    default = str(own.config_file) if own else DEFAULT_CONFIG_FILE
    values, file = read_file(named or default, required=bool(named))
    _refuse_conflicts(given, values)
    validate = bool(flags.pop("validate", False))
    config = build(flags | values, config_file=file, own=own)
    return Command(action="validate" if validate else "run", config=config)


def parse_flags(arguments: Sequence[str]) -> tuple[Values, list[str]]:
    """Flags as the keys of daemon.json (or the flag where there is no key) to values, and the flags' own names."""
    values: Values = {}
    given: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        option, text = _flag_of(word)
        if text is None:
            if option.kind is Kind.BOOL:
                text = "true"
            elif not rest:
                raise InvalidArgumentError(f"flag needs an argument: --{option.flag}")
            else:
                text = rest.pop(0)
        name = option.key or option.flag
        given.append(option.flag)
        if option.kind in (Kind.LIST, Kind.ANY):
            values.setdefault(name, []).append(text)
        elif option.kind is Kind.MAP:
            key, _, value = text.partition("=")
            values.setdefault(name, {})[key] = value
        else:
            values[name] = _scalar(option, text, f"--{option.flag}")
    return values, given


def _flag_of(word: str) -> tuple[Option, str | None]:
    if word.startswith("--") and len(word) > len("--"):
        name, equals, text = word[2:].partition("=")
        option = options.BY_FLAG.get(name)
        if option is None:
            raise InvalidArgumentError(
                f"unknown flag: --{name}", hint=_suggestion(name, options.BY_FLAG, "--")
            )
        return option, text if equals else None
    if word.startswith("-") and len(word) > 1:
        option = options.BY_SHORT.get(word[1])
        if option is None:
            raise InvalidArgumentError(
                f"unknown shorthand flag: {word[:16]!r}", hint="see lading daemon --help"
            )
        return option, word[2:].removeprefix("=") or None
    raise InvalidArgumentError(f"unexpected argument {word[:64]!r}", hint="see lading daemon --help")


def _scalar(option: Option, text: str, name: str) -> Any:
    if option.kind is Kind.BOOL:
        if text.lower() not in _BOOLEANS:
            raise InvalidArgumentError(f"invalid value {text!r} for {name}", hint="give true or false")
        return _BOOLEANS[text.lower()]
    if option.kind is Kind.INT:
        try:
            return int(text)
        except ValueError as exc:
            raise InvalidArgumentError(
                f"invalid value {text!r} for {name}", hint="give a whole number"
            ) from exc
    return text


def _suggestion(name: str, known: Mapping[str, object], prefix: str = "") -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean {prefix}{close[0]}?" if close else ""


def read_file(path: str, *, required: bool) -> tuple[Values, str]:
    """daemon.json as a checked mapping, and its path; empty if it may be missing and is.

    Raises `InvalidArgumentError` naming every unknown key; `FailedPreconditionError` if the file cannot be read.
    """
    try:
        if os.path.getsize(path) > _CONFIG_LIMIT:
            raise InvalidArgumentError(f"configuration file {path} is longer than {_CONFIG_LIMIT} bytes")
        text = Path(path).read_bytes()
    except FileNotFoundError as exc:
        if not required:
            return {}, ""
        raise FailedPreconditionError(f"configuration file {path} does not exist") from exc
    except OSError as exc:
        raise FailedPreconditionError(
            f"cannot read configuration file {path}", hint=exc.strerror or ""
        ) from exc
    if not text.strip():
        return {}, path
    try:
        document: Any = msgspec.json.decode(text.removeprefix(b"\xef\xbb\xbf"))
    except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
        raise InvalidArgumentError(f"invalid JSON in configuration file {path}: {exc}") from exc
    if not isinstance(document, dict):
        raise InvalidArgumentError(f"invalid JSON in configuration file {path}: expected an object")
    values = cast("Values", document)
    unknown = [key for key in values if key not in options.BY_KEY]
    if unknown:
        hints = [hint for hint in map(_suggested_key, unknown) if hint]
        raise InvalidArgumentError(
            f"the following directives in {path} don't match any configuration option: {', '.join(unknown)}",
            hint=" ".join(hints),
        )
    return {key: _checked(options.BY_KEY[key], value, path) for key, value in values.items()}, path


def _suggested_key(key: str) -> str:
    inside = f"it belongs into the object 'lading': {key}" if key in _settings_by_key() else ""
    return inside or _suggestion(key, options.BY_KEY)


def _checked(option: Option, value: Any, path: str) -> Any:
    types: dict[Kind, Any] = {
        Kind.BOOL: bool,
        Kind.INT: int,
        Kind.TEXT: str,
        Kind.LIST: list[Any] if option.meaning is Meaning.IGNORED else list[str],
        Kind.MAP: dict[str, Any],
        Kind.ANY: Any,
    }
    try:
        return msgspec.convert(value, types[option.kind])
    except msgspec.ValidationError as exc:
        if option.meaning is Meaning.IGNORED:
            return value
        raise InvalidArgumentError(
            f"invalid value for {option.key!r} in {path}: {exc}", hint=f"give {option.kind.value}"
        ) from exc


def _refuse_conflicts(given: Sequence[str], values: Values) -> None:
    both = [options.BY_FLAG[flag] for flag in dict.fromkeys(given) if options.BY_FLAG[flag].key in values]
    if "add-runtime" in given and "runtimes" in values:
        both.append(options.BY_KEY["runtimes"])
    if both:
        raise InvalidArgumentError(
            "the following directives are specified both as a flag and in the configuration file: "
            + ", ".join(option.key for option in both),
            hint="keep each of them in one place",
        )


def build(values: Values, *, config_file: str = "", own: places.Places | None = None) -> Config:
    """The record, checked as a whole, from keys of daemon.json (and flags that have no key).

    ``own`` are the places of a user who is not root.
    """
    warnings = [
        _accepted(options.BY_KEY.get(name) or options.BY_FLAG[name], value) for name, value in values.items()
    ]
    known = {each.name for each in fields(Config)}
    chosen: Values = {}
    for name, value in values.items():
        attribute = name.replace("-", "_")
        if attribute in known and name not in _BUILT:
            chosen[attribute] = tuple(cast("list[Any]", value)) if isinstance(value, list) else value
    for name in ("data_root", "exec_root", "pidfile"):
        if name in chosen:
            chosen[name] = _absolute(name, chosen[name])
    if own is not None:
        chosen = own.settings(chosen)
    features = _features(values.get("features") or {})
    warnings += [
        f"feature {name} has no meaning here and is ignored" for name in features if name != _SNAPSHOTTER
    ]
    chosen["storage_driver"] = os.environ.get("DOCKER_DRIVER") or chosen.get("storage_driver", "")
    config = Config(
        **chosen,
        **_proxies(values),
        containerd_snapshotter=features.pop(_SNAPSHOTTER, None),
        runtimes=_runtimes(values),
        default_address_pools=_pools(values.get("default-address-pools") or []),
        lading=_settings(values.get("lading")),
        config_file=config_file,
        warnings=tuple(warning for warning in warnings if warning),
    )
    _check(config)
    logdriver.check(config.log_driver, config.log_opts)
    storage.default_limit(config.storage_opts)
    return config


def _accepted(option: Option, value: Any) -> str:
    if option.meaning is Meaning.REFUSED and value not in (False, "", [], None):
        name = option.key or option.flag
        raise UnsupportedError(
            f"option {name!r} is not supported",
            hint="it protects something, so it is refused rather than ignored",
        )
    if option.meaning is Meaning.KEPT_ON and not value:
        raise UnsupportedError(
            f"option {option.key!r} cannot be off",
            hint="leave it out; --bridge=none makes no default network, and containers can run with --network none or host",
        )
    name = f"--{option.flag}" if option.flag else option.key
    return f"option {name} has no meaning here and is ignored" if option.meaning is Meaning.IGNORED else ""


def _absolute(name: str, text: str) -> Path:
    path = Path(text)
    if not text or not path.is_absolute():
        raise InvalidArgumentError(f"{name.replace('_', '-')} {text!r} is not an absolute path")
    return path


def _runtimes(values: Values) -> dict[str, Mapping[str, Any]]:
    listed: list[str] = values.get("add-runtime", [])
    found: dict[str, Mapping[str, Any]] = {}
    for text in listed:
        name, _, path = text.partition("=")
        if not name or not path:
            raise InvalidArgumentError(f"invalid runtime {text!r}", hint="give name=path")
        found[name] = {"path": path}
    try:
        return found | msgspec.convert(values.get("runtimes") or {}, dict[str, dict[str, Any]])
    except msgspec.ValidationError as exc:
        raise InvalidArgumentError(f"invalid runtimes: {exc}") from exc


def _pools(listed: Any) -> tuple[tuple[ipaddress.IPv4Network, int], ...]:
    """Objects of ``base`` and ``size``, or their text on the command line."""
    found: list[tuple[ipaddress.IPv4Network, int]] = []
    for each in listed:
        try:
            pairs = _pairs(each) if isinstance(each, str) else msgspec.convert(each, dict[str, str | int])
            base, size = ipaddress.IPv4Network(pairs["base"]), int(pairs["size"])
        except (KeyError, ValueError) as exc:  # a ValidationError is a ValueError
            raise InvalidArgumentError(
                f"invalid default-address-pools: {each!r}", hint='give {"base": "172.30.0.0/16", "size": 24}'
            ) from exc
        if not base.prefixlen <= size <= 30:
            raise InvalidArgumentError(f"invalid default-address-pools: {base} cannot be cut into /{size}")
        found.append((base, size))
    return tuple(found)


def _pairs(text: str) -> Mapping[str, str]:
    made: dict[str, str] = {}
    for part in text.split(","):
        key, _, value = part.partition("=")
        made[key] = value
    return made


def _features(values: Mapping[str, Any]) -> dict[str, bool]:
    """Features by name. Raises `InvalidArgumentError` for a value that is no truth."""
    found: dict[str, bool] = {}
    for name, value in values.items():
        truth = value if isinstance(value, bool) else _BOOLEANS.get(str(value).lower())
        if truth is None:
            raise InvalidArgumentError(f"invalid value for feature {name!r}", hint="give true or false")
        found[name] = truth
    return found


def _proxies(values: Values) -> Values:
    """From the options, else the object ``proxies``, else the environment, in capital or small letters."""
    try:
        grouped = msgspec.convert(
            values.get("proxies") or {}, dict[Literal["http-proxy", "https-proxy", "no-proxy"], str]
        )
    except msgspec.ValidationError as exc:
        raise InvalidArgumentError(
            f"invalid value for 'proxies': {exc}", hint=f"give an object of {', '.join(_PROXIES)}"
        ) from exc
    found: Values = {}
    for name in _PROXIES:
        attribute = name.replace("-", "_")
        environment = os.environ.get(attribute.upper()) or os.environ.get(attribute) or ""
        found[attribute] = values.get(name) or grouped.get(name) or environment
    return found


def _settings(value: Any) -> LadingSettings:
    if value is None:
        return LadingSettings()
    if not isinstance(value, dict):
        raise InvalidArgumentError("invalid value for 'lading'", hint="give an object")
    known = _settings_by_key()
    document = cast("dict[str, Any]", value)
    unknown = [key for key in document if key not in known]
    if unknown:
        raise InvalidArgumentError(
            f"unknown key in 'lading': {unknown[0]}",
            hint=_suggestion(unknown[0], known) or f"known are {', '.join(known)}",
        )
    try:
        settings = msgspec.convert({known[key]: each for key, each in document.items()}, LadingSettings)
    except msgspec.ValidationError as exc:
        said = str(exc).replace("_", "-")
        raise InvalidArgumentError(f"invalid value in 'lading': {said}", hint=_choices(said)) from exc
    if settings.layers_cache < 0:
        raise InvalidArgumentError(
            f"invalid lading.layers-cache: {settings.layers_cache}", hint="bytes, or 0"
        )
    if settings.gc_interval < 1:
        raise InvalidArgumentError(
            f"invalid lading.gc-interval: {settings.gc_interval}", hint="at least 1 second"
        )
    if settings.registry_idle_timeout < 1:
        raise InvalidArgumentError(
            f"invalid lading.registry-idle-timeout: {settings.registry_idle_timeout}",
            hint="at least 1 second",
        )
    return settings


def _choices(error: str) -> str:
    """What may be chosen from for the setting that an error names at its end."""
    types = get_type_hints(LadingSettings)
    named = [name for key, name in _settings_by_key().items() if error.endswith(f".{key}`")]
    choices = [choice for name in named for choice in get_args(types[name])]
    return f"use one of {', '.join(choices)}" if choices else ""


def _settings_by_key() -> dict[str, str]:
    return {each.name.replace("_", "-"): each.name for each in fields(LadingSettings)}


def _check(config: Config) -> None:
    if config.log_level not in _LEVELS:
        raise InvalidArgumentError(
            f"invalid log level {config.log_level!r}", hint=f"use {', '.join(_LEVELS)}"
        )
    if config.log_format not in ("text", "json"):
        raise InvalidArgumentError(f"invalid log format {config.log_format!r}", hint="use text or json")
    for name in ("max_concurrent_downloads", "max_concurrent_uploads", "max_download_attempts"):
        if getattr(config, name) < 1:
            raise InvalidArgumentError(
                f"invalid {name.replace('_', '-')}: {getattr(config, name)}", hint="at least 1"
            )
    if not -1000 <= config.oom_score_adjust <= 1000:
        raise InvalidArgumentError(
            f"invalid oom-score-adjust: {config.oom_score_adjust}", hint="-1000 to 1000"
        )
    _check_networks(config)
    _check_rootless(config)
    for label in config.labels:
        if "=" not in label:
            raise InvalidArgumentError(f"bad attribute format: {label}", hint="labels are key=value")
    from lading.remotes import names as registry_names  # noqa: PLC0415 - help must not load the rooms

    registry_names.check(config.registry_mirrors, config.insecure_registries)
    if not config.hosts:
        raise InvalidArgumentError("no host to listen on")
    for host in config.hosts:
        check_host(host, mutual_tls=config.tlsverify)
    if (config.tls or config.tlsverify) and not (config.tlscert and config.tlskey):
        raise InvalidArgumentError("TLS needs a certificate and a key", hint="give --tlscert and --tlskey")
    if config.tlsverify and not config.tlscacert:
        raise InvalidArgumentError("--tlsverify needs the CA of the clients", hint="give --tlscacert")


def _check_rootless(config: Config) -> None:
    """What a daemon without privilege cannot have is told before it starts."""
    if config.rootless and not places.is_unprivileged():
        raise InvalidArgumentError(
            "--rootless is for a user who is not root", hint="run the daemon as that user, or leave it out"
        )
    if not config.rootless:
        return
    if config.userns_remap:
        raise UnsupportedError(
            "option 'userns-remap' is not supported by a rootless daemon",
            hint="root of its containers is its user already, who has no other IDs to give",
        )
    if config.group:
        raise UnsupportedError(
            "option 'group' is not supported by a rootless daemon",
            hint="its socket is for its user alone; a group of the machine has no counterpart in its namespace",
        )
    for host in config.hosts:
        if not host.startswith("unix://"):
            raise UnsupportedError(
                f"a rootless daemon cannot listen on {host}: its network namespace is not the machine's",
                hint="use unix:///path, and ssh to reach it from elsewhere (docker -H ssh://user@machine)",
            )


def _check_networks(config: Config) -> None:
    for name in ("ip", "dns", "host_gateway_ips"):
        value: str | tuple[str, ...] = getattr(config, name)
        for text in (value,) if isinstance(value, str) else value:
            try:
                if text:
                    ipaddress.ip_address(text)
            except ValueError as exc:
                raise InvalidArgumentError(f"invalid {name.replace('_', '-')}: {exc}") from exc
    try:
        if config.bip:
            ipaddress.IPv4Interface(config.bip)
    except ValueError as exc:
        raise InvalidArgumentError(f"invalid bip: {exc}", hint="e.g. 10.200.0.1/24") from exc
    if config.mtu and not 68 <= config.mtu <= 65535:
        raise InvalidArgumentError(f"invalid mtu: {config.mtu}", hint="68 to 65535")
    if len(config.bridge) > 15 or "/" in config.bridge or any(char.isspace() for char in config.bridge):
        raise InvalidArgumentError(f"invalid bridge: {config.bridge!r} cannot name an interface")


def check_host(host: str, *, mutual_tls: bool) -> None:
    """Raises `InvalidArgumentError` for an address that must not or cannot be listened on (hostile-input.md A5, A6)."""
    scheme, separator, rest = host.partition("://")
    if not separator or scheme not in ("unix", "tcp", "fd"):
        raise InvalidArgumentError(
            f"invalid host {host!r}", hint="use unix:///path, tcp://host:port or fd://"
        )
    if scheme == "unix" and not rest.startswith("/"):
        raise InvalidArgumentError(f"invalid host {host!r}", hint="a Unix socket needs an absolute path")
    if scheme == "tcp" and not mutual_tls:
        raise InvalidArgumentError(
            f"refusing to listen on {host} without mutual TLS: it would give root to everyone who reaches it",
            hint="give --tlsverify with --tlscacert, --tlscert and --tlskey",
        )


def reloaded(running: Config, fresh: Config) -> Config:
    """``running`` with the reloadable options of ``fresh``, which are those of layers, too."""
    lading = replace(
        running.lading,
        layers_keep=fresh.lading.layers_keep,
        layers_cache=fresh.lading.layers_cache,
        layers_refetch=fresh.lading.layers_refetch,
    )
    changes = {
        option.key.replace("-", "_"): getattr(fresh, option.key.replace("-", "_"))
        for option in options.USED
        if option.reloadable and option.key
    }
    merged = {each.name: getattr(running, each.name) for each in fields(Config)} | changes
    return replace(Config(**merged), lading=lading)
