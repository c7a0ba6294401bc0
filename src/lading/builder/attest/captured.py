"""What a build used, read from the graph of its result."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from google.protobuf.message import Message

from lading.formats.llb import graph, metadata, ops
from lading.formats.llb.decode import parse_op
from lading.formats.llb.definition import Definition
from lading.oci import platform as platforms
from lading.oci import reference
from lading.oci.descriptor import Platform
from lading.oci.digest import Digest
from lading.oci.reference import Reference

Document = dict[str, Any]
_GIT_COMMIT: Final = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """Something from outside, with its digests."""

    uri: str
    digest: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True, kw_only=True)
class Needed:
    """A secret or an agent that a step asked for."""

    id: str
    optional: bool


@dataclass(slots=True, kw_only=True)
class Captured:
    """What one ref is made of; without one, nothing."""

    materials: list[Material] = field(default_factory=list[Material])
    locals: list[str] = field(default_factory=list[str])
    secrets: list[Needed] = field(default_factory=list[Needed])
    agents: list[Needed] = field(default_factory=list[Needed])
    network: bool = False
    """Whether a step could reach a network."""
    incomplete: bool = False
    """Whether something was used whose digest is not known."""
    steps: Mapping[Digest, str] = field(default_factory=dict[Digest, str])
    """``stepN`` by vertex."""
    loaded: graph.Graph | None = None
    definition: Definition = field(default_factory=Definition)


def capture(definition: Definition) -> Captured:
    """Read a graph. Raises as `graph.load`."""
    loaded = graph.load(definition)
    found = Captured(
        loaded=loaded,
        definition=definition,
        steps={digest: f"step{number}" for number, digest in enumerate(loaded.vertices)},
    )
    for vertex in loaded.vertices.values():
        if isinstance(vertex.op, ops.SourceOp):
            _source(found, vertex.op, vertex.platform)
        elif isinstance(vertex.op, ops.ExecOp):
            _process(found, vertex.op)
    found.materials.sort(key=lambda each: each.uri)
    return found


def _source(found: Captured, op: ops.SourceOp, platform: Platform | None) -> None:
    place = op.identifier.partition("://")[2]
    material: Material | None = None
    if op.scheme in ("docker-image", "oci-layout"):
        material = _image(reference.parse(place), platform, layout=op.scheme == "oci-layout")
    elif op.scheme == "local":
        found.incomplete = True
        if place not in found.locals:
            found.locals.append(place)
    elif op.scheme == "git":
        material = _git(op)
    elif op.scheme in ("http", "https"):
        checksum = op.attrs.get("http.checksum", "")
        algorithm, _, value = checksum.partition(":")
        material = Material(uri=op.identifier, digest={algorithm: value} if value else {})
    if material is not None:
        found.incomplete = found.incomplete or not material.digest
        if material not in found.materials:
            found.materials.append(material)


def _image(name: Reference, platform: Platform | None, *, layout: bool) -> Material:
    digest = {name.digest.algorithm: name.digest.hex} if name.digest else {}
    kind = "oci" if layout else "docker"
    version = f"@{name.tag}" if name.tag else ""
    parts = [f"platform={platforms.formatted(platform).replace('/', '%2F')}"] if platform else []
    if name.digest and not name.tag:
        parts.insert(0, f"digest={name.digest}")
    query = f"?{'&'.join(parts)}" if parts else ""
    return Material(uri=f"pkg:{kind}/{name.familiar_name}{version}{query}", digest=digest)


def _git(op: ops.SourceOp) -> Material:
    url = op.attrs.get("git.fullurl") or f"https://{op.identifier.partition('://')[2].partition('#')[0]}"
    commit = op.attrs.get("git.checksum") or op.identifier.partition("#")[2].partition(":")[0]
    known = len(commit) == _GIT_COMMIT and set(commit) <= set("0123456789abcdef")
    return Material(uri=f"{url}#{commit}" if commit else url, digest={"sha1": commit} if known else {})


def _process(found: Captured, op: ops.ExecOp) -> None:
    found.network = found.network or op.network is not ops.NetMode.NONE
    secrets = [Needed(id=each.id, optional=each.optional) for each in op.secret_env]
    for mount in op.mounts:
        if mount.type is ops.MountType.SECRET and mount.secret is not None:
            secrets.append(Needed(id=mount.secret.id, optional=mount.secret.optional))
        elif mount.type is ops.MountType.SSH and mount.ssh is not None:
            needed = Needed(id=mount.ssh.id, optional=mount.ssh.optional)
            if needed not in found.agents:
                found.agents.append(needed)
    found.secrets += [each for each in secrets if each not in found.secrets]


def build_config(found: Captured) -> Document:
    """The graph as BuildKit's JSON: ``llbDefinition`` and which digest is which step."""
    steps: list[Document] = []
    loaded = found.loaded or graph.load(Definition())
    for digest, vertex in loaded.vertices.items():
        step: Document = {"id": found.steps[digest], "op": op_document(vertex.raw)}
        inputs = [f"{found.steps[each.digest]}:{each.index}" for each in vertex.inputs]
        if inputs:
            step["inputs"] = inputs
        steps.append(step)
    if loaded.result is not None:
        last = loaded.result
        steps.append(
            {
                "id": f"step{len(steps)}",
                "op": {"Op": None},
                "inputs": [f"{found.steps[last.digest]}:{last.index}"],
            }
        )
    mapping = {str(digest): name for digest, name in found.steps.items()}
    return {"llbDefinition": steps, "digestMapping": mapping}


def op_document(raw: bytes) -> Document:
    """A marshalled operation as BuildKit writes it in JSON (solver/pb/json.go)."""
    message = _plain(parse_op(raw))
    kinds = ("exec", "source", "file", "build", "merge", "diff")
    document: Document = {"Op": {kind: message[kind] for kind in kinds if kind in message} or None}
    for action in message.get("file", {}).get("actions", []):
        inner = {
            kind: action.pop(kind) for kind in ("copy", "mkfile", "mkdir", "rm", "symlink") if kind in action
        }
        for key in ("input", "secondaryInput", "output"):
            action[key] = int(action.get(key, 0))
        action["Action"] = inner
    if "platform" in message:
        document["platform"] = message["platform"]
    document["constraints"] = message.get("constraints", {})
    return document


def _plain(message: Message) -> Document:
    """A message as Go's encoding/json writes it: numbers as numbers, enums too, bytes in base64, nothing that is zero."""
    made: Document = {}
    for descriptor, value in message.ListFields():
        if descriptor.message_type is not None and descriptor.message_type.GetOptions().map_entry:
            made[descriptor.name] = {str(key): _value(each) for key, each in value.items()}
        elif descriptor.is_repeated:
            made[descriptor.name] = [_value(each) for each in value]
        else:
            made[descriptor.name] = _value(value)
    return made


def _value(value: object) -> object:
    if isinstance(value, Message):
        return _plain(value)
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def sources(found: Captured) -> Document:
    """Which lines of which file made which step, with the files' content."""
    files: dict[metadata.SourceFile, int] = {}
    locations: Document = {}
    places: Mapping[Digest, Sequence[metadata.Location]] = metadata.decode_locations(found.definition.source)
    for digest, step in found.steps.items():
        entries: list[Document] = []
        for location in places.get(digest, ()):
            index = files.setdefault(location.file, len(files))
            entry: Document = {
                "ranges": [
                    {"start": {"line": one.start}, "end": {"line": one.end}} for one in location.ranges
                ]
            }
            if index:
                entry["sourceIndex"] = index
            entries.append(entry)
        if entries:
            locations[step] = {"locations": entries}
    return {"locations": locations, "infos": [_info(file) for file in files]}


def _info(file: metadata.SourceFile) -> Document:
    return {
        "filename": file.filename,
        "language": file.language,
        "data": base64.b64encode(file.data).decode(),
    }
