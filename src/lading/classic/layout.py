"""Where Docker keeps what, below a data-root whose storage driver is overlay2 (moby, ``daemon/internal/{layer,image}``).

::

    image/overlay2/imagedb/content/sha256/<image ID>          the config, as received; its digest is the image's ID
    image/overlay2/imagedb/metadata/sha256/<image ID>/        parent, lastUpdated, builtLocally
    image/overlay2/layerdb/sha256/<chain ID>/                 diff, parent, size, cache-id, tar-split.json.gz
    image/overlay2/layerdb/mounts/<container ID>/             mount-id, init-id, parent
    image/overlay2/layerdb/tmp/                               what is being made
    image/overlay2/distribution/v2metadata-by-diffid/sha256/  which blobs are known to unpack to a layer, and where they are
    image/overlay2/distribution/diffid-by-digest/sha256/      the way back
    image/overlay2/repositories.json                          every name
    overlay2/<cache ID>/{diff,link,lower,work,committed}      the trees
    overlay2/l/<26 letters>                                   a short name for each tree, for mount options
"""

import os
import secrets
from pathlib import Path
from typing import Final

from lading.kit import fs

DRIVER: Final = "overlay2"
"""The name of Docker's storage driver, and of ours in the classic store."""
OTHERS: Final = ("btrfs", "zfs", "fuse-overlayfs", "aufs", "devicemapper")
"""Docker's other drivers, whose data is not opened here."""


class Layout:
    """The paths below one data-root."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.trees = root / DRIVER
        self.image = root / "image" / DRIVER
        self.configs = self.image / "imagedb" / "content" / "sha256"
        self.metadata = self.image / "imagedb" / "metadata" / "sha256"
        self.layers = self.image / "layerdb" / "sha256"
        self.mounts = self.image / "layerdb" / "mounts"
        self.drafts = self.image / "layerdb" / "tmp"
        self.repositories = self.image / "repositories.json"
        self.distribution = self.image / "distribution"

    def make(self) -> None:
        """Make what is missing, with dockerd's modes. Blocking."""
        fs.make_directories(self.trees, mode=0o710)
        fs.make_directories(self.trees / "l", mode=0o700)
        for path in (self.root / "image", self.image):
            fs.make_directories(path, mode=0o700)
        for path in (self.configs, self.metadata, self.layers, self.mounts, self.drafts, self.distribution):
            fs.make_directories(path, mode=0o700)

    def exists(self) -> bool:
        """Whether dockerd, or we, kept images or layers here. Blocking."""
        return any(_filled(path) for path in (self.configs, self.layers, self.mounts))


def prior_driver(root: Path) -> str:
    """The classic storage driver that has data below a data-root, as dockerd looks for it; empty if none. Blocking.

    vfs does not count (moby, ``daemon/graphdriver``: prior drivers).
    """
    if Layout(root).exists():
        return DRIVER
    return next((name for name in OTHERS if _filled(root / name)), "")


def _filled(path: Path) -> bool:
    try:
        with os.scandir(path) as entries:
            return next(entries, None) is not None
    except (FileNotFoundError, NotADirectoryError):
        return False


def new_id() -> str:
    """A fresh name for a tree: 64 hexadecimal digits, as dockerd's."""
    return secrets.token_hex(32)


def write(path: Path, data: bytes | str, *, mode: int = 0o600) -> None:
    """Replace a small file, whole and durable. Blocking."""
    fs.make_directories(path.parent, mode=0o700)
    fs.write_atomic(path, data.encode() if isinstance(data, str) else data, mode=mode)


def read(path: Path) -> str | None:
    """A small text file without surrounding white space; ``None`` if it is missing. Blocking."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError):
        return None
