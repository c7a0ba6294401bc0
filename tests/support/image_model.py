"""What a data-root with two image stores should hold: names, targets and blobs as plain sets, and Docker's rules for them.

Nothing here asks the store under test how it works. A target that a test cannot know beforehand (an archive's, a migration's) is read
out of the bytes of the documents themselves.
"""

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lading.oci.reference import dangling_name
from lading.testing import images as make

ORIGINAL = "lading.index.original"
NAME = "io.containerd.image.name"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A manifest: its digest, its config's, and all blobs below it."""

    digest: str
    config: str
    blobs: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """An index with its manifests by architecture, or a single manifest that stands for itself."""

    digest: str
    parts: Mapping[str, Part]


def known_target(image: make.TestIndex) -> Target:
    return Target(
        digest=image.descriptor.digest,
        parts={
            each.descriptor.platform.architecture: Part(
                digest=each.descriptor.digest,
                config=each.config_descriptor.digest,
                blobs=frozenset(d.digest for d in each.blobs),
            )
            for each in image.images
        },
    )


def read_manifest(digest: str, read: Callable[[str], bytes]) -> Target:
    """A target out of its bytes; that its layers are those of its config is checked on the way."""
    body = json.loads(read(digest))
    config = json.loads(read(body["config"]["digest"]))
    found = [_diff_id(read(layer["digest"])) for layer in body["layers"]]
    assert found == config["rootfs"]["diff_ids"], digest
    blobs = frozenset({body["config"]["digest"], *(layer["digest"] for layer in body["layers"])})
    part = Part(digest=digest, config=body["config"]["digest"], blobs=blobs)
    return Target(digest=digest, parts={config["architecture"]: part})


def _diff_id(blob: bytes) -> str:
    data = gzip.decompress(blob) if blob[:2] == b"\x1f\x8b" else blob
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """What a save wrote: its blobs, and the names and targets in ``index.json`` (of a reduced index the whole one)."""

    data: bytes = field(repr=False)
    blobs: frozenset[str]
    images: tuple[tuple[str | None, str], ...]

    @classmethod
    def read(cls, data: bytes, targets: dict[str, Target]) -> "Archive":
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            members = {m.name: tar.extractfile(m).read() for m in tar if m.isfile()}
        blobs = {
            "sha256:" + name.rpartition("/")[2]: body
            for name, body in members.items()
            if name.startswith("blobs/")
        }
        for digest, body in blobs.items():
            assert digest == f"sha256:{hashlib.sha256(body).hexdigest()}"
        images: list[tuple[str | None, str]] = []
        for entry in json.loads(members["index.json"])["manifests"]:
            assert entry["digest"] in blobs, "the archive names what it does not hold"
            digest = entry.get("annotations", {}).get(ORIGINAL, entry["digest"])
            if digest not in targets:
                targets[digest] = read_manifest(digest, blobs.__getitem__)
            _check_closed(blobs, entry)
            images.append((entry.get("annotations", {}).get(NAME), digest))
        return cls(data=data, blobs=frozenset(blobs), images=tuple(images))


def _check_closed(blobs: Mapping[str, bytes], descriptor: Mapping[str, Any]) -> None:
    """Everything that an entry leads to is in the archive."""
    body = json.loads(blobs[descriptor["digest"]])
    for child in body.get("manifests", ()):
        _check_closed(blobs, child)
    for child in (*body.get("layers", ()), *([body["config"]] if "config" in body else ())):
        assert child["digest"] in blobs


# Names


def dangling(name: str) -> bool:
    return name.startswith("moby-dangling@")


def tagged(name: str) -> bool:
    return not dangling(name) and "@" not in name


def repository(name: str) -> str:
    return name.partition("@")[0] if "@" in name else name.rpartition(":")[0]


@dataclass(slots=True)
class Names:
    """Names by Docker's rules; what they mean is a digest."""

    of: dict[str, str] = field(default_factory=dict)

    def point(self, name: str, digest: str) -> None:
        """A target that loses its last name to that stays dangling, and one that gets a name is dangling no more."""
        old = self.of.get(name)
        self.of[name] = digest
        if name != dangling_name(digest):
            self.of.pop(dangling_name(digest), None)
        if old is not None and old not in self.of.values():
            self.of[dangling_name(old)] = old

    def named(self, digest: str) -> list[str]:
        return [name for name, target in self.of.items() if target == digest and not dangling(name)]

    def going_with(self, name: str) -> list[str]:
        """A tag takes the repository's digests along if it is the repository's only tag of the target."""
        same = [n for n in self.named(self.of[name]) if n != name and repository(n) == repository(name)]
        return [name, *same] if tagged(name) and not any(map(tagged, same)) else [name]

    def drop(self, names: Iterable[str]) -> None:
        for name in names:
            del self.of[name]

    @property
    def targets(self) -> set[str]:
        return set(self.of.values())

    @property
    def tags(self) -> list[str]:
        return sorted(filter(tagged, self.of))


@dataclass(slots=True)
class ContainerdModel:
    """Blobs that are there, and what keeps them: names lead to targets, indexes to those of their manifests that they keep."""

    targets: dict[str, Target]
    names: Names = field(default_factory=Names)
    present: set[str] = field(default_factory=set)
    dropped: dict[str, set[str]] = field(default_factory=dict)
    """Index to manifests that were removed from it and not brought in since."""

    def bring(self, digest: str, archs: Iterable[str]) -> None:
        """As a pull does: the target keeps everything below it from now on."""
        target = self.targets[digest]
        self.present.add(digest)
        self.dropped.pop(digest, None)
        for arch in archs:
            self.present |= {target.parts[arch].digest, *target.parts[arch].blobs}

    def available(self, digest: str) -> set[str]:
        parts = self.targets[digest].parts.items()
        return {arch for arch, part in parts if {part.digest, *part.blobs} <= self.present}

    def readable(self, digest: str) -> set[str]:
        """The architectures of which manifest and config are there, so that they can be shown and told from each other."""
        parts = self.targets[digest].parts.items()
        return {arch for arch, part in parts if {part.digest, part.config} <= self.present}

    def collect(self) -> None:
        kept: set[str] = set()
        for digest in self.names.targets:
            kept.add(digest)
            for part in self.targets[digest].parts.values():
                if part.digest in self.present and part.digest not in self.dropped.get(digest, ()):
                    kept |= {part.digest, *part.blobs}
        self.present &= kept
        self.dropped = {digest: gone for digest, gone in self.dropped.items() if digest in self.present}


@dataclass(slots=True)
class ClassicModel:
    """Images by the digests of their configs. What an image was pulled as is one more name of it."""

    configs: Mapping[str, tuple[str, str]]
    """Config to text and architecture."""
    names: Names = field(default_factory=Names)
