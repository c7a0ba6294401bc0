"""The run: the frontend makes the whole graph, and this solves it instruction by instruction, in the old builder's words.

The client sees a container and an image for each instruction. There is no container: its ID is the vertex's. The images are
real ones; the containerd store keeps only the last, the classic one all of them, each with the one before it as its parent.
"""

import json
import os
import re
import secrets
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import anyio
import msgspec

from lading.builder.control import ExportWish, MakeExporter, MakeGateway, SolveWish
from lading.builder.errors import VertexError
from lading.builder.exporters.classic import KNOWN
from lading.builder.frontend import image
from lading.builder.frontend import options as wishes
from lading.builder.frontend.bases import Images
from lading.builder.frontend.contexts import Contexts
from lading.builder.frontend.convert import Converter
from lading.builder.frontend.image import Draft
from lading.builder.frontend.state import Planned, StageNode, Work
from lading.builder.legacy.session import UploadSession
from lading.builder.legacy.wish import LegacyWish, checked, steps_of, unused_arguments
from lading.builder.model import (
    Event,
    ExportContext,
    Gateway,
    Job,
    LogEvent,
    Ref,
    Result,
    Solver,
    VertexEvent,
)
from lading.builder.ops.files.copying import Rules
from lading.builder.ops.files.unpacking import unpack
from lading.builder.progress import ProgressLog
from lading.core import leases
from lading.errors import InvalidArgumentError, LadingError
from lading.formats.dockerfile import instructions as ins
from lading.formats.dockerfile import rules
from lading.formats.dockerfile.errors import DockerfileError
from lading.formats.dockerfile.parse import parse
from lading.formats.llb import make
from lading.formats.llb.make import Edge
from lading.kit import aio
from lading.kit.tasks import task_group
from lading.oci import platform as platforms
from lading.oci import reference
from lading.oci.descriptor import Platform
from lading.oci.digest import Digest

Tell = Callable[[Mapping[str, Any]], Awaitable[None]]
"""Sends one object of the answer."""
_MEMORY: Final = 10_000
"""Images of instructions that are remembered, so that one made again is known."""
_COMMIT: Final = re.compile(r"RUN (.*) # buildkit", re.DOTALL)


@dataclass(slots=True, kw_only=True)
class _Step:
    """An instruction after it was carried out: what it was, and what it left. ``command`` is ``None`` for a FROM."""

    node: StageNode
    command: ins.Command | None
    tree: Edge | None
    draft: Draft
    onbuild: bool = False
    shown: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Image:
    """The image of an instruction, and whether the store had it."""

    id: Digest
    known: bool


class LegacyBuilder:
    """Builds for old clients."""

    def __init__(
        self,
        *,
        solver: Solver,
        lease_manager: leases.Manager,
        make_gateway: MakeGateway,
        make_exporter: MakeExporter,
        state: Path,
        chained: bool = False,
    ) -> None:
        """With ``chained`` the store keeps the image of each instruction, which is its cache (the classic store)."""
        self._chained = chained
        self._solver = solver
        self._leases = lease_manager
        self._make_gateway = make_gateway
        self._make_exporter = make_exporter
        self._state = state
        self._under_way: dict[str, anyio.CancelScope] = {}
        self._made: dict[Digest, None] = {}

    def cancel(self, build_id: str) -> bool:
        """End a build; whether there is one of this ID."""
        scope = self._under_way.get(build_id)
        if scope is not None:
            scope.cancel()
        return scope is not None

    async def build(self, wish: LegacyWish, body: AsyncIterator[bytes], tell: Tell) -> None:
        """Build, and tell how it goes. Cancelling the call ends the build.

        Raises `InvalidArgumentError` before anything is told if what is asked cannot be; whatever building raises after it.
        """
        ref = wish.build_id or secrets.token_hex(16)
        place = self._state / f"context-{secrets.token_hex(8)}"
        lease = await self._leases.create(labels={leases.BUILDS: ref[:256]})
        with anyio.CancelScope() as scope:
            self._under_way[ref] = scope
            try:
                await self._receive(place, wish, body)
                session = UploadSession(secrets.token_hex(12), place / "files", wish.credentials)
                log = ProgressLog()
                async with self._solver.open_job(
                    ref, session=session, progress=log, no_cache=wish.no_cache
                ) as job:
                    await self._run(wish, job, session, log, lease.id, tell)
            finally:
                self._under_way.pop(ref, None)
                with anyio.CancelScope(shield=True):
                    await aio.run(aio.DISK, shutil.rmtree, place, True)
                    await self._leases.delete(lease.id)
        if scope.cancelled_caught:
            await tell({"stream": "Build cancelled\n"})
            raise InvalidArgumentError("Build cancelled")

    async def _receive(self, place: Path, wish: LegacyWish, body: AsyncIterator[bytes]) -> None:
        """Unpack the client's context below ``place``."""
        await aio.run(aio.DISK, lambda: (place / "files").mkdir(parents=True))
        if wish.remote:
            return
        archive = place / "archive"
        file = await aio.run(aio.DISK, archive.open, "wb")
        try:
            async for chunk in body:
                await aio.run(aio.DISK, file.write, chunk)
        finally:
            await aio.run(aio.DISK, file.close)
        await aio.run(aio.DISK, _unpack, archive, place / "files")

    async def _run(
        self,
        wish: LegacyWish,
        job: Job,
        session: UploadSession,
        log: ProgressLog,
        lease: leases.LeaseID,
        tell: Tell,
    ) -> None:
        build = SolveWish(ref=session.id, frontend="dockerfile.v0", options=wish.attributes)
        gateway = self._make_gateway(
            job, build, options=wish.attributes, inputs={}, session=session, progress=log
        )
        run = _Run(
            wish=wish,
            build=build,
            gateway=gateway,
            session=session,
            log=log,
            lease=lease,
            tell=tell,
            make_exporter=self._make_exporter,
            made=self._made,
            chained=self._chained,
        )
        try:
            await run.run()
        finally:
            while len(self._made) > _MEMORY:
                del self._made[next(iter(self._made))]


def _unpack(archive: Path, target: Path) -> None:
    source = os.open(archive, os.O_RDONLY | os.O_CLOEXEC)
    try:
        directory = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            unpack(source, directory, Rules(owner=(0, 0)))
        finally:
            os.close(directory)
    finally:
        os.close(source)
        archive.unlink()


@dataclass(slots=True, kw_only=True)
class _Run:
    wish: LegacyWish
    build: SolveWish
    gateway: Gateway
    session: UploadSession
    log: ProgressLog
    lease: leases.LeaseID
    tell: Tell
    make_exporter: MakeExporter
    made: dict[Digest, None]
    chained: bool
    _images: dict[StageNode, Digest | None] = field(default_factory=dict["StageNode", "Digest | None"])
    """The last image of each stage."""
    _awaited: tuple[Digest, str] | None = None
    """The vertex whose beginning is to be told, and what its container is called."""
    _read: int = 0
    _cached: bool = True
    _lock: anyio.Lock = field(default_factory=anyio.Lock)

    async def run(self) -> None:
        """Plan, then step by step."""
        dockerfile, steps, warnings = await self._plan()
        total = steps_of(dockerfile)
        number = 0
        for argument in dockerfile.arguments:
            number += 1
            await self._say(f"Step {number}/{total} : {argument.code}\n")
        identity = Digest.of(b"")
        for place, step in enumerate(steps):
            if not step.onbuild:
                number += 1
                await self._say(f"Step {number}/{total} : {step.shown}\n")
            identity = await self._carry_out(step, _key(identity, step))
            self._images[step.node] = identity if step.tree is not None or step.command is not None else None
            last = place + 1 == len(steps) or steps[place + 1].node is not step.node
            if last and step.tree is not None:
                await self._tell({"aux": {"ID": identity}})
        for warning in warnings:
            await self._say(f"[Warning] {warning}\n")
        await self._finish(steps[-1])

    async def _say(self, text: str) -> None:
        await self._tell({"stream": text})

    async def _tell(self, value: Mapping[str, Any]) -> None:
        if not self.wish.quiet:
            await self.tell(value)

    # Planning.

    async def _plan(self) -> tuple[ins.Dockerfile, list[_Step], list[str]]:
        options = wishes.parse(self.gateway.options)
        contexts = Contexts(self.gateway, options, own_ignore=False)
        entrypoint = await contexts.open()
        try:
            dockerfile = _up_to(checked(parse(entrypoint.file.data)), options.target)
            dockerfile = _labelled(dockerfile, options.labels)
            steps: list[_Step] = []
            converter = Converter(
                contexts=contexts,
                images=Images(self.gateway),
                file=entrypoint.file,
                dockerfile=dockerfile,
                native=tuple(self.gateway.platforms) or (platforms.host(),),
                asked=options.platforms[0] if options.platforms else None,
                report=rules.ignore,
                all_stages=True,
                predefined=False,
                observe=lambda work, planned: steps.append(_step(work, planned)),
            )
            converted = await converter.convert()
        except DockerfileError as exc:
            raise InvalidArgumentError(exc.message) from exc
        steps[-1].draft = converted.draft
        unused = unused_arguments(dockerfile, options.build_args)
        warnings = [f"One or more build-args [{' '.join(unused)}] were not consumed"] if unused else []
        if self.wish.cache_from:
            warnings.append("--cache-from narrows nothing here: every build uses the one build cache")
        return dockerfile, steps, warnings

    # Steps.

    async def _carry_out(self, step: _Step, key: Digest) -> Digest:
        """Do one instruction, known by ``key``; the ID of its image."""
        if step.command is None:
            identity = await self._base(step)
        elif isinstance(step.command, ins.Run | ins.Add | ins.Copy | ins.Workdir):
            identity = await self._change(step, key)
        else:
            identity = await self._describe(step, key)
        self.made[key] = None
        shown = identity.short if step.command is not None or step.tree is not None else ""
        await self._say(f" ---> {shown}\n")
        return identity

    async def _base(self, step: _Step) -> Digest:
        """The image that a stage begins with."""
        if self.chained and step.node.base is not None:
            return self._images[step.node.base] or Digest.of(b"")
        if self.chained and step.node.base_config is not None:
            await self._solve(step)
            return Digest.of(step.node.base_config)
        if step.tree is None:
            return Digest.of(b"")
        return (await self._image(await self._solve(step), step.draft, {})).id

    async def _change(self, step: _Step, key: Digest) -> Digest:
        """An instruction that makes a layer. Whether it is known, the solver says."""
        container = key.short if isinstance(step.command, ins.Run | ins.Workdir) else ""
        ref = await self._solve(step, container)
        self._cached = self._cached and not self.wish.no_cache and self._was_cached(step)
        if self._cached:
            await self._say(" ---> Using cache\n")
        elif container:
            await self._ended(container)
        return (await self._image(ref, step.draft, self._chain(step))).id

    async def _describe(self, step: _Step, key: Digest) -> Digest:
        """An instruction that changes the config only."""
        image = await self._image(await self._solve(step), step.draft, self._chain(step))
        known = image.known if self.chained else key in self.made
        self._cached = self._cached and not self.wish.no_cache and known
        if self._cached:
            await self._say(" ---> Using cache\n")
        else:
            await self._say(f" ---> Running in {key.short}\n")
            await self._ended(key.short)
        return image.id

    async def _ended(self, container: str) -> None:
        if not self.wish.keep_containers:
            await self._say(f" ---> Removed intermediate container {container}\n")

    def _chain(self, step: _Step) -> dict[str, str]:
        """What the classic store is told of an instruction's image (`exporters.classic`)."""
        if not self.chained:
            return {}
        reuse = self._cached and not self.wish.no_cache
        return {"chain": "reuse" if reuse else "new", "parent": str(self._images.get(step.node) or "")}

    def _was_cached(self, step: _Step) -> bool:
        if step.tree is None:
            return False
        states = [
            event
            for event in self.log.events
            if isinstance(event, VertexEvent) and event.digest == step.tree.node.digest
        ]
        return not states or states[-1].cached

    async def _solve(self, step: _Step, container: str = "") -> Ref | None:
        """Solve; that ``container`` runs is told when it does."""
        if step.tree is None:
            return None
        ref = await self.gateway.solve(make.definition(step.tree))
        self._awaited = (step.tree.node.digest, container) if container else None
        try:
            async with task_group() as group:
                group.start_soon(self._forward)
                await ref.evaluate()
                group.cancel_scope.cancel()
        except VertexError as exc:
            await self._flush()
            raise _failed(step, exc) from exc
        await self._flush()
        if self._awaited is not None and not self._was_cached(step):
            await self._begun()  # another stage did the same
        return ref

    async def _forward(self) -> None:
        async for _ in self.log.follow():
            await self._flush()

    async def _flush(self) -> None:
        """Pass on what processes wrote, and that one began."""
        async with self._lock:
            events = self.log.events[self._read :]
            self._read += len(events)
            for event in events:
                if isinstance(event, LogEvent):
                    text = event.data.decode("utf-8", "replace")
                    await self._say(f"\x1b[91m{text}\x1b[0m" if event.stream == 2 else text)
                elif self._begins(event):
                    await self._begun()

    def _begins(self, event: Event) -> bool:
        return (
            self._awaited is not None
            and isinstance(event, VertexEvent)
            and event.digest == self._awaited[0]
            and bool(event.started)
            and not event.cached
        )

    async def _begun(self) -> None:
        if self._awaited is not None:
            container = self._awaited[1]
            self._awaited = None
            await self._say(f" ---> Running in {container}\n")

    # Images.

    async def _image(self, ref: Ref | None, draft: Draft, attributes: Mapping[str, str]) -> _Image:
        platform = platforms.normalize(draft.platform)
        wanted = dict(attributes) or {"store": "false", "unpack": "false"}
        exporter = self.make_exporter(ExportWish(type="moby", attributes=wanted), self.build)
        told = await exporter.export(
            Result(
                refs={"": ref},
                metadata={
                    "containerimage.config": as_legacy(draft.encoded()),
                    "refs.platforms": _platform_document(platform),
                },
            ),
            ExportContext(
                ref=self.build.ref, index=0, session=self.session, progress=self.log, lease=self.lease
            ),
        )
        return _Image(id=Digest(told["containerimage.digest"]), known=KNOWN in told)

    async def _finish(self, step: _Step) -> None:
        ref = await self._solve(step)
        names = [str(reference.parse(name).with_default_tag()) for name in self.wish.names]
        attributes = {"name": ",".join(names)} if names else {"dangling-name-prefix": "moby-dangling"}
        if self.chained:
            attributes["image"] = str(self._images[step.node] or "")
        identity = (await self._image(ref, step.draft, attributes)).id
        if self.wish.quiet:
            await self.tell({"stream": f"{identity}\n"})
            return
        await self._tell({"aux": {"ID": identity}})
        await self._say(f"Successfully built {identity.short}\n")
        for name in dict.fromkeys(names):
            await self._say(f"Successfully tagged {reference.parse(name).familiar}\n")


def _up_to(dockerfile: ins.Dockerfile, target: str) -> ins.Dockerfile:
    """The file up to the target: every stage before it is built."""
    stages = dockerfile.stages
    for number, stage in enumerate(stages if target else ()):
        if stage.head.stage == target.lower() or str(number) == target:
            stages = stages[: number + 1]
            break
    else:
        if target:
            raise InvalidArgumentError(f'target stage "{target}" could not be found', subject=target)
    return ins.Dockerfile(arguments=dockerfile.arguments, stages=stages, escape=dockerfile.escape)


def _labelled(dockerfile: ins.Dockerfile, labels: Mapping[str, str]) -> ins.Dockerfile:
    """The file with the labels that were given, as one more instruction."""
    if not labels or not dockerfile.stages:
        return dockerfile
    *others, last = dockerfile.stages
    words = " ".join(f"{key}={value}" for key, value in sorted(labels.items()))
    label = ins.Label(
        name="LABEL",
        code=f"LABEL {words}",
        lines=last.head.lines,
        pairs=tuple(
            ins.Pair(key=_quoted(key), value=_quoted(value)) for key, value in sorted(labels.items())
        ),
    )
    stages = (*others, ins.Stage(head=last.head, commands=(*last.commands, label)))
    return ins.Dockerfile(arguments=dockerfile.arguments, stages=stages, escape=dockerfile.escape)


def _quoted(text: str) -> str:
    """A word that a Dockerfile reads as this text."""
    return f"'{text}'" if text else text


def _step(work: Work, planned: Planned | None) -> _Step:
    head = work.node.head
    code = (head.code if head else "") if planned is None else planned.command.code
    return _Step(
        node=work.node,
        command=None if planned is None else planned.command,
        tree=work.tree,
        draft=work.draft.copy(),
        onbuild=planned is not None and planned.onbuild,
        shown=code,
    )


def _key(before: Digest, step: _Step) -> Digest:
    """What an instruction is known by: the image before it, and what it makes of its config."""
    return Digest.of(before.encode() + b"\0" + step.draft.encoded())


def _failed(step: _Step, error: VertexError) -> LadingError:
    """A process that failed, in the old builder's words."""
    if error.exit_code is None or not isinstance(step.command, ins.Run):
        return error
    shown = " ".join(
        [*(step.draft.shell or ("/bin/sh", "-c")), *step.command.command.args]
        if step.command.command.shell
        else step.command.command.args
    )
    message = f"The command '{shown}' returned a non-zero code: {error.exit_code}"
    return VertexError(message, vertex=error.vertex, exit_code=error.exit_code)


def as_legacy(config: bytes) -> bytes:
    """A config with the history that the old builder writes: commands as they ran, and the rest as ``#(nop)``."""
    document: dict[str, Any] = json.loads(config)
    for entry in document.get("history", []):
        if entry.get("comment") == image.COMMENT:
            del entry["comment"]
            text = str(entry["created_by"])
            entry["created_by"] = _legacy_words(text)
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def _legacy_words(created_by: str) -> str:
    """A step as the old builder writes it: two spaces before what changes the config only, one before the rest."""
    if ran := _COMMIT.fullmatch(created_by):
        return ran[1]
    if created_by.startswith(("COPY ", "ADD ", "WORKDIR ")):
        return f"/bin/sh -c #(nop) {created_by.removesuffix(' # buildkit')}"
    return f"/bin/sh -c #(nop)  {created_by}"


def _platform_document(platform: Platform) -> bytes:
    document = {"ID": platforms.formatted(platform), "Platform": platform}
    return msgspec.json.encode({"Platforms": [document]})


def names_of(values: Sequence[str]) -> list[str]:
    """Tags as given, without empty ones. Raises `InvalidArgumentError` for one with a digest."""
    names = [name for name in values if name]
    for name in names:
        if reference.parse(name).digest is not None:
            raise InvalidArgumentError("build tag cannot contain a digest", subject=name)
    return names
