"""Kill -9 of the daemon in docker load, save and import: done or not done, never half; the next attempt works."""

import contextlib
import os
import random
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.daemon import Daemon, running_daemon
from support.images import File, Layout, busybox_layer, layer_tar, push
from support.registry import docker_registry

pytestmark = [pytest.mark.crash, pytest.mark.e2e]
KILLS = 4
NAME = "archive/kept:one"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A saved image of 24 MB in four layers, and its digest."""
    directory = tmp_path_factory.mktemp("archive")
    source = random.Random(3)
    layout = Layout(directory / "layout")
    stack = [busybox_layer()]
    stack += [{f"noise-{n}": File(source.randbytes(8_000_000))} for n in range(3)]
    index = layout.index([layout.manifest(stack, compression="")])
    layout.name(index, "image")
    with docker_registry() as registry, running_daemon() as daemon:
        push(directory / "layout", "image", f"{registry}/archive:one")
        daemon.docker("pull", "-q", f"{registry}/archive:one")
        daemon.docker("tag", f"{registry}/archive:one", NAME)
        daemon.docker("save", "-o", str(directory / "image.tar"), NAME)
    return directory / "image.tar", index["digest"]


def interrupted(daemon: Daemon, words: Sequence[str], after: float) -> bool:
    """Kill the daemon so many seconds into a command, and start it again; whether the client was told of success."""
    client = subprocess.Popen(
        ["docker", *words],
        env=os.environ | {"DOCKER_HOST": daemon.host},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with contextlib.suppress(subprocess.TimeoutExpired):
        client.wait(after)
    daemon.kill()
    code = client.wait(30)
    daemon.start()
    return code == 0


def images(daemon: Daemon) -> dict[str, str]:
    out = daemon.docker("image", "ls", "-a", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}")
    return dict(line.split() for line in out.splitlines())


def clear(daemon: Daemon) -> None:
    """Remove everything; nothing may be left."""
    if ids := set(images(daemon).values()):
        daemon.docker("rmi", "-f", *ids)
    collected = daemon.lading("gc")
    assert collected.returncode == 0, collected.stderr
    assert [path for path in (daemon.data_root / "content").rglob("*") if path.is_file()] == []
    assert list((daemon.data_root / "snapshots").glob("*/*/snapshots/*")) == []


def test_load(archive: tuple[Path, str]) -> None:
    path, digest = archive
    chance = random.Random(11)
    with running_daemon() as daemon:
        for _ in range(KILLS):
            acknowledged = interrupted(daemon, ("load", "-q", "-i", str(path)), chance.uniform(0.05, 0.5))
            there = images(daemon)
            assert there in ({}, {NAME: digest})
            assert there or not acknowledged
            assert daemon.lading("fsck").returncode == 0
            if there:
                assert daemon.docker("run", "--rm", "--network", "none", NAME, "echo", "whole") == "whole\n"
            clear(daemon)
        daemon.docker("load", "-q", "-i", str(path))
        assert images(daemon) == {NAME: digest}


def test_save(archive: tuple[Path, str], tmp_path: Path) -> None:
    path, digest = archive
    chance = random.Random(12)
    target = tmp_path / "out.tar"
    with running_daemon() as daemon:
        daemon.docker("load", "-q", "-i", str(path))
        for _ in range(KILLS):
            target.unlink(missing_ok=True)
            acknowledged = interrupted(daemon, ("save", "-o", str(target), NAME), chance.uniform(0.05, 0.3))
            # What a failed client leaves of its own file is the client's affair; it must know that it failed.
            assert not acknowledged or target.stat().st_size == path.stat().st_size
            assert images(daemon) == {NAME: digest}
        daemon.docker("save", "-o", str(target), NAME)
        assert target.stat().st_size == path.stat().st_size
        assert daemon.lading("fsck").returncode == 0
        clear(daemon)


def test_import(tmp_path: Path) -> None:
    tree = tmp_path / "tree.tar"
    noise = {"noise": File(random.Random(4).randbytes(24_000_000))}
    tree.write_bytes(layer_tar(busybox_layer() | noise))
    chance = random.Random(13)
    with running_daemon() as daemon:
        for _ in range(KILLS):
            words = ("import", "--change", 'CMD ["/bin/sh"]', str(tree), "imported:one")
            acknowledged = interrupted(daemon, words, chance.uniform(0.05, 0.8))
            there = images(daemon)
            assert there.keys() <= {"imported:one"}
            assert there or not acknowledged
            if there:
                said = daemon.docker("run", "--rm", "--network", "none", "imported:one", "/bin/echo", "whole")
                assert said == "whole\n"
            assert daemon.lading("fsck").returncode == 0
            clear(daemon)
        daemon.docker("import", str(tree), "imported:one")
        assert images(daemon).keys() == {"imported:one"}
