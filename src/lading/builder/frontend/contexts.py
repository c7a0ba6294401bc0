"""Where files come from: the build context, the Dockerfile, and named contexts that stand for stages or images."""

import io
import json
import re
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from lading.builder.frontend import image
from lading.builder.frontend.image import Draft
from lading.builder.frontend.options import Options, parse_metadata
from lading.builder.frontend.state import LocalContext, Tree
from lading.builder.model import Gateway
from lading.builder.results import Ref
from lading.errors import InvalidArgumentError, LadingError, NotFoundError, ResourceExhaustedError
from lading.formats.dockerfile import values
from lading.formats.dockerfile.gitref import GitRef, parse_git_ref
from lading.formats.dockerfile.patterns import read_ignore
from lading.formats.llb import make, ops
from lading.formats.llb.definition import Definition
from lading.formats.llb.make import Edge, Style
from lading.formats.llb.metadata import CUSTOM_NAME, Metadata, SourceFile
from lading.kit.text import printable
from lading.oci import platform as platforms
from lading.oci import reference
from lading.oci.descriptor import Platform
from lading.oci.digest import Digest
from lading.oci.reference import Reference

IGNORE_FILE: Final = ".dockerignore"
_DOCKERFILE: Final = "Dockerfile"
_DOCKERFILE_LIMIT: Final = 16 << 20
"""Bytes of a Dockerfile."""
_TAG: Final = re.compile(r":[^:/]*$")
_WEB: Final = re.compile(r"https?://")
_MAGIC: Final = (b"BZh", b"\x1f\x8b\x08", b"\xfd7zXZ\x00")
"""How compressed archives begin: bzip2, gzip, xz."""
_REDIRECTIONS: Final = 10


def named(name: str, *, ignore_cache: bool = False, command: str | None = None) -> Metadata:
    """Metadata with a name to show, and the instruction that it comes from."""
    description = {CUSTOM_NAME: printable(name)}
    if command is not None:
        description["com.docker.dockerfile.v1.command"] = printable(command)
    return Metadata(description=description, ignore_cache=ignore_cache)


def internal(name: str) -> Style:
    """The style of what is no instruction's."""
    return Style(metadata=named(f"[internal] {name}"))


def git_source(git: GitRef, style: Style, *, keep_git_dir: bool = False, checksum: str = "") -> Edge:
    """A repository as a source."""
    attrs = {
        "git.fullurl": f"https://{git.remote}" if git.like_local else git.remote,
        "git.authtokensecret": "GIT_AUTH_TOKEN",
        "git.authheadersecret": "GIT_AUTH_HEADER",
    }
    caps = {"source.git", "source.git.fullurl"}
    optional = {
        "git.keepgitdir": ("true" if keep_git_dir else "", "source.git.keepgitdir"),
        "git.checksum": (checksum, "source.git.checksum"),
        "git.skipsubmodules": ("true" if git.submodules is False else "", "source.git.skipsubmodules"),
        "git.mountsshsock": ("default" if git.scheme == "ssh" else "", "source.git.mountsshsock"),
    }
    for key, (value, cap) in optional.items():
        if value:
            attrs[key] = value
            caps.add(cap)
    return make.source(ops.SourceOp(identifier=f"git://{git.identifier}", attrs=attrs), style, *caps)


def http_source(url: str, style: Style, *, filename: str = "", checksum: str = "") -> Edge:
    """A file on the web as a source."""
    attrs = {"http.checksum": checksum, "http.filename": filename}
    caps = ["source.http", *(["source.http.checksum"] if checksum else [])]
    op = ops.SourceOp(identifier=url, attrs={key: value for key, value in attrs.items() if value})
    return make.source(op, style, *caps)


def image_source(name: str, mode: str, style: Style) -> Edge:
    """An image as a source."""
    attrs = {"image.resolvemode": mode} if mode != "default" else {}
    return make.source(ops.SourceOp(identifier=f"docker-image://{name}", attrs=attrs), style, "source.image")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrypoint:
    """The Dockerfile, and the vertex that loaded it, which remarks are hung on, with its ``definition``."""

    file: SourceFile
    vertex: Digest
    definition: Definition


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What a named context is. Without a ``draft`` it is files alone."""

    tree: Tree
    draft: Draft | None = None
    config: bytes | None = None


@dataclass(slots=True, kw_only=True)
class _Main:
    """The build context: ``tree`` if it is no directory of the client."""

    tree: Edge | None = None
    remote: bool = False
    dockerfile: Edge | None = None
    filename: str = _DOCKERFILE


@dataclass(slots=True)
class Contexts:
    """The sources of one build; used for all of its platforms."""

    gateway: Gateway
    options: Options
    own_ignore: bool = True
    """Whether ``<Dockerfile>.dockerignore`` counts."""
    _main: _Main = field(default_factory=_Main)
    _ignore: bytes | None = None

    # The build context and the Dockerfile.

    async def open(self) -> Entrypoint:
        """Find the context and read the Dockerfile. Raises `NotFoundError` if there is none."""
        self._main = await self._find_main()
        tree = self._main.dockerfile or self._dockerfile_source()
        definition = make.definition(tree)
        ref = await self.gateway.solve(definition)
        data = await self._read_dockerfile(ref)
        if self.own_ignore:
            self._ignore = await _read(ref, f"{self._main.filename}.dockerignore")
        file = SourceFile(filename=self._main.filename, data=data)
        return Entrypoint(file=file, vertex=tree.node.digest, definition=definition)

    async def _find_main(self) -> _Main:
        attributes = self.gateway.options
        given = attributes.get(attributes.get("contextkey", "context"), "")
        main = _Main(filename=self.options.filename)
        git = parse_git_ref(given) if given else None
        if git is not None:
            keep = values.truth(self.options.build_args.get("BUILDKIT_CONTEXT_KEEP_GIT_DIR", ""))
            style = internal(f"load git source {given}")
            kept = bool(keep) or bool(git.keep_git_dir)
            main.tree = git_source(git, style, keep_git_dir=kept, checksum=git.checksum)
            main.dockerfile = main.tree
        elif _WEB.match(given):
            await self._from_web(given, main)
        else:
            self._from_inputs(main)
        main.remote = main.tree is not None
        if main.tree is not None and (sub := attributes.get("contextsubdir")):
            main.tree = _scoped(main.tree, sub)
        if "dockerfilekey" in attributes:
            main.dockerfile = None
        return main

    async def _from_web(self, url: str, main: _Main) -> None:
        """An archive is the context; any other file is the Dockerfile, and all that there is."""
        source = http_source(url, internal("load remote build context"), filename="context")
        ref = await self.gateway.solve(make.definition(source))
        head = await ref.read_file("context", length=1024)
        if _is_archive(head):
            copy = ops.Copy(src="/context", dest="/", attempt_unpack=True)
            main.tree = make.change(None, [(copy, source)], Style())
        else:
            main.filename = "context"
            main.tree = source
        main.dockerfile = main.tree

    def _from_inputs(self, main: _Main) -> None:
        inputs = self.gateway.inputs
        if "dockerfile" in inputs:
            main.dockerfile = make.graft(inputs["dockerfile"])
        if "context" in inputs:
            main.tree = make.graft(inputs["context"])

    def _dockerfile_source(self) -> Edge:
        filename = self._main.filename
        wanted = [filename, f"{filename}.dockerignore"]
        directory, slash, base = filename.rpartition("/")
        if base == _DOCKERFILE:
            wanted.append(f"{directory}{slash}{_DOCKERFILE.lower()}")
        return self._local(
            self.gateway.options.get("dockerfilekey", "dockerfile"),
            internal(f"load build definition from {filename}"),
            {"local.followpaths": wanted, "local.differ": "none"},
        )

    async def _read_dockerfile(self, ref: Ref) -> bytes:
        filename = self._main.filename
        directory, slash, base = filename.rpartition("/")
        data = await _read(ref, filename)
        if data is None and base == _DOCKERFILE:
            data = await _read(ref, f"{directory}{slash}{_DOCKERFILE.lower()}")
        if data is None:
            raise NotFoundError(
                f"failed to read dockerfile: open {filename}: no such file or directory", subject=filename
            )
        if len(data) > _DOCKERFILE_LIMIT:
            raise ResourceExhaustedError(
                f"{filename} has over {_DOCKERFILE_LIMIT} bytes", hint="large files belong into the context"
            )
        return data

    def _local(
        self, name: str, style: Style, attrs: Mapping[str, str | Sequence[str]], hint: str = ""
    ) -> Edge:
        """A directory of the client. Lists become JSON; empty ones are left out."""
        session = self._session_of(name)
        texts = {"local.session": session} if session else {}
        texts["local.sharedkeyhint"] = hint or name
        for key, value in attrs.items():
            if value:
                texts[key] = value if isinstance(value, str) else _json(value)
        caps = {"source.local", *(_LOCAL_CAPS[key] for key in texts if key in _LOCAL_CAPS)}
        return make.source(ops.SourceOp(identifier=f"local://{name}", attrs=texts), style, *caps)

    def _session_of(self, name: str) -> str:
        session = self.gateway.session
        return self.gateway.options.get(f"local-sessionid:{name}", session.id if session else "")

    async def ignored(self) -> list[str]:
        """The patterns of files that are no part of the context."""
        if self._main.remote:
            return []
        if self._ignore is None:
            source = self._local(
                "context",
                internal(f"load {IGNORE_FILE}"),
                {"local.followpaths": [IGNORE_FILE], "local.differ": "none"},
                hint=f"context-{IGNORE_FILE}",
            )
            ref = await self.gateway.solve(make.definition(source))
            self._ignore = await _read(ref, IGNORE_FILE) or b""
        return read_ignore(self._ignore)

    def main(self, follow: Sequence[str], ignored: Sequence[str]) -> Edge:
        """The build context, of which ``follow`` is wanted; everything if that is empty."""
        if self._main.tree is not None:
            return self._main.tree
        attrs = {"local.excludepatterns": ignored, "local.followpaths": follow}
        return self._local("context", internal("load build context"), attrs)

    # Named contexts.

    def find(self, name: str, platform: Platform) -> str:
        """The key of the option that replaces a stage or image of this name, without ``context:``; empty if none does."""
        if name.lower() in ("scratch", "context"):
            return ""
        try:
            short = reference.parse(name).familiar.removesuffix(":latest")
        except InvalidArgumentError as exc:
            raise InvalidArgumentError(f"invalid context name {name}: {exc.message}", subject=name) from exc
        keys = (f"{short}::{platforms.formatted(platforms.normalize(platform))}", short)
        return next((key for key in keys if f"context:{key}" in self.gateway.options), "")

    async def load(self, key: str, platform: Platform) -> Loaded:
        """The named context of this key. Raises `InvalidArgumentError` for one of an unknown kind."""
        given = self.gateway.options[f"context:{key}"]
        kind, colon, rest = given.partition(":")
        if not colon:
            raise InvalidArgumentError(f"invalid context specifier {given} for {key}")
        if kind.startswith("git@"):
            kind = "git"
        rest = rest.removeprefix("//") if kind in ("docker-image", "oci-layout") else rest
        match kind:
            case "docker-image":
                return await self._load_image(key, rest, platform)
            case "oci-layout":
                return await self._load_layout(key, rest, platform)
            case "git" | "http" | "https":
                return Loaded(tree=self._remote(key, given))
            case "local":
                return Loaded(tree=await self._load_local(key, rest))
            case "input":
                return self._load_input(key, rest)
            case _:
                raise InvalidArgumentError(f"unsupported context source {kind} for {key}")

    async def _load_image(self, key: str, name: str, platform: Platform) -> Loaded:
        if name == "scratch":
            return Loaded(tree=None)
        full = reference.parse(name).with_default_tag()
        found = await self.gateway.resolve_image(
            str(full),
            platform=platform,
            mode=self.options.resolve_mode,
            log_name=f"[context {key}] load metadata for {name}",
        )
        style = Style(platform=platform, metadata=named(f"[context {key}] {name}"))
        tree = image_source(str(pinned(full, found.digest)), "default", style)
        return Loaded(
            tree=tree, draft=image.parse(found.config, what=f"config of {name}"), config=found.config
        )

    async def _load_layout(self, key: str, name: str, platform: Platform) -> Loaded:
        store, at, digest = name.partition("@")
        if not at:
            raise InvalidArgumentError(f'oci-layout reference "{name}" has no digest')
        store = _TAG.sub("", store)  # buildx appends one, also to a digest
        dummy = pinned(reference.parse(key.partition("::")[0]), Digest(digest))
        found = await self.gateway.resolve_image(
            str(dummy), platform=platform, log_name=f"[context {key}] load metadata for {dummy}", store=store
        )
        session = self.gateway.session
        attrs = {"oci.session": session.id if session else "", "oci.store": store}
        style = Style(platform=platform, metadata=named(f"[context {key}] OCI load from client"))
        tree = make.source(
            ops.SourceOp(identifier=f"oci-layout://{dummy}", attrs=attrs), style, "source.ocilayout"
        )
        return Loaded(
            tree=tree, draft=image.parse(found.config, what=f"config of {name}"), config=found.config
        )

    def _remote(self, key: str, given: str) -> Edge:
        git = parse_git_ref(given)
        if git is not None:
            style = internal(f"load git source {given}")
            return git_source(git, style, keep_git_dir=bool(git.keep_git_dir), checksum=git.checksum)
        if not _WEB.match(given):
            raise InvalidArgumentError(f"invalid git context {given}")
        return http_source(given, Style(metadata=named(f"[context {key}] {given}")))

    async def _load_local(self, key: str, name: str) -> LocalContext:
        source = self._local(
            name,
            Style(metadata=named(f"[context {key}] load {IGNORE_FILE}")),
            {"local.followpaths": [IGNORE_FILE], "local.differ": "none"},
            hint=f"context:{key}-{IGNORE_FILE}",
        )
        ref = await self.gateway.solve(make.definition(source), evaluate=True)
        excludes = read_ignore(await _read(ref, IGNORE_FILE) or b"")
        return LocalContext(name=name, shown=key, excludes=tuple(excludes))

    def local(self, context: LocalContext, follow: Sequence[str]) -> Edge:
        """A directory of the client as a tree."""
        return self._local(
            context.name,
            Style(metadata=named(f"[context {context.shown}] load from client")),
            {"local.excludepatterns": context.excludes, "local.followpaths": follow},
            hint=f"context:{context.shown}",
        )

    def _load_input(self, key: str, name: str) -> Loaded:
        if name not in self.gateway.inputs:
            raise InvalidArgumentError(f"invalid input {name} for {key}")
        tree = make.graft(self.gateway.inputs[name])
        text = self.gateway.options.get(f"input-metadata:{name}")
        config = (
            parse_metadata(text, f"input metadata of {name}").get("containerimage.config") if text else None
        )
        draft = image.parse(config, what=f"image config for {key}") if config else None
        return Loaded(tree=tree, draft=draft, config=config)


_LOCAL_CAPS: Final = {
    "local.session": "source.local.sessionid",
    "local.followpaths": "source.local.followpaths",
    "local.excludepatterns": "source.local.excludepatterns",
    "local.sharedkeyhint": "source.local.sharedkeyhint",
}


def pinned(name: Reference, digest: Digest) -> Reference:
    """The same name with this digest."""
    return Reference(domain=name.domain, path=name.path, tag=name.tag, digest=digest)


def _json(texts: Sequence[str]) -> str:
    """As Go writes it."""
    text = json.dumps(list(texts), separators=(",", ":"), ensure_ascii=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


async def _read(ref: Ref, path: str) -> bytes | None:
    try:
        return await ref.read_file(path)
    except NotFoundError:
        return None


def _scoped(tree: Edge, directory: str) -> Edge:
    copy = ops.Copy(src="/" + directory.strip("/"), dest="/", dir_copy_contents=True)
    return make.change(None, [(copy, tree)], Style())


def _is_archive(head: bytes) -> bool:
    if head.startswith(_MAGIC):
        return True
    try:
        with tarfile.open(fileobj=io.BytesIO(head), mode="r:") as archive:
            return archive.next() is not None
    except (tarfile.TarError, LadingError):
        return False
