"""``--log-driver`` and ``--log-opt``: which log a container has, and what its options mean."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lading.containers import patterns, syslog
from lading.containers.journal import Sink
from lading.containers.jsonlog import JsonCodec
from lading.containers.locallog import LocalCodec
from lading.containers.logfile import Limits, LogFiles
from lading.errors import InvalidArgumentError, UnsupportedError

DEFAULT: Final = "json-file"
_FILE: Final = frozenset({"max-size", "max-file", "compress"})
_DELIVERY: Final = frozenset({"mode", "max-buffer-size"})
"""How a log is delivered. Here a container never waits for its log, whichever is asked for."""
_TOLD: Final = frozenset({"labels", "labels-regex", "env", "env-regex", "tag"})
_CACHE: Final = frozenset({"cache-disabled", "cache-max-size", "cache-max-file", "cache-compress"})
"""Of drivers that send messages away: the log that is kept here all the same, so that it can be read."""
OPTIONS: Final[Mapping[str, frozenset[str]]] = {
    "json-file": _FILE | _DELIVERY | _TOLD,
    "local": _FILE | _DELIVERY,
    "none": _DELIVERY,
    "syslog": syslog.OPTIONS | _DELIVERY | _TOLD | _CACHE,
}
"""Drivers, and the options that each takes."""
_ELSEWHERE: Final = {
    "journald": "the journal of systemd takes syslog messages: use syslog, whose default address is that of this machine",
    "gelf": "use syslog, which Graylog takes too",
    "fluentd": "use syslog, which fluentd takes with its in_syslog input",
}
"""Drivers of Docker that there are not, and what does the same."""
_LOCAL: Final = {"max-size": "20m", "max-file": "5", "compress": "true"}
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?", re.IGNORECASE)
_UNITS: Final = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_FLAGS: Final = {"true": True, "1": True, "t": True, "false": False, "0": False, "f": False}
_FIELD: Final = re.compile(r"\{\{\s*\.?([A-Za-z]*)\s*\}\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What a log may tell of its container."""

    id: str
    name: str
    image: str
    image_id: str
    command: str
    labels: Mapping[str, str]
    env: Mapping[str, str]


def check(driver: str, options: Mapping[str, str]) -> None:
    """Judge a log configuration. Raises `InvalidArgumentError`; `UnsupportedError` for a driver that there is not."""
    known = OPTIONS.get(driver or DEFAULT)
    if known is None:
        raise UnsupportedError(
            f"HostConfig.LogConfig.Type {driver[:80]!r} is not supported",
            hint=_ELSEWHERE.get(driver, "use json-file, local, none or syslog"),
        )
    for name in options:
        if name not in known:
            raise InvalidArgumentError(f"unknown log opt '{name[:80]}' for {driver or DEFAULT} log driver")
    if options.get("mode", "blocking") not in ("blocking", "non-blocking"):
        raise InvalidArgumentError(f"logger: logging mode not supported: {options['mode'][:80]}")
    if text := options.get("max-buffer-size"):
        if options.get("mode") != "non-blocking":
            raise InvalidArgumentError(
                "logger: max-buffer-size option is only supported with 'mode=non-blocking'"
            )
        size("max-buffer-size", text)
    for name in ("labels-regex", "env-regex"):
        _pattern(name, options.get(name, ""))
    if driver == "syslog":
        syslog.parse(options)
        _flag("cache-disabled", options.get("cache-disabled", "false"))
    limits(driver, _cache(options) if driver == "syslog" else options)
    _tag(options.get("tag", ""), None)


def _cache(options: Mapping[str, str]) -> dict[str, str]:
    """Limits of the log that is kept here, under the names of a log's own."""
    return {
        name.removeprefix("cache-"): value
        for name, value in options.items()
        if name in _CACHE and name != "cache-disabled"
    }


def limits(driver: str, options: Mapping[str, str]) -> Limits:
    """When a log is rotated. Raises `InvalidArgumentError`."""
    local = driver in ("local", "syslog")
    merged = {**(_LOCAL if local else {}), **options}
    text = merged.get("max-size", "")
    most = 0 if text.strip() in ("", "-1") else size("max-size", text)
    files = 1
    if text := merged.get("max-file"):
        if not re.fullmatch(r"[1-9]\d{0,5}", text):
            raise InvalidArgumentError(f"invalid log opt max-file: '{text}'", hint="it is at least 1")
        files = int(text)
    if files > 1 and not most:
        raise InvalidArgumentError("max-file needs max-size in log options")
    compress = _flag("compress", merged.get("compress", "false"))
    if not local and compress and (files < 2 or not most):
        raise InvalidArgumentError(
            "compress cannot be true when max-file is less than 2 or max-size is not set"
        )
    return Limits(max_size=most, max_file=files, compress=compress and files > 1)


def _flag(name: str, text: str) -> bool:
    found = _FLAGS.get(text.lower())
    if found is None:
        raise InvalidArgumentError(f"invalid log opt {name}: '{text[:80]}'")
    return found


def size(name: str, text: str) -> int:
    """Bytes of ``10m``. Raises `InvalidArgumentError`."""
    match = _SIZE.fullmatch(text.strip())
    found = int(float(match[1]) * _UNITS[match[2].lower()]) if match else 0
    if found <= 0:
        raise InvalidArgumentError(f"invalid log opt {name}: '{text[:80]}'")
    return found


def files(driver: str, options: Mapping[str, str], directory: Path, subject: Subject) -> LogFiles | None:
    """The log of a container whose files are in ``directory``; ``None`` for none."""
    match driver:
        case "none":
            return None
        case "local":
            place = directory / "local-logs" / "container.log"
            return LogFiles(place, LocalCodec(), limits(driver, options))
        case "syslog":
            if _flag("cache-disabled", options.get("cache-disabled", "false")):
                return None
            place = directory / "container-cached.log"
            return LogFiles(place, LocalCodec(), limits(driver, _cache(options)))
        case _:
            codec = JsonCodec(attributes(options, subject))
            return LogFiles(json_path(directory, subject.id), codec, limits(driver, options))


def sink(driver: str, options: Mapping[str, str], subject: Subject) -> Sink | None:
    """Where messages go besides the log; ``None`` for nowhere."""
    if driver != "syslog":
        return None
    tag = _tag(options.get("tag") or "{{.ID}}", subject)
    text = options.get("max-buffer-size")
    return syslog.Sender(
        syslog.parse(options), tag, limit=size("max-buffer-size", text) if text else syslog.BUFFER
    )


def json_path(directory: Path, container: str) -> Path:
    """Where Docker has a json-file log."""
    return directory / f"{container}-json.log"


def attributes(options: Mapping[str, str], subject: Subject) -> dict[str, str]:
    """What every message tells of its container: chosen labels and variables, and the tag."""
    found: dict[str, str] = {}
    for kind, values in (("labels", subject.labels), ("env", subject.env)):
        wanted = {name.strip() for name in options.get(kind, "").split(",") if name.strip()}
        pattern = _pattern(f"{kind}-regex", options.get(f"{kind}-regex", ""))
        for name in sorted(values):
            if name in wanted or (pattern is not None and pattern.search(name)):
                found[name] = values[name]
    if tag := _tag(options.get("tag", ""), subject):
        found["tag"] = tag
    return found


def _pattern(name: str, text: str) -> re.Pattern[str] | None:
    return patterns.compiled(text, f"log opt {name}") if text else None


def _tag(template: str, subject: Subject | None) -> str:
    """Fill in a template of Go's simplest form. Raises `InvalidArgumentError` for any other."""

    def value(match: "re.Match[str]") -> str:
        values = (
            {
                "ID": subject.id[:12],
                "FullID": subject.id,
                "Name": subject.name,
                "FullName": f"/{subject.name}",
                "ImageName": subject.image,
                "ImageID": subject.image_id.removeprefix("sha256:")[:12],
                "ImageFullID": subject.image_id,
                "Command": subject.command,
                "DaemonName": "docker",
            }
            if subject is not None
            else dict.fromkeys(_TAG_FIELDS, "")
        )
        if match[1] not in values:
            raise InvalidArgumentError(f"log opt tag: there is no {{{{.{match[1][:40]}}}}}")
        return values[match[1]]

    made = _FIELD.sub(value, template)
    if "{{" in _FIELD.sub("", template):
        raise InvalidArgumentError(
            f"log opt tag: the template {template[:80]!r} is not understood",
            hint="use {{.Name}} and its like",
        )
    return made


_TAG_FIELDS: Final = (
    *("ID", "FullID", "Name", "FullName", "ImageName", "ImageID", "ImageFullID", "Command", "DaemonName"),
)
