"""``did you mean``: the option nearest to what was written, at most two edits away."""

import itertools
from collections.abc import Iterable
from typing import Final

_NEAR: Final = 2
_OPTIONS: Final = 1000
"""How many options are looked at."""


def nearest(written: str, options: Iterable[str], *, case: bool = True) -> str:
    """The nearest option, in the case of ``written`` if ``case`` does not count; empty if none is near or one is equal."""
    wanted = written if case else written.lower()
    best, distance = "", _NEAR + 1
    for option in sorted(itertools.islice(options, _OPTIONS)):
        candidate = option if case else option.lower()
        if candidate == wanted:
            return ""
        if abs(len(candidate) - len(wanted)) < distance and (found := _edits(wanted, candidate)) < distance:
            best, distance = option, found
    return best if case else _in_case_of(written, best)


def suggested(message: str, written: str, options: Iterable[str], *, case: bool = True) -> str:
    """The message, with a suggestion if there is one."""
    match = nearest(written, options, case=case)
    return f"{message} (did you mean {match}?)" if match else message


def _in_case_of(written: str, match: str) -> str:
    if written == written.lower():
        return match.lower()
    return match.upper() if written == written.upper() else match.lower()


def _edits(one: str, other: str) -> int:
    """Levenshtein's distance."""
    previous = list(range(len(other) + 1))
    for row, left in enumerate(one, 1):
        current = [row]
        for column, right in enumerate(other, 1):
            current.append(min(previous[column] + 1, current[-1] + 1, previous[column - 1] + (left != right)))
        previous = current
    return previous[-1]
