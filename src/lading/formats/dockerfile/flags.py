"""Flags of instructions: ``--name=value``, and ``--name`` for what is true or false."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from lading.formats.dockerfile.errors import DockerfileError
from lading.formats.dockerfile.suggest import suggested


class Kind(Enum):
    """What a flag holds; ``MANY`` may stand several times."""

    TRUTH = "truth"
    TEXT = "text"
    MANY = "many"


@dataclass(frozen=True, slots=True)
class Flags:
    """Flags that were given."""

    values: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])

    def text(self, name: str, default: str = "") -> str:
        """The value of a flag."""
        return self.values[name][0] if name in self.values else default

    def truth(self, name: str) -> bool | None:
        """Whether a flag is on; ``None`` if it was not given."""
        return self.values[name][0] == "true" if name in self.values else None

    def many(self, name: str) -> tuple[str, ...]:
        """All values of a flag."""
        return tuple(self.values.get(name, ()))


def parse_flags(given: Iterable[str], known: Mapping[str, Kind]) -> Flags:
    """Raises `DockerfileError` for a flag that is unknown, repeated, or without a fitting value."""
    values: dict[str, list[str]] = {}
    for flag in given:
        shown, equals, value = flag.partition("=")
        name = shown[2:]
        kind = known.get(name)
        if kind is None:
            raise DockerfileError(suggested(f"unknown flag: {shown}", name, known))
        if name in values and kind is not Kind.MANY:
            raise DockerfileError(f"duplicate flag specified: {shown}")
        values.setdefault(name, []).append(
            _truth(shown, equals, value) if kind is Kind.TRUTH else _text(shown, equals, value)
        )
    return Flags(values)


def _truth(shown: str, equals: str, value: str) -> str:
    if equals and not value:
        raise DockerfileError(f"missing a value on flag: {shown}")
    if value.lower() not in ("", "true", "false"):
        raise DockerfileError(f"expecting boolean value for flag {shown}, not: {value}")
    return value.lower() or "true"


def _text(shown: str, equals: str, value: str) -> str:
    if not equals:
        raise DockerfileError(f"missing a value on flag: {shown}")
    return value
