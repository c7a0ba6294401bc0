"""``--storage-opt size``: the kernel stops a container at its limit, whatever happened to the daemon meanwhile."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.daemon import Daemon
from support.engine import Engine, boxed

pytestmark = pytest.mark.e2e
FILL = "dd if=/dev/zero of=/filled bs=1M count={} 2>&1"


@pytest.fixture(params=["erofs", "overlayfs"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    daemon = Daemon(tmp_path, [f"--storage-driver={request.param}"])
    daemon.start()
    try:
        yield boxed(daemon)
    finally:
        daemon.end()
    assert rooms(daemon) == []
    assert loops(daemon) == []


def rooms(daemon: Daemon) -> list[str]:
    """Mounted file systems that limit writable layers."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in lines if str(daemon.data_root) in line and line.split()[4].endswith("/room")]


def loops(daemon: Daemon) -> list[str]:
    """Files of the data-root that loop devices hold."""
    found = [path.read_text().strip() for path in Path("/sys/block").glob("loop*/loop/backing_file")]
    return [each for each in found if str(daemon.data_root) in each]


@pytest.mark.proves("HostConfig.StorageOpt")
def test_the_kernel_stops_what_writes_beyond_the_limit(engine: Engine):
    full = engine.run("run", "--network", "none", "--name", "small", "--storage-opt", "size=32M", "box", "sh", "-c", FILL.format(64))  # fmt: skip
    assert full.returncode == 1
    assert "No space left on device" in full.stdout
    assert json.loads(engine.docker("inspect", "-f", "{{json .HostConfig.StorageOpt}}", "small")) == {
        "size": "32M"
    }
    assert "A /filled" in engine.docker("diff", "small")
    # Its neighbour without a limit, and one with a greater one, are not stopped.
    engine.docker("run", "--rm", "--network", "none", "box", "sh", "-c", FILL.format(40))
    engine.docker(
        "run", "--rm", "--network", "none", "--storage-opt", "size=96m", "box", "sh", "-c", FILL.format(40)
    )
    engine.docker("rm", "small")


def test_what_is_in_it_is_a_container_like_any_other(engine: Engine, tmp_path: Path):
    engine.background(
        "room", "echo one > /kept; rm /etc/not-executable; sleep 1000", "--storage-opt", "size=64M"
    )
    deadline = time.monotonic() + 20
    while "D /etc/not-executable" not in engine.docker("diff", "room"):
        assert time.monotonic() < deadline
    engine.docker("cp", "room:/kept", str(tmp_path / "copied"))
    assert (tmp_path / "copied").read_text() == "one\n"
    (tmp_path / "in").write_text("two\n")
    engine.docker("cp", str(tmp_path / "in"), "room:/in")
    engine.docker("commit", "room", "made")
    assert engine.docker("run", "--rm", "--network", "none", "made", "cat", "/kept", "/in") == "one\ntwo\n"
    engine.docker("rm", "-f", "room")


def test_the_limit_holds_after_a_kill_and_while_it_runs(engine: Engine):
    engine.background("live", "sleep 1000", "--storage-opt", "size=32M")
    engine.docker("create", "--network", "none", "--name", "later", "--storage-opt", "size=32M", "box", "sh", "-c", FILL.format(64))  # fmt: skip
    for end in (engine.daemon.kill, engine.daemon.stop):
        end()
        engine.daemon.start()
        assert len(set(loops(engine.daemon))) == len(loops(engine.daemon)), "one file is attached twice"
    inside = engine.run("exec", "live", "sh", "-c", FILL.format(64))
    assert "No space left on device" in inside.stdout
    assert "No space left on device" in engine.run("start", "-a", "later").stdout
    engine.docker("restart", "-t", "0", "live")
    assert "/filled" in engine.docker("diff", "live")
    assert len(set(loops(engine.daemon))) == len(loops(engine.daemon))
    engine.docker("rm", "-f", "live", "later")
    deadline = time.monotonic() + 20
    while loops(engine.daemon) or rooms(engine.daemon):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_file_system_comes_back_after_a_reboot(engine: Engine):
    """A reboot takes the mounts; here they are taken while no daemon runs."""
    engine.docker("run", "--network", "none", "--name", "one", "--storage-opt", "size=32M", "box", "sh", "-c", "echo kept > /kept")  # fmt: skip
    engine.daemon.kill()
    for line in rooms(engine.daemon):
        subprocess.run(["umount", line.split()[4]], check=True)
    engine.daemon.start()
    assert "A /kept" in engine.docker("diff", "one")
    engine.docker("rm", "one")


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("size=1M", "the least is 16 MiB"),
        ("size=100000T", "the most 16 TiB"),
        ("size=much", "is no size"),
        ("size=-5", "is no size"),
        ("dm.basesize=1G", "unknown option dm.basesize"),
    ],
)
def test_bad_limits_are_refused_with_words(engine: Engine, option: str, words: str):
    refused = engine.run("create", "--network", "none", "--storage-opt", option, "box", "true")
    assert refused.returncode == 1
    assert words in refused.stderr
    assert engine.docker("ps", "-aq") == ""


def test_the_daemon_has_a_default(tmp_path: Path):
    daemon = Daemon(tmp_path, ["--storage-opt", "overlay2.size=32m"])
    daemon.start()
    try:
        engine = boxed(daemon)
        full = engine.run("run", "--rm", "--network", "none", "box", "sh", "-c", FILL.format(64))
        assert "No space left on device" in full.stdout
        engine.docker("run", "--rm", "--network", "none", "--storage-opt", "size=96m", "box", "sh", "-c", FILL.format(64))  # fmt: skip
    finally:
        daemon.end()


@pytest.mark.stores("containerd", "classic", itself=True)
@pytest.mark.parametrize("driver", ["native", "overlay2"])
def test_what_cannot_limit_says_so(tmp_path: Path, driver: str):
    daemon = Daemon(tmp_path, [f"--storage-driver={driver}"])
    daemon.start()
    try:
        refused = boxed(daemon).run("create", "--storage-opt", "size=32M", "box", "true")
        assert refused.returncode == 1
        assert f"{driver} cannot limit the size" in refused.stderr
    finally:
        daemon.end()
    done = subprocess.run(
        [*daemon.command(), "--storage-opt", "size=32m"],
        env={**os.environ},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert f"{driver} cannot limit the size" in done.stderr
