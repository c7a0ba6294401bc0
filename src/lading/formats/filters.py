"""containerd's filter expressions: ``type==regular,shared``, ``labels."a b"~=^x``, ``id!=y`` (containerd, pkg/filters).

A comma joins conditions that must all hold; of several expressions one is enough. A field alone asks whether it is there.
"""

import re
from collections.abc import Callable, Iterable
from typing import Final

from lading.errors import InvalidArgumentError

Fields = Callable[[tuple[str, ...]], str | None]
"""The value of a field by its path; ``None`` if there is none."""
Condition = Callable[[Fields], bool]
_LIMIT: Final = 64 * 1024
_QUOTED: Final = r'"(?:[^"\\]|\\.)*"'
_PART: Final = rf"(?:[A-Za-z0-9_@/:-]+|{_QUOTED})"
_CONDITION: Final = re.compile(
    rf"(?P<path>{_PART}(?:\.{_PART})*)(?:(?P<op>==|!=|~=|=)(?P<value>{_QUOTED}|[^,\"]*))?(?:,|$)"
)
_FIRST: Final = re.compile(_PART)


def parse(expression: str) -> Condition:
    """One expression. An empty one is always true. Raises `InvalidArgumentError`."""
    conditions: list[Condition] = []
    place = 0
    while place < len(expression):
        found = _CONDITION.match(expression, place) if len(expression) <= _LIMIT else None
        if found is None:
            raise InvalidArgumentError(
                f"invalid filter {expression[:128]!r}", hint="use e.g. type==regular,shared"
            )
        place = found.end()
        path = tuple(_plain(part) for part in _FIRST.findall(found["path"]))
        conditions.append(_condition(path, found["op"], _plain(found["value"] or "")))
    return lambda fields: all(condition(fields) for condition in conditions)


def parse_all(expressions: Iterable[str]) -> Condition:
    """Several expressions, of which one must hold; none at all is always true. Raises `InvalidArgumentError`."""
    alternatives = [parse(each) for each in expressions]
    return lambda fields: not alternatives or any(each(fields) for each in alternatives)


def _plain(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1]) if text.startswith('"') else text


def _condition(path: tuple[str, ...], operator: str | None, value: str) -> Condition:
    if operator is None:
        return lambda fields: fields(path) is not None
    if operator == "!=":
        return lambda fields: fields(path) != value
    if operator == "~=":
        try:
            pattern = re.compile(value)
        except re.error as exc:
            raise InvalidArgumentError(f"invalid pattern {value[:128]!r} in a filter") from exc
        return lambda fields: (found := fields(path)) is not None and pattern.search(found) is not None
    return lambda fields: fields(path) == value
