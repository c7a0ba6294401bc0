"""Go's ``FileMode`` bits, in which fsutil and Docker's API give modes, and ``st_mode`` (Go's io/fs, FileMode)."""

import stat
from typing import Final

_PERMISSIONS: Final = 0o777
_DIRECTORY: Final = 1 << 31
_SYMLINK: Final = 1 << 27
_DEVICE: Final = 1 << 26
_FIFO: Final = 1 << 25
_SOCKET: Final = 1 << 24
_CHARACTER: Final = 1 << 21
_TYPES: Final = {
    _DIRECTORY: stat.S_IFDIR,
    _SYMLINK: stat.S_IFLNK,
    _DEVICE: stat.S_IFBLK,
    _DEVICE | _CHARACTER: stat.S_IFCHR,
    _FIFO: stat.S_IFIFO,
    _SOCKET: stat.S_IFSOCK,
    0: stat.S_IFREG,
}
_GO_TYPES: Final = {unix: go for go, unix in _TYPES.items()}
_TYPE_BITS: Final = _DIRECTORY | _SYMLINK | _DEVICE | _FIFO | _SOCKET | _CHARACTER
_SPECIAL: Final = ((1 << 23, stat.S_ISUID), (1 << 22, stat.S_ISGID), (1 << 20, stat.S_ISVTX))


def to_unix(mode: int) -> int | None:
    """``st_mode`` of Go's bits; ``None`` for a type that no file has."""
    kind = _TYPES.get(mode & _TYPE_BITS)
    if kind is None:
        return None
    return kind | mode & _PERMISSIONS | sum(unix for go, unix in _SPECIAL if mode & go)


def from_unix(mode: int) -> int:
    """Go's bits of an ``st_mode``."""
    kind = _GO_TYPES[stat.S_IFMT(mode) or stat.S_IFREG]
    return kind | mode & _PERMISSIONS | sum(go for go, unix in _SPECIAL if mode & unix)
