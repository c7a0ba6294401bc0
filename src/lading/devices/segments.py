"""The contents of one device: segments that are decoded when they are read, once, into a sparse file."""

import os
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from lading.core.devices import FILLED_HEADER
from lading.devices.ahead import Ahead, Plan
from lading.errors import DataLossError, LadingError
from lading.formats.seek import decoding, index
from lading.formats.seek.index import SeekIndex


class Segments:
    """For any number of threads. The descriptors stay the caller's.

    Args:
        length: Of the device.
        files: Descriptors of blob, index, data and filled, as of `lading.core.devices.Device`.
        ahead: Who decodes ahead of readers, if anybody does.

    Raises:
        DataLossError: The index is damaged, or does not fit.
        OSError: Of the files.

    """

    def __init__(self, length: int, files: Sequence[int], ahead: Ahead | None = None) -> None:
        self._blob, seek, self._data, self._filled = files
        self.length = length
        raw = _pread(seek, os.fstat(seek).st_size, 0)
        self._index = index.decode(raw)
        if not self._fits(length):
            raise DataLossError("the seek index is of another blob")
        header, count = raw[-FILLED_HEADER:], len(self._index.segments)
        if os.pread(self._filled, FILLED_HEADER, 0) != header:
            raise DataLossError("what was decoded so far is of another seek index")
        os.ftruncate(self._filled, FILLED_HEADER + count)
        self._there = bytearray(os.pread(self._filled, count, FILLED_HEADER))
        self._filling: set[int] = set()
        self._changed = threading.Condition()
        self._ahead = ahead
        self._plan = Plan(self._there)
        self._closed = False

    def _fits(self, length: int) -> bool:
        found: SeekIndex = self._index
        sizes = os.fstat(self._blob).st_size, os.fstat(self._data).st_size
        return found.length <= length and sizes == (found.source_length, length)

    def read(self, offset: int, room: memoryview) -> int:
        """Read bytes of the device into ``room``; how many, which are fewer at its end only.

        Raises:
            DataLossError: The blob is damaged there.
            OSError: Of the blob or the data file.

        """
        end = min(offset + len(room), self.length)
        offsets = self._index.offsets
        first = bisect_right(offsets, offset) - 1
        last = bisect_left(offsets, end, first)
        for number in range(first, min(last, len(self._there))):
            if self._plan.is_new(number):
                self._ask(number)
            if self._there[number] != 1:
                self._have(number)
        return _pread_into(self._data, room[: max(end - offset, 0)], offset)

    def close(self) -> None:
        """Decode nothing more; what is being decoded is waited for. Nobody reads any more."""
        with self._changed:
            self._closed = True
            while self._filling:
                self._changed.wait()

    def _ask(self, number: int) -> None:
        with self._changed:
            self._plan.ask(number)
        if self._ahead is not None:
            self._ahead.wake(self._step)

    def _step(self) -> None:
        """Decode a segment ahead, if there is one that is worth it."""
        with self._changed:
            number = None if self._closed else self._plan.take()
            if number is None:
                return
            self._filling.add(number)  # nobody has asked for it, so nobody fills it
        assert self._ahead is not None
        self._ahead.wake(self._step)
        try:
            self._fill(number)
        except (LadingError, OSError, MemoryError):
            with self._changed:  # whoever asks for it tries again, and is told
                self._plan.rest()
        finally:
            self._done_with(number)

    def _done_with(self, number: int) -> None:
        with self._changed:
            self._filling.discard(number)
            self._changed.notify_all()

    def _have(self, number: int) -> None:
        """Have a segment in the data file; those who want the same wait for whoever fills it."""
        with self._changed:
            while number in self._filling:
                self._changed.wait()
            if self._there[number] == 1:
                return
            self._filling.add(number)
        try:
            self._fill(number)
        finally:
            self._done_with(number)

    def _fill(self, number: int) -> None:
        begin, end = self._index.source(number)
        data = decoding.segment(self._index, number, _pread(self._blob, end - begin, begin))
        _pwrite(self._data, data, self._index.offsets[number])
        # From here on it is believed, by whoever serves these files next, too.
        _pwrite(self._filled, b"\1", FILLED_HEADER + number)
        self._there[number] = 1


def _pread(fd: int, size: int, offset: int) -> bytes:
    data = os.pread(fd, size, offset)
    while len(data) < size and (more := os.pread(fd, size - len(data), offset + len(data))):
        data += more
    return data


def _pread_into(fd: int, room: memoryview, offset: int) -> int:
    done = os.preadv(fd, [room], offset)
    while done < len(room) and (more := os.preadv(fd, [room[done:]], offset + done)):
        done += more
    return done


def _pwrite(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view = view[written:]
        offset += written
