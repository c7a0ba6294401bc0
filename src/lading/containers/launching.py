"""What a run needs beside its process: gathered for a start, found again after the daemon was away, and let go after the end.

That is its streams, the mounts on the host, the networks and volumes, and the spec, from which the runtime makes the task.
"""

import contextlib
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Final

import anyio
import msgspec

from lading.containers import binds, imagemounts, joining, links, logdriver, rootfs, runs, spec, users
from lading.containers.binds import Bind
from lading.containers.directories import Directories
from lading.containers.environment import Environment
from lading.containers.hostfiles import HostFiles
from lading.containers.hostmounts import HostMounts
from lading.containers.journal import Sink
from lading.containers.keeper import Keeper
from lading.containers.model import Container
from lading.containers.namespaces import Joined
from lading.containers.networking import Joint, Networking
from lading.containers.request import LogConfig
from lading.containers.runs import Run
from lading.containers.volumeholding import VolumeHolding
from lading.core.mounts import Mount
from lading.core.networks import BRIDGE
from lading.core.runtime import Task
from lading.core.snapshots import SnapshotKey
from lading.errors import LadingError
from lading.kit import aio
from lading.kit.tasks import task_group

_KERNEL_PLACES: Final = ("/proc", "/sys", "/dev")
_PROCESS_FILE: Final = "process.json"
"""In the directory of the run: its runtime-spec process, for execs of a later daemon."""


class Launcher:
    """Launches the runs of all containers. ``find`` gives the container of a name or ID.

    The caller holds the container's lock, or knows in another way that nobody else begins or ends a run of it.
    """

    def __init__(
        self,
        environment: Environment,
        directories: Directories,
        files: HostFiles,
        host_mounts: HostMounts,
        networking: Networking,
        holding: VolumeHolding,
        find: Callable[[str], Container],
    ) -> None:
        self._env = environment
        self._directories = directories
        self._files = files
        self._host_mounts = host_mounts
        self._networking = networking
        self._holding = holding
        self._find = find
        self._keeper = Keeper(environment.state / "keeper.sock")
        self._runs: dict[str, Run] = {}
        self._processes: dict[str, dict[str, Any]] = {}

    def run_of(self, container: Container) -> Run | None:
        """The streams of its present run."""
        return self._runs.get(container.id)

    def process_of(self, container: Container) -> dict[str, Any] | None:
        """The runtime-spec process of its present run, on which execs are based."""
        return self._processes.get(container.id)

    async def warm(self) -> None:
        """Have ready what the first start needs. A hint; what fails here is said there."""
        with contextlib.suppress(OSError):
            await aio.run(aio.DISK, self._keeper.connect)
        await self._env.runtime.warm(self._env.runtimes.get("", ""))

    def close(self) -> None:
        """Close what is open when the daemon leaves; containers go on. Blocking."""
        for run in self._runs.values():
            run.close()
        self._keeper.close()

    # Start.

    async def launch(self, container: Container) -> tuple[Task, Run]:
        """Make its task, with the network that takes as long to make made meanwhile. The caller starts it.

        Raises `LadingError` or `OSError`; what was gathered until then waits for `abandon`.
        """
        await self._drop_host_mounts(container)
        user = await self._user_namespace(container)
        entered = await self._networking.enter(container, user)
        connected = anyio.Event()
        made: list[Task] = []

        async def join_networks() -> None:
            joint = await self._networking.join(container, entered)
            await aio.run(aio.DISK, self._files.write, container, joint)
            connected.set()

        try:
            async with task_group() as group:
                group.start_soon(join_networks)
                return await self._create_in(container, user, entered, connected, made)
        except BaseException:
            with anyio.CancelScope(shield=True), contextlib.suppress(LadingError):
                for task in made:
                    await task.delete()
            raise

    async def _user_namespace(self, container: Container) -> str:
        """The path of its own, or of the one that goes with the namespaces that it joins; empty for the machine's."""
        remapping = self._env.remapping_of(container.host)
        if remapping is None:
            return ""
        if other := joining.only_other(container, self._find, remapping):
            return f"/proc/{other.state.pid}/ns/user"
        return await aio.run(aio.DISK, self._host_mounts.make_namespace, container.id, remapping)

    async def _create_in(
        self, container: Container, user: str, entered: Joint, connected: anyio.Event, made: list[Task]
    ) -> tuple[Task, Run]:
        env = self._env
        remapping = env.remapping_of(container.host)
        key = SnapshotKey(container.record.snapshot_key)
        mounts = await env.root_mounts(key, container.document.manifest)
        joined = await joining.join(container, self._find, self._host_mounts, remapping)
        images = await imagemounts.mount(
            env, self._host_mounts, container.id, container.images, container.document.images, remapping
        )
        held = await self._holding.join(container)
        run = self._runs[container.id] = await self._begin_run(container)
        plan = await aio.run(
            aio.DISK,
            self._prepare,
            container,
            mounts,
            joined.with_network(entered.path).with_user(user),
            [*images, *held],
            entered,
        )
        self._processes[container.id] = plan["process"]
        process_file = self._directories.of_run(container) / _PROCESS_FILE
        await aio.run(aio.DISK, process_file.write_bytes, msgspec.json.encode(plan["process"]))
        if any(name.startswith("net.") for name in container.host.sysctls or ()):
            await connected.wait()  # they are of interfaces, and the last word on what the network sets
        runtime = env.runtimes.get(container.host.runtime, container.host.runtime)
        if remapping is not None:
            mounts = await aio.run(aio.DISK, self._host_mounts.make_root, container.id, mounts, remapping)
        task = await env.runtime.create(
            container.id,
            runtime=runtime,
            spec=plan,
            rootfs=mounts,
            stdio=run.stdio,
            options=remapping.stream_options if remapping else None,
        )
        made.append(task)
        return task, run

    async def _begin_run(self, container: Container) -> Run:
        return await aio.run(
            aio.DISK,
            runs.begin,
            self._directories.of_run(container),
            self._keeper,
            container.output,
            stdin=container.config.open_stdin,
            terminal=container.config.tty,
            log=self._directories.log(container),
            sink=_sink(container),
        )

    def _prepare(
        self,
        container: Container,
        mounts: list[Mount],
        joined: Joined,
        images: list[Bind],
        joint: Joint,
    ) -> dict[str, Any]:
        """Everything about the spec that needs files; blocking."""
        document, host = container.document, container.host
        directory = self._directories.make(container)
        remapping = self._env.remapping_of(host)
        for bind in container.binds:
            binds.prepare(bind, self._env.owner_of(host))
        user = self._look_into(container, mounts, directory / "rootfs")
        return spec.build(
            spec.Plan(
                id=container.id,
                config=container.config,
                host=host,
                args=[document.path, *document.args],
                env=spec.merge_env(self._link_variables(container), document.env),
                cwd=document.working_dir or "/",
                user=user,
                hostname=joint.files_of.document.hostname if joint.files_of else document.hostname,
                binds=[*container.binds, *images],
                tmpfs=container.tmpfs,
                joined=joined,
                init=self._env.init_path if host.init and host.pid_mode in ("", "private") else "",
                files=self._files.reserve(container, joint),
                ids=remapping.ids if remapping else None,
                cgroup_v2=self._env.cgroup_v2,
                cgroup_parent=self._env.cgroup_parent,
            )
        )

    def _look_into(self, container: Container, mounts: list[Mount], scratch: Path) -> users.User:
        """Find its user in its root file system, and make the working directory there; ``scratch`` is where it is mounted."""
        document, host = container.document, container.host
        scratch.mkdir(exist_ok=True, mode=0o700)
        cwd = document.working_dir or "/"

        def look(root: rootfs.Root) -> users.User:
            root.check_plain(_KERNEL_PLACES)
            user = users.resolve(root, document.user, host.group_add or ())
            if not host.readonly_rootfs or cwd != "/":
                root.make_directory(cwd)
            return user

        return rootfs.inside(mounts, scratch, look)

    def _link_variables(self, container: Container) -> list[str]:
        linked = [
            (link, other, self._networking.address_in(other, BRIDGE))
            for link, other in links.running(container, self._find)
        ]
        return links.environment(container, linked)

    # After the daemon was away.

    async def resume(self, container: Container) -> Run | None:
        """Take up the streams of a run that an earlier daemon launched; the caller pumps them. ``None`` if they are gone."""
        directory = self._directories.of_run(container)
        log = self._directories.log(container)
        try:
            run = await aio.run(
                aio.DISK,
                runs.resume,
                directory,
                container.output,
                stdin=container.config.open_stdin,
                terminal=container.config.tty,
                log=log,
                sink=_sink(container),
            )
        except OSError:
            return None  # after a reboot there is nothing to resume
        self._runs[container.id] = run
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            data = await aio.run(aio.DISK, (directory / _PROCESS_FILE).read_bytes)
            self._processes[container.id] = msgspec.json.decode(data, type=dict[str, Any])
        return run

    async def sweep(self, running: Collection[str]) -> None:
        """Take away what is mounted on the host for containers that do not run."""
        await aio.run(aio.DISK, self._host_mounts.sweep, running)

    # End.

    async def abandon(self, container: Container) -> None:
        """Let go of everything that was gathered for a start that failed."""
        await self.end_streams(container)
        await self._drop_host_mounts(container)
        await self.leave(container)

    async def end_streams(self, container: Container) -> None:
        """Its streams, and what was mounted for the run, of which nothing is left. Idempotent."""
        self._processes.pop(container.id, None)
        run = self._runs.pop(container.id, None)
        if run is not None:
            await run.end(self._keeper)
            await self._drop_host_mounts(container)

    async def leave(self, container: Container) -> None:
        """Networks and volumes of a run that is over. Idempotent."""
        await self._networking.leave(container)
        await self._holding.leave(container)

    async def _drop_host_mounts(self, container: Container) -> None:
        parts = any(each.subpath for each in container.document.volumes)
        mapped = self._env.remapping_of(container.host) is not None
        if container.images or parts or mapped or container.host.ipc_mode == "shareable":
            await aio.run(aio.DISK, self._host_mounts.drop, container.id)


def _sink(container: Container) -> Sink | None:
    """Where the messages of a run go besides the log; a new one for each run."""
    config = container.host.log_config or LogConfig()
    return logdriver.sink(config.type, config.config or {}, container.log_subject())
