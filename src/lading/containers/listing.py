"""Which containers a list or prune request means. Sans-I/O; matching is linear in the text (hostile-input.md A7)."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

from lading.containers import netmodes, patterns
from lading.containers.model import Container
from lading.errors import InvalidArgumentError
from lading.kit import times
from lading.kit.text import truth

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
_HEALTH: Final = frozenset({"starting", "healthy", "unhealthy", "none"})
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
    for key in ("publish", "expose"):
        for text in filters.get(key, ()):
            port_range(text)
    for health in filters.get("health", ()):
        if health not in _HEALTH:
            raise InvalidArgumentError(f"invalid filter 'health={health[:80]}'")
    check_names(filters)
    flag(filters, "is-task")
    for code in filters.get("exited", ()):
        if not code.lstrip("-").isdigit():
            raise InvalidArgumentError(f"invalid filter 'exited={code[:80]}'")


def check_names(filters: Mapping[str, Sequence[str]]) -> None:
    """Raise `InvalidArgumentError` for names and IDs that `patterns.finds` should not look for."""
    for key in ("id", "name"):
        for value in filters.get(key, ()):
            patterns.check(value, f"invalid filter '{key}'")


def flag(filters: Mapping[str, Sequence[str]], key: str) -> bool | None:
    """A filter that is true or false; ``None`` if it is not given. Raises `InvalidArgumentError`."""
    values = filters.get(key, ())
    try:
        return truth(values)
    except ValueError as exc:
        raise InvalidArgumentError(
            f"invalid filter '{key}={', '.join(values)[:80]}'", hint="use true or false", subject=key
        ) from exc


def matches(
    container: Container,
    filters: Mapping[str, Sequence[str]],
    ancestors: Callable[[str], frozenset[str]],
    networks: Collection[str],
    published: Collection[tuple[int, str]],
) -> bool:
    """Whether a container passes every filter.

    ``ancestors`` gives the digests that an image name means; ``networks`` are names and IDs of its networks, ``published``
    its ports that are.
    """
    state = container.state

    def passes(key: str, values: Sequence[str]) -> bool:
        match key:
            case "id":
                return patterns.finds(values, container.id)
            case "name":
                return patterns.finds(values, container.name, f"/{container.name}")
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
                return any(value in networks for value in values)
            case "volume":
                held = {part for bind in container.binds for part in (bind.source, bind.target)}
                held |= {part for each in container.document.volumes for part in (each.name, each.target)}
                return any(value in held for value in values)
            case "health":
                status = container.health.status if container.health and state.running else "none"
                return status in values
            case "is-task":
                return not flag(filters, key)
            case "before" | "since":
                return True  # resolved by the caller, which knows the other containers
            case "publish":
                return any(port in published for value in values for port in port_range(value))
            case _:  # expose
                shown = {*published, *netmodes.exposed(container.config)}
                return any(port in shown for value in values for port in port_range(value))

    return all(passes(key, values) for key, values in filters.items() if values)


def port_range(text: str) -> list[tuple[int, str]]:
    """Ports of a filter's value: ``80``, ``80/udp``, ``8000-8010/tcp``. Raises `InvalidArgumentError`."""
    numbers, _, protocol = text.partition("/")
    first, dash, last = numbers.partition("-")
    low, kind = netmodes.split_port(f"{first}/{protocol or 'tcp'}")
    high = netmodes.split_port(f"{last}/{kind}")[0] if dash else low
    return [(number, kind) for number in range(low, high + 1)]


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
