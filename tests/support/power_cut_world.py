"""The images of the power-cut tests, and the trees that they are."""

import os
import random
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path

from lading.oci import mediatypes
from lading.oci.digest import Digest
from lading.testing import images as make
from lading.testing.images import TestImage
from lading.testing.registry import FakeRegistry

Tree = dict[str, str]
"""Paths of files to mode and digest of their content, of directories to ``d``."""

_chance = random.Random(20)


def _files(prefix: str, count: int, largest: int = 9000) -> dict[str, bytes]:
    return {f"{prefix}/{n % 7}/{n}": _chance.randbytes(_chance.randrange(largest)) for n in range(count)}


_BASE = {
    **_files("usr/lib", 40),
    "usr/big": _chance.randbytes(300_000),
    "etc/name": b"base\n",
    "etc/gone": b"1",
}
_LAYERS: Mapping[str, Sequence[Mapping[str, bytes]]] = {
    "a": [_BASE, {**_files("opt/a", 20), "etc/name": b"a\n", "etc/.wh.gone": b""}],
    "b": [_BASE, _files("opt/b", 30), {"etc/name": b"b\n", "usr/lib/.wh..wh..opq": b"", "usr/lib/new": b"b"}],
    "c": [_files("srv/c", 50), {"srv/c/1/1": b"changed", "srv/.wh.gone": b""}],
    "d": [_BASE, {"one": b"d" * 70_000}, {"two": _chance.randbytes(200_000)}, _files("opt/d", 25)],
    "e": [_files("srv/e", 10, 60_000)],
}
ADDED = {"etc/name": b"written in a container\n", **_files("home/made", 15)}
"""What the test's container writes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """An image and its trees by chain ID."""

    image: TestImage
    trees: Mapping[str, Tree]

    @property
    def tree(self) -> Tree:
        return self.trees[self.image.chain[-1]]

    def id(self, *, classic: bool) -> Digest:
        """Its ID in one of the two stores."""
        return self.image.config_descriptor.digest if classic else self.image.descriptor.digest


def stacked(below: Tree, files: Mapping[str, bytes], mode: int = 0o644) -> Tree:
    """What a layer makes of a tree."""
    tree = dict(below)
    for path in files:
        parent, base = os.path.split(path)
        if base == ".wh..wh..opq":
            _drop(tree, parent, itself=False)
        elif base.startswith(".wh."):
            _drop(tree, f"{parent}/{base[4:]}", itself=True)
    for path, data in files.items():
        if not os.path.basename(path).startswith(".wh."):
            for up in Path(path).parents:
                tree[str(up)] = "d"
            tree[path] = f"{mode:o} {sha256(data).hexdigest()}"
    return tree


def _drop(tree: Tree, path: str, *, itself: bool) -> None:
    for name in list(tree):
        if name.startswith(f"{path}/") or (itself and name == path):
            del tree[name]


@cache
def by_name(short: str) -> World:
    """An image of the world."""
    image = make.image([make.layer(files) for files in _LAYERS[short]])
    trees: dict[str, Tree] = {}
    tree: Tree = {".": "d"}
    for files, chain in zip(_LAYERS[short], image.chain, strict=True):
        trees[chain] = tree = stacked(tree, files)
    return World(image=image, trees=trees)


IMAGES = tuple(_LAYERS)


def publish(registry: FakeRegistry) -> None:
    """Put all images into a registry, as ``app:<letter>``."""
    for short in IMAGES:
        image = by_name(short).image
        for descriptor, blob in image.blobs.items():
            registry.add_blob("app", blob, descriptor.media_type)
        registry.add_manifest("app", image.body, mediatypes.OCI_MANIFEST, tag=short)


def seen(root: Path) -> Tree:
    """The tree at a path."""
    tree: Tree = {".": "d"}
    for directory, directories, files in os.walk(root):
        for name in directories:
            tree[os.path.relpath(f"{directory}/{name}", root)] = "d"
        for name in files:
            path = f"{directory}/{name}"
            mode = stat.S_IMODE(os.lstat(path).st_mode)
            with open(path, "rb") as file:
                tree[os.path.relpath(path, root)] = f"{mode:o} {sha256(file.read()).hexdigest()}"
    return tree
