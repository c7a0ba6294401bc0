"""Changes to an image config, written as Dockerfile instructions: ``docker import -c`` and ``docker commit -c``.

Only instructions that change the config are allowed (moby, ``builder/dockerfile/dispatchers.go``, ``BuildFromConfig``).
"""

import json
import re
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from lading.errors import InvalidArgumentError
from lading.oci.config import Healthcheck, RunConfig

_DEFAULT_SHELL: Final = ("/bin/sh", "-c")
_WORD: Final = re.compile(r"""(?:[^\s"'\\]|\\.|"(?:[^"\\]|\\.)*"|'[^']*')+""", re.DOTALL)
_PIECE: Final = re.compile(r"""\\(.)|"((?:[^"\\]|\\.)*)"|'([^']*)'|([^\\"']+)""", re.DOTALL)
_PORT: Final = re.compile(r"[0-9]{1,5}(?:-[0-9]{1,5})?(?:/(?:tcp|udp|sctp))?")
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")
_NANOSECONDS: Final = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}


def apply(config: RunConfig, changes: Iterable[str]) -> RunConfig:
    """``config`` with every change applied in order; empty lines and comments are skipped.

    Raises:
        InvalidArgumentError: An instruction is unknown, not allowed here, or malformed.

    """
    for change in changes:
        for line in re.sub(r"\\\n", "", change).splitlines():
            text = line.strip()
            if text and not text.startswith("#"):
                config = _apply_one(config, text)
    return config


def _apply_one(config: RunConfig, line: str) -> RunConfig:
    word, _, rest = line.partition(" ")
    instruction = _INSTRUCTIONS.get(word.upper())
    rest = rest.strip()
    if instruction is None:
        raise InvalidArgumentError(
            f"{word[:40]} is not a valid change", hint=f"use one of {', '.join(sorted(_INSTRUCTIONS))}"
        )
    if not rest:
        raise InvalidArgumentError(f"{word.upper()} requires an argument")
    return instruction(config, rest)


def _cmd(config: RunConfig, rest: str) -> RunConfig:
    return msgspec.structs.replace(config, cmd=_command(config, rest))


def _entrypoint(config: RunConfig, rest: str) -> RunConfig:
    return msgspec.structs.replace(config, entrypoint=_command(config, rest))


def _env(config: RunConfig, rest: str) -> RunConfig:
    variables: dict[str, str] = {}
    for entry in config.env or ():
        key, _, value = entry.partition("=")
        variables[key] = value
    variables.update(_pairs("ENV", rest))
    return msgspec.structs.replace(config, env=tuple(f"{key}={value}" for key, value in variables.items()))


def _label(config: RunConfig, rest: str) -> RunConfig:
    return msgspec.structs.replace(config, labels={**(config.labels or {}), **_pairs("LABEL", rest)})


def _expose(config: RunConfig, rest: str) -> RunConfig:
    ports = dict(config.exposed_ports or {})
    for port in rest.split():
        if not _PORT.fullmatch(port):
            raise InvalidArgumentError(f"invalid containerPort: {port[:40]}")
        ports[port if "/" in port else f"{port}/tcp"] = {}
    return msgspec.structs.replace(config, exposed_ports=ports)


def _user(config: RunConfig, rest: str) -> RunConfig:
    return msgspec.structs.replace(config, user=_one("USER", rest))


def _workdir(config: RunConfig, rest: str) -> RunConfig:
    path = _one("WORKDIR", rest)
    if not path.startswith("/"):
        path = f"{config.working_dir.rstrip('/')}/{path}"
    return msgspec.structs.replace(config, working_dir=path)


def _volume(config: RunConfig, rest: str) -> RunConfig:
    paths = _json_list(rest) or tuple(_words(rest))
    return msgspec.structs.replace(
        config, volumes={**(config.volumes or {}), **{path: dict[str, str]() for path in paths}}
    )


def _onbuild(config: RunConfig, rest: str) -> RunConfig:
    trigger = rest.split(" ", 1)[0].upper()
    if trigger in ("ONBUILD", "FROM", "MAINTAINER"):
        raise InvalidArgumentError(f"{trigger} isn't allowed as an ONBUILD trigger")
    return msgspec.structs.replace(config, on_build=(*(config.on_build or ()), rest))


def _stopsignal(config: RunConfig, rest: str) -> RunConfig:
    return msgspec.structs.replace(config, stop_signal=_one("STOPSIGNAL", rest))


def _shell(config: RunConfig, rest: str) -> RunConfig:
    shell = _json_list(rest)
    if not shell:
        raise InvalidArgumentError('SHELL requires the arguments to be in JSON form: SHELL ["executable", …]')
    return msgspec.structs.replace(config, shell=shell)


def _healthcheck(config: RunConfig, rest: str) -> RunConfig:
    options: dict[str, int] = {}
    while match := re.match(r"--([a-z-]+)=(\S+)\s*", rest):
        name, value = match[1].replace("-", "_"), match[2]
        if name not in ("interval", "timeout", "start_period", "start_interval", "retries"):
            raise InvalidArgumentError(f"unknown HEALTHCHECK option --{match[1]}")
        options[name] = _count(value) if name == "retries" else _duration(value)
        rest = rest[match.end() :]
    kind, _, command = rest.partition(" ")
    if kind.upper() == "NONE" and not command.strip():
        return msgspec.structs.replace(config, healthcheck=Healthcheck(test=("NONE",)))
    if kind.upper() != "CMD" or not command.strip():
        raise InvalidArgumentError("HEALTHCHECK requires CMD and a command, or NONE")
    words = _json_list(command.strip())
    test = ("CMD", *words) if words else ("CMD-SHELL", command.strip())
    return msgspec.structs.replace(config, healthcheck=Healthcheck(test=test, **options))


_INSTRUCTIONS: Final[dict[str, Callable[[RunConfig, str], RunConfig]]] = {
    "CMD": _cmd,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "ONBUILD": _onbuild,
    "SHELL": _shell,
    "STOPSIGNAL": _stopsignal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}


def _command(config: RunConfig, rest: str) -> tuple[str, ...]:
    """The JSON form as it is, else the shell form."""
    words = _json_list(rest)
    return words if words is not None else (*(config.shell or _DEFAULT_SHELL), rest)


def _json_list(text: str) -> tuple[str, ...] | None:
    """A JSON list of strings, or ``None`` if the text is anything else: it is then meant for the shell."""
    if not text.startswith("["):
        return None
    try:
        return msgspec.convert(json.loads(text), tuple[str, ...])
    except (ValueError, msgspec.ValidationError):
        return None


def _words(text: str) -> list[str]:
    """Split at white space outside quotes; quotes and backslashes are taken away."""
    return [_unquote(match[0]) for match in _WORD.finditer(text)]


def _unquote(word: str) -> str:
    def piece(match: re.Match[str]) -> str:
        if match[2] is not None:
            return re.sub(r'\\(["\\$])', r"\1", match[2])
        return next(group for group in match.groups() if group is not None)

    return _PIECE.sub(piece, word)


def _pairs(name: str, rest: str) -> dict[str, str]:
    """``key=value`` words, or the old form ``key value`` with one key."""
    words = _words(rest)
    if words and "=" not in rest.split(maxsplit=1)[0]:
        key, _, value = rest.partition(" ")
        if not value.strip():
            raise InvalidArgumentError(f"{name} must have two arguments")
        return {key: _unquote(value.strip())}
    pairs: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise InvalidArgumentError(
                f"Syntax error - can't find = in {word[:80]!r}. Must be of the form: name=value"
            )
        pairs[key] = value
    return pairs


def _one(name: str, rest: str) -> str:
    words = _words(rest)
    if len(words) != 1:
        raise InvalidArgumentError(f"{name} requires exactly one argument")
    return words[0]


def _count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise InvalidArgumentError(f"invalid number {text[:40]!r}")
    return int(text)


def _duration(text: str) -> int:
    """Nanoseconds of a Go duration such as ``1m30s``."""
    matches = list(_DURATION.finditer(text))
    if not matches or "".join(match[0] for match in matches) != text:
        raise InvalidArgumentError(f"invalid duration {text[:40]!r}", hint="write e.g. 30s or 1m30s")
    return sum(round(float(match[1]) * _NANOSECONDS[match[2]]) for match in matches)
