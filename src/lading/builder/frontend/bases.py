"""What each stage begins with: an image, a named context, or nothing; and the ONBUILD instructions that come with it."""

from dataclasses import dataclass, field

from lading.builder.frontend import checks, image
from lading.builder.frontend.contexts import Contexts, image_source, named, pinned
from lading.builder.frontend.image import Draft
from lading.builder.frontend.naming import step_name
from lading.builder.frontend.plan import SCRATCH, Plan
from lading.builder.frontend.state import StageNode, location, reachable
from lading.builder.model import Gateway, ResolvedImage, ResolveMode
from lading.errors import InvalidArgumentError, LadingError, NotFoundError
from lading.formats.dockerfile import instructions as ins
from lading.formats.dockerfile import rules
from lading.formats.dockerfile.errors import DockerfileError
from lading.formats.dockerfile.parse import parse_trigger
from lading.formats.dockerfile.shell import Lexer
from lading.formats.dockerfile.suggest import suggested
from lading.formats.llb.make import Style
from lading.formats.llb.metadata import SourceFile
from lading.kit.tasks import KeyedLock, task_group
from lading.oci import platform as platforms
from lading.oci import reference
from lading.oci.descriptor import Platform
from lading.oci.reference import Reference

_COMMON = tuple(
    f"{name}{tag}"
    for name in ("alpine", "busybox", "centos", "debian", "golang", "ubuntu", "fedora")
    for tag in ("", ":latest")
)
"""Names that are often mistyped."""


class Images:
    """Image configs by name and platform, each looked up once; shared by the platforms of a build.

    An image that is for one platform only is taken for any, and that is remarked, unless they must be ``exact``.
    """

    def __init__(self, gateway: Gateway, *, exact: bool = False) -> None:
        self._gateway = gateway
        self._exact = exact
        self._locks = KeyedLock()
        self._known: dict[tuple[str, str, bool], ResolvedImage] = {}

    async def resolve(
        self, contexts: Contexts, name: str, platform: Platform, log_name: str, *, asked: bool
    ) -> ResolvedImage:
        """As `Gateway.resolve_image`. ``asked`` tells whether somebody asked for the platform."""
        exact = asked and self._exact
        key = (name, platforms.formatted(platform), exact)
        async with self._locks.hold(key):
            if key not in self._known:
                self._known[key] = await self._find(contexts, name, platform, log_name, exact=exact)
        return self._known[key]

    async def _find(
        self, contexts: Contexts, name: str, platform: Platform, log_name: str, *, exact: bool
    ) -> ResolvedImage:
        for mode in (contexts.options.resolve_mode, ResolveMode.FORCE_PULL):
            found = await self._gateway.resolve_image(name, platform=platform, mode=mode, log_name=log_name)
            have = image.parse(found.config, what=f"config of {name}").platform if exact else platform
            if platforms.rank(platform, have) is not None:
                return found
        raise NotFoundError(
            f"image with reference {name} was found but does not provide the specified platform "
            f"({platforms.formatted(platform)})"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bases:
    """Resolves the stages of one platform's plan."""

    contexts: Contexts
    images: Images
    file: SourceFile
    lexer: Lexer
    report: rules.Report
    target: Platform
    implicit: bool
    """No platform was asked for: that of the base image is as good as the native one."""
    runnable: tuple[Platform, ...] = field(default=())

    async def resolve(self, plan: Plan, target: StageNode, *, all_stages: bool) -> None:
        """Resolve what the target needs, and what that brings with it. Raises `DockerfileError` with a FROM's lines."""
        while True:
            wanted = reachable(target)
            async with task_group() as group:
                for node in list(plan.nodes):
                    if node.base is None and not node.resolved and (all_stages or node in wanted):
                        node.resolved = True
                        group.start_soon(self._settle, plan, node)
            if not self._take_triggers(plan, target):
                return

    async def _settle(self, plan: Plan, node: StageNode) -> None:
        try:
            await self._resolve(plan, node)
        except DockerfileError as exc:
            raise exc.at(node.lines) from exc
        except (InvalidArgumentError, LadingError) as exc:
            raise DockerfileError(str(exc), lines=node.lines) from exc

    async def _resolve(self, plan: Plan, node: StageNode) -> None:
        platform = node.platform or self.target
        key = node.context
        if not key:
            if node.base_name == SCRATCH:
                node.draft, node.platform = image.empty(self.target), self.target
                return
            name = _parsed(node.base_name)
            key = self.contexts.find(node.base_name, platform)
            if not key:
                await self._take_image(plan, node, name.with_default_tag(), platform)
                return
        await self._take_context(node, key, platform)

    async def _take_context(self, node: StageNode, key: str, platform: Platform) -> None:
        """A context in place of the stage ends it; one in place of its base image is its base."""
        loaded = await self.contexts.load(key, platform)
        node.tree = loaded.tree
        node.replaced = bool(node.context)
        node.draft = loaded.draft or image.empty(platform)
        if not node.replaced:
            node.base_config = loaded.config
            node.platform = platform
        elif loaded.draft is not None and loaded.draft.platform.os and loaded.draft.platform.architecture:
            node.platform = loaded.draft.platform

    async def _take_image(self, plan: Plan, node: StageNode, full: Reference, platform: Platform) -> None:
        written = node.base_name
        shown = f"{platforms.formatted(platform)} " if self.contexts.options.multi_platform else ""
        log_name = f"[{shown}internal] load metadata for {full}"
        try:
            asked = node.platform is not None or not self.implicit
            found = await self.images.resolve(self.contexts, str(full), platform, log_name, asked=asked)
        except LadingError as exc:
            others = [*(one.shown for one in plan.nodes if one.shown), *_COMMON]
            raise DockerfileError(suggested(f"{written}: {exc}", written, others)) from exc
        draft = image.parse(found.config, what=f"config of {full}")
        node.draft, node.base_config = draft, found.config
        if node.platform is None and self.implicit:
            platform = self._detected(draft, platform)
        node.platform = platform
        if image.is_empty(draft):
            return
        name = str(pinned(full, full.digest or found.digest))
        style = Style(
            platform=platform,
            metadata=named(
                step_name(
                    node, 1, f"FROM {name}", platform if self.contexts.options.multi_platform else None, {}
                ),
                command=node.head.code if node.head else "",
            ),
            locations=location(self.file, node.lines),
        )
        node.first_step = 1
        node.tree = image_source(name, self.contexts.options.resolve_mode.value, style)
        checks.check_base_platform(written, platform, draft.platform, node.lines, self.report)

    def _detected(self, draft: Draft, platform: Platform) -> Platform:
        have = draft.platform
        if (platform.os, platform.architecture) == (have.os, have.architecture):
            return platform
        for one in self.runnable:
            if (one.os, one.architecture) == (have.os, have.architecture):
                return one
        return platform

    # ONBUILD.

    def _take_triggers(self, plan: Plan, target: StageNode) -> bool:
        """Put the instructions that bases left for their users before those of the users; whether any reads a new stage."""
        found = False
        for node in reachable(target):
            if node.settled or node.onbuild_taken:
                continue
            triggers = self._triggers(node)
            node.onbuild_taken = True
            planned = [
                plan.planned(parse_trigger(text, node.lines), self.lexer, onbuild=True) for text in triggers
            ]
            for one in planned:
                found |= plan.depend(node, one)
            node.commands[:0] = planned
            node.steps += len(planned)
        return found

    def _triggers(self, node: StageNode) -> list[str]:
        """What the base of a stage that was resolved leaves for it."""
        if node.base is not None:
            commands = [planned.command for planned in node.base.commands]
            return [one.expression for one in commands if isinstance(one, ins.Onbuild)]
        assert node.draft is not None, "what can be reached was resolved"
        return list(node.draft.on_build)


def _parsed(written: str) -> Reference:
    try:
        return reference.parse(written)
    except InvalidArgumentError as exc:
        raise DockerfileError(f'failed to parse stage name "{written}": {exc.message}') from exc
