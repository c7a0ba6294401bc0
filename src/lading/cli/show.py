"""How the command line shows sizes, chains of references and progress."""

import sys
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

_KILO: Final = 1000
_UNITS: Final = ("B", "kB", "MB", "GB", "TB", "PB")


def size(count: int) -> str:
    """Bytes as Docker writes them: ``12.3MB``, in powers of 1000."""
    value = float(count)
    unit = 0
    while value >= _KILO and unit < len(_UNITS) - 1:
        value /= _KILO
        unit += 1
    return f"{value:.4g}{_UNITS[unit]}"


def path(steps: Sequence[str]) -> str:
    """A chain of references, root first, one step per line."""
    return "\n".join(f"{'  ' * (depth + 1)}{step}" for depth, step in enumerate(steps))


def finding(found: Mapping[str, Any]) -> str:
    """One line for one piece of damage."""
    return f"{found['Kind']} {found['ID']}: {found['Problem']}" + (
        " (repaired)" if found.get("Repaired") else ""
    )


class Progress:
    """A progress bar on a terminal; silent anywhere else, and for work that is done at once."""

    def __init__(self, words: str) -> None:
        self._words = words
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        return self

    def update(self, current: int, total: int) -> None:
        """Show that ``current`` of ``total`` is done."""
        if not sys.stderr.isatty():
            return
        if self._bar is None:
            from rich.console import Console
            from rich.progress import Progress as Bar

            self._bar = Bar(console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task(self._words, total=total or None)
        self._bar.update(self._task, completed=current, total=total or None)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
