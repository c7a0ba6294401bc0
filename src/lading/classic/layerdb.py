"""The layer database: which layers there are, what they stand on, and which tree shows each. All of it blocks.

A layer's directory appears by one rename of a filled and flushed draft, and goes by a rename to ``<chain ID>-<random>-removing``
before its tree does: dockerd finishes such removals at its start, and so do we.
"""

import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lading.classic import layout
from lading.classic.layout import Layout
from lading.errors import InvalidArgumentError
from lading.kit import fs
from lading.oci.digest import ChainID, DiffID

_HEX: Final = re.compile(r"[0-9a-f]{64}")
_TREE: Final = re.compile(r"[0-9a-f]{64}(?:-init)?")
OURS: Final = "lading"
"""A file in a mount's directory that says who made it. dockerd reads known names only."""
SPLIT: Final = "tar-split.json.gz"


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRecord:
    """A layer. ``size`` is Docker's: bytes of its files and links; ``tree`` is its cache ID."""

    chain_id: ChainID
    diff_id: DiffID
    parent: ChainID | None
    tree: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MountRecord:
    """A container's writable layer; ``ours`` if Lading made it."""

    name: str
    tree: str
    init: str
    parent: ChainID | None
    ours: bool


class LayerDatabase:
    """``layerdb/`` of one data-root."""

    def __init__(self, layout_: Layout) -> None:
        self._layout = layout_

    def layers(self) -> list[LayerRecord]:
        """Every layer that is whole, parents before their children. What is not is dockerd's to explain, and left alone."""
        found = {record.chain_id: record for record in self._read_all()}
        ordered: dict[ChainID, LayerRecord] = {}
        for record in found.values():
            ordered |= {each.chain_id: each for each in _stack(record, found)}
        return list(ordered.values())

    def _read_all(self) -> Iterator[LayerRecord]:
        for name in sorted(_names(self._layout.layers)):
            if _HEX.fullmatch(name):
                record = self.read(ChainID(f"sha256:{name}"))
                if record is not None:
                    yield record

    def read(self, chain_id: ChainID) -> LayerRecord | None:
        """One layer, or ``None`` if it is missing or malformed."""
        directory = self.directory(chain_id)
        diff, size = layout.read(directory / "diff"), layout.read(directory / "size")
        tree, parent = layout.read(directory / "cache-id"), layout.read(directory / "parent")
        if not diff or not size or not size.isdecimal() or not tree or not _TREE.fullmatch(tree):
            return None
        try:
            return LayerRecord(
                chain_id=chain_id,
                diff_id=DiffID(diff),
                parent=ChainID(parent) if parent else None,
                tree=tree,
                size=int(size),
            )
        except InvalidArgumentError:
            return None

    def directory(self, chain_id: ChainID) -> Path:
        """Where a layer is described."""
        return self._layout.layers / chain_id.hex

    def add(self, record: LayerRecord, split: Path) -> None:
        """Describe a layer whose tree is complete and durable; ``split`` is moved in. Nothing happens if it is there already."""
        draft = self._layout.drafts / f"write-set-{secrets.token_hex(8)}"
        fs.make_directories(self._layout.drafts, mode=0o755)
        draft.mkdir(mode=0o700)
        try:
            os.rename(split, draft / SPLIT)
            os.chmod(draft / SPLIT, 0o644)
            _put(draft / "size", str(record.size))
            _put(draft / "cache-id", record.tree)
            _put(draft / "diff", str(record.diff_id))
            if record.parent is not None:
                _put(draft / "parent", str(record.parent))
            fs.fsync_directory(draft)
            try:
                fs.rename_new(draft, self.directory(record.chain_id))
            except FileExistsError:
                return
            fs.fsync_directory(self._layout.layers)
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def begin_removal(self, chain_id: ChainID) -> None:
        """Take a layer out; its tree may go afterwards. That it is gone is fine."""
        doomed = self._layout.layers / f"{chain_id.hex}-{secrets.token_hex(32)}-removing"
        try:
            os.rename(self.directory(chain_id), doomed)
        except FileNotFoundError:
            return
        fs.fsync_directory(self._layout.layers)

    def removals(self) -> list[str]:
        """The trees of layers whose removal has begun."""
        return [
            tree
            for name in _names(self._layout.layers)
            if name.endswith("-removing") and (tree := layout.read(self._layout.layers / name / "cache-id"))
        ]

    def finish_removals(self, trees: set[str]) -> None:
        """Forget the layers whose removal has begun and whose trees are gone."""
        for name in _names(self._layout.layers):
            directory = self._layout.layers / name
            if name.endswith("-removing") and (layout.read(directory / "cache-id") or "") in {*trees, ""}:
                shutil.rmtree(directory, ignore_errors=True)

    # Mounts: the writable layers of containers.

    def mounts(self) -> list[MountRecord]:
        """Every writable layer."""
        found: list[MountRecord] = []
        for name in sorted(_names(self._layout.mounts)):
            directory = self._layout.mounts / name
            tree, parent = layout.read(directory / "mount-id"), layout.read(directory / "parent")
            if not tree or not _TREE.fullmatch(tree):
                continue
            found.append(
                MountRecord(
                    name=name,
                    tree=tree,
                    init=layout.read(directory / "init-id") or "",
                    parent=_chain(parent),
                    ours=(directory / OURS).exists(),
                )
            )
        return found

    def below(self, name: str) -> list[str]:
        """The trees of a writable layer and of all that it stands on, bottom first; nothing if there is no such one."""
        directory = self._layout.mounts / name
        tree, at = layout.read(directory / "mount-id"), _chain(layout.read(directory / "parent"))
        found = [tree] if tree else []
        while at is not None and (record := self.read(at)) is not None:
            found.append(record.tree)
            at = record.parent
        return found[::-1]

    def add_mount(self, name: str, tree: str, parent: ChainID | None) -> None:
        """Note a container's writable layer, so that dockerd keeps what it stands on."""
        directory = self._layout.mounts / name
        fs.make_directories(directory, mode=0o755)
        layout.write(directory / OURS, "")
        layout.write(directory / "mount-id", tree, mode=0o644)
        if parent is not None:
            layout.write(directory / "parent", str(parent), mode=0o644)

    def remove_mount(self, name: str, tree: str) -> None:
        """Forget a writable layer of ours, if it still has this tree."""
        directory = self._layout.mounts / name
        if (directory / OURS).exists() and layout.read(directory / "mount-id") == tree:
            shutil.rmtree(directory, ignore_errors=True)


def _stack(record: LayerRecord, found: Mapping[ChainID, LayerRecord]) -> list[LayerRecord]:
    """A layer and those below it, bottom first; nothing if one of them is missing."""
    stack = [record]
    while (parent := stack[-1].parent) is not None:
        if parent not in found or len(stack) > len(found):
            return []
        stack.append(found[parent])
    return stack[::-1]


def _put(path: Path, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        fs.write_all(fd, text.encode())
        os.fsync(fd)
    finally:
        os.close(fd)


def _names(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []


def _chain(text: str | None) -> ChainID | None:
    try:
        return ChainID(text) if text else None
    except InvalidArgumentError:
        return None
