"""``moby.buildkit.v1.frontend.LLBBridge``: what frontends ask, be they the client itself or a program that we run."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeVar

from lading.api.buildkit import messages, processes, worker
from lading.api.buildkit.worker import Worker
from lading.builder.bridge import Bridge
from lading.builder.control import Control
from lading.builder.errors import ClientError
from lading.builder.interactive import ContainerWish
from lading.builder.model import ResolveMode
from lading.builder.results import Attestation, Ref, Result
from lading.errors import UnsupportedError
from lading.formats.buildkit._pb import gateway_pb2 as pb
from lading.formats.buildkit.sourcepolicy import policy_from
from lading.formats.llb.decode import definition_from, hosts_from, mount_from, network_from, platform_from
from lading.kit.grpc.server import Handler, Handlers, Info, Request, Response, ServerCall, unary

SERVICE: Final = "/moby.buildkit.v1.frontend.LLBBridge"
_BUILD: Final = "buildkit-controlapi-buildid"
_IMAGE: Final = "docker-image://"
_LAYOUT: Final = "oci-layout://"
In = TypeVar("In", bound=Request)


FindBridge = Callable[[Info], Awaitable[Bridge]]
"""The bridge that a call is about."""


def of_build(control: Control) -> FindBridge:
    """Calls of clients name the build in their metadata."""

    async def find(info: Info) -> Bridge:
        return await control.bridge(info.value(_BUILD))

    return find


class BridgeService:
    """The service."""

    def __init__(self, find: FindBridge, worker_: Worker) -> None:
        self._find = find
        self._worker = worker_

    def handlers(self) -> Handlers:
        """The methods."""
        return {
            f"{SERVICE}/Ping": unary(pb.PingRequest, self.ping),
            f"{SERVICE}/Solve": self._bridged(pb.BridgeSolveRequest, _solve),
            f"{SERVICE}/Evaluate": self._bridged(pb.EvaluateRequest, _evaluate),
            f"{SERVICE}/Return": self._bridged(pb.ReturnRequest, _give_back),
            f"{SERVICE}/Inputs": self._bridged(pb.InputsRequest, _inputs),
            f"{SERVICE}/ResolveImageConfig": self._bridged(pb.ResolveImageConfigRequest, _resolve_image),
            f"{SERVICE}/ResolveSourceMeta": self._bridged(pb.ResolveSourceMetaRequest, _resolve_source),
            f"{SERVICE}/ReadFile": self._bridged(pb.ReadFileRequest, _read_file),
            f"{SERVICE}/ReadDir": self._bridged(pb.ReadDirRequest, _read_dir),
            f"{SERVICE}/StatFile": self._bridged(pb.StatFileRequest, _stat),
            f"{SERVICE}/Warn": self._bridged(pb.WarnRequest, _warn),
            f"{SERVICE}/NewContainer": self._bridged(pb.NewContainerRequest, _new_container),
            f"{SERVICE}/ReleaseContainer": self._bridged(pb.ReleaseContainerRequest, _release_container),
            f"{SERVICE}/ExecProcess": self._exec_process,
        }

    def _bridged(self, request: type[In], function: "Callable[[In, Bridge], Awaitable[Response]]") -> Handler:
        async def call(message: In, info: Info) -> Response:
            bridge = await self._find(info)
            async with bridge.calling():
                return await function(message, bridge)
            raise AssertionError  # the context raises when it is cancelled

        return unary(request, call)

    async def _exec_process(self, call: ServerCall) -> None:
        bridge = await self._find(Info(call))
        async with bridge.calling():
            await processes.serve(call, bridge)

    async def ping(self, request: pb.PingRequest, info: Info) -> pb.PongResponse:
        """What can be asked for."""
        del request
        await self._find(info)
        return pb.PongResponse(
            frontend_caps=worker.frontend_caps(),
            llb_caps=worker.llb_caps(),
            workers=[await self._worker.record()],
        )


async def _solve(request: pb.BridgeSolveRequest, bridge: Bridge) -> pb.BridgeSolveResponse:
    result = await bridge.solve(
        definition=definition_from(request.definition) if request.HasField("definition") else None,
        frontend=request.frontend,
        options=dict(request.frontend_opt),
        inputs=messages.definitions(request.frontend_inputs),
        evaluate=request.evaluate or request.final,
        policies=[policy_from(each) for each in request.source_policies],
    )
    return pb.BridgeSolveResponse(result=_result_message(result, bridge))


def _result_message(result: Result, bridge: Bridge) -> pb.BridgeResult:
    metadata = dict(result.metadata)
    if set(result.refs) <= {""}:
        return pb.BridgeResult(ref=_ref_message(result.refs.get(""), bridge), metadata=metadata)
    refs = {name: _ref_message(ref, bridge) for name, ref in result.refs.items()}
    return pb.BridgeResult(refs=pb.RefMap(refs=refs), metadata=metadata)


def _ref_message(ref: Ref | None, bridge: Bridge) -> pb.Ref:
    if ref is None:
        return pb.Ref()
    return pb.Ref(id=bridge.name(ref), definition=messages.definition_message(ref.definition))


async def _evaluate(request: pb.EvaluateRequest, bridge: Bridge) -> pb.EvaluateResponse:
    await bridge.evaluate(request.ref)
    return pb.EvaluateResponse()


async def _give_back(request: pb.ReturnRequest, bridge: Bridge) -> pb.ReturnResponse:
    if request.HasField("error"):
        status = request.error
        bridge.give_back(ClientError(status.message, status=status.SerializeToString()))
    else:
        bridge.give_back(_result(request.result, bridge))
    return pb.ReturnResponse()


def _result(message: pb.BridgeResult, bridge: Bridge) -> Result:
    refs: Mapping[str, Ref | None]
    kind = message.WhichOneof("result")
    if kind == "refs":
        refs = {name: bridge.ref(each.id) for name, each in message.refs.refs.items()}
    elif kind == "refs_deprecated":
        refs = {name: bridge.ref(each) for name, each in message.refs_deprecated.refs.items()}
    elif kind == "ref_deprecated":
        refs = {"": bridge.ref(message.ref_deprecated)}
    else:
        refs = {"": bridge.ref(message.ref.id)}
    attestations = {
        name: [_attestation(each, bridge) for each in group.attestation]
        for name, group in message.attestations.items()
    }
    return Result(refs=refs, metadata=dict(message.metadata), attestations=attestations)


def _attestation(message: pb.AttestationMessage, bridge: Bridge) -> Attestation:
    if message.kind != 0:
        raise UnsupportedError("bundles of attestations are not offered", hint="return each statement alone")
    return Attestation(
        predicate_type=message.predicate_type,
        ref=bridge.ref(message.ref.id),
        path=message.path,
        inline_only=message.metadata.get("inline-only", b"") == b"true",
    )


async def _inputs(request: pb.InputsRequest, bridge: Bridge) -> pb.InputsResponse:
    del request
    return pb.InputsResponse(
        definitions={name: messages.definition_message(each) for name, each in bridge.inputs.items()}
    )


async def _resolve_image(
    request: pb.ResolveImageConfigRequest, bridge: Bridge
) -> pb.ResolveImageConfigResponse:
    found = await bridge.resolve_image(
        request.ref.removeprefix(_IMAGE),
        platform=platform_from(request.platform) if request.HasField("platform") else None,
        mode=ResolveMode.parse(request.resolve_mode),
        log_name=request.log_name,
        store=request.store_id if request.resolver_type == 1 else "",
        policies=[policy_from(each) for each in request.source_policies],
    )
    return pb.ResolveImageConfigResponse(digest=found.digest, config=found.config, ref=str(found.reference))


async def _resolve_source(
    request: pb.ResolveSourceMetaRequest, bridge: Bridge
) -> pb.ResolveSourceMetaResponse:
    identifier = request.source.identifier
    answer = pb.ResolveSourceMetaResponse(source=request.source)
    for scheme, store in ((_IMAGE, ""), (_LAYOUT, request.source.attrs.get("oci.store", ""))):
        if identifier.startswith(scheme):
            found = await bridge.resolve_image(
                identifier.removeprefix(scheme),
                platform=platform_from(request.platform) if request.HasField("platform") else None,
                mode=ResolveMode.parse(request.resolve_mode),
                log_name=request.log_name,
                store=store,
                policies=[policy_from(each) for each in request.source_policies],
            )
            answer.source.identifier = f"{scheme}{found.reference}"
            answer.image.digest = found.digest
            answer.image.config = found.config
    return answer


async def _read_file(request: pb.ReadFileRequest, bridge: Bridge) -> pb.ReadFileResponse:
    part = request.range if request.HasField("range") else None
    data = await bridge.read_file(
        request.ref,
        request.file_path,
        offset=part.offset if part else 0,
        length=part.length if part and part.length else None,
    )
    return pb.ReadFileResponse(data=data)


async def _read_dir(request: pb.ReadDirRequest, bridge: Bridge) -> pb.ReadDirResponse:
    entries = await bridge.read_dir(request.ref, request.dir_path, pattern=request.include_pattern)
    return pb.ReadDirResponse(entries=[messages.stat_message(each) for each in entries])


async def _stat(request: pb.StatFileRequest, bridge: Bridge) -> pb.StatFileResponse:
    return pb.StatFileResponse(stat=messages.stat_message(await bridge.stat(request.ref, request.path)))


async def _new_container(request: pb.NewContainerRequest, bridge: Bridge) -> pb.NewContainerResponse:
    wish = ContainerWish(
        mounts=[
            (bridge.ref(each.resultID), mount_from(each, input=None, output=None)) for each in request.mounts
        ],
        network=network_from(request.network),
        platform=platform_from(request.platform) if request.HasField("platform") else None,
        hostname=request.hostname,
        extra_hosts=hosts_from(request.extra_hosts),
    )
    await bridge.containers.open(request.container_id, wish)
    return pb.NewContainerResponse()


async def _release_container(
    request: pb.ReleaseContainerRequest, bridge: Bridge
) -> pb.ReleaseContainerResponse:
    await bridge.containers.release(request.container_id)
    return pb.ReleaseContainerResponse()


async def _warn(request: pb.WarnRequest, bridge: Bridge) -> pb.WarnResponse:
    bridge.warn(messages.warning(request))
    return pb.WarnResponse()
