"""The whole run: read the Dockerfile, answer a question or build each platform, and tell what the checks found."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
from typing_extensions import override

from lading.builder.errors import ClientError, FrontendCapError, SourceError, SubrequestError
from lading.builder.frontend import options as wishes
from lading.builder.frontend import requests, sbom
from lading.builder.frontend.bases import Images
from lading.builder.frontend.contexts import Contexts, Entrypoint
from lading.builder.frontend.convert import Converted, Converter
from lading.builder.frontend.options import Options
from lading.builder.frontend.state import ranges
from lading.builder.model import Frontend, Gateway
from lading.builder.reports import WarningEvent
from lading.builder.results import Attestation, Ref, Result
from lading.errors import InvalidArgumentError, LadingError
from lading.formats.dockerfile import instructions as ins
from lading.formats.dockerfile import rules
from lading.formats.dockerfile.directives import detect_syntax, directive
from lading.formats.dockerfile.errors import DockerfileError, Lines
from lading.formats.dockerfile.parse import parse
from lading.formats.llb import make
from lading.kit import aio
from lading.kit.tasks import task_group
from lading.oci import platform as platforms
from lading.oci import reference
from lading.oci.descriptor import Platform

BUILT_IN: Final = frozenset({"docker/dockerfile", "docker/dockerfile-upstream"})
"""Frontends that ``# syntax=`` may name and that this one stands for, whatever their version."""
_SYNTAX_ARGUMENT: Final = "build-arg:BUILDKIT_SYNTAX"


class DockerfileFrontend(Frontend):
    """BuildKit's ``dockerfile.v0``. A file that asks for another frontend (``# syntax=``) is left to ``others``."""

    def __init__(self, others: Frontend | None = None) -> None:
        self._others = others

    @override
    async def build(self, gateway: Gateway) -> Result:
        options = wishes.parse(gateway.options)
        contexts = Contexts(gateway, options)
        entrypoint = await contexts.open()
        run = _Run(gateway=gateway, options=options, contexts=contexts, entrypoint=entrypoint)
        try:
            other = run.other_syntax()
            if other is not None:
                return await self._forward(gateway, other)
            return await run.answer()
        except DockerfileError as exc:
            raise run.told(exc) from exc
        except UnicodeEncodeError as exc:
            raise InvalidArgumentError(
                "the Dockerfile or .dockerignore has bytes that are no UTF-8 where a build step needs text"
            ) from exc

    async def _forward(self, gateway: Gateway, syntax: "_Syntax") -> Result:
        """Let the image do it that the file asks for."""
        if self._others is None:
            raise DockerfileError(
                f"frontend {syntax.image} is not supported: only {', '.join(sorted(BUILT_IN))} are built in",
                lines=syntax.lines,
            )
        options = {**gateway.options, "cmdline": syntax.command, "source": syntax.image}
        try:
            return await self._others.build(gateway.derived(options, gateway.inputs))
        except (SourceError, ClientError, FrontendCapError):
            raise
        except LadingError as exc:
            if syntax.lines is None:
                raise type(exc)(f"failed with {_SYNTAX_ARGUMENT} = {syntax.command}: {exc.message}") from exc
            raise DockerfileError(exc.message, lines=syntax.lines) from exc


@dataclass(frozen=True, slots=True, kw_only=True)
class _Syntax:
    """The frontend that a file or a build argument asks for: its image, the whole text, and where it stands in the file."""

    image: str
    command: str
    lines: Lines | None


class _PlatformDocument(msgspec.Struct, frozen=True, rename="pascal"):
    """An entry of ``refs.platforms``."""

    id: str = msgspec.field(name="ID")
    platform: Platform


class _Platforms(msgspec.Struct, frozen=True, rename="pascal"):
    """``refs.platforms``: which ref is whose."""

    platforms: tuple[_PlatformDocument, ...]


@dataclass(slots=True, kw_only=True)
class _Built:
    """One platform of the result."""

    platform: Platform
    ref: Ref | None
    converted: Converted
    attestation: Attestation | None = None

    @property
    def id(self) -> str:
        return platforms.formatted(self.platform)


@dataclass(slots=True, kw_only=True)
class _Run:
    gateway: Gateway
    options: Options
    contexts: Contexts
    entrypoint: Entrypoint

    def told(self, error: DockerfileError) -> InvalidArgumentError:
        """An error as clients show it, with the lines of the Dockerfile."""
        if error.lines is None:
            return InvalidArgumentError(error.message)
        return SourceError(error.message, source=self.entrypoint.file, ranges=ranges(error.lines))

    async def answer(self) -> Result:
        """The build, or what was asked instead."""
        match self.options.request:
            case "":
                return await self._build()
            case requests.OUTLINE:
                return await self._outline()
            case requests.TARGETS:
                return requests.targets(await self._parse(rules.ignore), self.entrypoint.file)
            case requests.LINT:
                return await self._lint()
            case requests.DESCRIBE:
                return requests.describe()
            case other:
                raise SubrequestError(other)

    def other_syntax(self) -> _Syntax | None:
        """The frontend that is asked for, if that is another one. Raises `DockerfileError` for a name that is none."""
        if "cmdline" in self.gateway.options:
            return None
        command = self.options.build_args.get("BUILDKIT_SYNTAX", "").strip()
        lines: Lines | None = None
        if not command:
            found = detect_syntax(self.entrypoint.file.data)
            if found is None:
                return None
            command, lines = found.value, found.lines
        asked = command.partition(" ")[0]
        try:
            name = reference.parse(asked).familiar_name
        except InvalidArgumentError as exc:
            raise DockerfileError(f"invalid syntax {asked}: {exc.message}", lines=lines) from exc
        return None if name in BUILT_IN else _Syntax(image=asked, command=command, lines=lines)

    def _choice(self) -> rules.Choice:
        if self.options.checks is not None:
            return self.options.checks
        found = directive("check", self.entrypoint.file.data)
        try:
            return rules.parse_choice(found.value) if found else rules.Choice()
        except DockerfileError as exc:
            raise DockerfileError(f"failed to parse check options: {exc.message}") from exc

    async def _parse(self, report: rules.Report) -> ins.Dockerfile:
        """The instructions, read on a thread: a long file takes seconds. What the checks find is reported here."""
        if not self.entrypoint.file.data:
            raise DockerfileError("the Dockerfile cannot be empty")
        found = rules.Deferred()
        try:
            return await aio.run(aio.DATA, parse, self.entrypoint.file.data, found, abandon_on_cancel=True)
        finally:
            found.pass_on(report)

    def _converter(
        self,
        dockerfile: ins.Dockerfile,
        platform: Platform | None,
        report: rules.Report,
        images: Images | None = None,
        *,
        all_stages: bool = False,
    ) -> Converter:
        return Converter(
            contexts=self.contexts,
            images=images or Images(self.gateway),
            file=self.entrypoint.file,
            dockerfile=dockerfile,
            native=tuple(self.gateway.platforms) or (platforms.host(),),
            asked=platform,
            report=report,
            all_stages=all_stages,
        )

    async def _outline(self) -> Result:
        findings = rules.Findings(self._choice(), self._warn)
        dockerfile = await self._parse(findings)
        converted = await self._converter(dockerfile, None, findings).convert()
        findings.check()
        return requests.outline(converted, self.entrypoint.file)

    # Checks.

    async def _lint(self) -> Result:
        findings = rules.Findings(rules.Choice())
        error: DockerfileError | None = None
        try:
            findings = rules.Findings(self._choice())
            dockerfile = await self._parse(findings)
            platform = self.options.platforms[0] if self.options.platforms else None
            converter = self._converter(dockerfile, platform, findings, all_stages=not self.options.target)
            await converter.convert()
            findings.check()
        except DockerfileError as exc:
            error = exc
        return requests.lint(findings.all, self.entrypoint, error)

    def _warn(self, finding: rules.Finding) -> None:
        self.gateway.warn(
            WarningEvent(
                vertex=self.entrypoint.vertex,
                level=1,
                short=finding.short.encode(),
                detail=(finding.rule.description.encode(),),
                url=finding.rule.url,
                source=self.entrypoint.file,
                ranges=ranges(finding.lines),
            )
        )

    # The build.

    async def _build(self) -> Result:
        findings = rules.Findings(self._choice(), self._warn)
        dockerfile = await self._parse(findings)
        scanner = None
        if self.options.sbom is not None:
            scanner = await sbom.find_scanner(self.gateway, self.options, self.options.sbom)
        built = await self._build_all(dockerfile, findings, scanner)
        return self._result(built)

    async def _build_all(
        self, dockerfile: ins.Dockerfile, findings: rules.Findings, scanner: sbom.Scanner | None
    ) -> list[_Built]:
        images = Images(self.gateway)
        asked: list[Platform | None] = list(self.options.platforms) or [None]
        built: dict[int, _Built] = {}

        async def build(place: int, platform: Platform | None) -> None:
            report = rules.ignore if place else findings
            converted = await self._converter(dockerfile, platform, report, images).convert()
            if not place:
                findings.check()
            built[place] = await self._solve(converted, platform, scanner)

        async with task_group() as group:
            for place, platform in enumerate(asked):
                group.start_soon(build, place, platform)
        return [built[place] for place in range(len(asked))]

    async def _solve(
        self, converted: Converted, asked: Platform | None, scanner: sbom.Scanner | None
    ) -> _Built:
        tree = converted.target.tree
        ref = await self.gateway.solve(make.definition(tree)) if tree is not None else None
        platform = platforms.normalize(asked or next(iter(self.gateway.platforms), platforms.host()))
        built = _Built(platform=platform, ref=ref, converted=converted)
        if scanner is not None:
            built.attestation = await self._scan(built, scanner)
        return built

    async def _scan(self, built: _Built, scanner: sbom.Scanner) -> Attestation:
        converted = built.converted
        extras = {
            work.node.shown: work.tree
            for work in converted.works.values()
            if "stage" in work.scans and work is not converted.target
        }
        if "context" in converted.target.scans:
            extras["context"] = converted.context
        scanned = [converted.target, *(one for one in converted.works.values() if "stage" in one.scans)]
        anew = any(work.node.ignore_cache for work in scanned)
        tree = scanner.scan(built.id, self.gateway.platforms[0], converted.target.tree, extras, anew=anew)
        return await sbom.attestation(self.gateway, tree)

    def _result(self, built: Sequence[_Built]) -> Result:
        several = self.options.multi_platform
        metadata: dict[str, bytes] = {}
        for one in built:
            suffix = f"/{one.id}" if several else ""
            metadata[f"containerimage.config{suffix}"] = one.converted.draft.encoded()
            base = _base_config(one.converted)
            if base is not None:
                metadata[f"containerimage.base.config{suffix}"] = base
        listed = tuple(_PlatformDocument(id=one.id, platform=one.platform) for one in built)
        metadata["refs.platforms"] = msgspec.json.encode(_Platforms(platforms=listed))
        return Result(
            refs={one.id if several else "": one.ref for one in built},
            metadata=metadata,
            attestations={
                one.id if several else "": (one.attestation,) for one in built if one.attestation is not None
            },
        )


def _base_config(converted: Converted) -> bytes | None:
    """The config of the image that the target's chain of stages begins with."""
    node = converted.target.node
    while node.base is not None:
        node = node.base
    return node.base_config
