"""Which containers a list or prune request means. Sans-I/O; matching is linear in the text (hostile-input.md A7)."""

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Final

from lading.containers.model import Container
from lading.containers.views import network_name
from lading.errors import InvalidArgumentError
from lading.kit import times

LIST_FILTERS: Final = frozenset(
    {
        "ancestor",
        "before",
        "exited",
        "expose",
        "health",
        "id",
        "is-task",
        "label",
        "name",
        "network",
        "publish",
    }
    | {"since", "status", "volume"}
)
PRUNE_FILTERS: Final = frozenset({"label", "label!", "until"})
_STATUSES: Final = frozenset({"created", "restarting", "running", "removing", "paused", "exited", "dead"})
_UNITS: Final = {"s": 1, "m": 60, "h": 3600}


def matches_labels(labels: Mapping[str, str], wanted: Sequence[str]) -> bool:
    """Whether all of ``key`` or ``key=value`` hold."""
    for entry in wanted:
        key, equals, value = entry.partition("=")
        if key not in labels or (equals and labels[key] != value):
            return False
    return True


def check(filters: Mapping[str, Sequence[str]]) -> None:
    """Raise `InvalidArgumentError` for values that no container can have."""
    for status in filters.get("status", ()):
        if status not in _STATUSES:
            raise InvalidArgumentError(f"invalid filter 'status={status[:80]}'")
    for code in filters.get("exited", ()):
        if not code.lstrip("-").isdigit():
            raise InvalidArgumentError(f"invalid filter 'exited={code[:80]}'")


def matches(
    container: Container, filters: Mapping[str, Sequence[str]], ancestors: Callable[[str], frozenset[str]]
) -> bool:
    """Whether a container passes every filter. ``ancestors`` gives the digests that an image name means."""
    state = container.state

    def passes(key: str, values: Sequence[str]) -> bool:
        match key:
            case "id":
                return any(container.id.startswith(value) for value in values)
            case "name":
                names = (container.name, f"/{container.name}")
                return any(_name_matches(name, value) for name in names for value in values)
            case "label":
                return matches_labels(container.labels, values)
            case "status":
                return state.status in values
            case "exited":
                return state.status == "exited" and str(state.exit_code) in values
            case "ancestor":
                mine = {container.config.image, container.record.target, container.record.image}
                return any(value in mine or not mine.isdisjoint(ancestors(value)) for value in values)
            case "network":
                return network_name(container) in values
            case "volume":
                held = {part for bind in container.binds for part in (bind.source, bind.target)}
                return any(value in held for value in values)
            case "health":
                status = container.health.status if container.health and state.running else "none"
                return status in values
            case "is-task":
                return any(value.lower() in ("false", "0") for value in values)
            case "before" | "since":
                return True  # resolved by the caller, which knows the other containers
            case _:
                return False  # expose, publish: no container here publishes a port

    return all(passes(key, values) for key, values in filters.items() if values)


def _name_matches(name: str, pattern: str) -> bool:
    """Docker takes a regular expression; the forms in use are a part of the name, ``^`` and ``$`` anchors, and ``*``."""
    start, end = pattern.startswith("^"), pattern.endswith("$")
    body = pattern.removeprefix("^").removesuffix("$").replace(".*", "*")
    return fnmatchcase(name, f"{'' if start else '*'}{body.replace('[', '[[]')}{'' if end else '*'}")


def prune_before(filters: Mapping[str, Sequence[str]], now: int) -> int | None:
    """The time before which a container must have been made to be pruned. Raises `InvalidArgumentError`."""
    values = filters.get("until", ())
    if not values:
        return None
    if len(values) > 1:
        raise InvalidArgumentError("more than one until filter specified")
    text = values[0]
    if text and text[-1] in _UNITS:
        seconds, number = 0.0, ""
        for char in text:
            if char in _UNITS and number:
                seconds += float(number) * _UNITS[char]
                number = ""
            elif char.isdigit() or (char == "." and "." not in number):
                number += char
            else:
                raise InvalidArgumentError(f"invalid filter 'until={text[:80]}'")
        if number:
            raise InvalidArgumentError(f"invalid filter 'until={text[:80]}'")
        return now - int(seconds * 1e9)
    return times.parse_query(text)
