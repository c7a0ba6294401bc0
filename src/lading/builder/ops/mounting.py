"""What is mounted into a process: trees, caches, secrets and agents of the client."""

import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from lading.builder.ops import agents, contents
from lading.builder.ops.files import paths
from lading.builder.ops.files.hashing import Selector
from lading.builder.ops.mutables import Mutable, Mutables, Sharing
from lading.builder.ops.processes import LENT, Processes, Stub, find_stubs, remove_stubs
from lading.builder.ops.trees import NOTHING, Active, Room, Tree, Trees
from lading.containers import users
from lading.containers.rootfs import Root
from lading.containers.users import User
from lading.core.mounts import Mount
from lading.core.session import Session
from lading.errors import InvalidArgumentError, LadingError, NotFoundError
from lading.formats.llb import ops
from lading.kit import aio

T = TypeVar("T")
CACHE_KIND: Final = "exec.cachemount"
_SHARING: Final = {
    ops.CacheSharing.SHARED: Sharing.SHARED,
    ops.CacheSharing.PRIVATE: Sharing.PRIVATE,
    ops.CacheSharing.LOCKED: Sharing.LOCKED,
}
_OPTIONS_LIMIT: Final = 3000


class Clients(Protocol):
    """Who lends secrets and agents; see `lading.builder.solver.operation.Context`."""

    def sessions(self) -> Sequence[Session]:
        """Their sessions, the oldest first."""
        ...

    async def with_session(self, call: Callable[[Session], Awaitable[T]]) -> T:
        """What ``call`` gives for the first session that can."""
        ...


@dataclass(slots=True)
class Made:
    """What was prepared for a process: runtime-spec ``mounts`` beside its root, which `Mounting` takes down again."""

    rootfs: list[Mount] = field(default_factory=list[Mount])
    readonly: bool = False
    mounts: list[Mapping[str, Any]] = field(default_factory=list[Mapping[str, Any]])
    outputs: dict[int, tuple[Active, Tree]] = field(default_factory=dict[int, tuple[Active, Tree]])
    passed: dict[int, Tree] = field(default_factory=dict[int, Tree])
    """Outputs that are their read-only inputs."""
    caches: dict[int, Mutable] = field(default_factory=dict[int, Mutable])
    """By the number of the mount."""

    @property
    def destinations(self) -> list[str]:
        """Where something will be mounted."""
        return [*(str(one["destination"]) for one in self.mounts), "/etc/hosts", "/etc/resolv.conf"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecTools:
    """What processes stand on."""

    trees: Trees
    contents: contents.Contents
    mutables: Mutables
    processes: Processes
    state: Path


class Mounting:
    """Makes the mounts of one process. ``name`` is told of its caches."""

    def __init__(self, mounts: Sequence[ops.Mount], name: str, tools: ExecTools, clients: Clients) -> None:
        self._mounts = mounts
        self._name = name
        self._tools = tools
        self._clients = clients

    async def prepare(self, stack: AsyncExitStack, inputs: Sequence[Tree]) -> Made:
        """Have everything there until ``stack`` is closed. Raises `InvalidArgumentError` if nothing is mounted at ``/``."""
        made = Made()
        private = (
            await stack.enter_async_context(
                agents.private_directory(self._tools.state / f"private-{os.urandom(8).hex()}")
            )
            if any(one.type in (ops.MountType.SECRET, ops.MountType.SSH) for one in self._mounts)
            else None
        )
        await self._take_caches(stack, made, inputs)
        for number, mount in enumerate(self._mounts):
            await self._mount(stack, made, mount, number, inputs, private)
        if not made.rootfs:
            raise InvalidArgumentError("a process has no mount at /")
        return made

    async def _mount(
        self,
        stack: AsyncExitStack,
        made: Made,
        mount: ops.Mount,
        number: int,
        inputs: Sequence[Tree],
        private: Path | None,
    ) -> None:
        tree = NOTHING if mount.input is None else inputs[mount.input]
        if mount.type is ops.MountType.BIND:
            await self._bind(stack, made, mount, tree)
        elif mount.type is ops.MountType.CACHE:
            await self._add(stack, made, mount, list(made.caches[number].mounts))
        elif mount.type is ops.MountType.TMPFS:
            options = ["nosuid", "nodev", "mode=1777"]
            if mount.tmpfs_size:
                options.append(f"size={mount.tmpfs_size}")
            made.mounts.append(_entry(mount.dest, "tmpfs", "tmpfs", options))
        else:
            assert private is not None
            await self._lend(stack, made, mount, private / str(number))

    async def _bind(self, stack: AsyncExitStack, made: Made, mount: ops.Mount, tree: Tree) -> None:
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

    async def _add(self, stack: AsyncExitStack, made: Made, mount: ops.Mount, shown: list[Mount]) -> None:
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

    async def _take_caches(self, stack: AsyncExitStack, made: Made, inputs: Sequence[Tree]) -> None:
        """Take all caches, in one order for everybody, so that no two processes wait for each other."""
        wanted: dict[str, list[int]] = {}
        for number, mount in enumerate(self._mounts):
            if mount.type is ops.MountType.CACHE:
                wanted.setdefault(await self._cache_name(mount, inputs), []).append(number)
        for name, numbers in sorted(wanted.items()):
            mount = self._mounts[numbers[0]]
            assert mount.cache is not None
            mutable = await self._tools.mutables.take(
                CACHE_KIND,
                name,
                sharing=_SHARING[mount.cache.sharing],
                description=f"cached mount {mount.dest} from exec {self._name}",
                seed=NOTHING if mount.input is None else inputs[mount.input],
            )
            stack.callback(self._tools.mutables.release, mutable)
            made.caches |= dict.fromkeys(numbers, mutable)

    async def _cache_name(self, mount: ops.Mount, inputs: Sequence[Tree]) -> str:
        """A cache is one by its ID and what it begins with: BuildKit's by the record of that, ours by the content of the part
        that is mounted, so that it outlives the same made once more.
        """
        if mount.cache is None:
            raise InvalidArgumentError(f"the cache mount at {mount.dest} has no options")
        seed = NOTHING if mount.input is None else inputs[mount.input]
        if seed.empty:
            return mount.cache.id
        selectors = [Selector(path=mount.selector, follow=True)] if paths.parts_of(mount.selector) else []
        return f"{mount.cache.id}@{await self._tools.contents.digest(selectors, seed)}"

    async def _lend(self, stack: AsyncExitStack, made: Made, mount: ops.Mount, path: Path) -> None:
        """A secret as a file, or an agent as a socket; nothing if it is optional and the client has none."""
        options = mount.secret or mount.ssh
        if options is None:
            raise InvalidArgumentError(f"the mount at {mount.dest} has no options")
        try:
            if mount.type is ops.MountType.SECRET:
                data = await self._clients.with_session(lambda session: session.secret(options.id))
                await aio.run(aio.DISK, agents.write_secret, path, data, options)
            elif await self._offered(options):
                session = self._clients.sessions()[0]
                await stack.enter_async_context(agents.agent_socket(path, session, options))
            else:
                return
        except NotFoundError as exc:
            if options.optional:
                return
            kind = "secret" if mount.type is ops.MountType.SECRET else "ssh agent"
            raise NotFoundError(f"{kind} {options.id}: not found: {exc.message}", subject=options.id) from exc
        made.mounts.append(_entry(mount.dest, "bind", str(path), LENT))

    async def _offered(self, options: ops.SecretOptions) -> bool:
        """Whether the client has an agent; one that need not be there is not, whatever the client says of it, as in BuildKit."""
        try:
            await self._clients.with_session(lambda session: session.check_agent(options.id))
        except LadingError:
            if not options.optional:
                raise
            return False
        return True


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


@asynccontextmanager
async def workplace(tools: ExecTools, made: Made) -> AsyncGenerator["Workplace"]:
    """Where the root of a process is looked into before, and tidied up after. Raises `FailedPreconditionError`."""
    if tools.processes.foreground is None:  # whatever runs the process mounts it by itself
        yield visited(tools, made)
        return
    async with tools.trees.room(made.rootfs) as room:
        yield Workplace(made, room.work, room)


def visited(tools: ExecTools, made: Made) -> "Workplace":
    """A root that is mounted for each visit alone."""
    return Workplace(made, partial(_visit, tools.trees, made.rootfs), None)


async def _visit(trees: Trees, mounts: Sequence[Mount], function: Callable[[int], Any]) -> Any:
    return await trees.work(mounts, (), lambda root, _: function(root))


class Workplace:
    """The root of one process; see `workplace`. ``room`` is where the process may be run."""

    def __init__(
        self, made: Made, visit: Callable[[Callable[[int], Any]], Awaitable[Any]], room: Room | None
    ) -> None:
        self._made = made
        self._visit = visit
        self.room = room

    async def look(self, *, user: str, cwd: str) -> tuple[User, list[Stub]]:
        """What must be known of a root before: whom the process runs as, which mount points are missing. Makes the
        working directory.
        """
        made = self._made

        def work(root: int) -> tuple[User, list[Stub]]:
            found = users.resolve(Root(root), user)
            if not made.readonly:
                os.close(paths.make_directories(root, cwd or "/"))
            return found, find_stubs(root, made.destinations)

        found: tuple[User, list[Stub]] = await self._visit(work)
        return found

    async def tidy(self, stubs: Sequence[Stub], *, recursive: bool) -> None:
        """Remove the mount points that were made for a process."""
        made = self._made
        if stubs and not made.readonly:
            await self._visit(lambda root: remove_stubs(root, stubs, made.destinations, recursive=recursive))


async def secret_environment(secrets: Sequence[ops.SecretEnv], clients: Clients) -> list[str]:
    """Secrets as ``NAME=value``. Raises `NotFoundError` for one that the client has not, unless it is optional."""
    env: list[str] = []
    for secret in secrets:
        try:
            data = await clients.with_session(partial(_secret, secret.id))
        except NotFoundError:
            if not secret.optional:
                raise
            continue
        env.append(f"{secret.name}={data.decode('utf-8', 'surrogateescape')}")
    return env


async def _secret(id: str, session: Session) -> bytes:
    return await session.secret(id)
