"""The daemon goes and comes back; running containers do not notice, and clients of the new one lose nothing."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.daemon import Daemon, is_idle_shim
from support.engine import Engine, boxed
from support.waiting import eventually

pytestmark = pytest.mark.e2e
COUNTER = "n=0; while test $n -lt 1000000; do echo $n; n=$((n+1)); sleep 0.02; done"


@pytest.fixture
def engine(daemon: Daemon) -> Iterator[Engine]:
    made = boxed(daemon)
    yield made
    names = made.run("ps", "-aq").stdout.split()
    if names:
        made.run("rm", "-f", *names)


def pids(engine: Engine, names: list[str]) -> list[str]:
    return engine.docker(
        "inspect", "-f", "{{.State.Pid}} {{.State.StartedAt}} {{.RestartCount}}", *names
    ).split("\n")


@pytest.mark.parametrize(
    "count", [6, pytest.param(50, marks=[pytest.mark.nightly, pytest.mark.timeout(600)])]
)
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_no_container_stops_and_no_line_is_lost(engine: Engine, count: int, end: signal.Signals):
    names = [f"live-{n}" for n in range(count)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: engine.background(name, COUNTER, "--log-driver", "local"), names[::2]))
        list(pool.map(lambda name: engine.background(name, COUNTER, "-i"), names[1::2]))
    before = pids(engine, names)
    for _ in range(2):
        if end == signal.SIGTERM:
            engine.daemon.stop()
        else:
            engine.daemon.kill()
        time.sleep(0.5)  # what they write meanwhile has nobody to read it
        engine.daemon.start()
        assert pids(engine, names) == before
    for name in names:
        lines = [int(line) for line in engine.docker("logs", name).split()]
        assert lines == list(range(len(lines)))
        assert len(lines) > 20
    name = names[-1]
    with subprocess.Popen(
        ["docker", "attach", "--sig-proxy=false", name],
        env=engine.env,
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    ) as attached:
        assert attached.stdout is not None
        first = int(attached.stdout.readline())
        assert [int(attached.stdout.readline()) for _ in range(5)] == list(range(first + 1, first + 6))
        attached.kill()
    assert engine.docker("exec", name, "echo", "in") == "in\n"
    engine.docker("kill", *names)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda name: engine.docker("wait", name).strip(), names)) == {"137"}


def test_health_pause_and_restart_policies_survive(engine: Engine):
    engine.background("well", "sleep 1000", "--health-cmd", "true", "--health-interval", "100ms")
    engine.background("cold", "sleep 1000")
    engine.docker("pause", "cold")
    engine.background(
        "again", "test -e /once && sleep 1000; touch /once; sleep 1; exit 1", "--restart", "always"
    )
    engine.restart()
    assert engine.docker("inspect", "-f", "{{.State.Status}}", "cold").strip() == "paused"
    engine.docker("unpause", "cold")
    deadline = time.monotonic() + 30
    wanted = ["healthy", "1 true"]
    templates = [("well", "{{.State.Health.Status}}"), ("again", "{{.RestartCount}} {{.State.Running}}")]
    while (found := [engine.docker("inspect", "-f", t, name).strip() for name, t in templates]) != wanted:
        assert time.monotonic() < deadline, found
        time.sleep(0.1)


def test_a_commit_that_is_cut_short_leaves_the_container_running(engine: Engine):
    """It is frozen meanwhile, which nobody asked for: only a pause that was acknowledged outlives the daemon."""
    engine.background("kept", "busybox dd if=/dev/urandom of=/much bs=1M count=300; echo >/done; sleep 1000")
    eventually(lambda: engine.run("exec", "kept", "grep", "-q", "^", "/done").returncode == 0)
    status = ("inspect", "-f", "{{.State.Status}}", "kept")
    with subprocess.Popen(
        ["docker", "commit", "kept", "never"], env=engine.env, stderr=subprocess.DEVNULL
    ) as commit:
        eventually(lambda: engine.docker(*status) == "paused\n")
        engine.restart()
        assert commit.wait(10) != 0
    assert engine.docker(*status) == "running\n"
    assert engine.docker("exec", "kept", "echo", "in") == "in\n"
    assert engine.run("unpause", "kept").returncode != 0
    assert engine.docker("images", "-q", "never") == ""
    engine.docker("pause", "kept")
    engine.restart()
    assert engine.docker(*status) == "paused\n"


def test_what_is_to_be_removed_with_its_end_does_not_outlive_the_daemon_unstarted(engine: Engine):
    for name, *options in (("removed", "--rm"), ("stays",)):
        engine.docker("create", "--name", name, "--network", "none", *options, "box", "true")
    engine.restart()
    eventually(lambda: engine.docker("ps", "-a", "--format", "{{.Names}}") == "stays\n")


def leftovers(engine: Engine) -> tuple[int, int, list[str]]:
    """Descriptors and threads of the daemon, and processes below its directory."""
    assert engine.daemon.process is not None
    pid = engine.daemon.process.pid
    found = subprocess.run(
        ["pgrep", "-f", str(engine.daemon.directory)], capture_output=True, text=True, check=False
    )
    children = [
        each for each in found.stdout.split() if int(each) != os.getpid() and not is_idle_shim(int(each))
    ]
    return len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task")), children


@pytest.mark.parametrize(
    "rounds", [40, pytest.param(2500, marks=[pytest.mark.nightly, pytest.mark.timeout(3600)])]
)
def test_calls_cut_at_random_leave_nothing(engine: Engine, rounds: int):
    """Attach, exec, resize and events, of which some are cut: four calls a round."""
    engine.background("busy", "while :; do echo x; sleep 0.01; done", "-i")
    settled(engine)

    def call(number: int) -> None:
        words = [
            ["attach", "--sig-proxy=false", "busy"],
            ["exec", "busy", "sh", "-c", "echo y; sleep 0.02"],
            ["events", "--since", "1"],
            ["exec", "-d", "busy", "true"],
        ][number % 4]
        with subprocess.Popen(
            ["docker", *words],
            env=engine.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as child:
            if words[0] == "exec" and number % 3:
                child.communicate(timeout=60)
                return
            time.sleep((number * 7 % 30) / 100)
            child.kill()

    def resize(number: int) -> None:
        engine.daemon.api("POST", f"/containers/busy/resize?h={number % 50 + 1}&w=80")

    before = settled(engine)
    with ThreadPoolExecutor(6) as pool:
        for _ in pool.map(call, range(rounds * 3)):
            pass
        for _ in pool.map(resize, range(rounds)):
            pass
    after = settled(engine, before)
    assert after[0] <= before[0] + 4
    assert after[1] <= before[1] + 40  # threads of the lanes, which are bounded and stay
    assert len(after[2]) <= len(before[2])
    state = engine.daemon.exec_root / "containers" / engine.docker("inspect", "-f", "{{.Id}}", "busy").strip()
    assert [path.name for path in state.iterdir() if path.name.startswith("exec-")] == []
    assert engine.docker("top", "busy").count("sh -c") <= 1


def settled(engine: Engine, wanted: tuple[int, int, list[str]] | None = None) -> tuple[int, int, list[str]]:
    """The leftovers once they no longer fall; they have half a minute."""
    deadline = time.monotonic() + 30
    found = leftovers(engine)
    while time.monotonic() < deadline:
        time.sleep(0.5)
        now = leftovers(engine)
        if now == found and (wanted is None or (now[0] <= wanted[0] + 4 and len(now[2]) <= len(wanted[2]))):
            break
        found = now
    return found
