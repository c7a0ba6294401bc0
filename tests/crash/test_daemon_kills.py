"""Kill -9 of the daemon at random moments of pull, push, tag, rm and gc: nothing acknowledged is lost, nothing stays behind.

What was acknowledged is looked for where it must be: names in the daemon, pushed images in the registry, running containers among
the living, and the bytes of every named image in the store, without a registry to heal them from.
"""

import contextlib
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.daemon import SOURCE, Daemon, left_processes, running_daemon
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
        self.pushed: dict[str, str] = {}
        self.running: set[str] = set()
        self.unsure: set[str] = set()
        """Containers that may or may not be there."""

    def check_containers(self, seen: dict[str, str]) -> None:
        """``seen``: name of each container to its state."""
        for name in self.running - self.unsure:
            assert seen.get(name) == "running", f"container {name} was acknowledged and is {seen.get(name)}"
        for name in seen:
            assert name in self.running | self.unsure, f"container {name} was removed and is back"
        self.running = {name for name, state in seen.items() if state == "running"}
        self.unsure = set(seen) - self.running

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
        self.acknowledged = 0

    def names(self) -> dict[str, str]:
        out = self.daemon.docker("image", "ls", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}")
        return dict(line.split() for line in out.splitlines() if not line.startswith("<none>"))

    def containers(self) -> dict[str, str]:
        out = self.daemon.docker("ps", "-a", "--format", "{{.Names}} {{.State}}")
        return dict(line.split() for line in out.splitlines())

    def step(self) -> tuple[list[str], Callable[[bool], None]]:
        """A command, and what to call when it is over with whether it was acknowledged."""
        known = sorted(self.model.names)
        kind = self.random.choice(["pull"] * 4 + ["push", "push", "tag", "rmi", "gc", "prune", "run", "rm"])
        if kind == "pull" or not known:
            name, digest = self.random.choice(sorted(self.images.items()))
            return ["docker", "pull", "-q", name], lambda done: self.named(name, digest, done)
        name = self.random.choice(known)
        digest = self.model.names[name]
        if kind == "push":
            target = f"{self.registry}/pushed/{self.random.randrange(10**9)}:latest"
            self.daemon.docker("tag", name, target)
            self.model.names[target] = digest
            return ["docker", "push", "-q", target], lambda done: self.was_pushed(target, digest, done)
        if kind == "tag":
            target = f"tagged/{self.random.randrange(5)}:latest"
            return ["docker", "tag", name, target], lambda done: self.named(target, digest, done)
        if kind == "rmi":
            return ["docker", "rmi", name], lambda done: self.named(name, None, done)
        if kind == "run":
            made = f"c{self.random.randrange(10**9)}"
            words = ["docker", "run", "-d", "--network", "none", "--name", made, name, "sleep", "100000"]
            return words, lambda done: self.began(made, done)
        if kind == "rm" and self.model.running:
            gone = self.random.choice(sorted(self.model.running))
            return ["docker", "rm", "-f", gone], lambda done: self.removed(gone, done)
        if kind == "prune":
            return ["docker", "image", "prune", "-f"], lambda _: None
        return [sys.executable, "-m", "lading", "gc"], lambda _: None

    def named(self, name: str, digest: str | None, done: bool) -> None:
        if not done:
            self.model.doubt.add(name)
        elif digest is None:
            self.model.names.pop(name, None)
        else:
            self.model.names[name] = digest

    def was_pushed(self, target: str, digest: str, done: bool) -> None:
        if done:
            self.model.pushed[target] = digest

    def began(self, name: str, done: bool) -> None:
        if done:
            self.model.running.add(name)
        else:
            self.model.unsure.add(name)

    def removed(self, name: str, done: bool) -> None:
        self.model.running.discard(name)
        if not done:
            self.model.unsure.add(name)

    def round(self) -> None:
        command, over = self.step()
        environment = os.environ | {
            "DOCKER_HOST": self.daemon.host,
            "DOCKER_CONFIG": str(self.daemon.directory / "docker-config"),
            "PYTHONPATH": SOURCE,
        }
        client = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        with contextlib.suppress(subprocess.TimeoutExpired):
            client.wait(self.random.random() ** 2 * 0.9)
        acknowledged = client.poll() == 0
        self.daemon.kill()
        client.wait(30)
        over(acknowledged)
        self.acknowledged += acknowledged
        self.ready.append(self.daemon.start())
        self.model.check(self.names(), self.images)
        self.model.check_containers(self.containers())
        if self.random.random() < 0.2 and self.model.names:
            self.check_bytes(self.random.choice(sorted(self.model.names)))

    def check_bytes(self, name: str) -> None:
        """The image is whole here: it runs, and can be saved, without being pulled again."""
        mark = next(each for each, digest in self.images.items() if digest == self.model.names[name])
        words = ("--rm", "--pull", "never", "--network", "none", "--name", f"look{self.random.random()}")
        assert self.daemon.docker("run", *words, name, "cat", "/mark") == mark
        assert self.daemon.run("save", name).returncode == 0

    def finish(self) -> None:
        """What is named is whole; everything can still be pulled and run; after rm and gc nothing is left."""
        before = self.daemon.lading("fsck")
        assert before.returncode == 0, before.stdout + before.stderr
        for name in sorted(self.model.names):
            self.check_bytes(name)
        for name, digest in self.model.pushed.items():
            assert digest_of(name) == digest, f"the push of {name} was acknowledged and is lost"
        for name in self.images:
            self.daemon.docker("pull", "-q", name)
            assert self.daemon.docker("run", "--rm", "--network", "host", name, "cat", "/mark") == name
        if containers := self.daemon.docker("ps", "-aq").split():
            self.daemon.docker("rm", "-f", *containers)
        fsck = self.daemon.lading("fsck")
        assert fsck.returncode == 0, fsck.stdout + fsck.stderr
        ids = self.daemon.docker("image", "ls", "-aq", "--no-trunc").split()
        self.daemon.docker("rmi", "-f", *dict.fromkeys(ids))
        collected = self.daemon.lading("gc")
        assert collected.returncode == 0, collected.stdout + collected.stderr
        left = _files(self.daemon.data_root / "content")
        assert left == [], "\n".join(self.daemon.lading("why", f"sha256:{p.name}").stdout for p in left)
        assert list((self.daemon.data_root / "snapshots").glob("*/*/snapshots/*")) == []
        self.daemon.stop()
        left_over = left_processes(self.daemon.exec_root)
        assert left_over == [], [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in left_over]


def digest_of(reference: str) -> str:
    """What a registry has under this name."""
    done = subprocess.run(
        ["skopeo", "inspect", "--tls-verify=false", "--format", "{{.Digest}}", f"docker://{reference}"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or done.stderr


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
        print(f"{rounds} kills, {harness.acknowledged} acknowledged, {len(harness.model.pushed)} pushes")
        print(f"ready after {sorted(harness.ready)[rounds // 2]:.2f} s, at most {max(harness.ready):.2f} s")
        assert max(harness.ready) < READY_SECONDS, sorted(harness.ready)


@pytest.mark.timeout(300)
def test_kills_lose_nothing(tmp_path: Path) -> None:
    run(15, tmp_path, seed=20)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_two_hundred_kills_lose_nothing(tmp_path: Path) -> None:
    run(200, tmp_path, seed=random.randrange(10**9))
