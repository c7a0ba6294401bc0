"""A full disk, a registry that stalls, a disk that cannot be written: clear errors, and the daemon goes on."""

import contextlib
import fcntl
import json
import os
import random
import struct
import subprocess
import threading
import time
from collections.abc import Generator
from pathlib import Path

import pytest
from support.daemon import Daemon, running_daemon
from support.hostile import Shelf
from support.images import File, busybox_layer, layer_tar

from lading.testing.registry import FakeRegistry, Fault

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts file systems"),
]
MIB = 1 << 20
SHUTDOWN, NO_LOG_FLUSH = 0x8004587D, 2
"""EXT4_IOC_SHUTDOWN: the file system answers EIO from now on."""


@contextlib.contextmanager
def mounted(target: Path, kind: str, size: int, *options: str) -> Generator[None]:
    """A file system of ``size`` bytes at ``target``."""
    target.mkdir(parents=True, exist_ok=True)
    words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(target)]
    if kind == "ext4":
        image = target.with_suffix(".ext4")
        with image.open("wb") as file:
            file.truncate(size)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
        words = ["mount", "-o", "loop", str(image), str(target)]
    subprocess.run(words, check=True)
    try:
        yield
    finally:
        unmount(target)


def unmount(target: Path) -> None:
    """End a mount; a process that a test beside this one forks can hold its file system for a moment."""
    deadline = time.monotonic() + 20
    while subprocess.run(["umount", str(target)], check=time.monotonic() > deadline).returncode:
        time.sleep(0.1)


@contextlib.contextmanager
def daemon_on(kind: str, size: int, directory: Path, *arguments: str) -> Generator[Daemon]:
    """A daemon whose data root is a small file system of its own."""
    place = directory / "disk"
    with mounted(place, kind, size), running_daemon(*arguments) as daemon:
        daemon.stop()
        daemon.data_root = place / "data"
        daemon.start()
        yield daemon


def fill(path: Path) -> None:
    """Leave not one free block."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        for size in (MIB, 4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    os.write(fd, b"x" * size)
        os.fsync(fd)
    finally:
        os.close(fd)


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.fixture
def registry() -> Generator[FakeRegistry]:
    with FakeRegistry() as running:
        yield running


def names(daemon: Daemon) -> list[str]:
    return daemon.docker("image", "ls", "-a", "--format", "{{.Repository}}:{{.Tag}}").split()


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_a_full_disk(registry: FakeRegistry, tmp_path: Path, kind: str) -> None:
    shelf = Shelf(registry, "app")
    base = layer_tar(busybox_layer())
    small, _ = shelf.put("small", shelf.manifest([base]))
    large, _ = shelf.put("large", shelf.manifest([base, layer_tar({"noise": File(noise(150 * MIB))})]))
    # Small on its way, large unpacked: the disk fills up under the extractor, not under the download.
    wide, _ = shelf.put("wide", shelf.manifest([base, layer_tar({"zeros": File(b"0" * 170 * MIB)})]))
    with daemon_on(kind, 160 * MIB, tmp_path) as daemon:
        daemon.docker("pull", "-q", small)
        for name in (large, wide):
            failed = daemon.run("pull", name)
            assert failed.returncode == 1
            assert b"o space left" in failed.stderr, failed.stderr
            assert b"Traceback" not in failed.stderr
            assert names(daemon) == [small]
            assert daemon.docker("run", "--rm", "--network", "none", small, "echo", "well") == "well\n"
        daemon.docker("tag", small, "second:name")
        filler = tmp_path / "disk" / "filler"
        fill(filler)
        refused = daemon.run("pull", large)
        assert refused.returncode == 1
        assert b"o space left" in refused.stderr, refused.stderr
        stored = daemon.run("run", "--rm", "--network", "none", small, "true")
        fill(filler)
        assert os.statvfs(tmp_path / "disk").f_bavail == 0
        daemon.docker("rmi", "second:name")
        assert names(daemon) == [small]
        fill(filler)
        daemon.docker("rmi", "-f", small)
        assert names(daemon) == []
        assert stored.returncode == 0 or b"space" in stored.stderr, stored.stderr
        filler.unlink()
        daemon.docker("pull", "-q", small)
        assert daemon.docker("run", "--rm", "--network", "none", small, "echo", "again") == "again\n"
        assert daemon.lading("fsck").returncode == 0


def test_a_read_only_data_root_is_told_at_start(tmp_path: Path) -> None:
    place = tmp_path / "disk"
    with mounted(place, "tmpfs", 8 * MIB), running_daemon() as daemon:
        daemon.stop()
        (place / "data").mkdir()
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        daemon.data_root = place / "data"
        daemon.log.write_bytes(b"")
        daemon.start(wait=False)
        assert daemon.process is not None
        assert daemon.process.wait(20) == 1
        assert "Read-only file system" in daemon.tail()
        assert "--data-root" in daemon.tail()
        assert "Traceback" not in daemon.tail()


def test_a_disk_that_fails(registry: FakeRegistry, tmp_path: Path) -> None:
    """Every system call on the data root ends with EIO from one moment on: errors that say so; and nothing is lost by it."""
    shelf = Shelf(registry, "app")
    small, _ = shelf.put("small", shelf.manifest([layer_tar(busybox_layer())]))
    other, _ = shelf.put("other", shelf.manifest([layer_tar({"f": File(b"other")})]))
    place = tmp_path / "disk"
    with daemon_on("ext4", 160 * MIB, tmp_path) as daemon:
        daemon.docker("pull", "-q", small)
        subprocess.run(["sync", "-f", str(place)], check=True)  # lazy durability is not the subject
        fd = os.open(place, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(fd)
        for words in (("pull", other), ("tag", small, "other:name"), ("rmi", small)):
            refused = daemon.run(*words)
            assert refused.returncode == 1, words
            message = refused.stderr.decode()
            assert "Traceback" not in message
            assert "nternal" not in message, message
            assert "check the disk" in message or "disk reports an error" in message, message
        assert daemon.api("GET", "/version")[0] == 200
        daemon.kill()
        unmount(place)
        # A copy, as after a new start of the machine: a mount namespace of another test may still hold the file system that failed.
        copy = tmp_path / "copy.ext4"
        subprocess.run(["cp", "--sparse=always", str(place.with_suffix(".ext4")), str(copy)], check=True)
        subprocess.run(["mount", "-o", "loop", str(copy), str(place)], check=True)
        daemon.start()
        assert names(daemon) == [small]
        assert daemon.docker("run", "--rm", "--network", "none", small, "echo", "still") == "still\n"
        daemon.docker("pull", "-q", other)


def api_seconds(daemon: Daemon) -> float:
    begun = time.monotonic()
    assert daemon.api("GET", "/images/json")[0] == 200
    assert daemon.api("GET", "/containers/json")[0] == 200
    return time.monotonic() - begun


@pytest.mark.parametrize("where", ["/manifests/", "/blobs/"])
def test_a_registry_that_stalls(registry: FakeRegistry, tmp_path: Path, where: str) -> None:
    shelf = Shelf(registry, "app")
    slow, _ = shelf.put("slow", shelf.manifest([layer_tar({"noise": File(noise(4 * MIB))})]))
    fine, _ = shelf.put("fine", shelf.manifest([layer_tar({"f": File(b"fine")})]))
    config = tmp_path / "daemon.json"
    config.write_text(json.dumps({"lading": {"registry-idle-timeout": 1}, "max-download-attempts": 2}))
    fault = Fault(path=rf"{where}", times=-1, stall_at=100)
    with running_daemon(f"--config-file={config}") as daemon:
        registry.faults.append(fault)
        done: list[subprocess.CompletedProcess[bytes]] = []
        begun = time.monotonic()
        pull = threading.Thread(target=lambda: done.append(daemon.run("pull", slow)))
        pull.start()
        slowest = 0.0
        while pull.is_alive():
            slowest = max(slowest, api_seconds(daemon))
            pull.join(0.05)
        assert time.monotonic() - begun < 30
        assert slowest < 2, f"other calls waited {slowest} s"
        assert done[0].returncode == 1
        message = done[0].stderr.decode()
        assert registry.host in message, message
        assert "sent nothing for" in message or "stall" in message or "timed out" in message, message
        assert names(daemon) == []
        registry.faults.clear()
        daemon.docker("pull", "-q", fine)
        daemon.docker("pull", "-q", slow)


@pytest.mark.stores("containerd", "classic", itself=True)
@pytest.mark.parametrize("arguments", [(), ("--storage-driver=overlay2",)], ids=["containerd", "classic"])
def test_an_interrupted_pull_goes_on_where_it_was(registry: FakeRegistry, arguments: tuple[str, ...]) -> None:
    """Killed in the middle of a layer, the next daemon asks for the rest of it only."""
    shelf = Shelf(registry, "app")
    sizes = [24 * MIB, 20 * MIB]
    archives = [layer_tar({f"noise-{n}": File(noise(size, n))}) for n, size in enumerate(sizes)]
    name, _ = shelf.put("big", shelf.manifest(archives))
    total = sum(len(each) for each in registry.repositories["app"].blobs.values())
    registry.faults.append(Fault(path="/blobs/", times=-1, rate=12e6))
    with running_daemon(*arguments) as daemon:
        for _ in range(2):
            client = subprocess.Popen(
                ["docker", "pull", "-q", name],
                env=os.environ | {"DOCKER_HOST": daemon.host},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            start = held(daemon)
            deadline = time.monotonic() + 30
            while held(daemon) < start + 8 * MIB:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            daemon.kill()
            client.wait(10)
            daemon.start()
        there = held(daemon)
        assert there > 15 * MIB
        registry.faults.clear()
        registry.requests.clear()
        daemon.docker("pull", "-q", name)
        asked = sum(
            wanted(registry, one.target, one.fields.get("range", ""))
            for one in registry.seen("GET", "/blobs/")
        )
        assert asked <= total - there + len(sizes) * 8 * MIB
        assert asked < total - 8 * MIB


def held(daemon: Daemon) -> int:
    """Bytes of ingests on the disk."""
    found = 0
    for path in (daemon.data_root / "content" / "ingest").glob("*/data"):
        with contextlib.suppress(FileNotFoundError):
            found += path.stat().st_size
    return found


def wanted(registry: FakeRegistry, target: str, field: str) -> int:
    """Bytes that a request asks for."""
    size = len(registry.repositories["app"].blobs[target.rpartition("/")[2]])
    if not field:
        return size
    first, _, last = field.removeprefix("bytes=").partition("-")
    return (int(last) + 1 if last else size) - int(first)
