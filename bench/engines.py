"""The engines that are measured: Lading, and its peers in a chroot made of Debian's packages.

Each runs on a fresh ext4 file system of its own (a loop device with direct I/O), so that no engine pays for another's leftovers.
"""

import base64
import contextlib
import hashlib
import http.client
import http.server
import json
import os
import pathlib
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import BinaryIO, Self

SIZE = "40G"
_ROOT = pathlib.Path(__file__).parents[1]
SOURCES = _ROOT / "src"


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: pathlib.Path) -> None:
        super().__init__("localhost", timeout=600)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))


class Volume:
    """An ext4 file system, mounted on a directory: a fresh one, or one that is kept."""

    def __init__(self, directory: pathlib.Path, *, kept: bool = False) -> None:
        self.path = directory
        self._image = directory.with_suffix(".ext4")
        self._kept = kept
        self._loop = ""

    def __enter__(self) -> Self:
        self.path.mkdir(parents=True, exist_ok=True)
        if not self._image.exists():
            run("truncate", "-s", SIZE, str(self._image))
            run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(self._image))
        self._loop = run("losetup", "--find", "--show", "--direct-io=on", str(self._image)).strip()
        try:
            run("mount", self._loop, str(self.path))
        except RuntimeError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        unmount_below(self.path)
        subprocess.run(["losetup", "-d", self._loop], check=False)
        if not self._kept:
            self._image.unlink()
        self.path.rmdir()

    def used(self) -> int:
        """Bytes allocated."""
        stat = os.statvfs(self.path)
        return (stat.f_blocks - stat.f_bfree) * stat.f_frsize

    def flush(self) -> None:
        """Make everything durable, on this file system only."""
        subprocess.run(["sync", "-f", str(self.path)], check=True)


class Engine:
    """An engine that is driven by the docker client."""

    name = "engine"

    def __init__(self, volume: Volume, registry: str) -> None:
        self.volume = volume
        self.registry = registry
        self.started = 0.0
        """Seconds from the start of the daemon until it answered."""
        self.network: pathlib.Path | None = None
        """A network namespace to run in, with networks of its own; without one there is no bridge, only the host's network."""
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def environment(self) -> dict[str, str]:
        """For the docker client."""
        return os.environ | {
            "DOCKER_HOST": f"unix://{self.socket}",
            "DOCKER_CONFIG": str(self.volume.path / "client"),
        }

    @property
    def socket(self) -> pathlib.Path:
        return self.volume.path / "run/docker.sock"

    def start(self) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        for process in reversed(self._processes):
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            if process.poll() is None:
                process.kill()
                process.wait()
        self._processes.clear()

    def docker(self, *arguments: str) -> str:
        """Run the docker client; its output."""
        return run("docker", *arguments, env=self.environment)

    def pull(self, image: str) -> None:
        self.docker("pull", "-q", f"{self.registry}/{image}:latest")

    def push(self, image: str, to: str) -> None:
        """Push an image under another name, registry and all."""
        self.docker("tag", f"{self.registry}/{image}:latest", to)
        self.docker("push", "-q", to)

    def save(self, image: str, path: pathlib.Path) -> None:
        self.docker("save", "-o", str(path), f"{self.registry}/{image}:latest")

    def load(self, path: pathlib.Path) -> None:
        self.docker("load", "-q", "-i", str(path))

    tags_copies = True
    """Whether a push to another name leaves that name."""

    def container(self, image: str, name: str, script: str) -> None:
        """Run a script in a container that stays."""
        self.docker("run", "--name", name, "--network", "host", f"{self.registry}/{image}:latest", "/busybox", "sh", "-c", script)  # fmt: skip

    def shell(self, image: str, script: str) -> None:
        """Run a script in a container that goes."""
        self.docker("run", "--rm", "--network", "host", f"{self.registry}/{image}:latest", "/busybox", "sh", "-c", script)  # fmt: skip

    def diff(self, container: str) -> None:
        """List what a container has changed."""
        self.docker("diff", container)

    def commit(self, container: str, image: str) -> None:
        """Make an image of a container."""
        self.docker("commit", container, f"{self.registry}/{image}:latest")

    def discard(self, container: str) -> None:
        """Remove a container."""
        self.docker("rm", "-f", container)

    empty: tuple[str, ...] = ()
    """Hosts of registries that have nothing."""

    def collect(self) -> None:
        """Free what the removed images held, where removal has not done so before it returned."""

    def api(
        self,
        method: str,
        path: str,
        body: BinaryIO | bytes | None = None,
        kind: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        """One call of the Engine API, without the cost of a client; the body of the reply."""
        connection = _UnixConnection(self.socket)
        try:
            fields = {"Content-Type": kind} if kind else {}
            connection.request(method, path, body, fields | dict(headers or {}))
            reply = connection.getresponse()
            data = reply.read()
        finally:
            connection.close()
        if reply.status >= 300:
            raise RuntimeError(f"{self.name}: {method} {path}: {reply.status} {data[:500]!r}")
        return data

    has_api = True
    """Whether it serves the Engine API."""

    def api_pull(self, image: str) -> None:
        """`pull` without the cost of a client."""
        self._transfer(f"/images/create?fromImage={self.registry}/{image}&tag=latest")

    def api_push(self, name: str) -> None:
        """Push what has this name, with its tag, without the cost of a client."""
        repository, _, tag = name.rpartition(":")
        self._transfer(f"/images/{repository}/push?tag={tag}")

    def _transfer(self, path: str) -> None:
        said = self.api("POST", path, headers={"X-Registry-Auth": base64.b64encode(b"{}").decode()})
        if b'"error"' in said:
            raise RuntimeError(f"{self.name}: {path}: {said[-500:]!r}")

    def remove(self, image: str) -> None:
        self.docker("rmi", "-f", image if "/" in image else f"{self.registry}/{image}:latest")

    def images(self) -> None:
        self.docker("images")

    def tree(self) -> None:
        """The images with their platforms."""
        self.docker("images", "--tree")

    def usage(self) -> None:
        """What fills the disk, as ``docker system df`` shows it."""
        self.docker("system", "df")

    def run_true(self, image: str) -> None:
        self.docker("run", "--rm", "--network", "host", f"{self.registry}/{image}:latest", "/true")

    def peak_memory(self) -> int:
        """Largest resident size of the daemons, in bytes."""
        return sum(_status(p.pid, "VmHWM") for p in self._processes)

    def cpu_seconds(self) -> float:
        """Processor time of the daemons and the children that they waited for."""
        return sum(_cpu(p.pid) for p in self._processes)

    def idle_memory(self) -> int:
        """Resident size of the daemons now, in bytes."""
        return sum(_status(p.pid, "VmRSS") for p in self._processes)

    def restart(self) -> None:
        """End the daemon and start it again; its containers go on."""
        self.stop()
        self.start()

    _namespace = "/proc/self/ns/mnt"
    """The mount namespace of what serves containers."""
    marker = ""
    """What is in the command line of every process that serves containers."""

    def proportional_memory(self) -> int:
        """Bytes of the daemons and of all processes that serve containers, with shared pages divided among their users."""
        own = os.readlink(self._namespace)
        daemons = {p.pid for p in self._processes}
        found = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if pid in daemons or _serves(pid, self.marker, own)]  # fmt: skip
        return sum(_proportional(pid) for pid in found)

    def _spawn(self, log: str, *command: str, env: dict[str, str] | None = None) -> None:
        if self.network is not None:
            command = ("nsenter", f"--net={self.network}", *command)
        with open(self.volume.path / f"{log}.log", "ab") as out:
            self._processes.append(
                subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=env)
            )

    def _wait(self, ready: Callable[[], object]) -> None:
        """Until ``ready`` does not fail."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                ready()
            except (OSError, RuntimeError, http.client.HTTPException):
                time.sleep(0.005)
            else:
                return
        logs = "\n".join(p.read_text(errors="replace")[-2000:] for p in self.volume.path.glob("*.log"))
        raise RuntimeError(f"{self.name} did not come up:\n{logs}")


class Lading(Engine):
    """This project's daemon."""

    name = "lading"
    options: Sequence[str] = ()

    @property
    def marker(self) -> str:
        return str(self.volume.path)

    def start(self) -> None:
        root = self.volume.path
        (root / "run").mkdir(exist_ok=True)
        begun = time.perf_counter()
        self._spawn(
            "daemon", str(self._command), "daemon", "--data-root", str(root / "data"), "--exec-root", str(root / "run/exec"),
            "--pidfile", str(root / "run/pid"), "--host", f"unix://{self.socket}", "--insecure-registry", self.registry, *self.options,
            env=self._python,
        )  # fmt: skip
        self._wait(lambda: self.api("GET", "/_ping"))
        self.started = time.perf_counter() - begun

    def collect(self) -> None:
        run(str(self._command), "gc", env=self._python | {"DOCKER_HOST": f"unix://{self.socket}"})

    @property
    def _command(self) -> pathlib.Path:
        return _ROOT / ".venv/bin/lading"

    @property
    def _python(self) -> dict[str, str]:
        """This tree's sources, with compiled modules kept as an installed package has them."""
        kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        return kept | {"PYTHONPATH": str(_ROOT / "src")}


class LadingCompressed(Lading):
    """This project's daemon, keeping layers compressed."""

    name = "lading-compressed"

    def start(self) -> None:
        config = self.volume.path / "daemon.json"
        config.write_text('{"lading": {"layers-keep": "compressed"}}')
        self.options = ("--config-file", str(config))
        super().start()

    def wait_indexed(self) -> None:
        """Until all layers of 32 MiB or more have their seek index."""
        deadline = time.monotonic() + 300
        while any(
            path.stat().st_size >= 32 << 20 and not path.with_name("layer.seek").exists()
            for path in self._layers("layer.cache")
        ):
            if time.monotonic() > deadline:
                raise RuntimeError("layers were not indexed")
            time.sleep(0.05)

    def forget_indexes(self) -> None:
        """Have layers decoded whole, until they are indexed again."""
        for path in self._layers("layer.seek"):
            path.unlink()

    def decoded(self) -> int:
        """Bytes of layers that are there, besides their blobs."""
        paths = (*self._layers("layer.cache"), *self._layers("layer.segments"))
        return sum(path.stat().st_blocks * 512 for path in paths)

    def _layers(self, name: str) -> list[pathlib.Path]:
        return list(self.volume.path.glob(f"**/snapshots/erofs/*/snapshots/*/{name}"))


class Floor(Engine):
    """No engine: what a pull costs by C calls alone (floor.py)."""

    name = "floor"

    def start(self) -> None:
        pass

    def least(self, image: str) -> tuple[float, float]:
        """Wall and CPU seconds."""
        place = self.volume.path / "floor"
        place.mkdir()
        found = json.loads(
            run(sys.executable, str(_ROOT / "bench/floor.py"), self.registry, image, str(place))
        )
        shutil.rmtree(place)
        return found[0], found[1]


class Instant(Engine):
    """No engine: a server that says yes at once, so that what is left is the docker client."""

    name = "client-alone"

    def start(self) -> None:
        self.socket.parent.mkdir(exist_ok=True)
        self._server = socketserver.ThreadingUnixStreamServer(str(self.socket), _Yes)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Yes(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _reply(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(201 if self.path.partition("?")[0].endswith("/tag") else 200)
        for name, value in (("Api-Version", "1.51"), ("Content-Type", "application/json")):
            self.send_header(name, value)
        body = b"" if self.command == "HEAD" else b"[]" if self.command == "DELETE" else b"{}"
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_HEAD = do_GET = do_POST = do_DELETE = _reply  # noqa: N815 -- the names that the base class looks for

    def log_message(self, *_: object) -> None:
        pass


class Peer(Engine):
    """An engine in the chroot; its state is on the volume, which is bound into the chroot."""

    def __init__(self, volume: Volume, registry: str, chroot: pathlib.Path) -> None:
        super().__init__(volume, registry)
        self.chroot = chroot
        # Of this volume alone: several runs may share the chroot.
        self._inside = f"/bench-{hashlib.sha256(bytes(volume.path)).hexdigest()[:8]}"
        self._bind = chroot / self._inside[1:]
        self.marker = f"{self._inside}/run/"
        self._mounted: list[pathlib.Path] = []
        self._holder: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._enter()
        config = self.volume.path / "containerd.toml"
        config.write_text(
            f'version = 3\nroot = "{self._inside}/containerd"\nstate = "{self._inside}/run/containerd"\n'
            f'[grpc]\naddress = "{self._inside}/run/containerd.sock"\n'
        )
        begun = time.perf_counter()
        self._in_chroot("containerd", "containerd", "-c", f"{self._inside}/containerd.toml")
        self._wait(lambda: self.ctr("version"))
        self.started = time.perf_counter() - begun

    def _enter(self) -> None:
        """Make the volume visible in the chroot, and the chroot a machine."""
        self._bind.mkdir(exist_ok=True)
        for name in ("proc", "sys", "dev", "tmp", "run"):  # the daemons want a machine around them
            where = self.chroot / name
            if not os.path.ismount(where):
                kind = {"proc": ("-t", "proc"), "sys": ("--rbind",), "dev": ("--rbind",)}.get(
                    name, ("-t", "tmpfs")
                )
                run("mount", *kind, f"/{name}" if "--rbind" in kind else name, str(where))
                run("mount", "--make-rslave", str(where))
                self._mounted.append(where)
        (self.volume.path / "run").mkdir(exist_ok=True)
        run("mount", "--bind", str(self.volume.path), str(self._bind))
        # In a mere chroot runc's execs would see this machine's root: the daemons get a mount namespace whose root it is.
        script = 'mount --rbind "$1" "$1" && cd "$1" && pivot_root . mnt && umount -l /mnt && echo && exec sleep infinity'
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", script, "sh", str(self.chroot)], stdout=subprocess.PIPE
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != b"\n":
            raise RuntimeError(f"{self.chroot} cannot be made the root of a mount namespace")

    def stop(self) -> None:
        super().stop()
        if self._holder is not None:
            self._holder.kill()
            self._holder.wait()
        unmount_below(self._bind)
        with contextlib.suppress(OSError):
            self._bind.rmdir()
        for where in reversed(self._mounted):
            unmount_below(where)
        self._mounted.clear()

    def ctr(self, *arguments: str) -> str:
        """Run containerd's own client."""
        return run(
            "nsenter",
            f"--mount={self._namespace}",
            "ctr",
            "-a",
            f"{self._inside}/run/containerd.sock",
            *arguments,
        )

    def _in_chroot(self, log: str, *command: str) -> None:
        self._spawn(log, "nsenter", f"--mount={self._namespace}", *command)

    @property
    def _namespace(self) -> str:
        assert self._holder is not None
        return f"/proc/{self._holder.pid}/ns/mnt"


class Docker(Peer):
    """Docker Engine 28 with the containerd image store."""

    name = "docker-containerd-store"
    containerd_store = True

    def restart(self) -> None:
        """Only dockerd: containerd serves its containers meanwhile."""
        daemon = self._processes.pop()
        daemon.terminate()
        daemon.wait()
        self.started = 0.0
        self._start_docker()

    def start(self) -> None:
        super().start()
        self._start_docker()

    def _config(self) -> dict[str, object]:
        config: dict[str, object] = {
            "features": {"containerd-snapshotter": self.containerd_store},
            "insecure-registries": [self.registry],
            "live-restore": True,
        }
        return config | (
            {"bridge": "none", "iptables": False, "ip6tables": False} if self.network is None else {}
        )

    def _start_docker(self) -> None:
        (self.volume.path / "daemon.json").write_text(json.dumps(self._config()))
        begun, at = time.perf_counter(), self._inside
        self._in_chroot(
            "dockerd", "dockerd", "--config-file", f"{at}/daemon.json", "--data-root", f"{at}/docker", "--exec-root", f"{at}/run/docker",
            "--pidfile", f"{at}/run/docker.pid", "-H", f"unix://{at}/run/docker.sock", "--containerd", f"{at}/run/containerd.sock",
        )  # fmt: skip
        self._wait(lambda: self.api("GET", "/_ping"))
        self.started += time.perf_counter() - begun


class DockerSameRunc(Docker):
    """The same Docker Engine with this machine's runc instead of its own newer one: what differs then is the engine."""

    name = "docker-same-runc"

    def _start_docker(self) -> None:
        shutil.copy(shutil.which("runc") or "", self.volume.path / "runc")
        super()._start_docker()

    def _config(self) -> dict[str, object]:
        return super()._config() | {
            "runtimes": {"same": {"path": f"{self._inside}/runc"}},
            "default-runtime": "same",
        }


class DockerClassic(Docker):
    """Docker Engine 28 with the classic overlay2 store."""

    name = "docker-classic"
    containerd_store = False


class Containerd(Peer):
    """containerd 2.1 by itself, driven by ctr."""

    name = "containerd-overlayfs"
    snapshotter = "overlayfs"
    tags_copies = False
    has_api = False

    def pull(self, image: str) -> None:
        # The transfer service takes its snapshotter from the daemon's configuration; --local takes it from here.
        self.ctr(
            "images",
            "pull",
            "--plain-http",
            "--local",
            "--snapshotter",
            self.snapshotter,
            f"{self.registry}/{image}:latest",
        )

    def push(self, image: str, to: str) -> None:
        self.ctr(
            "images",
            "push",
            "--plain-http",
            to,
            f"{self.registry}/{image}:latest",
        )

    def save(self, image: str, path: pathlib.Path) -> None:
        self.ctr("images", "export", self._visible(path), f"{self.registry}/{image}:latest")

    def load(self, path: pathlib.Path) -> None:
        self.ctr("images", "import", "--local", "--snapshotter", self.snapshotter, self._visible(path))

    def remove(self, image: str) -> None:
        self.ctr("images", "rm", "--sync", f"{self.registry}/{image}:latest")

    def images(self) -> None:
        self.ctr("images", "ls", "-q")

    def run_true(self, image: str) -> None:
        self.ctr(
            "run",
            "--rm",
            "--snapshotter",
            self.snapshotter,
            f"{self.registry}/{image}:latest",
            f"bench-{time.monotonic_ns()}",
            "/true",
        )

    def shell(self, image: str, script: str) -> None:
        self.ctr("run", "--rm", "--snapshotter", self.snapshotter, f"{self.registry}/{image}:latest", f"bench-{time.monotonic_ns()}", "/busybox", "sh", "-c", script)  # fmt: skip

    def container(self, image: str, name: str, script: str) -> None:
        del image, name, script
        raise RuntimeError("ctr has no commit and no diff of a container")

    def _visible(self, path: pathlib.Path) -> str:
        return f"{self._inside}/{path.relative_to(self.volume.path)}"


class ContainerdErofs(Containerd):
    """containerd 2.1 with its own erofs snapshotter."""

    name = "containerd-erofs"
    snapshotter = "erofs"


class Podman(Peer):
    """podman 5, which has no daemon."""

    name = "podman"
    has_api = False

    def __init__(self, volume: Volume, registry: str, chroot: pathlib.Path) -> None:
        super().__init__(volume, registry, chroot)
        self._used = 0.0

    def start(self) -> None:
        self._enter()

    def docker(self, *arguments: str) -> str:
        before = os.times()
        try:
            # crun refuses machines with cgroup v1 and v2 side by side.
            return run(
                "chroot", str(self.chroot), "podman", "--root", f"{self._inside}/podman", "--runroot", f"{self._inside}/run/podman", "--storage-driver", "overlay",
                "--runtime", "runc", "--cgroup-manager", "cgroupfs", *arguments,
            )  # fmt: skip
        finally:
            after = os.times()
            self._used += (
                after.children_user + after.children_system - before.children_user - before.children_system
            )

    def cpu_seconds(self) -> float:
        return self._used

    def pull(self, image: str) -> None:
        self.docker("pull", "-q", "--tls-verify=false", f"{self.registry}/{image}:latest")

    def push(self, image: str, to: str) -> None:
        self.docker("tag", f"{self.registry}/{image}:latest", to)
        self.docker("push", "-q", "--tls-verify=false", to)

    def save(self, image: str, path: pathlib.Path) -> None:
        self.docker(
            "save",
            "-q",
            "-o",
            f"{self._inside}/{path.relative_to(self.volume.path)}",
            f"{self.registry}/{image}:latest",
        )

    def load(self, path: pathlib.Path) -> None:
        self.docker("load", "-q", "-i", f"{self._inside}/{path.relative_to(self.volume.path)}")


def run(*command: str, env: dict[str, str] | None = None) -> str:
    """Run to the end; standard output. A failure shows what the command said."""
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr[-2000:]}")
    return done.stdout


def available(chroot: pathlib.Path) -> Sequence[type[Peer]]:
    """The peers that this machine has."""
    if not (chroot / "usr/sbin/dockerd").exists() and not (chroot / "usr/bin/dockerd").exists():
        return ()
    return (Docker, DockerClassic, Containerd, ContainerdErofs, Podman)


@contextlib.contextmanager
def running(engine: Engine) -> Iterator[Engine]:
    """An engine between its start and its end."""
    try:
        engine.start()
        yield engine
    finally:
        engine.stop()


def unmount_below(path: pathlib.Path) -> None:
    """Unmount everything at a directory and below it."""
    for mount in reversed(_mounts_below(path)):
        subprocess.run(["umount", "-l", mount], check=False)


def _mounts_below(path: pathlib.Path) -> list[str]:
    prefix = str(path)
    with open("/proc/self/mounts") as mounts:
        points = [line.split()[1] for line in mounts]
    return [p for p in points if p == prefix or p.startswith(prefix + "/")]


def _serves(pid: int, marker: str, namespace: str) -> bool:
    """Whether a process of this mount namespace has the marker in its command line."""
    try:
        return (
            marker.encode() in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
            and os.readlink(f"/proc/{pid}/ns/mnt") == namespace
        )
    except (FileNotFoundError, ProcessLookupError):
        return False


def _proportional(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup") as facts:
            return next((int(line.split()[1]) * 1024 for line in facts if line.startswith("Pss:")), 0)
    except (FileNotFoundError, ProcessLookupError):
        return 0


def _status(pid: int, key: str) -> int:
    try:
        with open(f"/proc/{pid}/status") as status:
            return next((int(line.split()[1]) * 1024 for line in status if line.startswith(key)), 0)
    except FileNotFoundError:
        return 0


def _cpu(pid: int) -> float:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0.0
    return sum(int(f) for f in fields[11:15]) / os.sysconf("SC_CLK_TCK")
