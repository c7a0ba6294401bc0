"""A database that is damaged or lost: nothing is deleted, and ``lading fsck --rebuild`` makes a new one without a daemon."""

import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from e2e.conftest import MakeImage
from support.daemon import SOURCE, Daemon, running_daemon

from lading.kit.sqlite import connect

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]
PAGE = 4096


@pytest.fixture(params=["containerd", "classic"])
def used(request: pytest.FixtureRequest, images: MakeImage) -> Generator[tuple[Daemon, str]]:
    """A daemon that has ended, with an image, a volume, and a stopped container that has written something."""
    name = images(f"rebuild/{request.param}", layers=2)
    arguments = ["--storage-driver=overlay2"] if request.param == "classic" else []
    with running_daemon(*arguments) as daemon:
        daemon.docker("pull", "-q", name)
        script = "echo mine >/mine; echo kept >/data/kept; echo said"
        daemon.docker("run", "--name=worker", "--network=none", "-v=data:/data", name, "sh", "-c", script)
        assert daemon.stop() == 0
        yield daemon, name
        if daemon.process is not None and daemon.process.poll() is not None:
            daemon.start()


def rebuild(daemon: Daemon) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "lading", "fsck", "--rebuild", f"--data-root={daemon.data_root}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONPATH": SOURCE},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(daemon: Daemon) -> str:
    """What a daemon says that does not start."""
    daemon.start(wait=False)
    assert daemon.process is not None
    assert daemon.process.wait(60) == 1
    return daemon.tail().splitlines()[-1]


def files(root: Path) -> set[bytes]:
    """What the files below a directory hold."""
    return {path.read_bytes() for path in root.rglob("*") if path.is_file() and not path.is_symlink()}


def lose(daemon: Daemon) -> None:
    for path in daemon.data_root.glob("lading.db*"):
        path.unlink()


def spoil(daemon: Daemon, *, first: int) -> None:
    """Make garbage of the pages from ``first`` on."""
    path = daemon.data_root / "lading.db"
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(first * PAGE)
        file.write(b"\xa5" * (size - first * PAGE))


def test_a_lost_database(used: tuple[Daemon, str]) -> None:
    daemon, name = used
    blobs = set(daemon.data_root.glob("content/blobs/*/*"))
    lose(daemon)
    said = refused(daemon)
    assert "lading.db is lost, and the data-root holds" in said
    assert f"lading fsck --rebuild --data-root {daemon.data_root}" in said
    assert set(daemon.data_root.glob("content/blobs/*/*")) == blobs
    told = rebuild(daemon)
    assert str(daemon.data_root / "lost") in told
    assert daemon.classic or "1 image lost the name" in told
    assert "set aside: container containers" in told
    daemon.start()
    assert daemon.lading("gc").returncode == 0
    found = daemon.docker("images", "-aq", "--no-trunc").split()
    if daemon.classic:
        assert name.rpartition("/")[2] in daemon.docker("images")
    assert len(found) == 1
    assert daemon.docker("run", "--rm", "--network=none", found[0], "echo", "again") == "again\n"
    assert (
        daemon.docker("run", "--rm", "-v=data:/data", "--network=none", found[0], "cat", "/data/kept")
        == "kept\n"
    )
    lost = files(daemon.data_root / "lost")
    assert b"mine\n" in lost
    assert any(b"said" in each for each in lost)
    assert daemon.lading("fsck").returncode == 0


def test_a_database_of_garbage(used: tuple[Daemon, str]) -> None:
    daemon, _ = used
    spoil(daemon, first=0)
    said = refused(daemon)
    assert "is damaged" in said
    assert f"lading fsck --rebuild --data-root {daemon.data_root}" in said
    rebuild(daemon)
    daemon.start()
    assert daemon.lading("gc").returncode == 0
    (image,) = daemon.docker("images", "-aq", "--no-trunc").split()
    assert daemon.docker("run", "--rm", "--network=none", image, "echo", "again") == "again\n"
    assert b"mine\n" in files(daemon.data_root / "lost")
    assert (next((daemon.data_root / "lost").iterdir()) / "lading.db").read_bytes()[:16] == b"\xa5" * 16


def test_rows_that_can_be_read_come_along(used: tuple[Daemon, str]) -> None:
    """A table of which nothing is left takes only what it alone knew."""
    daemon, name = used
    connection = connect(daemon.data_root / "lading.db")
    (row,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'blob'").fetchall()
    connection.close()
    with (daemon.data_root / "lading.db").open("r+b") as file:
        file.seek((int(row[0]) - 1) * PAGE)
        file.write(b"\xa5" * PAGE)
    told = rebuild(daemon)
    assert "table blob could be read" in told
    assert "kept: 1 image and 1 container; " in told
    assert "set aside" not in told
    daemon.start()
    assert daemon.lading("gc").returncode == 0
    assert daemon.docker("images", "-q", name).strip()
    assert daemon.docker("logs", "worker") == "said\n"
    daemon.docker("start", "-a", "worker")
    assert daemon.docker("run", "--rm", "--network=none", name, "echo", "again") == "again\n"
    assert daemon.lading("fsck").returncode == 0


def test_a_sound_database_loses_nothing(used: tuple[Daemon, str]) -> None:
    daemon, name = used
    told = rebuild(daemon)
    assert "could be read" not in told
    assert "set aside" not in told
    daemon.start()
    assert daemon.lading("gc").returncode == 0
    assert name in daemon.docker("ps", "-a", "--format", "{{.Image}}")
    assert daemon.docker("cp", "worker:/mine", "-")
    assert daemon.lading("fsck").returncode == 0


def test_the_choice_of_a_store_is_lost_and_nothing_of_either(images: MakeImage) -> None:
    """Classic images hide the others again, and neither these nor what a container wrote on them are swept."""
    name = images("rebuild/both")
    with running_daemon() as daemon:
        assert daemon.lading("store", "use", "classic").returncode == 0
        daemon.docker("pull", "-q", name)
        assert daemon.lading("store", "use", "containerd").returncode == 0
        daemon.docker("pull", "-q", name)
        daemon.docker("run", "--name=worker", "--network=none", name, "sh", "-c", "echo mine >/mine")
        assert daemon.stop() == 0
        lose(daemon)
        assert "lading.db is lost" in refused(daemon)
        rebuild(daemon)
        daemon.start()
        assert name.rpartition(":")[0] in daemon.docker("images", "--format", "{{.Repository}}")
        assert "1 image of the containerd image store is hidden" in daemon.tail()
        assert daemon.lading("gc").returncode == 0
        assert daemon.lading("store", "use", "containerd").returncode == 0
        (image,) = daemon.docker("images", "-aq", "--no-trunc").split()
        assert daemon.docker("run", "--rm", "--network=none", image, "echo", "again") == "again\n"
        assert b"mine\n" in files(daemon.data_root / "lost")


def test_a_running_daemon_keeps_its_database(daemon: Daemon) -> None:
    busy = daemon.lading("fsck", "--rebuild", f"--data-root={daemon.data_root}")
    assert busy.returncode == 1
    assert "is in use by process" in busy.stderr
