"""The unmodified docker command against containers in real shims, through kill -9 of the daemon."""

import contextlib
import json
import os
import pty
import select
import socket
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from support.daemon import Daemon
from support.engine import Engine, boxed

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def engine(shared_daemon: Daemon) -> Engine:
    return boxed(shared_daemon)


@pytest.fixture(autouse=True)
def _clean(engine: Engine) -> Iterator[None]:
    yield
    for each in engine.run("ps", "-aq").stdout.split():
        engine.run("rm", "-f", each)


@pytest.mark.proves(
    "POST /containers/create",
    "POST /containers/{name}/start",
    "POST /containers/{name}/wait",
    "POST /containers/{name}/attach",
    "Config.Cmd",
    "Config.Image",
    "Config.AttachStdout",
    "Config.AttachStderr",
    "HostConfig.AutoRemove",
)
def test_run_keeps_streams_apart_and_gives_the_exit_code(engine: Engine):
    result = engine.run(
        "run", "--rm", "--network", "none", "box", "sh", "-c", "echo out; echo err >&2; exit 3"
    )
    assert (result.stdout, result.stderr, result.returncode) == ("out\n", "err\n", 3)
    assert engine.docker("ps", "-aq") == ""


@pytest.mark.proves("Config.AttachStdin", "Config.OpenStdin", "Config.StdinOnce")
def test_input_is_passed_byte_for_byte(engine: Engine):
    text = "".join(chr(33 + n % 90) for n in range(300_000))
    assert engine.docker("run", "-i", "--rm", "--network", "none", "box", "cat", input=text) == text


@pytest.mark.parametrize(("command", "code"), [("nosuch", 127), ("/etc/not-executable", 126)])
def test_commands_that_cannot_run(engine: Engine, command: str, code: int):
    result = engine.run("run", "--rm", "--network", "none", "box", command)
    assert result.returncode == code, result
    assert engine.docker("ps", "-aq") == ""


@pytest.mark.proves("HostConfig.CgroupParent", "HostConfig.Isolation", "HostConfig.DeviceRequests")
@pytest.mark.parametrize(
    ("options", "field"),
    [
        (["--cgroup-parent", "x.slice"], "CgroupParent"),
        (["--gpus", "all"], "DeviceRequests"),
        (["--log-driver", "journald"], "LogConfig"),
        (["--cgroupns", "private", "--isolation", "hyperv"], "Isolation"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(engine: Engine, options: list[str], field: str):
    result = engine.run("create", *options, "box")
    assert result.returncode != 0
    assert field in result.stderr, result.stderr


@pytest.mark.proves("Config.User", "Config.WorkingDir", "Config.Env", "HostConfig.Binds", "HostConfig.Tmpfs")
def test_identity_directory_environment_mounts(engine: Engine, tmp_path: Path):
    tmp_path.chmod(0o755)
    (tmp_path / "file").write_text("from the host\n")
    options = ["--rm", "--network", "none", "-u", "alice", "-w", "/made/here", "-e", "A=b", "-h", "boxy"]
    options += ["-v", f"{tmp_path}:/mnt:ro", "--tmpfs", "/scratch:size=1m", "--group-add", "77"]
    script = "id -u; id -G; pwd; echo $A; hostname; cat /mnt/file; touch /mnt/x 2>/dev/null || echo read-only"
    lines = engine.docker("run", *options, "box", "sh", "-c", script).splitlines()
    assert lines == ["1000", "1001 50 77", "/made/here", "b", "boxy", "from the host", "read-only"]


def test_a_number_is_never_a_name(engine: Engine):
    script = ["box", "id", "-u"]
    assert engine.docker("run", "--rm", "--network", "none", "-u", "1234", *script) == "1234\n"
    result = engine.run("run", "--rm", "--network", "none", "-u", "4294967296", *script)
    assert result.returncode == 125
    assert "must be in range" in result.stderr


@pytest.mark.proves("HostConfig.Privileged", "HostConfig.ReadonlyPaths", "HostConfig.MaskedPaths")
def test_confinement_is_docker_s(engine: Engine):
    status = engine.docker("run", "--rm", "--network", "none", "box", "cat", "/proc/self/status")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["Seccomp"].strip() == "2"
    assert fields["CapBnd"].strip() == fields["CapEff"].strip() == "00000000a80425fb"
    assert fields["CapInh"].strip() == "0000000000000000"
    assert engine.docker(
        "run", "--rm", "--network", "none", "box", "wc", "-c", "/proc/timer_list"
    ).startswith("0 ")
    inside = ("run", "--rm", "--network", "none")
    mount = ("box", "mount", "-t", "tmpfs", "x", "/tmp")
    assert engine.run(*inside, *mount).returncode != 0
    engine.docker(*inside, "--privileged", *mount)
    levers = "echo 7 >/proc/sys/kernel/pid_max && echo written; grep -c ' /proc/sys .*ro,' /proc/mounts"
    assert engine.run(*inside, "box", "sh", "-c", levers).stdout == "1\n"
    paths = {"MaskedPaths": ["/etc/passwd"], "ReadonlyPaths": ["/tmp"]}
    with contextlib.closing(docker.APIClient(base_url=engine.daemon.host)) as api:
        look = "wc -c </etc/passwd; touch /tmp/x; wc -c </proc/timer_list"
        host = {**paths, "NetworkMode": "none"}
        made = api.create_container_from_config(
            {"Image": "box", "Cmd": ["sh", "-c", look], "HostConfig": host}, "own"
        )
        api.start(made)
        api.wait(made)
    found = engine.run("logs", "own")
    assert found.stdout.split()[0] == "0"
    assert found.stdout.split()[1:] != ["0"]  # only what was named is hidden
    assert "Read-only file system" in found.stderr


@pytest.mark.proves("POST /containers/{name}/exec", "POST /exec/{id}/start", "GET /exec/{id}/json")
def test_exec(engine: Engine):
    engine.background("target", "sleep 100")
    assert engine.docker("exec", "target", "sh", "-c", "echo hi; exit 7", code=7) == "hi\n"
    assert engine.docker("exec", "-i", "target", "cat", input="piped") == "piped"
    assert engine.docker("exec", "-u", "alice", "target", "id", "-u") == "1000\n"
    engine.docker("exec", "target", "nosuch", code=127)
    for who, words in (("nobody-here", "unable to find user"), (":nothing", "unable to find group")):
        for more in ((), ("-d",)):
            refused = engine.run("exec", *more, "-u", who, "target", "true")
            assert (refused.returncode, words in refused.stderr) == (1, True), refused
    engine.docker("exec", "-d", "target", "touch", "/tmp/touched")
    engine.docker("exec", "target", "sh", "-c", "while [ ! -e /tmp/touched ]; do sleep 0.02; done")
    assert "sleep 100" in engine.docker("top", "target")


@pytest.mark.proves(
    "GET /containers/json", "POST /containers/{name}/rename", "DELETE /containers/{name}", "Config.Labels"
)
def test_names_listing_and_removal(engine: Engine):
    made = engine.background("first", "sleep 100").strip()
    assert "Conflict" in engine.run("create", "--name", "first", "box").stderr
    engine.docker("rename", "first", "second")
    assert engine.docker("ps", "-q", "--no-trunc", "--filter", "name=second").strip() == made
    assert engine.docker("ps", "-q", "--filter", "status=exited") == ""
    assert "container is running" in engine.run("rm", "second").stderr
    engine.docker("pause", "second")
    assert "(Paused)" in engine.docker("ps")
    engine.docker("unpause", "second")
    engine.docker("kill", "second")
    assert engine.docker("wait", "second") == "137\n"
    assert json.loads(engine.docker("inspect", "second"))[0]["State"]["ExitCode"] == 137
    assert made in engine.docker("container", "prune", "-f")
    assert "No such container" in engine.run("inspect", "--type", "container", "second").stderr


@pytest.mark.proves(
    "POST /containers/{name}/stop", "POST /containers/{name}/kill", "Config.StopSignal", "Config.StopTimeout"
)
def test_stop_asks_first(engine: Engine):
    engine.background("polite", "trap 'echo bye; exit 5' TERM; echo up; while true; do sleep 0.05; done")
    follow(engine, "polite", "up")
    engine.docker("stop", "polite")
    assert engine.docker("logs", "polite") == "up\nbye\n"
    assert engine.docker("inspect", "-f", "{{.State.ExitCode}}", "polite") == "5\n"
    script = "trap 'exit 6' USR1; trap '' TERM; echo up; while true; do sleep 0.05; done"
    for name, asked, code in (
        ("by-name", "USR1", "6"),
        ("by-no-name", "99", "137"),
        ("stubborn", "TERM", "137"),
    ):
        engine.background(name, script, "--stop-signal", asked, "--stop-timeout", "1")
        follow(engine, name, "up")
        engine.docker("stop", name)
        assert engine.docker("inspect", "-f", "{{.State.ExitCode}}", name) == f"{code}\n"
    words = ("--since", "1", "--until", f"{time.time():.9f}", "--filter", "container=stubborn")
    shown = engine.docker("events", *words, "--filter", "event=kill", "--format", "{{json .}}").splitlines()
    first, last = map(json.loads, shown)
    assert [each["Actor"]["Attributes"]["signal"] for each in (first, last)] == ["15", "9"]
    waited = (last["timeNano"] - first["timeNano"]) / 10**9
    assert waited >= 1
    assert waited < 10, "that is the daemon's own time-out"


def follow(engine: Engine, name: str, text: str) -> None:
    """Wait until the log holds ``text``."""
    with subprocess.Popen(
        ["docker", "logs", "-f", name], env=engine.env, stdout=subprocess.PIPE, text=True
    ) as logs:
        assert logs.stdout is not None
        try:
            assert any(text in line for line in logs.stdout)
        finally:
            logs.terminate()


@pytest.mark.proves("HostConfig.RestartPolicy")
def test_restart_policy(engine: Engine):
    engine.docker(
        "run",
        "-d",
        "--network",
        "none",
        "--name",
        "again",
        "--restart",
        "on-failure:2",
        "box",
        "sh",
        "-c",
        "exit 9",
    )
    assert engine.docker("wait", "again") == "9\n"
    assert engine.docker("inspect", "-f", "{{.RestartCount}}", "again") == "2\n"


@pytest.mark.proves(
    "Config.Tty", "POST /containers/{name}/resize", "POST /exec/{id}/resize", "HostConfig.ConsoleSize"
)
def test_terminal_resize_and_detach(engine: Engine):
    master, slave = pty.openpty()
    # The client tells the size only once it has started the container.
    script = "read x; until stty size 2>&1 | grep '33 77'; do sleep 0.05; done; cat"
    engine.docker("create", "-it", "--network", "none", "--name", "term", "box", "sh", "-c", script)
    termios.tcsetwinsize(slave, (33, 77))
    client = subprocess.Popen(
        ["docker", "start", "-ai", "term"], env=engine.env, stdin=slave, stdout=slave, stderr=slave
    )
    os.close(slave)
    try:
        os.write(master, b"go\n")
        read_until(master, b"33 77")
        os.write(master, b"typed\n")
        read_until(master, b"typed\r\ntyped")
        os.write(master, b"\x10\x11")
        assert client.wait(10) == 0
    finally:
        client.kill()
        client.wait()
        os.close(master)
    assert engine.docker("inspect", "-f", "{{.State.Running}}", "term") == "true\n"
    run = ("run", "-t", "--rm", "--network", "none", "box", "stty", "size")
    for words in (run, ("exec", "-t", "term", "stty", "size")):
        assert in_terminal(engine, words, (21, 43)).strip() == b"21 43"


@pytest.mark.parametrize(
    ("query", "status"),
    [("", 400), ("h=5", 400), ("w=5", 400), ("h=5&w=-1", 400), ("h=5&w=x", 400), ("h=65536&w=5", 200)],
)
def test_a_resize_names_both_extents(engine: Engine, query: str, status: int):
    engine.docker("run", "-dt", "--network", "none", "--name", "term", "box", "sleep", "1000")
    assert engine.daemon.api("POST", f"/containers/term/resize?{query}")[0] == status


def test_names_in_filters_are_expressions(engine: Engine):
    engine.docker("volume", "create", "kept")
    engine.docker("volume", "create", "kept-too")
    engine.docker("create", "--network", "none", "--name", "kept", "box")
    names = {
        "volume": lambda value: engine.docker("volume", "ls", "-q", "--filter", f"name={value}"),
        "network": lambda value: engine.docker(
            "network", "ls", "--format", "{{.Name}}", "--filter", f"name={value}"
        ),
        "ps": lambda value: engine.docker("ps", "-a", "--format", "{{.Names}}", "--filter", f"name={value}"),
    }
    assert names["volume"]("^kept$") == "kept\n"
    assert names["network"]("^no") == "none\n"
    assert names["ps"]("^/kept$") == "kept\n"
    assert [found("[") for found in names.values()] == ["", "", ""]
    for words in (
        ("network", "ls", "--filter", "dangling=maybe"),
        ("volume", "ls", "--filter", "dangling=maybe"),
        ("network", "ls", "--filter", "type=x"),
        ("ps", "--filter", "is-task=x"),
    ):
        assert "invalid filter" in engine.run(*words).stderr
    engine.docker("volume", "rm", "kept", "kept-too")


def in_terminal(engine: Engine, words: tuple[str, ...], size: tuple[int, int]) -> bytes:
    """What the client writes to a terminal of this size, which its process has from the beginning."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, size)
    client = subprocess.Popen(["docker", *words], env=engine.env, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    try:
        return read_until(master, b"\n")
    finally:
        assert client.wait(30) == 0
        os.close(master)


def read_until(fd: int, wanted: bytes) -> bytes:
    seen, end = b"", time.monotonic() + 15
    while wanted not in seen:
        assert select.select([fd], [], [], max(0, end - time.monotonic()))[0], seen
        seen += os.read(fd, 4096)
    return seen


def test_kill_9_of_the_daemon_loses_no_line_and_no_container(engine: Engine):
    script = "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done; sleep 100"
    engine.background("steady", script)
    for _ in range(3):
        engine.restart()
    assert engine.docker("ps", "-q", "--filter", "name=steady")
    follow(engine, "steady", "line 2999")
    assert engine.docker("exec", "steady", "echo", "still here") == "still here\n"
    assert engine.docker("logs", "steady").splitlines() == [f"line {n}" for n in range(3000)]
    assert engine.docker("logs", "--tail", "2", "steady") == "line 2998\nline 2999\n"


def test_end_while_no_daemon_runs(engine: Engine, tmp_path: Path):
    script = "while [ ! -e /mnt/go ]; do sleep 0.02; done; echo last words; echo done > /mnt/done; exit 6"
    engine.background("orphan", script, "-v", f"{tmp_path}:/mnt")
    engine.daemon.kill()
    (tmp_path / "go").touch()
    deadline = time.monotonic() + 10
    while not (tmp_path / "done").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)  # for the shim to notice: nothing tells when it has
    engine.daemon.start()
    assert engine.docker("wait", "orphan") == "6\n"
    assert engine.docker("logs", "orphan") == "last words\n"


def test_a_client_that_never_reads_harms_nobody(engine: Engine):
    engine.docker(
        "create", "--network", "none", "--name", "loud", "box", "sh", "-c", "seq 1 200000; echo over"
    )
    client = subprocess.Popen(["docker", "start", "-a", "loud"], env=engine.env, stdout=subprocess.PIPE)
    try:
        assert engine.docker("ps", "-aq", "--filter", "name=loud")
        time.sleep(0.5)
        started = time.monotonic()
        assert engine.docker("run", "--rm", "--network", "none", "box", "echo", "quick") == "quick\n"
        assert time.monotonic() - started < 10
    finally:
        client.kill()
        client.wait()
        assert client.stdout is not None
        client.stdout.close()
    follow(engine, "loud", "over")


def test_events_in_docker_s_order(engine: Engine):
    since = str(time.time() - 1)
    engine.docker("run", "--rm", "--network", "none", "--name", "told", "box", "true")
    with contextlib.suppress(subprocess.TimeoutExpired):
        engine.docker("wait", "told", code=1)
    words = engine.docker(
        "events",
        "--since",
        since,
        "--until",
        str(time.time() + 1),
        "--filter",
        "container=told",
        "--format",
        "{{.Action}}",
    ).split()
    assert words == ["create", "attach", "start", "die", "destroy"]


@pytest.mark.parametrize("action", ["start", "restart?t=0", "stop?t=0"])
def test_a_client_that_leaves_in_the_middle_leaves_nothing_half_done(engine: Engine, action: str):
    """Whatever it asked for is done, and the container can be used afterwards."""
    for delay in (0, 0.01, 0.02, 0.03, 0.05, 0.08):
        engine.docker("create", "--network", "none", "--name", "cut", "box", "sleep", "1000")
        if action != "start":
            engine.docker("start", "cut")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(engine.daemon.socket))
            client.sendall(
                f"POST /containers/cut/{action} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode()
            )
            time.sleep(delay)
        wanted = "exited" if action.startswith("stop") else "running"
        deadline = time.monotonic() + 20
        while (found := engine.docker("inspect", "-f", "{{.State.Status}}", "cut").strip()) != wanted:
            assert time.monotonic() < deadline, (delay, found)
            time.sleep(0.02)
        engine.docker("restart", "-t", "0", "cut")
        engine.docker("rm", "-f", "cut")
