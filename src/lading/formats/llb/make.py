"""Making graphs: each node is marshalled when it is made, so its digest is known and it never changes.

Nodes refer to the nodes that they use; `definition` collects what a result needs.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from lading.formats.llb import graph, ops
from lading.formats.llb.definition import Definition
from lading.formats.llb.encode import encode_op, encode_terminal
from lading.formats.llb.metadata import (
    Location,
    Metadata,
    decode_locations,
    encode_locations,
    encode_metadata,
)
from lading.oci.descriptor import Platform
from lading.oci.digest import Digest


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Node:
    """An operation with what it uses."""

    digest: Digest
    raw: bytes
    inputs: "tuple[Edge, ...]"
    metadata: Metadata = field(default_factory=Metadata)
    locations: tuple[Location, ...] = ()


@dataclass(frozen=True, slots=True)
class Edge:
    """One output of a node: a tree. ``None`` in its place is the empty tree."""

    node: Node
    index: int = 0

    def as_input(self) -> ops.Input:
        """The same by digest."""
        return ops.Input(digest=self.node.digest, index=self.index)


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """What is said of a node beside its operation. ``filters`` and the platform are part of its digest."""

    platform: Platform | None = None
    filters: tuple[str, ...] = ()
    metadata: Metadata = field(default_factory=Metadata)
    locations: tuple[Location, ...] = ()


def _node(
    op: ops.Op, inputs: Sequence[Edge], style: Style, *caps: str, platform: Platform | None = None
) -> Node:
    raw = encode_op(op, [one.as_input() for one in inputs], platform=platform, filters=style.filters)
    return Node(
        digest=Digest.of(raw),
        raw=raw,
        inputs=tuple(inputs),
        metadata=style.metadata.merged(Metadata(caps=frozenset(caps))),
        locations=style.locations,
    )


class _Inputs:
    """A list of inputs without repetitions."""

    def __init__(self) -> None:
        self.edges: list[Edge] = []

    def add(self, edge: Edge | None) -> int | None:
        if edge is None:
            return None
        wanted = edge.as_input()
        for place, other in enumerate(self.edges):
            if other.as_input() == wanted:
                return place
        self.edges.append(edge)
        return len(self.edges) - 1


def source(op: ops.SourceOp, style: Style, *caps: str) -> Edge:
    """A tree from outside. Only images have a platform (BuildKit's ``platformSpecificSource``)."""
    platform = style.platform if op.scheme in ("docker-image", "oci-layout") else None
    return Edge(_node(op, (), style, *caps, platform=platform))


@dataclass(frozen=True, slots=True, kw_only=True)
class MountWish:
    """A mount to make: ``mount`` without its numbers, the tree in it, and whether what is written there is an output."""

    mount: ops.Mount
    source: Edge | None = None
    keep: bool = False


def execute(
    op: ops.ExecOp, mounts: Sequence[MountWish], style: Style, *caps: str
) -> tuple[Node, dict[str, Edge]]:
    """A process. ``op.mounts`` (secrets and agents) follow the sorted ``mounts``. Returns the outputs by mount point."""
    inputs = _Inputs()
    numbered: list[ops.Mount] = []
    kept: list[str] = []
    for wish in sorted(mounts, key=lambda wish: wish.mount.dest):
        if wish.keep:
            kept.append(wish.mount.dest)
        output = len(kept) - 1 if wish.keep else None
        numbered.append(replace(wish.mount, input=inputs.add(wish.source), output=output))
    whole = replace(op, mounts=(*numbered, *op.mounts))
    node = _node(whole, inputs.edges, style, *caps, platform=style.platform)
    return node, {dest: Edge(node, index) for index, dest in enumerate(kept)}


def change(
    base: Edge | None, actions: Sequence[tuple[ops.Action, Edge | None]], style: Style, *caps: str
) -> Edge:
    """File actions on a tree, each on what the one before left; a copy names the tree that it reads.

    The base, if there is one, is input 0: a `NamedUser` refers to it by that.
    """
    inputs = _Inputs()
    place = inputs.add(base)
    sources = [inputs.add(origin) for _, origin in actions]
    numbered = [
        ops.FileAction(
            action=action,
            input=place if number == 0 else len(inputs.edges) + number - 1,
            secondary=secondary,
            output=0 if number == len(actions) - 1 else None,
        )
        for number, ((action, _), secondary) in enumerate(zip(actions, sources, strict=True))
    ]
    op = ops.FileOp(actions=tuple(numbered))
    return Edge(_node(op, inputs.edges, style, "file.base", *caps))


def merge(trees: Sequence[Edge | None], style: Style) -> Edge | None:
    """Trees laid over each other; empty ones do not count, and one alone needs no node."""
    filled = [one for one in trees if one is not None]
    if len(filled) < 2:
        return filled[0] if filled else None
    return Edge(_node(ops.MergeOp(inputs=tuple(range(len(filled)))), filled, style, "mergeop"))


def difference(lower: Edge | None, upper: Edge | None, style: Style) -> Edge | None:
    """What ``upper`` has over ``lower``."""
    if lower is None:
        return upper
    edges = [lower] if upper is None else [lower, upper]
    return Edge(_node(ops.DiffOp(lower=0, upper=None if upper is None else 1), edges, style, "diffop"))


def definition(result: Edge | None) -> Definition:
    """The graph of a tree; that of the empty tree is empty."""
    if result is None:
        return Definition()
    nodes = _collect(result.node)
    terminal = encode_terminal(result.as_input())
    raws: dict[Digest, bytes] = {}
    metadata: dict[Digest, Metadata] = {}
    locations: dict[Digest, list[Location]] = {}
    for node in nodes:
        raws.setdefault(node.digest, node.raw)
        known = metadata.get(node.digest)
        metadata[node.digest] = known.merged(node.metadata) if known else node.metadata
        locations.setdefault(node.digest, []).extend(
            one for one in node.locations if one not in locations[node.digest]
        )
    metadata[Digest.of(terminal)] = Metadata(caps=_needed(metadata.values()))
    return Definition(
        ops=(*raws.values(), terminal),
        metadata={digest: encode_metadata(one) for digest, one in metadata.items()},
        source=encode_locations({digest: found for digest, found in locations.items() if found}),
    )


def graft(definition: Definition) -> Edge | None:
    """A definition that somebody made, as a tree to build on; its operations keep their bytes.

    Raises what `graph.load` raises.
    """
    loaded = graph.load(definition)
    if loaded.result is None:
        return None
    locations = decode_locations(definition.source)
    nodes: dict[Digest, Node] = {}
    for digest, vertex in loaded.vertices.items():
        nodes[digest] = Node(
            digest=digest,
            raw=vertex.raw,
            inputs=tuple(Edge(nodes[one.digest], one.index) for one in vertex.inputs),
            metadata=vertex.metadata,
            locations=locations.get(digest, ()),
        )
    return Edge(nodes[loaded.result.digest], loaded.result.index)


def _needed(metadata: Iterable[Metadata]) -> frozenset[str]:
    """Abilities that the use of metadata needs."""
    needed = {"constraints", "platform"}
    for one in metadata:
        if one.ignore_cache:
            needed.add("meta.ignorecache")
        if one.description:
            needed.add("meta.description")
        if one.export_cache is not None:
            needed.add("meta.exportcache")
    return frozenset(needed)


def _collect(root: Node) -> list[Node]:
    """Every node below ``root``, inputs first; nodes of equal bytes may both be in it, as they may differ in metadata."""
    done: dict[int, Node] = {}
    stack = [(root, False)]
    while stack:
        node, entered = stack.pop()
        if id(node) in done:
            continue
        if entered:
            done[id(node)] = node
        else:
            stack.append((node, True))
            stack.extend((edge.node, False) for edge in reversed(node.inputs))
    return list(done.values())
