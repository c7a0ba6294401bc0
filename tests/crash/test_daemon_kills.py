"""Kill -9 of the daemon at random moments of pull, push, tag, rm and gc: nothing acknowledged is lost, nothing stays behind."""

import os
import random
import subprocess
import time
from pathlib import Path

import pytest
from support.daemon import Daemon, running_daemon
from support.images import File, Layout, busybox_layer, push
from support.registry import docker_registry

pytestmark = [pytest.mark.crash, pytest.mark.e2e]

READY_SECONDS = 5.0
"""A bound that only a hang or a walk of the store breaks; the figure itself is printed and kept by the benchmark."""


class Model:
    """What the daemon has acknowledged: names and what they mean. A name in ``doubt`` may have either state."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self.doubt: set[str] = set()

    def check(self, seen: dict[str, str], digests: dict[str, str]) -> None:
        for name, digest in self.names.items():
            if name not in self.doubt:
                assert seen.get(name) == digest, f"{name} was acknowledged and is lost"
        for name, digest in seen.items():
            assert name in self.names or name in self.doubt, f"{name} was removed and is back"
            assert digest in digests.values(), f"{name} means {digest}, which was never pulled"
        self.names = dict(seen)
        self.doubt.clear()


class Harness:
    def __init__(self, daemon: Daemon, registry: str, images: dict[str, str], seed: int) -> None:
        self.daemon = daemon
        self.registry = registry
        self.images = images
        self.random = random.Random(seed)
        self.model = Model()
        self.ready: list[float] = []

    def names(self) -> dict[str, str]:
        out = self.daemon.docker("image", "ls", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}")
        return dict(line.split() for line in out.splitlines() if not line.startswith("<none>"))

    def step(self) -> tuple[list[str], dict[str, str | None]]:
        """A command, and what it makes of names if it is acknowledged (``None``: gone)."""
        known = sorted(self.model.names)
        kind = self.random.choice(["pull", "pull", "pull", "push", "tag", "rmi", "gc"])
        if kind == "pull" or not known:
            name, digest = self.random.choice(sorted(self.images.items()))
            return ["docker", "pull", "-q", name], {name: digest}
        name = self.random.choice(known)
        if kind == "push":
            target = f"{self.registry}/pushed/{self.random.randrange(10**9)}:latest"
            self.daemon.docker("tag", name, target)
            self.model.names[target] = self.model.names[name]
            return ["docker", "push", "-q", target], {}
        if kind == "tag":
            target = f"tagged/{self.random.randrange(5)}:latest"
            return ["docker", "tag", name, target], {target: self.model.names[name]}
        if kind == "rmi":
            return ["docker", "rmi", name], {name: None}
        return ["docker", "image", "prune", "-f"], {}

    def round(self) -> None:
        command, effect = self.step()
        environment = os.environ | {
            "DOCKER_HOST": self.daemon.host,
            "DOCKER_CONFIG": str(self.daemon.directory / "docker-config"),
        }
        client = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(self.random.random() ** 2 * 0.6)
        acknowledged = client.poll() == 0
        self.daemon.kill()
        client.wait(30)
        for name, digest in effect.items():
            if not acknowledged:
                self.model.doubt.add(name)
            elif digest is None:
                self.model.names.pop(name, None)
            else:
                self.model.names[name] = digest
        self.ready.append(self.daemon.start())
        self.model.check(self.names(), self.images)

    def finish(self) -> None:
        """Everything can still be pulled and run; after rm and gc nothing is left."""
        for name in self.images:
            self.daemon.docker("pull", "-q", name)
            assert self.daemon.docker("run", "--rm", "--network", "host", name, "cat", "/mark") == name
        fsck = self.daemon.lading("fsck")
        assert fsck.returncode == 0, fsck.stdout + fsck.stderr
        ids = self.daemon.docker("image", "ls", "-aq", "--no-trunc").split()
        self.daemon.docker("rmi", "-f", *dict.fromkeys(ids))
        collected = self.daemon.lading("gc")
        assert collected.returncode == 0, collected.stdout + collected.stderr
        left = _files(self.daemon.data_root / "content")
        assert left == [], "\n".join(self.daemon.lading("why", f"sha256:{p.name}").stdout for p in left)
        assert list((self.daemon.data_root / "snapshots").glob("*/*/snapshots/*")) == []


def _files(root: Path) -> list[Path]:
    return [p for p in root.rglob("*") if p.is_file()]


def make_images(registry: str, directory: Path, seed: int) -> dict[str, str]:
    """Three images that share a base, with a few megabytes of their own; name to digest of the index."""
    source = random.Random(seed)
    made: dict[str, str] = {}
    for n in range(3):
        name = f"{registry}/kills/{n}:latest"
        layout = Layout(directory / str(n))
        own = {f"noise-{k}": File(source.randbytes(300_000)) for k in range(8)} | {
            "mark": File(name.encode())
        }
        index = layout.index([layout.manifest([busybox_layer(), own, {f"small-{n}": File(b"x")}])])
        layout.name(index, "image")
        push(directory / str(n), "image", name)
        made[name] = index["digest"]
    return made


def run(rounds: int, tmp_path: Path, seed: int) -> None:
    with docker_registry() as registry, running_daemon() as daemon:
        harness = Harness(daemon, registry, make_images(registry, tmp_path, seed), seed)
        for _ in range(rounds):
            harness.round()
        harness.finish()
        assert max(harness.ready) < READY_SECONDS, sorted(harness.ready)


@pytest.mark.timeout(300)
def test_kills_lose_nothing(tmp_path: Path) -> None:
    run(15, tmp_path, seed=20)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_two_hundred_kills_lose_nothing(tmp_path: Path) -> None:
    run(200, tmp_path, seed=random.randrange(10**9))
