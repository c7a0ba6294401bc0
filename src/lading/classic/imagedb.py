"""The image database, the names, and what is known of blobs. All of it blocks."""

import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from lading.classic import layout
from lading.classic.layout import Layout
from lading.errors import DataLossError, InvalidArgumentError
from lading.kit import fs, times
from lading.oci.descriptor import Descriptor
from lading.oci.digest import DiffID, Digest
from lading.oci.document import CONFIG_LIMIT

_HEX: Final = re.compile(r"[0-9a-f]{64}")
_REMOVING: Final = "lading-removing"
"""A file beside what is noted of an image: its removal has begun. dockerd reads known names only."""
_KNOWN: Final = 50
"""Blobs that are remembered for one layer (moby: maxMetadata)."""


class ImageDatabase:
    """``imagedb/`` of one data-root. While it is open nobody else changes it, so parents are read once."""

    def __init__(self, layout_: Layout) -> None:
        self._layout = layout_
        self._parents: dict[Digest, Digest] | None = None

    def ids(self) -> list[Digest]:
        """Every image."""
        try:
            names = sorted(os.listdir(self._layout.configs))
        except FileNotFoundError:
            return []
        return [Digest(f"sha256:{name}") for name in names if _HEX.fullmatch(name)]

    def config(self, image: Digest) -> bytes:
        """An image's config. Raises `DataLossError` if it is damaged, too large or gone."""
        path = self._layout.configs / image.hex
        try:
            with path.open("rb") as file:
                data = file.read(CONFIG_LIMIT + 1)
        except OSError as exc:
            raise DataLossError(f"image config {image}: {exc.strerror}", subject=image) from exc
        if not image.matches(data):
            raise DataLossError(f"image config {image} is damaged", subject=image)
        return data

    def add(self, image: Digest, config: bytes) -> None:
        """Store a config under its digest. Idempotent."""
        layout.write(self._layout.configs / image.hex, config)
        self._parents = None

    def begin_removal(self, image: Digest) -> None:
        """Note that an image is about to lose its last name, so that a crash on the way to `remove` leaves no image behind."""
        layout.write(self._layout.metadata / image.hex / _REMOVING, "")

    def end_removal(self, image: Digest) -> None:
        """The image stays after all. Idempotent."""
        (self._layout.metadata / image.hex / _REMOVING).unlink(missing_ok=True)

    def removals(self) -> list[Digest]:
        """The images whose removal has begun."""
        return [
            Digest(f"sha256:{name}")
            for name in _names(self._layout.metadata)
            if _HEX.fullmatch(name) and (self._layout.metadata / name / _REMOVING).exists()
        ]

    def remove(self, image: Digest) -> None:
        """Forget an image and what was noted of it; children lose their parent. That it is gone is fine."""
        for child in self.children(image):
            (self._layout.metadata / child.hex / "parent").unlink(missing_ok=True)
        (self._layout.configs / image.hex).unlink(missing_ok=True)
        fs.fsync_directory(self._layout.configs)
        directory = self._layout.metadata / image.hex
        for name in _names(directory):
            (directory / name).unlink(missing_ok=True)
        if directory.is_dir():
            directory.rmdir()
        self._parents = None

    def children(self, image: Digest) -> list[Digest]:
        """The images that name this one as their parent."""
        return [child for child, parent in self.parents().items() if parent == image]

    def parents(self) -> dict[Digest, Digest]:
        """Image to parent, for those that have one here."""
        known = self._parents
        if known is not None:
            return known
        here = set(self.ids())
        found: dict[Digest, Digest] = {}
        for image in here:
            text = layout.read(self._layout.metadata / image.hex / "parent")
            if text and text in here:
                found[image] = Digest(text)
        self._parents = found
        return found

    def set_parent(self, image: Digest, parent: Digest) -> None:
        """Note that ``image`` was made from ``parent``, on this machine."""
        directory = self._layout.metadata / image.hex
        layout.write(directory / "parent", str(parent))
        layout.write(directory / "builtLocally", b"\x01")
        self._parents = None

    def touch(self, image: Digest) -> None:
        """Note that the image got a name just now."""
        layout.write(self._layout.metadata / image.hex / "lastUpdated", times.format_nano(time.time_ns()))

    def touched(self, image: Digest) -> int:
        """When the image last got a name, in nanoseconds since the epoch; 0 if that is not known."""
        return times.parse_nano(layout.read(self._layout.metadata / image.hex / "lastUpdated") or "")


class _Repositories(msgspec.Struct):
    repositories: dict[str, dict[str, str]] = msgspec.field(
        name="Repositories", default_factory=dict[str, dict[str, str]]
    )


class Names:
    """``repositories.json``: familiar names, with tags or digests, to image IDs."""

    def __init__(self, layout_: Layout) -> None:
        self._path = layout_.repositories

    def read(self) -> dict[str, Digest]:
        """Every name. Raises `DataLossError` if the file is malformed."""
        try:
            raw = self._path.read_bytes()
        except FileNotFoundError:
            return {}
        try:
            document = msgspec.json.decode(raw, type=_Repositories)
            return {
                name: Digest(image)
                for names in document.repositories.values()
                for name, image in names.items()
            }
        except (msgspec.DecodeError, InvalidArgumentError) as exc:
            raise DataLossError(
                f"{self._path} is malformed: {exc}",
                hint="restore it, or move it away",
                subject=str(self._path),
            ) from exc

    def write(self, names: Mapping[str, tuple[str, Digest]]) -> None:
        """Replace all names: familiar name to repository (familiar) and image."""
        repositories: dict[str, dict[str, str]] = {}
        for name, (repository, image) in sorted(names.items()):
            repositories.setdefault(repository, {})[name] = str(image)
        layout.write(self._path, msgspec.json.encode(_Repositories(dict(sorted(repositories.items())))))


class KnownBlob(msgspec.Struct, frozen=True, rename="pascal"):
    """A blob that is known to unpack to a layer. ``hmac`` ties it to the credentials that reached it (moby).

    ``size`` and ``media_type`` are ours: dockerd passes over them, and drops them when it writes the list again.
    """

    digest: str
    source_repository: str
    hmac: str = msgspec.field(name="HMAC", default="")
    size: int = 0
    media_type: str = ""


class KnownBlobs:
    """``distribution/``: layers to the blobs that unpack to them, and back."""

    def __init__(self, layout_: Layout) -> None:
        self._by_layer = layout_.distribution / "v2metadata-by-diffid" / "sha256"
        self._by_blob = layout_.distribution / "diffid-by-digest" / "sha256"

    def of_layer(self, diff_id: DiffID) -> Sequence[KnownBlob]:
        """The blobs that unpack to a layer, the one seen last at the end."""
        try:
            return msgspec.json.decode((self._by_layer / diff_id.hex).read_bytes(), type=list[KnownBlob])
        except (FileNotFoundError, msgspec.DecodeError):
            return []

    def layer_of(self, blob: Digest) -> DiffID | None:
        """The layer that a blob unpacks to, if that is known."""
        text = layout.read(self._by_blob / blob.hex)
        try:
            return DiffID(text) if text else None
        except InvalidArgumentError:
            return None

    def add(self, diff_id: DiffID, blob: Descriptor, repository: str) -> None:
        """Note that a blob unpacks to a layer and was seen in a repository, whoever may reach it. Idempotent."""
        entry = KnownBlob(
            digest=str(blob.digest),
            source_repository=repository,
            size=blob.size,
            media_type=blob.media_type,
        )
        known = [
            each
            for each in self.of_layer(diff_id)
            if (each.digest, each.source_repository, each.hmac) != (entry.digest, repository, "")
        ]
        layout.write(self._by_layer / diff_id.hex, msgspec.json.encode([*known, entry][-_KNOWN:]))
        layout.write(self._by_blob / blob.digest.hex, str(diff_id))


def _names(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []
