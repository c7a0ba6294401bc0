"""A definition as a checked graph: what the solver walks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from lading.errors import InvalidArgumentError, ResourceExhaustedError, UnsupportedError
from lading.formats.llb import ops
from lading.formats.llb.caps import SUPPORTED
from lading.formats.llb.decode import DecodedOp, outputs
from lading.formats.llb.definition import Definition
from lading.formats.llb.metadata import CUSTOM_NAME, Metadata, decode_metadata
from lading.oci.descriptor import Platform
from lading.oci.digest import Digest

OPS_LIMIT: Final = 100_000
BYTES_LIMIT: Final = 64 * 1024 * 1024
"""Bytes of all operations together; heredoc files are in them."""
NAME_LIMIT: Final = 4096
"""Characters of a name that is made of the operation; that of a merge holds the names of its inputs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vertex:
    """One operation of a graph."""

    digest: Digest
    raw: bytes
    op: ops.Op
    inputs: tuple[ops.Input, ...]
    platform: Platform | None
    filters: tuple[str, ...]
    """Which workers may do it (containerd filters)."""
    metadata: Metadata
    name: str
    """For people: the frontend's name for it, or one made of the operation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """The vertices that the result needs, inputs before what uses them. Without a ``result`` there are none (``scratch``)."""

    vertices: Mapping[Digest, Vertex]
    result: ops.Input | None


def load(definition: Definition) -> Graph:
    """Check a definition and read it.

    A vertex's inputs are digests of bytes, so there can be no cycle; the walk makes sure anyway.

    Raises:
        InvalidArgumentError: An operation is malformed, is missing, or uses an input or output that does not exist.
        UnsupportedError: An operation is of an unknown kind, or needs an ability that is not there.
        ResourceExhaustedError: It is over `OPS_LIMIT` or `BYTES_LIMIT`.

    """
    if not definition.ops:
        return Graph(vertices={}, result=None)
    if len(definition.ops) > OPS_LIMIT or sum(map(len, definition.ops)) > BYTES_LIMIT:
        raise ResourceExhaustedError(f"LLB definition is over {OPS_LIMIT} operations or {BYTES_LIMIT} bytes")
    raws = {Digest.of(raw): raw for raw in definition.ops}
    terminal = DecodedOp(definition.ops[-1])
    if terminal.op is not None or len(terminal.inputs) != 1:
        raise InvalidArgumentError("the last LLB operation must be a bare one with a single input")
    result = terminal.inputs[0]
    vertices: dict[Digest, Vertex] = {}
    decoded: dict[Digest, DecodedOp] = {}
    for digest in _in_order(result.digest, lambda digest: _decode(digest, raws, decoded)):
        vertices[digest] = _vertex(digest, raws[digest], decoded[digest], definition, vertices)
    _check_output(result, vertices)
    return Graph(vertices=vertices, result=result)


def _decode(digest: Digest, raws: Mapping[Digest, bytes], decoded: dict[Digest, DecodedOp]) -> DecodedOp:
    if digest not in decoded:
        if digest not in raws:
            raise InvalidArgumentError(f"invalid missing input digest {digest}", subject=digest)
        decoded[digest] = DecodedOp(raws[digest])
    return decoded[digest]


def _in_order(root: Digest, decode: Callable[[Digest], DecodedOp]) -> list[Digest]:
    """Every vertex below ``root``, inputs first, without recursion: a graph may be as deep as it is large."""
    done: dict[Digest, None] = {}
    open_: set[Digest] = set()
    stack = [(root, False)]
    while stack:
        digest, entered = stack.pop()
        if entered:
            open_.discard(digest)
            done[digest] = None
        elif digest in open_:
            raise InvalidArgumentError(f"LLB definition has a cycle at {digest}", subject=digest)
        elif digest not in done:
            open_.add(digest)
            stack.append((digest, True))
            stack.extend((one.digest, False) for one in reversed(decode(digest).inputs))
    return list(done)


def _vertex(
    digest: Digest,
    raw: bytes,
    decoded: DecodedOp,
    definition: Definition,
    before: Mapping[Digest, Vertex],
) -> Vertex:
    op = decoded.op
    if op is None:
        raise UnsupportedError(f"LLB operation {digest} is of an unknown kind", subject=digest)
    found = outputs(op)
    if sorted(found) != list(range(len(found))):
        raise InvalidArgumentError(
            f"LLB operation {digest} does not number its outputs from 0", subject=digest
        )
    for one in decoded.inputs:
        _check_output(one, before)
    metadata = decode_metadata(definition.metadata.get(digest, b""))
    missing = metadata.caps - SUPPORTED
    if missing:
        raise UnsupportedError(f"LLB needs {', '.join(sorted(missing))}, which this daemon cannot do")
    names = [before[one.digest].name for one in decoded.inputs]
    return Vertex(
        digest=digest,
        raw=raw,
        op=op,
        inputs=decoded.inputs,
        platform=decoded.platform,
        filters=decoded.filters,
        metadata=metadata,
        name=metadata.description.get(CUSTOM_NAME) or default_name(op, names),
    )


def _check_output(wanted: ops.Input, vertices: Mapping[Digest, Vertex]) -> None:
    offered = len(outputs(vertices[wanted.digest].op))
    if wanted.index >= offered:
        raise InvalidArgumentError(
            f"LLB uses output {wanted.index} of {offered} of {wanted.digest}", subject=wanted.digest
        )


def default_name(op: ops.Op, inputs: list[str]) -> str:
    """What a vertex is called if nobody named it, as BuildKit does, cut off at `NAME_LIMIT`; ``inputs`` are its inputs' names."""
    return _default_name(op, inputs)[:NAME_LIMIT]


def _default_name(op: ops.Op, inputs: list[str]) -> str:
    match op:
        case ops.SourceOp():
            return op.identifier
        case ops.ExecOp():
            return " ".join(op.meta.args)
        case ops.FileOp():
            return ", ".join(_action_name(one.action) for one in op.actions)
        case ops.MergeOp():
            return f"merge ({', '.join(inputs)})"
        case ops.DiffOp():
            return f"diff {_side(op.lower, inputs)} -> {_side(op.upper, inputs)}"
        case ops.BuildOp():
            return "build"


def _side(number: int | None, inputs: list[str]) -> str:
    return "scratch" if number is None else f"({inputs[number]})"


def _action_name(action: ops.Action) -> str:
    match action:
        case ops.Copy():
            return f"copy {action.src} {action.dest}"
        case ops.MakeFile():
            return f"mkfile {action.path}"
        case ops.MakeDirectory():
            return f"mkdir {action.path}"
        case ops.MakeSymlink():
            return f"symlink {action.path} -> {action.target}"
        case ops.Remove():
            return f"rm {action.path}"
