"""`ExecOp`: a process in a tree, with what is mounted into it; its results are what it left in its writable mounts."""

import json
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Final

from typing_extensions import override

from lading.builder.errors import VertexError
from lading.builder.ops import contents
from lading.builder.ops.mounting import ExecTools, Made, Mounting, secret_environment, workplace
from lading.builder.ops.processes import Process
from lading.builder.ops.trees import Tree
from lading.builder.solver.operation import CacheMap, Context, Operation
from lading.containers.spec import DEFAULT_PATH
from lading.errors import PermissionDeniedError, UnsupportedError
from lading.formats.llb import ops
from lading.oci.descriptor import Platform

INSECURE: Final = "security.insecure"
HOST_NETWORK: Final = "network.host"


def check_granted(security: ops.SecurityMode, network: ops.NetMode, allowed: Callable[[str], bool]) -> None:
    """Refuse what a build was not granted. Raises `PermissionDeniedError`."""
    for entitlement, wanted in (
        (INSECURE, security is ops.SecurityMode.INSECURE),
        (HOST_NETWORK, network is ops.NetMode.HOST),
    ):
        if wanted and not allowed(entitlement):
            raise PermissionDeniedError(
                f"{entitlement} is not allowed", hint=f"grant it with --allow {entitlement}"
            )


class ExecOperation(Operation[Tree]):
    """One process."""

    def __init__(
        self, raw: bytes, op: ops.ExecOp, inputs: int, platform: Platform, name: str, tools: ExecTools
    ) -> None:
        self._raw = raw
        self._op = op
        self._inputs = inputs
        self._platform = platform
        self._name = name
        self._tools = tools

    @property
    @override
    def slots(self) -> int:
        return 1

    @override
    async def cache_map(self, context: Context) -> CacheMap[Tree]:
        return contents.of_exec(self._raw, self._op, self._inputs, self._platform, self._tools.contents)

    @override
    def close(self) -> None:
        return

    @override
    async def run(self, inputs: Sequence[Tree], context: Context) -> list[Tree]:
        self._check(context)
        async with AsyncExitStack() as stack:
            mounting = Mounting(self._op.mounts, self._name, self._tools, context)
            made = await mounting.prepare(stack, inputs)
            await self._run(made, context)
            return await self._outputs(made)

    def _check(self, context: Context) -> None:
        check_granted(self._op.security, self._op.network, context.allowed)
        for device in self._op.devices:
            if not device.optional:
                raise UnsupportedError(f"CDI device {device.name} is not available", subject=device.name)

    # The process.

    async def _run(self, made: Made, context: Context) -> None:
        meta = self._op.meta
        env = await self._env(context)
        async with workplace(self._tools, made) as place:
            user, stubs = await place.look(user=meta.user, cwd=meta.cwd)
            process = Process(
                meta=meta,
                env=env,
                user=user,
                rootfs=made.rootfs,
                readonly=made.readonly,
                mounts=made.mounts,
                network=self._op.network,
                insecure=self._op.security is ops.SecurityMode.INSECURE,
                platform=self._platform,
            )
            status = await self._tools.processes.run(process, context.log, room=place.room)
            await place.tidy(stubs, recursive=meta.remove_mount_stubs_recursive)
        if status not in (meta.valid_exit_codes or (0,)):
            shown = " ".join(meta.args)
            raise VertexError(
                f"process {json.dumps(shown)} did not complete successfully: exit code: {status}",
                vertex=context.vertex,
                exit_code=status,
            )

    async def _env(self, context: Context) -> list[str]:
        meta = self._op.meta
        env = list(meta.env)
        if meta.proxy_env is not None:
            proxies = meta.proxy_env
            for name, value in (
                ("HTTP_PROXY", proxies.http_proxy),
                ("HTTPS_PROXY", proxies.https_proxy),
                ("FTP_PROXY", proxies.ftp_proxy),
                ("NO_PROXY", proxies.no_proxy),
                ("ALL_PROXY", proxies.all_proxy),
            ):
                if value:
                    env += [f"{name}={value}", f"{name.lower()}={value}"]
        if not any(one.startswith("PATH=") for one in env):
            env.insert(0, f"PATH={DEFAULT_PATH}")
        return env + await secret_environment(self._op.secret_env, context)

    async def _outputs(self, made: Made) -> list[Tree]:
        found = dict(made.passed)
        for number, (active, tree) in made.outputs.items():
            found[number] = tree.below(await active.commit(), active.parent)
        return [found[number] for number in sorted(found)]
