"""``lading fsck``: layers are compared with what their blobs unpack to, and a damaged one is unpacked again."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from e2e.conftest import MakeImage
from support.classic_check import problems
from support.daemon import Daemon, running_daemon

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]


def flip(path: Path, at: int) -> None:
    """Change one byte, whatever the file's mode and times are, and leave these."""
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def one(daemon: Daemon, pattern: str) -> Path:
    """The largest file of a pattern below the data-root."""
    found = [path for path in daemon.data_root.glob(pattern) if path.is_file() and not path.is_symlink()]
    return max(found, key=lambda path: path.stat().st_size)


SPOILED: dict[str, tuple[str, Callable[[Daemon], None]]] = {
    "erofs, contents": (
        "erofs",
        lambda daemon: flip(one(daemon, "snapshots/erofs/*/snapshots/*/layer.data"), 1000),
    ),
    "erofs, metadata": (
        "erofs",
        lambda daemon: flip(one(daemon, "snapshots/erofs/*/snapshots/*/layer.erofs"), 1100),
    ),
    "erofs, lost": ("erofs", lambda daemon: one(daemon, "snapshots/erofs/*/snapshots/*/layer.data").unlink()),
    "overlayfs, contents": (
        "overlayfs",
        lambda daemon: flip(one(daemon, "snapshots/overlayfs/*/snapshots/*/fs/**/*"), 1000),
    ),
    "overlayfs, metadata": (
        "overlayfs",
        lambda daemon: one(daemon, "snapshots/overlayfs/*/snapshots/*/fs/**/*").chmod(0o4777),
    ),
    "overlayfs, lost": (
        "overlayfs",
        lambda daemon: one(daemon, "snapshots/overlayfs/*/snapshots/*/fs/**/*").unlink(),
    ),
}


@pytest.mark.parametrize("kind", SPOILED)
def test_a_damaged_layer_is_found_and_unpacked_again(images: MakeImage, kind: str) -> None:
    driver, spoil = SPOILED[kind]
    name = images("fsck/layers", layers=3)
    with running_daemon(f"--storage-driver={driver}") as daemon:
        if driver not in daemon.docker("info", "--format", "{{.Driver}}"):
            pytest.skip(f"no {driver} here")
        daemon.docker("pull", "-q", name)
        clean = daemon.lading("fsck")
        assert (clean.returncode, "0 damaged" in clean.stdout) == (0, True), clean.stdout
        before = daemon.docker("run", "--rm", "--network=none", name, "busybox", "sha256sum", "/bin/busybox")
        stopped = daemon.docker("create", "--network=none", name, "sleep", "600").strip()
        daemon.stop()
        spoil(daemon)
        daemon.start()
        found = daemon.lading("fsck")
        assert found.returncode == 2, found.stdout
        assert found.stdout.count("layer") == 1, found.stdout
        repaired = daemon.lading("fsck", "--repair")
        assert (repaired.returncode, "(repaired)" in repaired.stdout) == (0, True), repaired.stdout
        assert daemon.lading("fsck").returncode == 0
        after = daemon.docker("run", "--rm", "--network=none", name, "busybox", "sha256sum", "/bin/busybox")
        assert after == before
        daemon.docker("start", stopped)
        busy = daemon.lading("fsck", "--repair")
        assert busy.returncode == 0, busy.stdout
        daemon.docker("rm", "-f", stopped)
        assert daemon.lading("gc").returncode == 0
        daemon.docker("rmi", name)
        assert daemon.lading("gc").returncode == 0
        assert "0 damaged" in daemon.lading("fsck").stdout
        assert [
            path
            for path in daemon.data_root.glob(f"snapshots/{driver}/*/snapshots/*")
            if path.name != "nothing"
        ] == []


@pytest.mark.stores("classic", itself=True)
@pytest.mark.parametrize("damage", ["contents", "lost", "notes"])
def test_a_damaged_layer_of_the_classic_store_comes_from_its_registry(images: MakeImage, damage: str) -> None:
    """It is found, left alone while a container runs on it, fetched and unpacked again; without a registry the remedy is told."""
    name = images(f"fsck/classic-{damage}", layers=3)
    with running_daemon("--storage-driver=overlay2") as daemon:
        daemon.docker("pull", "-q", name)
        busybox = one(daemon, "overlay2/*/diff/bin/busybox")
        if damage == "contents":
            flip(busybox, 1000)
        elif damage == "lost":
            busybox.unlink()
        else:
            flip(one(daemon, "image/overlay2/layerdb/sha256/*/tar-split.json.gz"), 40)
        found = daemon.lading("fsck")
        assert found.returncode == 2, found.stdout
        assert found.stdout.count("layer sha256:") == 1, found.stdout
        made = daemon.docker("create", "--network=none", name, "sleep", "600").strip()
        if damage == "notes":
            daemon.docker("start", made)
            busy = daemon.lading("fsck", "--repair")
            assert (busy.returncode, "runs on it" in busy.stdout) == (2, True), busy.stdout
            daemon.docker("stop", "-t", "0", made)
        repaired = daemon.lading("fsck", "--repair")
        assert (repaired.returncode, "(repaired)" in repaired.stdout) == (0, True), repaired.stdout
        assert daemon.lading("fsck").returncode == 0
        daemon.docker("start", made)  # a container of before stands on what took the place
        daemon.docker("rm", "-f", made)
        assert daemon.docker("run", "--rm", "--network=none", name, "cat", "/layer-1").strip("0\n") == "1"
        daemon.docker("save", "-o", str(daemon.directory / "saved.tar"), name)
        assert daemon.lading("gc").returncode == 0
        assert daemon.stop() == 0
        assert problems(daemon.data_root) == []
        daemon.start()


@pytest.mark.stores("classic", itself=True)
def test_what_no_registry_has_is_named_with_the_remedy(images: MakeImage) -> None:
    name = images("fsck/nowhere", layers=2)
    with running_daemon("--storage-driver=overlay2") as daemon:
        daemon.docker("pull", "-q", name)
        daemon.docker("run", "--name=made", "--network=none", name, "sh", "-c", "echo text >/made")
        daemon.docker("commit", "made", "local:1")
        daemon.docker("rm", "made")
        flip(one(daemon, "overlay2/*/diff/made"), 1)
        left = daemon.lading("fsck", "--repair")
        assert left.returncode == 2
        assert "no registry is known that has it; remove its images" in left.stdout
        assert daemon.run("save", "-o", str(daemon.directory / "x.tar"), "local:1").returncode == 1
        daemon.docker("rmi", "local:1")
        assert daemon.lading("gc").returncode == 0
        assert daemon.lading("fsck").returncode == 0


def test_a_layer_that_a_container_runs_on_is_left_alone(images: MakeImage) -> None:
    name = images("fsck/busy", layers=2)
    with running_daemon("--storage-driver=overlayfs") as daemon:
        if "overlayfs" not in daemon.docker("info", "--format", "{{.Driver}}"):
            pytest.skip("no overlayfs here")
        daemon.docker("pull", "-q", name)
        daemon.docker("run", "-d", "--name=busy", "--network=none", name, "sleep", "600")
        SPOILED["overlayfs, metadata"][1](daemon)
        left = daemon.lading("fsck", "--repair")
        assert left.returncode == 2
        assert "busy runs on it" in left.stdout
        daemon.docker("rm", "-f", "busy")
        assert daemon.lading("fsck", "--repair").returncode == 0
        assert daemon.lading("fsck").returncode == 0
