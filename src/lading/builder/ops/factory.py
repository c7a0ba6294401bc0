"""Which operation a vertex of a definition is, and the whole world that operations stand on."""

from dataclasses import dataclass

from lading.builder.model import ResolveMode
from lading.builder.ops.contents import Contents
from lading.builder.ops.exec import ExecOperation
from lading.builder.ops.file import FileOperation
from lading.builder.ops.git import GitOperation
from lading.builder.ops.images import ImageOperation, ImageSources
from lading.builder.ops.layering import DiffOperation, MergeOperation
from lading.builder.ops.local import LocalOperation
from lading.builder.ops.mounting import ExecTools
from lading.builder.ops.mutables import Mutables
from lading.builder.ops.trees import Tree, Trees
from lading.builder.ops.web import Known, WebOperation
from lading.builder.solver.live import Edge, Node
from lading.builder.solver.operation import Operation
from lading.errors import UnsupportedError
from lading.formats.llb import graph, ops
from lading.oci import platform as platforms
from lading.oci.descriptor import Platform


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What operations stand on."""

    trees: Trees
    contents: Contents
    mutables: Mutables
    images: ImageSources
    tools: ExecTools
    host: Platform
    urls: dict[str, Known]
    """What is known of files on the web."""


def node(vertex: graph.Vertex, world: World) -> Node[Tree]:
    """A vertex for the scheduler. Raises `UnsupportedError` for what this daemon cannot do."""
    group = vertex.metadata.progress_group
    return Node(
        digest=vertex.digest,
        operation=operation(vertex, world),
        inputs=tuple(Edge(vertex=one.digest, index=one.index) for one in vertex.inputs),
        name=vertex.name,
        ignore_cache=vertex.metadata.ignore_cache,
        own=isinstance(vertex.op, ops.SourceOp)
        and vertex.op.scheme == "local"
        and "local.session" not in vertex.op.attrs,
        progress_group=(group.id, group.name, group.weak) if group is not None else None,
    )


def operation(vertex: graph.Vertex, world: World) -> Operation[Tree]:
    """What a vertex does."""
    op, inputs = vertex.op, len(vertex.inputs)
    platform = platforms.normalize(vertex.platform) if vertex.platform is not None else world.host
    match op:
        case ops.SourceOp():
            return _source(op, vertex, platform, world)
        case ops.ExecOp():
            return ExecOperation(vertex.raw, op, inputs, platform, vertex.name, world.tools)
        case ops.FileOp():
            return FileOperation(vertex.raw, op, inputs, world.trees, world.contents)
        case ops.MergeOp():
            return MergeOperation(vertex.raw, op, inputs, world.trees)
        case ops.DiffOp():
            return DiffOperation(vertex.raw, op, inputs, world.trees)
        case ops.BuildOp():
            raise UnsupportedError("nested builds (BuildOp) are not supported")


def _layout(op: ops.SourceOp) -> tuple[str, str] | None:
    """The client's store of an OCI layout, and the session that has it."""
    if op.scheme != "oci-layout":
        return None
    name = op.attrs.get("oci.store", "") or op.identifier.partition("://")[2].partition("@")[0]
    return f"oci:{name}", op.attrs.get("oci.session", "")


def _source(op: ops.SourceOp, vertex: graph.Vertex, platform: Platform, world: World) -> Operation[Tree]:
    if op.scheme in ("docker-image", "oci-layout"):
        limit = op.attrs.get("image.layerlimit", "")
        return ImageOperation(
            op.identifier.partition("://")[2],
            platform,
            world.images,
            world.trees.lease,
            mode=ResolveMode.parse(op.attrs.get("image.resolvemode", "")),
            layers=int(limit) if limit.isdecimal() else None,
            checksum=op.attrs.get("image.checksum", ""),
            layout=_layout(op),
        )
    if op.scheme == "local":
        return LocalOperation(op, world.mutables, vertex.name)
    if op.scheme in ("http", "https"):
        return WebOperation(op, world.trees, world.urls)
    if op.scheme == "git":
        return GitOperation(op, world.trees, world.mutables, world.tools.state)
    raise UnsupportedError(f"sources of kind {op.scheme}:// are not supported", subject=op.identifier[:200])
