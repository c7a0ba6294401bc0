"""The run: the frontend makes the whole graph, and this solves it instruction by instruction, in the old builder's words.

The client sees a container and an image for each instruction. There is no container: its ID is the vertex's. The images are
real ones while the build lasts, and only the last is kept.
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
from lading.builder.frontend import image
from lading.builder.frontend import options as wishes
from lading.builder.frontend.bases import Images
from lading.builder.frontend.contexts import Contexts
from lading.builder.frontend.convert import Converter
from lading.builder.frontend.image import Draft
from lading.builder.frontend.state import Planned, StageNode, Work
from lading.builder.legacy.session import UploadSession
from lading.builder.legacy.wish import LegacyWish, checked, steps_of, unused_arguments
from lading.builder.model import ExportContext, Gateway, Job, LogEvent, Ref, Result, Solver, VertexEvent
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
    ) -> None:
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
        """Solve one instruction, known by ``key``; the ID of its image."""
        if step.command is None:
            identity = await self._base(step)
        else:
            container = key.short
            ran = not isinstance(step.command, ins.Add | ins.Copy)
            cached = self._is_cached(step, key)
            if not cached and ran:
                await self._say(f" ---> Running in {container}\n")
            ref = await self._solve(step)
            if cached is None:
                cached = self._was_cached(step)
            if cached:
                await self._say(" ---> Using cache\n")
            elif ran and not self.wish.keep_containers:
                await self._say(f" ---> Removed intermediate container {container}\n")
            self._cached = self._cached and bool(cached)
            identity = await self._image(ref, step.draft, {})
        self.made[key] = None
        shown = identity.short if step.command is not None or step.tree is not None else ""
        await self._say(f" ---> {shown}\n")
        return identity

    async def _base(self, step: _Step) -> Digest:
        ref = await self._solve(step)
        return await self._image(ref, step.draft, {})

    def _is_cached(self, step: _Step, key: Digest) -> bool | None:
        """Whether an instruction is known; ``None`` if that shows when it is solved."""
        if not self._cached or self.wish.no_cache:
            return False
        if isinstance(step.command, ins.Run | ins.Add | ins.Copy | ins.Workdir):
            return None
        return key in self.made

    def _was_cached(self, step: _Step) -> bool:
        if step.tree is None:
            return False
        states = [
            event
            for event in self.log.events
            if isinstance(event, VertexEvent) and event.digest == step.tree.node.digest
        ]
        return not states or states[-1].cached

    async def _solve(self, step: _Step) -> Ref | None:
        if step.tree is None:
            return None
        ref = await self.gateway.solve(make.definition(step.tree))
        try:
            async with task_group() as group:
                group.start_soon(self._forward)
                await ref.evaluate()
                group.cancel_scope.cancel()
        except VertexError as exc:
            await self._flush()
            raise _failed(step, exc) from exc
        await self._flush()
        return ref

    async def _forward(self) -> None:
        async for _ in self.log.follow():
            await self._flush()

    async def _flush(self) -> None:
        """Pass on what processes wrote."""
        async with self._lock:
            events = self.log.events[self._read :]
            self._read += len(events)
            for event in events:
                if isinstance(event, LogEvent):
                    text = event.data.decode("utf-8", "replace")
                    await self._say(f"\x1b[91m{text}\x1b[0m" if event.stream == 2 else text)

    # Images.

    async def _image(self, ref: Ref | None, draft: Draft, attributes: Mapping[str, str]) -> Digest:
        platform = platforms.normalize(draft.platform)
        wanted = {"store": "false", "unpack": "false"} if not attributes else dict(attributes)
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
        return Digest(told["containerimage.digest"])

    async def _finish(self, step: _Step) -> None:
        ref = await self._solve(step)
        names = [str(reference.parse(name).with_default_tag()) for name in self.wish.names]
        attributes = {"name": ",".join(names)} if names else {"dangling-name-prefix": "moby-dangling"}
        identity = await self._image(ref, step.draft, attributes)
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
            ran = _COMMIT.fullmatch(text)
            entry["created_by"] = ran[1] if ran else f"/bin/sh -c #(nop) {text.removesuffix(' # buildkit')}"
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


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
