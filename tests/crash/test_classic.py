"""kill -9 at random moments of pulls, tags, loads and removals in the classic store: dockerd would find it whole."""

import contextlib
import random
import subprocess
import threading
import time
from pathlib import Path

import pytest
from e2e.conftest import images, registry  # noqa: F401 - fixtures
from support.classic_check import names, problems
from support.daemon import Daemon, running_daemon

pytestmark = [pytest.mark.crash, pytest.mark.e2e, pytest.mark.stores("classic")]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("rounds", [3, pytest.param(40, marks=pytest.mark.nightly)])
def test_kills(images, tmp_path: Path, rounds: int) -> None:  # noqa: F811
    pulled = [images(f"kill:{n}", layers=2 + n) for n in range(3)]
    config = tmp_path / "daemon.json"
    config.write_text('{"features": {"containerd-snapshotter": false}}')
    chance = random.Random(rounds)
    with running_daemon(f"--config-file={config}") as daemon:
        daemon.docker("pull", pulled[0])
        daemon.docker("tag", pulled[0], "safe:1")
        for number in range(rounds):
            worker = threading.Thread(target=work, args=(daemon, pulled[1:], number))
            worker.start()
            time.sleep(chance.uniform(0.05, 1.5))  # the moment is meant to be any
            daemon.signal(9)
            assert daemon.process is not None
            daemon.process.wait()
            worker.join()
            daemon.start()
            assert (
                daemon.docker("run", "--rm", "--network", "none", "safe:1", "ls", "/layer-0") == "/layer-0\n"
            )
            settle(daemon)
            before = listed(daemon)
            assert daemon.stop() == 0
            assert problems(daemon.data_root) == []
            assert set(names(daemon.data_root).values()) <= before
            daemon.start()
            assert listed(daemon) == before
        for name in pulled:
            daemon.docker("pull", name)
            daemon.docker("run", "--rm", "--network", "none", name, "true")
        daemon.docker("rmi", "-f", *daemon.docker("images", "-q").split())
        settle(daemon)
        assert daemon.stop() == 0
        assert problems(daemon.data_root) == []
        assert list((daemon.data_root / "image" / "overlay2" / "layerdb" / "sha256").iterdir()) == []
        daemon.start()


@pytest.mark.parametrize(
    "point",
    ["classic.removing:kill", "classic.unnamed:kill@3", "classic.nameless:kill@3", "classic.described:kill"],
)
def test_a_removal_or_arrival_that_was_cut_short_leaves_nothing(
    images,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    point: str,
) -> None:
    name, arriving = images("cut:1", layers=2), point.startswith("classic.described")
    config = tmp_path / "daemon.json"
    config.write_text('{"features": {"containerd-snapshotter": false}}')
    with running_daemon(f"--config-file={config}") as daemon:
        if not arriving:
            daemon.docker("pull", name)
        daemon.stop()
        monkeypatch.setenv("LADING_FAILPOINT", point)
        daemon.start()
        daemon.run("pull" if arriving else "rmi", name)
        assert daemon.process is not None
        assert daemon.process.wait(30) == -9
        monkeypatch.delenv("LADING_FAILPOINT")
        daemon.start()
        daemon.docker("image", "prune", "-f")  # nobody will go on with the pull
        settle(daemon)
        assert listed(daemon) == set()
        assert daemon.stop() == 0
        assert problems(daemon.data_root) == []
        assert list((daemon.data_root / "image" / "overlay2" / "layerdb" / "sha256").iterdir()) == []
        daemon.start()
        daemon.docker("run", "--rm", "--network", "none", name, "true")


def work(daemon: Daemon, pulled: list[str], number: int) -> None:
    """What is being done when the daemon dies; whatever comes of it."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        for name in pulled:
            daemon.run("pull", name)
            daemon.run("tag", name, f"other:{number}")
        daemon.run("create", "--name", f"c{number}", "--network", "none", pulled[0], "true")
        daemon.run("rm", "-f", f"c{number}")
        daemon.run("rmi", "-f", *pulled, f"other:{number}")


def listed(daemon: Daemon) -> set[str]:
    return set(daemon.docker("images", "-aq", "--no-trunc").split())


def settle(daemon: Daemon) -> None:
    """Wait for the collector: it runs whenever something was let go."""
    for container in daemon.docker("ps", "-aq").split():
        daemon.docker("rm", "-f", container)
    assert daemon.lading("gc").returncode == 0
