"""The build cache's rows: what was built, under which keys it is found, and what is known of the snapshots it left.

**Terms.** A *record* is a result that can be used again, or a directory that lives on between builds; it holds snapshots and
blobs against the collector. A *key* names what made it; a *link* leads from a key of each input to a key, by what was
done (see `lading.builder.solver.keys`). A key may have no record any more, and still lead on.

Every method is one short transaction; what a power cut takes of the latest is built again. What is said of a
snapshot (its layer blobs, digests of its parts) goes with its row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from lading.oci.descriptor import Descriptor
from lading.oci.digest import DiffID, Digest


class Step(NamedTuple):
    """One way from an input: the input's key, and which part of it is used."""

    key: str
    selector: str = ""


class LinkRow(NamedTuple):
    """A link: from ``source``, as input number ``input`` of ``output``, to ``target``."""

    source: str
    output: str
    input: int
    selector: str
    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRecord:
    """A record. Times are nanoseconds since the epoch, sizes bytes."""

    id: str
    kind: str
    """As ``docker buildx du`` names it: ``regular``, ``source.local``, ``exec.cachemount`` …"""
    description: str = ""
    snapshotter: str = ""
    layers: tuple[str, ...] = ()
    """Committed snapshots whose differences make the tree, bottom first."""
    mutable: str = ""
    """Key of an active snapshot, for a directory that lives on."""
    blobs: tuple[Digest, ...] = ()
    """Manifests of base images: what brought the lowest layers."""
    own: tuple[str, ...] = ()
    """The snapshots that are there because of this record: those whose sizes are its size."""
    size: int = 0
    created_at: int = 0
    used_at: int = 0
    uses: int = 0
    extra: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerBlob:
    """A layer blob with the difference that a snapshot makes."""

    descriptor: Descriptor
    diff_id: DiffID


class BuildCache(Protocol):
    """The rows of one namespace."""

    async def find(self, output: str, inputs: Sequence[Sequence[Step]]) -> tuple[frozenset[str], str | None]:
        """Keys to which a link by ``output`` leads from every input (without inputs ``output`` itself), and the newest record."""
        ...

    async def add(
        self,
        record: BuildRecord,
        *,
        keys: Sequence[str] = (),
        output: str = "",
        inputs: Sequence[Sequence[Step]] = (),
    ) -> None:
        """Add a record under keys, with links from inputs to them, and hold what it needs; older records of the keys go."""
        ...

    async def connect(self, output: str, inputs: Sequence[Sequence[Step]], keys: Sequence[str]) -> None:
        """Add links."""
        ...

    async def get(self, id: str) -> BuildRecord:
        """Raises `NotFoundError`."""
        ...

    async def list(self) -> "Sequence[BuildRecord]":
        """The one used longest ago first."""
        ...

    async def touch(self, ids: Sequence[str], *, now: int) -> None:
        """Note that records were used."""
        ...

    async def resize(self, id: str, size: int) -> None:
        """Note a record's size."""
        ...

    async def delete(self, ids: Sequence[str]) -> "list[str]":
        """Delete records, and keys that then lead nowhere; the ones that were there."""
        ...

    async def history(self, keys: Sequence[str]) -> "tuple[Sequence[LinkRow], Mapping[str, str]]":
        """Every link on a way to these keys, and the newest record of each key on it."""
        ...

    async def layer(self, snapshotter: str, snapshot: str, form: str) -> LayerBlob | None:
        """The blob with a snapshot's difference in this form; ``""`` is the form in which it arrived."""
        ...

    async def put_layer(self, snapshotter: str, snapshot: str, form: str, layer: LayerBlob) -> None:
        """Remember such a blob; nothing holds it. Nothing happens if the snapshot is gone."""
        ...

    async def digest(self, snapshotter: str, snapshot: str, part: str) -> Digest | None:
        """The content digest of a part of a snapshot's tree."""
        ...

    async def put_digest(self, snapshotter: str, snapshot: str, part: str, digest: Digest) -> None:
        """Remember it. Nothing happens if the snapshot is gone."""
        ...
