"""``gateway.v0``: a frontend that is an image. Its program is run, and asks over its standard input and output.

The program speaks gRPC as a client, and the daemon serves it the bridge (BuildKit, ``frontend/gateway``): what it may ask is what
a client may ask that is its own frontend. Its options are variables of its environment.
"""

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import structlog
from typing_extensions import override

from lading.builder.bridge import Bridge
from lading.builder.errors import FrontendCapError
from lading.builder.frontend.contexts import image_source, named, pinned
from lading.builder.line import Line
from lading.builder.model import Frontend, Gateway, Program, ResolvedImage, ResolveMode
from lading.builder.results import Ref, Result
from lading.errors import FailedPreconditionError, InvalidArgumentError, LadingError
from lading.formats.llb import make
from lading.kit.grpc.connection import Transport
from lading.kit.tasks import task_group
from lading.oci import config as oci_config
from lading.oci import platform as platforms
from lading.oci import reference
from lading.oci.config import ImageConfig

SOURCE: Final = "source"
"""The option that names the image."""
_INPUTS: Final = "moby.buildkit.frontend.inputs"
_CAPS: Final = "moby.buildkit.frontend.caps"
_NO_NETWORK: Final = "moby.buildkit.frontend.network.none"
_PRODUCT: Final = "lading"
NESTED: Final = 8
"""How many programs may wait for each other, each having asked for the next as its frontend: ADR 0158."""
_TAIL: Final = 2000
"""Bytes of what the program wrote to standard error that an error tells."""
_log: Final = structlog.get_logger(__name__)

ServeBridge = Callable[[Transport, Bridge], Awaitable[None]]
"""Serves the bridge on a byte stream until it ends."""


class ExternalFrontend(Frontend):
    """The image that the option ``source`` names.

    ``frontends`` are those that it may ask in turn; ``workers`` gives BuildKit's JSON of them.
    """

    def __init__(
        self,
        *,
        frontends: Mapping[str, Frontend],
        serve: ServeBridge,
        workers: Callable[[], Awaitable[bytes]],
    ) -> None:
        self._frontends = frontends
        self._serve = serve
        self._workers = workers

    @override
    async def build(self, gateway: Gateway) -> Result:
        source = gateway.options.get(SOURCE, "")
        if not source:
            raise InvalidArgumentError("no source specified for gateway")
        if len(gateway.programs) >= NESTED:
            raise FailedPreconditionError(
                f"frontend {source}: {NESTED} frontends have asked for each other already: {' > '.join(gateway.programs)}",
                hint="a frontend that asks for itself must come to an end",
            )
        found = await self._resolve(gateway, source)
        config = oci_config.parse(found.config, what=f"config of {source}")
        _check_abilities(gateway, config)
        ref = await self._tree(gateway, found)
        within = gateway.within(source)
        bridge = Bridge(
            within.derived, self._frontends, gateway.options, gateway.inputs, asked=lambda _: None
        )
        try:
            async with bridge.containers.serving():
                end = await self._converse(gateway, await self._program(gateway, config, ref), bridge)
        finally:
            bridge.end()
        return _outcome(bridge, source, end)

    async def _converse(self, gateway: Gateway, program: Program, bridge: Bridge) -> "_End":
        """Run a program until it ends, or there is no sense in waiting for it."""
        source = gateway.options[SOURCE]
        end = _End()
        lines: list[Line] = []

        def log(data: bytes) -> None:
            end.said.extend(data)
            del end.said[:-_TAIL]
            _log.debug("frontend_said", source=source, output=data.decode("utf-8", "replace"))

        async with task_group() as group:

            async def watch(line: Line) -> None:
                end.problem = await line.watch()
                group.cancel_scope.cancel()

            async def talk(transport: Transport) -> None:
                line = Line(transport)
                lines.append(line)
                group.start_soon(watch, line)
                try:
                    await self._serve(line, bridge)
                finally:
                    line.end()

            end.status = await gateway.converse(program, talk, log)
            group.cancel_scope.cancel()
        for line in lines:
            end.problem = line.complaint or end.problem
        return end

    async def _resolve(self, gateway: Gateway, source: str) -> ResolvedImage:
        name = reference.parse(source).with_default_tag()
        return await gateway.resolve_image(
            str(name),
            platform=gateway.platforms[0],
            mode=_mode(gateway),
            log_name=f"resolve image config for docker-image://{name}",
        )

    async def _tree(self, gateway: Gateway, found: ResolvedImage) -> Ref:
        name = str(pinned(found.reference, found.digest))
        style = make.Style(platform=gateway.platforms[0], metadata=named(f"docker-image://{name}"))
        return await gateway.solve(make.definition(image_source(name, _mode(gateway).value, style)))

    async def _program(self, gateway: Gateway, config: ImageConfig, ref: Ref) -> Program:
        run = config.run
        options = [
            f"BUILDKIT_FRONTEND_OPT_{number}={key}={value}"
            for number, (key, value) in enumerate(sorted(gateway.options.items()))
        ]
        return Program(
            ref=ref,
            args=run.entrypoint or ("/run",),
            env=(
                *(run.env or ()),
                *options,
                f"BUILDKIT_SESSION_ID={gateway.session.id if gateway.session is not None else ''}",
                f"BUILDKIT_WORKERS={(await self._workers()).decode()}",
                f"BUILDKIT_EXPORTEDPRODUCT={_PRODUCT}",
            ),
            cwd=run.working_dir or "/",
            network=(run.labels or {}).get(_NO_NETWORK, "") not in ("1", "t", "T", "true", "TRUE", "True"),
            platform=platforms.normalize(config.platform),
        )


def _mode(gateway: Gateway) -> ResolveMode:
    """As the client wants images to be looked up, so that one that was just built here can be the frontend."""
    return ResolveMode.parse(gateway.options.get("image-resolve-mode", ""))


def _check_abilities(gateway: Gateway, config: ImageConfig) -> None:
    """Refuse a frontend that cannot do what the client relies on. Raises `FrontendCapError`."""
    able = _abilities((config.run.labels or {}).get(_CAPS, ""))
    wanted = _abilities(gateway.options.get("frontend.caps", ""))
    if gateway.inputs:
        wanted.add(_INPUTS)
    for each in sorted(wanted - able):
        raise FrontendCapError(each)


def _abilities(text: str) -> set[str]:
    """Names, without what is to be done where they are missing (``+forward``)."""
    names = {each.partition("+")[0].strip() for each in text.split(",")}
    return names - {""}


@dataclass(slots=True, kw_only=True)
class _End:
    """How a program ended: by itself, or because of a ``problem``."""

    status: int = 0
    problem: str = ""
    said: bytearray = field(default_factory=bytearray)


def _outcome(bridge: Bridge, source: str, end: _End) -> Result:
    """What it returned; its own error counts more than how its program ended, and that more than a result."""
    outcome = bridge.outcome
    if isinstance(outcome, LadingError):
        raise outcome
    problem = end.problem if outcome is None else ""
    if end.status and not problem:
        problem = f"exit code: {end.status}"
    elif outcome is None and not problem:
        problem = "it returned nothing"
    if outcome is None or problem:
        text = end.said.decode("utf-8", "replace").strip()
        raise FailedPreconditionError(
            f"frontend {source}: {problem}{f': {json.dumps(text)}' if text else ''}"
        )
    return outcome
