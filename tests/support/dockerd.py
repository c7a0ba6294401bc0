"""The real dockerd with its classic store, out of a chroot of Debian's packages (PEERS_ROOT), on data-roots of its own."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

ROOT = Path(os.environ.get("PEERS_ROOT", "/var/lib/lading-peers"))
_START_SECONDS = 60
_STOP_SECONDS = 30


def missing() -> str:
    """Why there is no dockerd here, or nothing."""
    if not (ROOT / "usr/sbin/dockerd").exists():
        return f"no dockerd in {ROOT} (PEERS_ROOT)"
    if not (ROOT / "proc/self").exists():
        return f"{ROOT} (PEERS_ROOT) has no /proc mounted"
    return ""


class Dockerd:
    """One dockerd on ``data_root``, which lies in the chroot and is reachable from both sides."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.data_root = place / "data"
        self.process: subprocess.Popen[bytes] | None = None
        self.log = place / "dockerd.log"

    @property
    def host(self) -> str:
        """As DOCKER_HOST has it, from outside."""
        return f"unix://{self.place}/s"

    def start(self) -> None:
        """Start it and wait until it answers."""
        (self.place / "daemon.json").write_text("{}")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + _START_SECONDS
        while self.run("version", check=False).returncode:
            assert self.process.poll() is None, self.log.read_text()[-4000:]
            assert time.monotonic() < deadline, self.log.read_text()[-4000:]
            time.sleep(0.1)

    @property
    def inside(self) -> Path:
        """Its place as the chroot has it."""
        return Path("/") / self.place.relative_to(ROOT)

    def command(self) -> list[str]:
        """What is started."""
        return [
            *("chroot", str(ROOT), *self._arguments()),
            *("--feature", "containerd-snapshotter=false", "--storage-driver", "overlay2"),
            *("--bridge", "none", "--iptables=false", "--ip6tables=false"),
        ]

    def _arguments(self) -> list[str]:
        inside = self.inside
        return [
            *("dockerd", "--config-file", f"{inside}/daemon.json", "--host", f"unix://{inside}/s"),
            *("--data-root", f"{inside}/data", "--exec-root", f"{inside}/x", "--pidfile", f"{inside}/pid"),
        ]

    def stop(self) -> None:
        """End it."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(_STOP_SECONDS)

    def run(
        self, *arguments: str, check: bool = True, data: bytes | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Run ``docker``."""
        done = subprocess.run(
            ["docker", "--host", self.host, *arguments],
            capture_output=True,
            check=False,
            input=data,
            timeout=90,
        )
        if check:
            assert done.returncode == 0, f"docker {arguments}: {done.stderr.decode()}"
        return done

    def docker(self, *arguments: str) -> str:
        """Run ``docker``; what it printed."""
        return self.run(*arguments).stdout.decode()


class ContainerdDockerd(Dockerd):
    """With the containerd store."""

    def command(self) -> list[str]:
        """What is started."""
        return [
            *("chroot", str(ROOT), *self._arguments(), "--feature", "containerd-snapshotter=true"),
            *("--bridge", "none", "--iptables=false", "--ip6tables=false"),
        ]


class BuildingDockerd(Dockerd):
    """With the containerd store, and a network of its own (in a namespace) that builds can run in."""

    def command(self) -> list[str]:
        """What is started."""
        daemon = ["chroot", str(ROOT), *self._arguments(), "--feature", "containerd-snapshotter=true"]
        return ["unshare", "--net", "sh", "-c", 'ip link set lo up; exec "$@"', "sh", *daemon]


def images(host: str) -> list[dict[str, Any]]:
    """Every image as the API lists it, in a comparable form."""
    done = subprocess.run(
        ["curl", "-sS", "--unix-socket", host.removeprefix("unix://"), "http://d/v1.50/images/json?all=1"],
        capture_output=True,
        check=True,
    )
    rows = json.loads(done.stdout)
    for row in rows:
        row["RepoTags"] = sorted(row["RepoTags"])
        row["RepoDigests"] = sorted(row["RepoDigests"] or [])
        row["Labels"] = row["Labels"] or None
    return sorted(rows, key=lambda row: row["Id"])


@contextlib.contextmanager
def classic_dockerd(kind: type[Dockerd] = Dockerd) -> Generator[Dockerd]:
    """A dockerd, not started, with an empty data-root; nothing of it stays."""
    place = Path(tempfile.mkdtemp(prefix="lading-classic-", dir=ROOT / "var/lib"))
    daemon = kind(place)
    try:
        yield daemon
    finally:
        daemon.stop()
        mounts = [line.split(" ")[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        for mount in reversed([each for each in mounts if each.startswith(f"{place}/")]):
            subprocess.run(["umount", "-l", mount], check=False, capture_output=True)
        shutil.rmtree(place, ignore_errors=True)
