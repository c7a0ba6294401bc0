"""The real containerd, out of the same chroot as `support.dockerd`, on directories of its own."""

import contextlib
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Generator
from pathlib import Path

from support.dockerd import ROOT

_START_SECONDS = 60
_STOP_SECONDS = 30


def missing() -> str:
    """Why there is no containerd here, or nothing."""
    if not (ROOT / "usr/bin/containerd").exists():
        return f"no containerd in {ROOT} (PEERS_ROOT)"
    if not (ROOT / "proc/self").exists():
        return f"{ROOT} (PEERS_ROOT) has no /proc mounted"
    return ""


class Containerd:
    """A running one. ``place`` lies in the chroot and is reachable from both sides."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._inside = Path("/") / place.relative_to(ROOT)
        self._socket = f"{self._inside}/s"

    def start(self) -> subprocess.Popen[bytes]:
        """Start it and wait until it answers."""
        (self.place / "config.toml").write_text(
            f'version = 3\nroot = "{self._inside}/root"\nstate = "{self._inside}/state"\n'
            f'[grpc]\naddress = "{self._socket}"\n'
        )
        log = self.place / "log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                ["chroot", str(ROOT), "containerd", "-c", f"{self._inside}/config.toml"],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_SECONDS
        while self._run("version").returncode:
            assert process.poll() is None, log.read_text()[-4000:]
            assert time.monotonic() < deadline, log.read_text()[-4000:]
            time.sleep(0.1)
        return process

    def ctr(self, *arguments: str) -> None:
        """Run its own client."""
        done = self._run(*arguments)
        assert done.returncode == 0, f"ctr {arguments}: {done.stderr.decode()}"

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        command = ["chroot", str(ROOT), "ctr", "--address", self._socket, *arguments]
        return subprocess.run(command, capture_output=True, check=False, timeout=90)

    @contextlib.contextmanager
    def mounted(self, layout: Path, tag: str, snapshotter: str = "overlayfs") -> Generator[Path]:
        """The tree that a snapshotter makes of an image of an OCI layout, read-only."""
        subprocess.run(["tar", "-C", layout, "-cf", self.place / "image.tar", "."], check=True)
        name = "example.org/it"
        words = ["--base-name", name, "--no-unpack", f"{self._inside}/image.tar"]
        self.ctr("images", "import", *words)
        (self.place / "mnt").mkdir()
        words = ["--snapshotter", snapshotter, f"{name}:{tag}", f"{self._inside}/mnt"]
        self.ctr("images", "mount", *words)
        try:
            yield self.place / "mnt"
        finally:
            subprocess.run(["umount", self.place / "mnt"], check=True)


@contextlib.contextmanager
def running_containerd() -> Generator[Containerd]:
    """One with nothing in it; nothing of it stays."""
    place = Path(tempfile.mkdtemp(prefix="lading-containerd-", dir=ROOT / "var/lib"))
    try:
        running = Containerd(place)
        process = running.start()
        try:
            yield running
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(_STOP_SECONDS)
    finally:
        shutil.rmtree(place, ignore_errors=True)
