"""A frontend as an image has it: it asks BuildKit's bridge over its standard input and output, with grpcio as an independent client.

It reads a file ``recipe`` of the client: lines ``base <image>``, ``write <path> <text>``, ``say``, ``forward`` (leave it to the
Dockerfile frontend), ``again <image>`` (leave it to the image of a frontend, such as its own), ``fail <text>`` and ``exit <code>``. Run in the image that `support.frontend_image` makes.
"""

import json
import os
import socket
import sys
import threading

import grpc

from lading.formats.buildkit._pb import gateway_pb2 as pb
from lading.formats.buildkit._pb.common_pb2 import RpcStatus
from lading.formats.llb import make, ops
from lading.formats.llb._pb import ops_pb2 as llb
from lading.formats.llb.encode import encode_definition
from lading.formats.llb.metadata import CUSTOM_NAME, Metadata

SERVICE = "/moby.buildkit.v1.frontend.LLBBridge/"


def pump(read, write) -> None:
    while data := read():
        write(data)


def channel() -> grpc.Channel:
    """A channel over standard input and output: grpcio wants a socket, so there is one in between."""
    server = socket.socket(socket.AF_UNIX)
    server.bind("/tmp/bridge")
    server.listen()

    def join() -> None:
        peer, _ = server.accept()
        threading.Thread(target=pump, args=(lambda: os.read(0, 65536), peer.sendall), daemon=True).start()
        pump(lambda: peer.recv(65536), lambda data: os.write(1, data))

    threading.Thread(target=join, daemon=True).start()
    return grpc.insecure_channel("unix:/tmp/bridge")


class Bridge:
    def __init__(self) -> None:
        self._channel = channel()
        words = [value for key, value in os.environ.items() if key.startswith("BUILDKIT_FRONTEND_OPT_")]
        self.options = dict(word.split("=", 1) for word in words)

    def call(self, method: str, request, answer):
        call = self._channel.unary_unary(
            SERVICE + method,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        )
        return call(request, timeout=60)

    def solve(self, edge: make.Edge, *, evaluate: bool = False) -> pb.Ref:
        made = make.definition(edge)
        message = llb.Definition.FromString(encode_definition(made))
        request = pb.BridgeSolveRequest(
            definition=message, allow_result_return=True, allow_result_array_ref=True, evaluate=evaluate
        )
        return self.call("Solve", request, pb.BridgeSolveResponse).result.ref

    def read(self, ref: str, path: str) -> bytes:
        return self.call("ReadFile", pb.ReadFileRequest(ref=ref, file_path=path), pb.ReadFileResponse).data

    def give_back(self, **what) -> None:
        self.call("Return", pb.ReturnRequest(**what), pb.ReturnResponse)


def recipe(bridge: Bridge) -> list[list[str]]:
    name = bridge.options.get("filename", "Dockerfile")
    source = ops.SourceOp(
        identifier="local://dockerfile",
        attrs={"local.session": os.environ["BUILDKIT_SESSION_ID"], "local.followpaths": json.dumps([name])},
    )
    style = make.Style(metadata=Metadata(description={CUSTOM_NAME: "[internal] load recipe"}))
    text = bridge.read(bridge.solve(make.source(source, style)).id, name).decode()
    return [line.split(" ", 2) for line in text.splitlines() if line and not line.startswith("#")]


def forward(bridge: Bridge, frontend: str, **options: str) -> pb.BridgeResult:
    request = pb.BridgeSolveRequest(
        frontend=frontend,
        frontend_opt={**bridge.options, **options},
        allow_result_return=True,
        allow_result_array_ref=True,
    )
    return bridge.call("Solve", request, pb.BridgeSolveResponse).result


def main() -> None:
    bridge = Bridge()
    pong = bridge.call("Ping", pb.PingRequest(), pb.PongResponse)
    assert any(each.id == "solve.base" for each in pong.frontend_caps)
    assert json.loads(os.environ["BUILDKIT_WORKERS"])[0]["Platforms"]
    edge: make.Edge | None = None
    config: dict = {"os": "linux", "architecture": "amd64", "config": {}}
    for line in recipe(bridge):
        match line[0]:
            case "base":
                request = pb.ResolveImageConfigRequest(ref=line[1], resolve_mode="local")
                found = bridge.call("ResolveImageConfig", request, pb.ResolveImageConfigResponse)
                config = json.loads(found.config)
                edge = make.source(ops.SourceOp(identifier=f"docker-image://{found.ref}"), make.Style())
            case "write":
                action = ops.MakeFile(path=line[1], data=line[2].encode(), mode=0o644)
                style = make.Style(metadata=Metadata(description={CUSTOM_NAME: f"write {line[1]}"}))
                edge = make.change(edge, [(action, None)], style)
            case "say":
                config["config"]["Labels"] = {"said": bridge.options.get("build-arg:SAY", "nothing")}
            case "forward":
                bridge.give_back(result=forward(bridge, "dockerfile.v0", filename="Dockerfile.inner"))
                return
            case "again":
                try:
                    bridge.give_back(result=forward(bridge, "gateway.v0", source=line[1]))
                except grpc.RpcError as error:
                    bridge.give_back(error=RpcStatus(code=3, message=error.details()))
                return
            case "fail":
                status = RpcStatus(code=3, message=" ".join(line[1:]))
                bridge.give_back(error=status)
                return
            case "exit":
                print("this went wrong", file=sys.stderr, flush=True)
                sys.exit(int(line[1]))
    assert edge is not None
    ref = bridge.solve(edge, evaluate=True)
    config.pop("rootfs", None)
    metadata = {"containerimage.config": json.dumps(config).encode()}
    bridge.give_back(result=pb.BridgeResult(ref=pb.Ref(id=ref.id), metadata=metadata))


main()
