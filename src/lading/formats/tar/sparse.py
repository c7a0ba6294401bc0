"""Sparse maps of the GNU formats: old headers, and 0.0, 0.1 and 1.0 in PAX records.

Source: GNU tar manual, "Storing Sparse Files". Each map is checked in full before any content is passed on.
"""

from lading.formats.tar.entry import BLOCK, Limits, TarError, TarLimitError
from lading.formats.tar.pax import SPARSE_MAP, Records, decimal

Runs = list[tuple[int, int]]


def version(records: Records) -> str:
    """Which sparse format the records announce: ``""``, ``"0.x"`` or ``"1.0"``.

    Raises:
        TarError: One that is not known; reading on would give wrong content.

    """
    announced = records.get(b"GNU.sparse.major", b""), records.get(b"GNU.sparse.minor", b"")
    if announced in ((b"0", b"0"), (b"0", b"1")):
        return "0.x"
    if announced == (b"1", b"0"):
        return "1.0"
    if announced != (b"", b""):
        raise TarError(f"unknown GNU sparse format {announced[0]!r}.{announced[1]!r}")
    return "0.x" if records.get(SPARSE_MAP) else ""


def logical_size(records: Records, size: int) -> int:
    """Length of the sparse file, which is ``size`` if the records do not say."""
    value = records.get(b"GNU.sparse.size") or records.get(b"GNU.sparse.realsize")
    return decimal(value, "sparse size") if value else size


def from_records(records: Records, limits: Limits) -> Runs:
    """The map of formats 0.0 and 0.1."""
    joined = records.get(SPARSE_MAP, b"")
    if len(joined) > limits.sparse_map:
        raise TarLimitError(f"sparse map of a tar entry is longer than {limits.sparse_map} bytes")
    count = decimal(records.get(b"GNU.sparse.numblocks", b""), "number of sparse runs")
    values = joined.split(b",") if joined else []
    if len(values) != 2 * count:
        raise TarError("sparse map in a PAX header has the wrong number of runs")
    return _pairs(values)


class MapReader:
    """The map of format 1.0, which stands before the content: decimal lines, padded to whole blocks."""

    def __init__(self, limits: Limits) -> None:
        self._limit = limits.sparse_map
        self._raw = bytearray()
        self._lines = 0
        self._wanted = 0
        self.length = 0
        """Bytes taken so far."""

    def feed(self, block: memoryview) -> Runs | None:
        """Take one block; the map if it is complete, otherwise ``None``."""
        self.length += BLOCK
        if self.length > self._limit:
            raise TarLimitError(f"sparse map of a tar entry is longer than {self._limit} bytes")
        self._raw += block
        self._lines += bytes(block).count(b"\n")
        if not self._wanted and self._lines:
            self._wanted = 1 + 2 * decimal(bytes(self._raw.partition(b"\n")[0]), "number of sparse runs")
        if not self._wanted or self._lines < self._wanted:
            return None
        return _pairs(bytes(self._raw).split(b"\n", self._wanted)[1 : self._wanted])


def check(runs: Runs, *, stored: int, logical: int, limits: Limits) -> tuple[tuple[int, int], ...]:
    """The runs, if they ascend, do not overlap, end within the file and account for every stored byte.

    Raises:
        TarError: They do not.
        TarLimitError: The file is longer than allowed.

    """
    if logical > limits.file_size:
        raise TarLimitError(
            f"a sparse file in a tar archive claims {logical} bytes, more than {limits.file_size}"
        )
    at = total = 0
    for offset, length in runs:
        if offset < at:
            raise TarError("sparse map of a tar entry overlaps or is out of order")
        at = offset + length
        total += length
    if at > logical or total != stored:
        raise TarError("sparse map of a tar entry does not fit its sizes")
    return tuple(runs)


def _pairs(values: list[bytes]) -> Runs:
    numbers = [decimal(value, "sparse map") for value in values]
    return list(zip(numbers[::2], numbers[1::2], strict=True))
