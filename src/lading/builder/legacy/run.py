"""The run: the frontend makes the whole graph, and this solves it instruction by instruction, in the old builder's words.

The client sees a container and an image for each instruction. There is no container: its ID is the vertex's. The images are
real ones; the containerd store keeps only the last, the classic one all of them, each with the one before it as its parent.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import anyio
import msgspec

from lading.builder.control import ExportWish, MakeExporter, SolveWish
from lading.builder.errors import VertexError
from lading.builder.exporters.classic import KNOWN
from lading.builder.frontend import options as wishes
from lading.builder.frontend.bases import Images
from lading.builder.frontend.contexts import Contexts
from lading.builder.frontend.convert import Converter
from lading.builder.frontend.image import Draft
from lading.builder.frontend.state import StageNode
from lading.builder.legacy.owners import check_owner
from lading.builder.legacy.session import UploadSession
from lading.builder.legacy.steps import REFUSED, Step, failed, key_of, labelled, step_of, up_to
from lading.builder.legacy.wish import LegacyWish, checked, steps_of, unused_arguments
from lading.builder.legacy.words import as_legacy
from lading.builder.model import ExportContext, Gateway
from lading.builder.progress import ProgressLog
from lading.builder.reports import Event, LogEvent, VertexEvent
from lading.builder.results import Ref, Result
from lading.core import leases
from lading.errors import InvalidArgumentError
from lading.formats.dockerfile import instructions as ins
from lading.formats.dockerfile import rules
from lading.formats.dockerfile.errors import DockerfileError
from lading.formats.dockerfile.parse import parse
from lading.formats.llb import make
from lading.kit import aio
from lading.kit.tasks import task_group
from lading.oci import platform as platforms
from lading.oci import reference
from lading.oci.descriptor import Platform
from lading.oci.digest import Digest

Tell = Callable[[Mapping[str, Any]], Awaitable[None]]
"""Sends one object of the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepImage:
    """The image of an instruction, and whether the store had it."""

    id: Digest
    known: bool


@dataclass(slots=True, kw_only=True)
class Run:
    """One build, from its plan to its image."""

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
    _refusal: str = ""
    """What looks like the runtime's own words, on the stream of the process: if it is, the error says it."""
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
            identity = await self._carry_out(step, key_of(identity, step))
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

    async def _plan(self) -> tuple[ins.Dockerfile, list[Step], list[str]]:
        options = wishes.parse(self.gateway.options)
        contexts = Contexts(self.gateway, options, own_ignore=False)
        entrypoint = await contexts.open()
        try:
            parsed = await aio.run(aio.DATA, parse, entrypoint.file.data, abandon_on_cancel=True)
            dockerfile = up_to(checked(parsed), options.target)
            dockerfile = labelled(dockerfile, options.labels)
            steps: list[Step] = []
            converter = Converter(
                contexts=contexts,
                images=Images(self.gateway, exact=True),
                file=entrypoint.file,
                dockerfile=dockerfile,
                native=tuple(self.gateway.platforms) or (platforms.host(),),
                asked=options.platforms[0] if options.platforms else None,
                report=rules.ignore,
                all_stages=True,
                predefined=False,
                empty_wildcards=False,
                own_groups=False,
                observe=lambda work, planned: steps.append(step_of(work, planned)),
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

    async def _carry_out(self, step: Step, key: Digest) -> Digest:
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

    async def _base(self, step: Step) -> Digest:
        """The image that a stage begins with."""
        if self.chained and step.node.base is not None:
            return self._images[step.node.base] or Digest.of(b"")
        if self.chained and step.node.base_config is not None:
            await self._solve(step)
            return Digest.of(step.node.base_config)
        if step.tree is None:
            return Digest.of(b"")
        return (await self._image(await self._solve(step), step.draft, {})).id

    async def _change(self, step: Step, key: Digest) -> Digest:
        """An instruction that makes a layer. Whether it is known, the solver says."""
        container = key.short if isinstance(step.command, ins.Run | ins.Workdir) else ""
        if isinstance(step.command, ins.Add | ins.Copy) and step.command.chown and step.tree is not None:
            await check_owner(step.tree, self.gateway)
        ref = await self._solve(step, container)
        self._cached = self._cached and not self.wish.no_cache and self._was_cached(step)
        if self._cached:
            await self._say(" ---> Using cache\n")
        elif container:
            await self._ended(container)
        return (await self._image(ref, step.draft, self._chain(step))).id

    async def _describe(self, step: Step, key: Digest) -> Digest:
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

    def _chain(self, step: Step) -> dict[str, str]:
        """What the classic store is told of an instruction's image (`exporters.classic`)."""
        if not self.chained:
            return {}
        reuse = self._cached and not self.wish.no_cache
        return {"chain": "reuse" if reuse else "new", "parent": str(self._images.get(step.node) or "")}

    def _was_cached(self, step: Step) -> bool:
        if step.tree is None:
            return False
        states = [
            event
            for event in self.log.events
            if isinstance(event, VertexEvent) and event.digest == step.tree.node.digest
        ]
        return not states or states[-1].cached

    async def _solve(self, step: Step, container: str = "") -> Ref | None:
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
            if self._refusal.strip() != exc.message:
                await self._show(self._refusal, 2)
            raise failed(step, exc) from exc
        await self._flush()
        await self._show(self._refusal, 2)
        self._refusal = ""
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
                    if event.stream == 2 and text.startswith(REFUSED):
                        self._refusal += text
                    else:
                        await self._show(text, event.stream)
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

    async def _show(self, text: str, stream: int) -> None:
        if text:
            await self._say(f"\x1b[91m{text}\x1b[0m" if stream == 2 else text)

    async def _begun(self) -> None:
        if self._awaited is not None:
            container = self._awaited[1]
            self._awaited = None
            await self._say(f" ---> Running in {container}\n")

    # Images.

    async def _image(self, ref: Ref | None, draft: Draft, attributes: Mapping[str, str]) -> StepImage:
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
        return StepImage(id=Digest(told["containerimage.digest"]), known=KNOWN in told)

    async def _finish(self, step: Step) -> None:
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


def _platform_document(platform: Platform) -> bytes:
    document = {"ID": platforms.formatted(platform), "Platform": platform}
    return msgspec.json.encode({"Platforms": [document]})
