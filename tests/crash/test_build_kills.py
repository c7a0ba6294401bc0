"""Kill -9 of the daemon in the middle of builds: it is ready again, what was acknowledged is there, the cache is whole, and
nothing stays behind.
"""

import contextlib
import os
import random
import shutil
import subprocess
import time
from pathlib import Path

import apsw
import pytest
from support.buildx import give_plugins
from support.daemon import Daemon, is_idle_shim, left_mounts, left_processes, running_daemon
from support.images import BUSYBOX

pytestmark = [pytest.mark.crash, pytest.mark.e2e]
GONE_SECONDS = 30
"""A bound that only a leak breaks."""
DOCKERFILE = """\
FROM scratch AS base
COPY busybox /bin/busybox
RUN ["/bin/busybox", "sh", "-c", "/bin/busybox --install /bin"]
ENV PATH=/bin

FROM base AS left
COPY stamp /stamp
RUN --mount=type=cache,target=/cache echo x >> /cache/x && /bin/cat /stamp > /left && /bin/usleep 100000

FROM base AS right
COPY files /files
COPY stamp /stamp
RUN --mount=type=secret,id=word /bin/ls /files | /bin/wc -l > /right && /bin/usleep 100000

FROM base
COPY --from=left /left /left
COPY --from=right /right /right
RUN /bin/cat /left /right > /said
CMD ["/bin/cat", "/said"]
"""
FILES = 200


class Harness:
    """A daemon, a context whose stamp changes, and the images that were acknowledged with what they say."""

    def __init__(self, daemon: Daemon, place: Path, seed: int) -> None:
        self.daemon = daemon
        self.random = random.Random(seed)
        self.context = place / "context"
        self.context.mkdir()
        shutil.copy(str(BUSYBOX), self.context / "busybox")
        (self.context / "files").mkdir()
        for number in range(FILES):
            (self.context / "files" / str(number)).write_text("x" * number)
        (self.context / "Dockerfile").write_text(DOCKERFILE)
        (place / "word").write_text(f"secret-{os.urandom(8).hex()}")
        self.secret = place / "word"
        self.made: dict[str, str] = {}
        give_plugins(daemon)

    def start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        words = ["docker", "build", "--progress=plain", "-t", name, "--secret", f"id=word,src={self.secret}"]
        return subprocess.Popen(
            [*words, *arguments, str(self.context)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            env={
                **os.environ,
                "DOCKER_HOST": self.daemon.host,
                "DOCKER_CONFIG": str(self.daemon.directory / "docker-config"),
            },
        )

    def build(self, name: str) -> str:
        """Build to the end; what the client says."""
        done = self.start(name)
        _, said = done.communicate(timeout=100)
        assert done.returncode == 0, said.decode() + self.daemon.tail()
        return said.decode()

    def said(self, name: str) -> str:
        return self.daemon.docker("run", "--rm", "--network", "none", name)

    def stamp(self, text: str) -> str:
        """What an image of this stamp says."""
        (self.context / "stamp").write_text(f"{text}\n")
        return f"{text}\n{FILES}\n"

    def round(self, number: int) -> None:
        """A build that is cut off, or not; then the daemon comes back."""
        name = f"round{number}"
        expected = self.stamp(f"{number} {self.random.random()}") if self.random.random() < 0.7 else ""
        client = self.start(name)
        with contextlib.suppress(subprocess.TimeoutExpired):
            client.wait(self.random.random() * 2.5)
        acknowledged = client.poll() == 0
        self.daemon.kill()
        client.communicate(timeout=60)
        if acknowledged and expected:
            self.made[name] = expected
        self.daemon.start()
        self.wait_clean()
        known = set(self.daemon.docker("image", "ls", "--format", "{{.Repository}}").split())
        assert set(self.made) <= known, "an image was acknowledged and is lost"
        if self.made and self.random.random() < 0.3:
            chosen = self.random.choice(sorted(self.made))
            assert self.said(chosen) == self.made[chosen]

    def leftovers(self) -> list[object]:
        """Processes, mounts and leases of builds; the keeper of containers' output is not of a build."""
        others = {
            each: _command(each)
            for each in left_processes(self.daemon.exec_root)
            if self.daemon.process is None or each != self.daemon.process.pid
        }
        shims = [
            f"{pid} {command}"
            for pid, command in others.items()
            if "containers/keeper.py" not in command and not is_idle_shim(pid)
        ]
        mounts = [
            each for each in left_mounts(self.daemon.directory) if each.startswith(str(self.daemon.exec_root))
        ]
        return [*shims, *mounts, *self.leases()]

    def leases(self) -> list[str]:
        connection = apsw.Connection(
            str(self.daemon.data_root / "lading.db"), flags=apsw.SQLITE_OPEN_READONLY
        )
        try:
            return [
                str(row[0])
                for row in connection.execute("SELECT id FROM lease WHERE labels LIKE '%lading.builder%'")
            ]
        finally:
            connection.close()

    def wait_clean(self) -> None:
        """What the dead daemon's builds left goes by itself, soon after the next one is ready."""
        deadline = time.monotonic() + GONE_SECONDS
        while left := self.leftovers():
            assert time.monotonic() < deadline, (left, self.daemon.tail())
            time.sleep(0.05)

    def finish(self) -> None:
        """The cache is whole and used; when all is removed nothing is left, and the secret was never there."""
        for name, expected in sorted(self.made.items()):
            assert self.said(name) == expected
        expected = self.stamp("last")
        self.build("last")
        assert self.said("last") == expected
        again = self.build("again")
        assert again.count(" CACHED\n") == 10, again
        assert self.said("again") == expected
        fsck = self.daemon.lading("fsck")
        assert fsck.returncode == 0, fsck.stdout + fsck.stderr
        word = self.secret.read_text()
        found = subprocess.run(
            ["grep", "-rlaF", word, str(self.daemon.data_root), str(self.daemon.log)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert found.stdout == ""
        self.daemon.docker("buildx", "history", "rm", "--all")
        self.daemon.docker("builder", "prune", "-af")
        ids = self.daemon.docker("image", "ls", "-aq", "--no-trunc").split()
        self.daemon.docker("rmi", "-f", *dict.fromkeys(ids))
        collected = self.daemon.lading("gc")
        assert collected.returncode == 0, collected.stdout + collected.stderr
        left = [each for each in (self.daemon.data_root / "content").rglob("*") if each.is_file()]
        assert left == [], "\n".join(self.daemon.lading("why", f"sha256:{p.name}").stdout for p in left)
        assert list((self.daemon.data_root / "snapshots").glob("*/*/snapshots/*")) == []
        self.daemon.stop()
        assert left_processes(self.daemon.exec_root) == []
        assert left_mounts(self.daemon.directory) == []


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return "gone"


def run(rounds: int, place: Path, seed: int) -> None:
    with running_daemon() as daemon:
        harness = Harness(daemon, place, seed)
        for number in range(rounds):
            harness.round(number)
        harness.finish()
        print(f"{rounds} kills, {len(harness.made)} builds acknowledged")


@pytest.mark.timeout(300)
def test_kills_in_builds_leave_nothing(tmp_path: Path) -> None:
    run(5, tmp_path, seed=7)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_forty_kills_in_builds_leave_nothing(tmp_path: Path) -> None:
    run(40, tmp_path, seed=random.randrange(10**9))
