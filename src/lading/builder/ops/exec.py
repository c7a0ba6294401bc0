"""`ExecOp`: a process in a tree, with what is mounted into it; its results are what it left in its writable mounts."""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from typing_extensions import override

from lading.builder.errors import VertexError
from lading.builder.ops import agents, contents
from lading.builder.ops.files import paths
from lading.builder.ops.mutables import Mutable, Mutables, Sharing
from lading.builder.ops.processes import Process, Processes, Stub, find_stubs, remove_stubs
from lading.builder.ops.trees import NOTHING, Active, Tree, Trees
from lading.builder.solver.operation import CacheMap, Context, Operation
from lading.containers import users
from lading.containers.rootfs import Root
from lading.containers.spec import DEFAULT_PATH
from lading.containers.users import User
from lading.core.mounts import Mount
from lading.errors import InvalidArgumentError, NotFoundError, PermissionDeniedError, UnsupportedError
from lading.formats.llb import ops
from lading.kit import aio
from lading.oci.descriptor import Platform

CACHE_KIND: Final = "exec.cachemount"
INSECURE: Final = "security.insecure"
HOST_NETWORK: Final = "network.host"
_SHARING: Final = {
    ops.CacheSharing.SHARED: Sharing.SHARED,
    ops.CacheSharing.PRIVATE: Sharing.PRIVATE,
    ops.CacheSharing.LOCKED: Sharing.LOCKED,
}
_OPTIONS_LIMIT: Final = 3000


@dataclass(slots=True)
class _Made:
    """What was prepared for a process."""

    rootfs: list[Mount] = field(default_factory=list[Mount])
    readonly: bool = False
    mounts: list[Mapping[str, Any]] = field(default_factory=list[Mapping[str, Any]])
    outputs: dict[int, tuple[Active, Tree]] = field(default_factory=dict[int, tuple[Active, Tree]])
    passed: dict[int, Tree] = field(default_factory=dict[int, Tree])
    """Outputs that are their read-only inputs."""
    caches: dict[str, Mutable] = field(default_factory=dict[str, Mutable])


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecTools:
    """What processes stand on."""

    trees: Trees
    contents: contents.Contents
    mutables: Mutables
    processes: Processes
    state: Path


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
            made = _Made()
            private = (
                await stack.enter_async_context(
                    agents.private_directory(self._tools.state / f"private-{os.urandom(8).hex()}")
                )
                if self._needs_private()
                else None
            )
            await self._take_caches(stack, made, inputs)
            for number, mount in enumerate(self._op.mounts):
                await self._mount(stack, made, mount, number, inputs, context, private)
            if not made.rootfs:
                raise InvalidArgumentError("a process has no mount at /")
            await self._run(made, context)
            return await self._outputs(made)

    def _check(self, context: Context) -> None:
        if self._op.security is ops.SecurityMode.INSECURE and not context.allowed(INSECURE):
            raise PermissionDeniedError(
                f"{INSECURE} is not allowed", hint="grant it with --allow security.insecure"
            )
        if self._op.network is ops.NetMode.HOST and not context.allowed(HOST_NETWORK):
            raise PermissionDeniedError(
                f"{HOST_NETWORK} is not allowed", hint="grant it with --allow network.host"
            )
        for device in self._op.devices:
            if not device.optional:
                raise UnsupportedError(f"CDI device {device.name} is not available", subject=device.name)

    def _needs_private(self) -> bool:
        return any(one.type in (ops.MountType.SECRET, ops.MountType.SSH) for one in self._op.mounts)

    # Mounts.

    async def _mount(
        self,
        stack: AsyncExitStack,
        made: _Made,
        mount: ops.Mount,
        number: int,
        inputs: Sequence[Tree],
        context: Context,
        private: Path | None,
    ) -> None:
        tree = NOTHING if mount.input is None else inputs[mount.input]
        if mount.type is ops.MountType.BIND:
            await self._bind(stack, made, mount, tree)
        elif mount.type is ops.MountType.CACHE:
            assert mount.cache is not None
            await self._add(stack, made, mount, list(made.caches[mount.cache.id].mounts))
        elif mount.type is ops.MountType.TMPFS:
            options = ["nosuid", "nodev", "mode=1777"]
            if mount.tmpfs_size:
                options.append(f"size={mount.tmpfs_size}")
            made.mounts.append(_entry(mount.dest, "tmpfs", "tmpfs", options))
        else:
            assert private is not None
            await self._lend(stack, made, mount, context, private / str(number))

    async def _bind(self, stack: AsyncExitStack, made: _Made, mount: ops.Mount, tree: Tree) -> None:
        whole = not paths.parts_of(mount.selector)
        root = mount.dest == "/"
        if mount.readonly:
            shown = await stack.enter_async_context(self._tools.trees.shown(tree))
            if mount.output is not None:
                made.passed[mount.output] = tree
            if tree.empty:
                active = await stack.enter_async_context(self._tools.trees.active(NOTHING))
                shown = active.mounts
        else:
            active = await stack.enter_async_context(self._tools.trees.active(tree))
            shown = active.mounts
            if mount.output is not None:
                made.outputs[mount.output] = (active, tree)
        if root and whole:
            made.rootfs, made.readonly = shown, mount.readonly
            return
        if root:
            source = await self._select(stack, shown, mount)
            made.rootfs, made.readonly = (
                [Mount(type="bind", source=source, options=("rw", "rbind"))],
                mount.readonly,
            )
            return
        await self._add(stack, made, mount, shown)

    async def _add(self, stack: AsyncExitStack, made: _Made, mount: ops.Mount, shown: list[Mount]) -> None:
        """Mount what mounts show, or a part of it, into the process's root."""
        write = "ro" if mount.readonly else "rw"
        if not paths.parts_of(mount.selector) and len(shown) == 1:
            only = shown[0]
            if only.type == "bind":
                made.mounts.append(_entry(mount.dest, "bind", only.source, ["rbind", write]))
                return
            if sum(map(len, only.options)) < _OPTIONS_LIMIT:
                made.mounts.append(_entry(mount.dest, only.type, only.source, [*only.options, write]))
                return
        source = await self._select(stack, shown, mount)
        made.mounts.append(_entry(mount.dest, "bind", source, ["rbind", write]))

    async def _select(self, stack: AsyncExitStack, shown: Sequence[Mount], mount: ops.Mount) -> str:
        """The path, in our own view, of the part of a tree that a mount is about."""
        if len(shown) == 1 and shown[0].type == "bind":
            top = shown[0].source
        else:
            top = await stack.enter_async_context(self._tools.trees.mounted_at(shown))
        return await aio.run(aio.DISK, _resolve, top, mount.selector)

    async def _take_caches(self, stack: AsyncExitStack, made: _Made, inputs: Sequence[Tree]) -> None:
        """Take all caches, in one order for everybody, so that no two processes wait for each other."""
        wanted = [mount for mount in self._op.mounts if mount.type is ops.MountType.CACHE]
        for mount in wanted:
            if mount.cache is None:
                raise InvalidArgumentError(f"the cache mount at {mount.dest} has no options")
        for mount in sorted(wanted, key=lambda one: one.cache.id if one.cache else ""):
            options = mount.cache
            if options is None or options.id in made.caches:
                continue
            mutable = await self._tools.mutables.take(
                CACHE_KIND,
                options.id,
                sharing=_SHARING[options.sharing],
                description=f"cached mount {mount.dest} from exec {self._name}",
                seed=NOTHING if mount.input is None else inputs[mount.input],
            )
            stack.callback(self._tools.mutables.release, mutable)
            made.caches[options.id] = mutable

    async def _lend(
        self, stack: AsyncExitStack, made: _Made, mount: ops.Mount, context: Context, path: Path
    ) -> None:
        """A secret as a file, or an agent as a socket; nothing if it is optional and the client has none."""
        options = mount.secret or mount.ssh
        if options is None:
            raise InvalidArgumentError(f"the mount at {mount.dest} has no options")
        try:
            if mount.type is ops.MountType.SECRET:
                data = await context.with_session(lambda session: session.secret(options.id))
                await aio.run(aio.DISK, agents.write_secret, path, data, options)
            else:
                await context.with_session(lambda session: session.check_agent(options.id))
                session = context.sessions()[0]
                await stack.enter_async_context(agents.agent_socket(path, session, options))
        except NotFoundError as exc:
            if options.optional:
                return
            kind = "secret" if mount.type is ops.MountType.SECRET else "ssh agent"
            raise NotFoundError(f"{kind} {options.id}: not found: {exc.message}", subject=options.id) from exc
        made.mounts.append(_entry(mount.dest, "bind", str(path), ["rbind", "ro"]))

    # The process.

    async def _run(self, made: _Made, context: Context) -> None:
        meta = self._op.meta
        env = await self._env(context)
        user, stubs = await self._tools.trees.work(
            made.rootfs, (), lambda root, _: _look(root, meta, made, self._destinations(made))
        )
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
        end = await self._tools.processes.run(process, context.log)
        if stubs and not made.readonly:
            await self._tools.trees.work(
                made.rootfs,
                (),
                lambda root, _: remove_stubs(
                    root, stubs, self._destinations(made), recursive=meta.remove_mount_stubs_recursive
                ),
            )
        if end.status not in (meta.valid_exit_codes or (0,)):
            shown = " ".join(meta.args)
            raise VertexError(
                f"process {json.dumps(shown)} did not complete successfully: exit code: {end.status}",
                vertex=context.vertex,
                exit_code=end.status,
            )

    @staticmethod
    def _destinations(made: _Made) -> list[str]:
        return [*(str(one["destination"]) for one in made.mounts), "/etc/hosts", "/etc/resolv.conf"]

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
        for secret in self._op.secret_env:
            try:
                data = await context.with_session(partial(_secret, secret.id))
            except NotFoundError:
                if not secret.optional:
                    raise
                continue
            env.append(f"{secret.name}={data.decode('utf-8', 'surrogateescape')}")
        return env

    async def _outputs(self, made: _Made) -> list[Tree]:
        found = dict(made.passed)
        for number, (active, tree) in made.outputs.items():
            found[number] = tree.below(await active.commit(), active.parent)
        return [found[number] for number in sorted(found)]


async def _secret(id: str, session: Any) -> bytes:
    return await session.secret(id)


def _entry(destination: str, kind: str, source: str, options: Sequence[str]) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": source, "options": list(options)}


def _resolve(top: str, selector: str) -> str:
    """A path below ``top``, its links followed inside it. Blocking. Raises `NotFoundError`."""
    root = os.open(top, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with paths.opened(root, selector) as fd:
            return os.readlink(f"/proc/self/fd/{fd}")
    except OSError as exc:
        raise NotFoundError(f"{selector}: {exc.strerror}", subject=selector) from exc
    finally:
        os.close(root)


def _look(root: int, meta: ops.Meta, made: _Made, destinations: Sequence[str]) -> tuple[User, list[Stub]]:
    """What must be known of the root before: whom the process runs as, which mount points are missing. Makes the
    working directory.
    """
    user = users.resolve(Root(root), meta.user)
    if not made.readonly:
        os.close(paths.make_directories(root, meta.cwd or "/"))
    return user, find_stubs(root, destinations)
