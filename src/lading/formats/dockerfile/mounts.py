"""What ``RUN --mount`` and ``RUN --device`` say."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from lading.formats.dockerfile import values
from lading.formats.dockerfile.errors import DockerfileError
from lading.formats.dockerfile.suggest import suggested

Expander = Callable[[str], str]

TYPES: Final = ("bind", "cache", "tmpfs", "secret", "ssh")
SHARING: Final = ("shared", "private", "locked")
_KEYS: Final = [
    "type",
    "from",
    "source",
    "target",
    "readonly",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "src",
    "dst",
    "destination",
    "ro",
    "rw",
    "readwrite",
    "env",
]
_ALIASES: Final = {
    "src": "source",
    "dst": "target",
    "destination": "target",
    "ro": "readonly",
    "rw": "readwrite",
}


@dataclass(slots=True, kw_only=True)
class _Reading:
    """A mount while its fields are read; each may depend on those before it."""

    type: str = "bind"
    origin: str = ""
    source: str = ""
    target: str = ""
    readonly: bool | None = None
    size: int = 0
    id: str = ""
    sharing: str = ""
    required: bool = False
    env: str | None = None
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunMount:
    """A mount of a RUN. ``origin`` is its ``from``; ``size`` in bytes, 0 for no bound; absent texts are empty."""

    type: str = "bind"
    origin: str = ""
    source: str = ""
    target: str = ""
    readonly: bool = True
    size: int = 0
    id: str = ""
    sharing: str = ""
    required: bool = False
    env: str | None = None
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None


def check_mount(text: str) -> None:
    """What can be said of a mount before its variables have values. Raises `DockerfileError`."""
    for one in _fields(text, "mounts"):
        key, _, value = one.partition("=")
        place = value.find("$")
        if key.lower() == "from" and 0 <= place < len(value) - 1:
            raise DockerfileError(
                f"'{key.lower()}' doesn't support variable expansion, define alias stage instead"
            )


def stage_of(text: str) -> str:
    """The stage or image that a mount is ``from``; empty if none. It never has variables, see `check_mount`."""
    named = [
        value
        for key, _, value in (one.partition("=") for one in _fields(text, "mounts"))
        if key.lower() == "from"
    ]
    return named[-1] if named else ""


def parse_mount(text: str, expand: Expander) -> RunMount:
    """Raises `DockerfileError`."""
    mount = _Reading()
    for one in _fields(text, "mounts"):
        key, equals, value = one.partition("=")
        key = key.lower()
        if key not in _KEYS and equals:
            raise DockerfileError(suggested(f"unexpected key '{key}' in '{one}'", key, _KEYS))
        if not equals and key not in ("readonly", "ro", "readwrite", "rw", "required"):
            raise DockerfileError(f"invalid field '{one}' must be a key=value pair")
        _set(mount, _ALIASES.get(key, key), key, expand(value) if equals else "true")
    return _checked(mount)


def _fields(text: str, what: str) -> list[str]:
    try:
        return values.fields(text)
    except DockerfileError as exc:
        raise DockerfileError(f"failed to parse csv {what}: {exc.message}") from exc


def _set(mount: _Reading, key: str, written: str, value: str) -> None:
    match key:
        case "type":
            mount.type = _one_of(value, TYPES, "mount type")
        case "from":
            mount.origin = value
        case "source" | "target" | "id" | "env":
            setattr(mount, key, value)
        case "readonly":
            mount.readonly = _truth(written, value)
        case "readwrite":
            mount.readonly = not _truth(written, value)
        case "required":
            _only_for(mount, written, "secret", "ssh")
            mount.required = _truth(written, value)
        case "size":
            _only_for(mount, written, "tmpfs")
            mount.size = _size(written, value)
        case "sharing":
            mount.sharing = _one_of(value, SHARING, "sharing value")
        case _:
            setattr(mount, key, _number(key, value))


def _one_of(value: str, allowed: tuple[str, ...], what: str) -> str:
    if value.lower() not in allowed:
        raise DockerfileError(suggested(f'unsupported {what} "{value}"', value, allowed))
    return value.lower()


def _truth(key: str, value: str) -> bool:
    found = values.truth(value)
    if found is None:
        raise DockerfileError(f"invalid value for {key}: {value}")
    return found


def _size(key: str, value: str) -> int:
    try:
        return values.size(value)
    except DockerfileError as exc:
        raise DockerfileError(f"invalid value for {key}: {value}") from exc


def _number(key: str, value: str) -> int:
    found = values.number(value, base=8 if key == "mode" else 10)
    if found is None:
        raise DockerfileError(f"invalid value {value} for {key}")
    return found


def _only_for(mount: _Reading, key: str, *types: str) -> None:
    if mount.type not in types:
        raise DockerfileError(f"unexpected key '{key}' for mount type '{mount.type}'")


def _checked(mount: _Reading) -> RunMount:
    if mount.type not in ("secret", "ssh", "cache"):
        for name in ("mode", "uid", "gid"):
            if getattr(mount, name) is not None:
                raise DockerfileError(f'{name} not allowed for "{mount.type}" type mounts')
    if mount.type == "secret":
        _check_secret(mount)
    if mount.sharing and mount.type != "cache":
        raise DockerfileError(f"invalid cache sharing set for {mount.type} mount")
    return RunMount(
        type=mount.type,
        origin=mount.origin,
        source=mount.source,
        target=mount.target,
        readonly=mount.type not in ("cache", "tmpfs") if mount.readonly is None else mount.readonly,
        size=mount.size,
        id=mount.id,
        sharing=mount.sharing,
        required=mount.required,
        env=mount.env,
        mode=mount.mode,
        uid=mount.uid,
        gid=mount.gid,
    )


def _check_secret(mount: _Reading) -> None:
    for wrong, message in (
        (mount.origin, "secret mount should not have a from"),
        (mount.sharing, "secret mount should not define sharing"),
        (
            not (mount.source or mount.target or mount.id),
            "invalid secret mount. one of source, target required",
        ),
        (mount.source and mount.id, "both source and id can't be set"),
    ):
        if wrong:
            raise DockerfileError(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A CDI device of a RUN."""

    name: str = ""
    required: bool = False


def parse_device(text: str) -> Device:
    """Raises `DockerfileError`."""
    name, required = "", False
    for one in _fields(text, "devices"):
        key, equals, value = one.partition("=")
        match key.lower(), bool(equals):
            case "required", _:
                required = _truth("required", value) if equals else True
            case "name", True:
                if name:
                    raise DockerfileError(f"device name already set to {name}")
                name = value
            case _ if not name:
                name = one
            case _, True:
                raise DockerfileError(
                    suggested(f"unexpected key '{key.lower()}' in '{one}'", key, ("name", "required"))
                )
            case _:
                raise DockerfileError(f"invalid field '{one}' must be a key=value pair")
    return Device(name=name, required=required)
