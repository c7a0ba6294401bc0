"""What operations are known by: digests of what they do, and which parts of their inputs count by content.

Both are BuildKit's, to the byte (``solver/llbsolver/ops``), so that the keys of a cache that it exported are ours.
"""

import base64
import json
import os
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import msgspec

from lading.builder.ops import golang
from lading.builder.ops.files import hashing
from lading.builder.ops.files.hashing import Memory, Selector
from lading.builder.ops.trees import Folder, Tree, Trees
from lading.builder.solver.operation import CacheMap, Dependency
from lading.core.buildcache import BuildCache
from lading.formats.dockerfile.patterns import has_wildcard
from lading.formats.llb import ops
from lading.formats.llb._pb import ops_pb2 as pb
from lading.kit import aio
from lading.oci.descriptor import Platform
from lading.oci.digest import Digest

_FOLDERS: Final = 4
"""Directories of clients whose files' digests are remembered."""


class Contents:
    """Computes content digests of trees, each once."""

    def __init__(self, trees: Trees, cache: BuildCache) -> None:
        self._trees = trees
        self._cache = cache
        self._memories: dict[str, _FolderMemory] = {}

    async def digest(self, selectors: Sequence[Selector], tree: Tree) -> Digest:
        """The digest of parts of a tree. Raises `NotFoundError` for a part that is not there."""
        if tree.folder is not None:
            return await self._digest_of_folder(selectors, tree.folder)
        name = await self._trees.snapshot(tree)
        if name is None:
            return hashing.digest_of_nothing(selectors)
        part = Digest.of(msgspec.json.encode(list(selectors)))
        driver = self._trees.snapshotter.name
        known = await self._cache.digest(driver, name, part)
        if known is None:
            known = await self._trees.look(tree, partial(_digest, selectors))
            await self._cache.put_digest(driver, name, part, known)
        return known

    async def _digest_of_folder(self, selectors: Sequence[Selector], folder: Folder) -> Digest:
        """A folder that was not changed has the digests that it had; in one that was, only what is new is read."""
        memory = self._memory(folder.key)
        if memory.version != folder.version:
            memory.version, memory.digests = folder.version, {}
        part = tuple(selectors)
        known = memory.digests.get(part)
        if known is None:
            known = await aio.run(aio.DATA, _of_folder, folder.path, selectors, memory.files)
            if memory.version == folder.version:
                memory.digests[part] = known
        return known

    def _memory(self, key: str) -> "_FolderMemory":
        memory = self._memories.pop(key, None) or _FolderMemory()
        self._memories[key] = memory
        while len(self._memories) > _FOLDERS:
            del self._memories[next(iter(self._memories))]
        return memory


@dataclass(slots=True)
class _FolderMemory:
    """What is remembered of a folder."""

    version: int = -1
    digests: dict[tuple[Selector, ...], Digest] = field(default_factory=dict[tuple[Selector, ...], Digest])
    files: Memory = field(default_factory=dict[str, tuple[int, int, int, str]])


def _digest(selectors: Sequence[Selector], root: int) -> Digest:
    return hashing.digest(root, selectors)


def _of_folder(path: str, selectors: Sequence[Selector], memory: Memory) -> Digest:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return hashing.digest(fd, selectors, memory)
    finally:
        os.close(fd)


# Files.


def of_file(raw: bytes, op: ops.FileOp, inputs: int, contents: Contents) -> CacheMap[Tree]:
    """The cache map of a file operation."""
    message = golang.parse(raw).file
    selectors: dict[int, list[Selector]] = {}
    changed: set[int] = set()
    shown: list[str] = []
    for one, action in zip(message.actions, op.actions, strict=True):
        if action.input is not None:
            changed.add(action.input)
        inner = getattr(one, one.WhichOneof("action"))
        _owners(action.action, selectors)
        if isinstance(action.action, ops.Copy) and action.secondary is not None and action.secondary < inputs:
            selectors.setdefault(action.secondary, []).append(_source(action.action))
            inner.src = posixpath.basename(inner.src.rstrip("/")) or "/"
        shown.append(base64.b64encode(golang.dump(golang.plain(inner))).decode())
    document: dict[str, object] = {"Type": "buildkit.file.v0", "Actions": shown}
    indexes = [[one.input, one.secondaryInput, one.output] for one in message.actions]
    if not _usual(indexes):
        document["indexes"] = indexes
    dependencies: list[Dependency[Tree]] = []
    for number in range(inputs):
        wanted = selectors.get(number)
        if not wanted or number in changed:
            dependencies.append(Dependency())
            continue
        names = sorted((one.path.encode() for one in wanted), reverse=True)
        dependencies.append(
            Dependency(
                selector=Digest.of(b"\0".join(names)),
                content=partial(contents.digest, _deduplicated(wanted)),
            )
        )
    return CacheMap(digests=(Digest.of(golang.dump(document)),), dependencies=tuple(dependencies))


def _usual(indexes: Sequence[Sequence[int]]) -> bool:
    """Whether each action works on the one before it, the first on the first input; that goes without saying."""
    if not indexes:
        return False
    last = len(indexes) - 1
    return all(
        place == (0 if number == 0 else len(indexes) + number - 1)
        and secondary in (-1, 1)
        and output == (0 if number == last else -1)
        for number, (place, secondary, output) in enumerate(indexes)
    )


def _source(action: ops.Copy) -> Selector:
    return Selector(
        path=action.src,
        wildcard=action.allow_wildcard and has_wildcard(action.src),
        follow=action.follow_symlink,
        include=tuple(action.include),
        exclude=tuple(action.exclude),
    )


def _owners(action: ops.Action, selectors: dict[int, list[Selector]]) -> None:
    owner = action.owner if isinstance(action, ops.Copy | ops.MakeFile | ops.MakeDirectory) else None
    if owner is None:
        return
    for name, path in ((owner.user, "/etc/passwd"), (owner.group, "/etc/group")):
        if isinstance(name, ops.NamedUser) and name.input is not None:
            selectors.setdefault(name.input, []).append(Selector(path=path, follow=True))


def _deduplicated(selectors: Sequence[Selector]) -> list[Selector]:
    kept: list[Selector] = []
    for follow in (False, True):
        paths = [one.path for one in selectors if one.plain and one.follow is follow]
        kept += [Selector(path=path, follow=follow) for path in _outermost(paths)]
    kept += [one for one in selectors if not one.plain]
    return sorted(kept, key=lambda one: one.path)


def _outermost(paths: Sequence[str]) -> list[str]:
    if len(paths) <= 1:
        return list(paths)
    every = set(paths)
    return sorted(path for path in every if every.isdisjoint(_above(path)))


def _above(path: str) -> Iterator[str]:
    """Every other path that holds this one, with and without the slash at its end."""
    for place, char in enumerate(path[:-1]):
        if char == "/":
            yield path[: place + 1]
            yield path[:place]


# Processes.


@dataclass(slots=True)
class _Use:
    """How a process uses an input."""

    selectors: list[str]
    by_content: bool = False


def of_exec(
    raw: bytes, op: ops.ExecOp, inputs: int, platform: Platform, contents: Contents
) -> CacheMap[Tree]:
    """The cache map of a process: without what is volatile (addresses, proxies, cache names) and what the selectors say."""
    message = golang.parse(raw).exec
    for host in message.meta.extraHosts:
        host.IP = ""
    for mount in message.mounts:
        mount.selector = ""
        if _own_cache(mount):
            mount.cacheOpt.ID = ""
            mount.cacheOpt.sharing = pb.SHARED
    message.meta.ClearField("proxy_env")
    if _usual_root(message):
        del message.mounts[:]
    document = {"Type": "buildkit.exec.v0", "Exec": golang.plain(message), **_platform(platform)}
    uses = _uses(op)
    return CacheMap(
        digests=(Digest.of(golang.dump(document)),),
        dependencies=tuple(_of_use(uses.get(number), contents) for number in range(inputs)),
    )


def _own_cache(mount: pb.Mount) -> bool:
    """Whether a cache was named by the user; the name and how it is shared then do not matter."""
    if not mount.HasField("cacheOpt"):
        return False
    options = mount.cacheOpt
    usual = options.ID in (mount.dest, options.ID.partition("/")[0] + "/" + mount.dest)
    return not (options.sharing == 0 and (mount.dest == options.ID or (usual and "/" in options.ID)))


def _usual_root(message: pb.ExecOp) -> bool:
    if len(message.mounts) != 1:
        return False
    mount = message.mounts[0]
    return (
        mount.dest == "/"
        and not mount.readonly
        and mount.mountType == pb.BIND
        and not any(mount.HasField(name) for name in ("cacheOpt", "SSHOpt", "secretOpt"))
        and not mount.resultID
    )


def _uses(op: ops.ExecOp) -> Mapping[int, _Use]:
    uses: dict[int, _Use] = {}
    for mount in op.mounts:
        if mount.input is None or mount.type in (
            ops.MountType.SECRET,
            ops.MountType.SSH,
            ops.MountType.TMPFS,
        ):
            continue
        selector = posixpath.normpath(posixpath.join("/", mount.selector.lstrip("/")))
        use = uses.setdefault(mount.input, _Use([]))
        use.selectors.append(selector)
        safe = mount.output is None or mount.readonly or selector == "/"
        if mount.content_cache is ops.ContentCache.OFF or (
            mount.content_cache is ops.ContentCache.DEFAULT and mount.dest == "/"
        ):
            safe = False
        use.by_content = safe
    return uses


def _of_use(use: _Use | None, contents: Contents) -> Dependency[Tree]:
    if use is None:
        return Dependency()
    selector = Digest.of("\0".join(use.selectors).encode())
    if not use.by_content:
        return Dependency(selector=selector)
    parts = _outermost(use.selectors)
    whole = any(path in ("", "/") for path in parts)
    selectors = [] if whole else [Selector(path=path, follow=True) for path in parts]
    return Dependency(selector=selector, content=partial(contents.digest, selectors))


# Layers.


def _nothing(inputs: int) -> tuple[Dependency[Tree], ...]:
    plain: Dependency[Tree] = Dependency()
    return (plain,) * inputs


def of_merge(raw: bytes, inputs: int) -> CacheMap[Tree]:
    """The cache map of a merge."""
    document = {"Type": "buildkit.merge.v0", "Merge": golang.plain(golang.parse(raw).merge)}
    return CacheMap(digests=(Digest.of(golang.dump(document)),), dependencies=_nothing(inputs))


def of_diff(raw: bytes, inputs: int) -> CacheMap[Tree]:
    """The cache map of a difference."""
    document = {"Type": "buildkit.diff.v0", "Diff": golang.plain(golang.parse(raw).diff)}
    return CacheMap(digests=(Digest.of(golang.dump(document)),), dependencies=_nothing(inputs))


# Sources: each kind has a name of its own for what it brings, of which a digest is made (``solver/llbsolver/ops/source.go``).


def of_image(digest: Digest, platform: Platform, limit: int | None, chain: Digest | None) -> CacheMap[Tree]:
    """The cache map of an image: its manifest on a platform, or the layers that it has (``source/containerimage``)."""
    document: dict[str, object] = {"Digest": digest, **_platform(platform)}
    if limit is not None:
        document["Limit"] = limit
    names = [Digest.of(golang.dump(document)), *([chain] if chain is not None else [])]
    return CacheMap(digests=tuple(_of_source(name) for name in names))


def of_commit(commit: str, ref: str, *, keep: bool, subdir: str, submodules: bool) -> CacheMap[Tree]:
    """The cache map of a checkout (``source/git``). ``ref`` counts only if ``.git`` is kept; ``subdir`` is as it was written."""
    name = commit
    if keep:
        name += ".git" + (f"#{ref}" if ref else "")
    if subdir:
        name += f":{subdir}"
    if not submodules:
        name += "(skip-submodules)"
    return CacheMap(digests=(_of_source(name),))


def of_download(
    name: str,
    digest: str,
    *,
    mode: int,
    uid: int,
    gid: int,
    modified: str,
    headers: Mapping[str, str],
) -> CacheMap[Tree]:
    """The cache map of a file from a web server (``source/http``). ``mode`` is 0 if none was asked for."""
    document: dict[str, object] = {"Filename": name, "Perm": mode, "UID": uid, "GID": gid, "Checksum": digest}
    if modified:
        document["LastModTime"] = modified
    if headers:
        document["Header"] = [{"Name": key.title(), "Value": headers[key]} for key in sorted(headers)]
    return CacheMap(digests=(_of_source(Digest.of(golang.dump(document))),))


def _of_source(name: str) -> Digest:
    return Digest.of(f"buildkit.source.v0:{name}".encode())


def _platform(platform: Platform) -> dict[str, object]:
    optional = {
        "Variant": platform.variant,
        "OSVersion": platform.os_version,
        "OSFeatures": list(platform.os_features),
    }
    return {"OS": platform.os, "Arch": platform.architecture, **{k: v for k, v in optional.items() if v}}


def of_words(*words: object) -> Digest:
    """A digest of plain data, for keys that nobody else computes."""
    return Digest.of(json.dumps(words, sort_keys=True, default=str).encode())
