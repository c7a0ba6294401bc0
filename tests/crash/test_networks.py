"""kill -9 while containers join and leave networks: what runs goes on, and nothing of the rest stays on the machine."""

import random
import subprocess
import time
from pathlib import Path

import pytest
from support import engine as engines
from support.daemon import NetnsDaemon, daemon_in_netns
from support.engine import Engine, boxed

pytestmark = [pytest.mark.crash, pytest.mark.timeout(300)]
engines.APPLETS += ("nslookup",)
ROUNDS = 5


def begin(engine: Engine, name: str, number: int) -> "subprocess.Popen[bytes]":
    port = f"127.0.0.1:{7000 + number}:80"
    words = ["docker", "run", "-d", "--name", name, "--network", "net", "-p", port, "box", "sleep", "1000"]
    return subprocess.Popen(
        words, env=engine.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
    )


def endpoints_of(daemon: NetnsDaemon) -> set[str]:
    """Containers that the resolver knows."""
    known: set[str] = set()
    for file in Path(daemon.exec_root / "network/netavark/aardvark-dns").glob("net*"):
        known |= {line.split()[0] for line in file.read_text().splitlines()[1:]}
    return known


def settled(engine: Engine, daemon: NetnsDaemon) -> None:
    """What a daemon finds ended is taken away in the background, after it answers."""
    deadline = time.monotonic() + 20
    while True:
        try:
            return check(engine, daemon)
        except AssertionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def check(engine: Engine, daemon: NetnsDaemon) -> None:
    running = set(engine.docker("ps", "-q", "--no-trunc").split())
    namespaces = {path.name for path in (daemon.exec_root / "network/namespaces").iterdir()}
    assert namespaces == running
    assert endpoints_of(daemon) == running
    veths = [each for each in daemon.machine.links() if each["ifname"].startswith("veth")]
    assert len(veths) == len(running)
    dnat = [line for line in daemon.machine.rules().splitlines() if "dnat ip to 10.79.0." in line]
    assert len(dnat) == len(running)


def test_kills_leave_nothing_of_the_dead():
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    print(f"seed {seed}")
    with daemon_in_netns() as daemon:
        engine = boxed(daemon)
        engine.docker("network", "create", "--subnet", "10.79.0.0/24", "net")
        for round_ in range(ROUNDS):
            clients = [begin(engine, f"box-{round_}-{number}", number) for number in range(3)]
            time.sleep(chance.uniform(0.05, 0.9))  # the moment of the kill is the input of this test
            daemon.kill()
            for client in clients:
                client.wait(20)
            daemon.start()
            settled(engine, daemon)
            found = engine.docker("ps", "-aq").split()
            for id_ in found[: chance.randrange(len(found) + 1)]:
                engine.docker("rm", "-f", id_)
            settled(engine, daemon)
            engine.run("rm", "-f", *engine.docker("ps", "-aq").split())
            engine.docker("network", "prune", "-f", "--filter", "label=none")  # waits for what is being left
            assert daemon.machine.links() == []
        assert "10.79.0." not in daemon.machine.rules()
