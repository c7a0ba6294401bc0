"""Decoding ahead: what of a device is decoded before somebody asks for it, and by whom.

**What.** Who asks for a segment whose neighbours before it are there reads in sequence, from that device or from that part of it.
As many segments after it are worth decoding as there are in a row before it, up to `WINDOW`: a window that grows as the kernel's
read-ahead does, and that needs to know nothing of who reads (mm/readahead.c looks at what is cached before a page just so).
Who jumps about asks for segments that have nothing before them, and nothing is decoded for him but these. Once half of a device
has been asked for, the rest of it is worth decoding, too.

**Bounds.** Of what nobody has asked for there is never more than of what somebody has. What was decoded goes into the data file,
not into memory; each thread holds one segment.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import Final

WINDOW: Final = 16
"""Most segments that are decoded ahead of one that is asked for, unless the whole is worth it."""
_UNKNOWN: Final = 0
_ASKED: Final = 1
_AHEAD: Final = 2


class Plan:
    """What is worth decoding of one device. Not for several threads at once.

    Args:
        there: A byte for each segment, 1 if it is there from the beginning, which counts as asked for.

    """

    def __init__(self, there: bytes | bytearray) -> None:
        self._known = bytearray(there)
        self._asked = there.count(_ASKED)
        self._ahead = 0
        self._wanted: deque[int] = deque()
        self._cursor = 0
        self._resting = False

    def is_new(self, number: int) -> bool:
        """Whether nobody has asked for a segment yet. For any thread."""
        return self._known[number] != _ASKED

    def ask(self, number: int) -> None:
        """Somebody wants a segment: think about those after it."""
        if not self.is_new(number):
            return
        self._resting = False
        self._ahead -= self._known[number] == _AHEAD
        self._known[number] = _ASKED
        self._asked += 1
        self._cursor = number
        # Those before it, back to the first one that nobody wanted.
        run = number - 1 - self._known.rfind(_UNKNOWN, max(number - WINDOW, 0), number)
        run = min(run, WINDOW, number)
        window = range(number + 1, min(number + 1 + run, len(self._known)))
        self._wanted.extendleft(reversed(window))
        while len(self._wanted) > WINDOW:
            self._wanted.pop()

    def take(self) -> int | None:
        """The segment that is most worth decoding now; it counts as decoded. ``None`` if there is none."""
        if self._resting or self._ahead >= self._asked:
            return None
        while self._wanted:
            number = self._wanted.popleft()
            if self._known[number] == _UNKNOWN:
                return self._taken(number)
        if self._asked * 2 < len(self._known):
            return None
        number = self._known.find(_UNKNOWN, self._cursor)
        if number < 0:
            number = self._known.find(_UNKNOWN)
        return None if number < 0 else self._taken(number)

    def rest(self) -> None:
        """Decoding ahead has failed: nothing is worth it until somebody asks again."""
        self._resting = True

    def _taken(self, number: int) -> int:
        self._known[number] = _AHEAD
        self._ahead += 1
        return number


class Ahead:
    """Threads that decode ahead, for all devices in turn.

    Args:
        threads: How many at most. They begin when they are needed.

    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._begun = 0
        self._changed = threading.Condition()
        self._waiting: deque[Callable[[], None]] = deque()

    def wake(self, step: Callable[[], None]) -> None:
        """Call ``step`` once, soon: it decodes one segment, and wakes for the next."""
        with self._changed:
            if step in self._waiting:
                return
            self._waiting.append(step)
            if self._begun < self._threads:
                self._begun += 1
                threading.Thread(target=self._work, daemon=True).start()
            self._changed.notify()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    self._changed.wait()
                step = self._waiting.popleft()
            step()
