"""Logs of every driver, detaching, WebSockets, and clients that come and go, with the unmodified docker command and docker-py."""

import contextlib
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from support.daemon import Daemon
from support.engine import Engine, boxed
from websockets.sync.client import unix_connect

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def engine(shared_daemon: Daemon) -> Engine:
    return boxed(shared_daemon)


@pytest.fixture(autouse=True)
def _clean(engine: Engine) -> Iterator[None]:
    yield
    for each in engine.run("ps", "-aq").stdout.split():
        engine.run("rm", "-f", each)


@pytest.fixture
def client(engine: Engine) -> Iterator[docker.DockerClient]:
    with contextlib.closing(docker.DockerClient(base_url=engine.daemon.host)) as made:
        yield made


# Logs.


@pytest.mark.proves("GET /containers/{name}/logs", "HostConfig.LogConfig")
@pytest.mark.parametrize("driver", ["json-file", "local"])
def test_logs_rotate_and_nothing_is_missed_while_they_are_followed(engine: Engine, driver: str):
    options = ["--log-driver", driver, "--log-opt", "max-size=4k", "--log-opt", "max-file=3"]
    options += ["--log-opt", "compress=true"]
    script = "read x; for n in $(seq 3000); do echo $n; done"
    engine.docker("run", "-di", "--network", "none", "--name", "cc", *options, "box", "sh", "-c", script)
    follow = subprocess.Popen(
        ["docker", "logs", "-f", "cc"], env=engine.env, stdout=subprocess.PIPE, text=True
    )
    time.sleep(0.3)  # the follower may come late: it then misses what was rotated away, which the count shows
    engine.docker("attach", "cc", input="go\n")
    output, _ = follow.communicate(timeout=60)
    assert output.split() == [str(n) for n in range(1, 3001)]
    kept = engine.docker("logs", "cc").split()
    assert 0 < len(kept) < 3000
    assert kept == [str(n) for n in range(3001 - len(kept), 3001)]
    assert engine.docker("logs", "-n", "5", "cc").split() == ["2996", "2997", "2998", "2999", "3000"]
    directory = (
        engine.daemon.data_root / "containers" / engine.docker("inspect", "-f", "{{.Id}}", "cc").strip()
    )
    names = {path.name for path in directory.rglob("*.gz")}
    assert {name.rpartition(".1.gz")[1] or name.rpartition(".2.gz")[1] for name in names} == {
        ".1.gz",
        ".2.gz",
    }


def test_no_log(engine: Engine):
    engine.docker("run", "--network", "none", "--name", "cc", "--log-driver", "none", "box", "echo", "x")
    assert "does not support reading" in engine.run("logs", "cc").stderr
    assert engine.docker("inspect", "-f", "{{.LogPath}}", "cc") == "\n"


def test_messages_also_go_to_syslog(engine: Engine, tmp_path: Path):
    """By datagrams, as the machine's own takes them; they can be read here all the same, and go on when the daemon was away."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "log"))
        server.settimeout(20)
        address = f"syslog-address=unixgram://{tmp_path}/log"
        options = ["--log-driver", "syslog", "--log-opt", address, "--log-opt", "tag={{.Name}}"]
        script = "echo out; echo err >&2; read x; echo $x"
        engine.docker("run", "-di", "--network", "none", "--name", "cc", *options, "box", "sh", "-c", script)
        heads = {b"<30>": b"out\n", b"<27>": b"err\n"}
        for _ in range(2):
            message = server.recv(4096)
            assert b" cc[" in message
            assert message.endswith(heads.pop(message[:4]))
        engine.restart()
        engine.docker("attach", "cc", input="later\n")
        assert server.recv(4096).endswith(b": later\n")
    assert sorted(engine.docker("logs", "cc").split()) == ["later", "out"]
    assert engine.docker("inspect", "-f", "{{.LogPath}}", "cc") == "\n"


def test_a_syslog_that_is_not_there_is_said_at_the_start(engine: Engine, tmp_path: Path):
    options = ["--log-driver", "syslog", "--log-opt", f"syslog-address=unixgram://{tmp_path}/none"]
    refused = engine.run("run", "--name", "cc", "--network", "none", *options, "box", "true").stderr
    assert f"failed to initialize logging driver: cannot reach unixgram://{tmp_path}/none" in refused
    none = [
        "--log-driver",
        "syslog",
        "--log-opt",
        "syslog-address=udp://127.0.0.1:9",
        "--log-opt",
        "cache-disabled=true",
    ]
    engine.docker("run", "--name", "dd", "--network", "none", *none, "box", "echo", "x")
    assert "does not support reading" in engine.run("logs", "dd").stderr


def test_times_and_details(engine: Engine):
    options = ["-l", "app=my shop", "-e", "MODE=live", "--log-opt", "labels=app", "--log-opt", "env=MODE"]
    engine.docker(
        "run", "--network", "none", "--name", "cc", *options, "box", "sh", "-c", "echo a; echo b >&2"
    )
    found = engine.run("logs", "--details", "-t", "cc")
    stamp, attributes, text = found.stdout.split()
    assert len(stamp) == len("2024-05-06T07:08:09.123456789Z")
    assert (attributes, text) == ("MODE=live,app=my+shop", "a")
    assert found.stderr.split()[1:] == ["MODE=live,app=my+shop", "b"]
    assert engine.docker("logs", "--since", stamp, "cc") == "a\n"
    assert engine.run("logs", "--until", stamp, "cc").stderr == ""
    line = json.loads(
        Path(engine.docker("inspect", "-f", "{{.LogPath}}", "cc").strip()).read_text().splitlines()[0]
    )
    assert list(line) == ["log", "stream", "attrs", "time"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--log-driver", "journald"], "journald"),
        (["--log-opt", "nope=1"], "unknown log opt 'nope'"),
        (["--log-opt", "compress=true"], "compress cannot be true"),
        (["--log-driver", "local", "--log-opt", "tag=x"], "unknown log opt 'tag' for local"),
    ],
)
def test_log_options_that_cannot_be(engine: Engine, options: list[str], words: str):
    assert words in engine.run("create", *options, "box").stderr


def test_a_large_log_is_not_held_in_memory(engine: Engine):
    engine.docker(
        "run",
        "--network",
        "none",
        "--name",
        "cc",
        "box",
        "sh",
        "-c",
        "yes 0123456789012345678901234567890123456789 | head -n 400000",
    )
    pid = engine.daemon.process.pid  # type: ignore[union-attr]
    subprocess.run("docker logs cc | tail -n 1", shell=True, env=engine.env, check=True, capture_output=True)

    def peak() -> int:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))

    before = peak()
    with subprocess.Popen(["docker", "logs", "cc"], env=engine.env, stdout=subprocess.PIPE) as slow:
        assert slow.stdout is not None
        slow.stdout.read(10)
        engine.docker("logs", "-n", "1", "cc")
        slow.kill()
    assert peak() - before < 32 * 1024


# Clients.


def test_detached_exec_goes_on_and_its_code_is_known(engine: Engine, client: docker.DockerClient):
    engine.background("cc", "sleep 1000")
    command = ["sh", "-c", "read x; echo $x >/tmp/got; until test -e /tmp/go; do sleep 0.05; done; exit 5"]
    made = client.api.exec_create("cc", command, stdin=True, tty=True, detach_keys="ctrl-x,x")
    body = b'{"Tty":true}'
    head = (
        f"POST /exec/{made['Id']}/start HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
    )
    with socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(20)
        raw.connect(str(engine.daemon.socket))
        raw.sendall(head.encode() + body + b"word\n")
        engine.docker("exec", "cc", "sh", "-c", "until test -s /tmp/got; do sleep 0.05; done")
        raw.sendall(b"\x18x")
        while raw.recv(4096):
            pass
    assert "exec_detach" in engine.events("cc")
    assert client.api.exec_inspect(made["Id"])["Running"]
    engine.docker("exec", "cc", "touch", "/tmp/go")
    until_ended(client, made["Id"], 5)


def until_ended(client: docker.DockerClient, id_: str, code: int) -> None:
    deadline = time.monotonic() + 20
    while client.api.exec_inspect(id_)["Running"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert client.api.exec_inspect(id_)["ExitCode"] == code


def test_input_of_an_exec_is_never_lost(engine: Engine):
    """The shim opens its end in the background: one of six came before that, was dropped, and the process waited for ever."""
    engine.background("takes", "sleep 1000")
    for script, given, expected in (
        ("cat", "hello", "hello"),
        ("wc -c", "x" * 300_000, "300000\n"),
        ("wc -c", "", "0\n"),
    ):
        for _ in range(12):
            words = ("exec", "-i", "takes", "busybox", *script.split())
            assert engine.docker(*words, input=given) == expected


def test_an_exec_outlives_a_client_that_is_killed(engine: Engine, client: docker.DockerClient):
    engine.background("cc", "sleep 1000")
    words = [
        "docker",
        "exec",
        "cc",
        "sh",
        "-c",
        "echo up; until test -e /tmp/go; do sleep 0.05; done; exit 7",
    ]
    with subprocess.Popen(words, env=engine.env, stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stdout.read(3) == b"up\n"
        running.kill()
    (id_,) = json.loads(engine.docker("inspect", "cc"))[0]["ExecIDs"]
    engine.docker("exec", "cc", "touch", "/tmp/go")
    until_ended(client, id_, 7)


def starting(engine: Engine, exec_id: str, *, tty: bool = False) -> socket.socket:
    """Start an exec as clients do that hijack; the connection."""
    body = json.dumps({"Tty": tty}).encode()
    head = (
        f"POST /exec/{exec_id}/start HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
    )
    raw = socket.socket(socket.AF_UNIX)
    raw.settimeout(20)
    raw.connect(str(engine.daemon.socket))
    raw.sendall(head.encode() + body)
    return raw


def rest(raw: socket.socket) -> tuple[str, bytes]:
    """The status line, and the stream to its end."""
    said = bytearray()
    while part := raw.recv(4096):
        said += part
    head, _, stream = bytes(said).partition(b"\r\n\r\n")
    return head.partition(b"\r\n")[0].decode(), stream


def started(engine: Engine, exec_id: str, *, tty: bool = False) -> tuple[str, bytes]:
    with starting(engine, exec_id, tty=tty) as raw:
        return rest(raw)


def test_a_second_start_of_an_exec_is_refused_within_the_stream(engine: Engine, client: docker.DockerClient):
    """Compose starts what it has attached to once more. Without a stream there is a status for it."""
    engine.background("cc", "sleep 1000")
    made = client.api.exec_create("cc", ["sh", "-c", "until test -e /tmp/go; do sleep 0.05; done; echo gone"])
    with starting(engine, made["Id"]) as first:
        assert first.recv(4096).startswith(b"HTTP/1.1 101")
        status, stream = started(engine, made["Id"])
        assert status == "HTTP/1.1 101 UPGRADED"
        assert stream[:4] == b"\1\0\0\0"
        assert stream.endswith(b"is already running\r\n")
        engine.docker("exec", "cc", "touch", "/tmp/go")
        assert first.recv(4096) == b"\1\0\0\0\0\0\0\5gone\n"
    until_ended(client, made["Id"], 0)
    assert started(engine, made["Id"])[1].endswith(b"has already run\r\n")
    with pytest.raises(docker.errors.APIError, match="has already run") as refused:
        client.api.exec_start(made["Id"], detach=True)
    assert refused.value.status_code == 409
    for end in ("pause", "kill"):
        engine.docker(end, "cc")
        with starting(engine, made["Id"]) as raw:
            assert raw.recv(4096).startswith(b"HTTP/1.1 409")


def test_an_exec_with_a_terminal_goes_on_when_its_input_ends(engine: Engine, client: docker.DockerClient):
    engine.background("cc", "sleep 1000")
    command = ["sh", "-c", "until test -e /tmp/go; do sleep 0.05; done; echo done; exit 3"]
    made = client.api.exec_create("cc", command, stdin=True, tty=True)
    with starting(engine, made["Id"], tty=True) as raw:
        raw.shutdown(socket.SHUT_WR)
        engine.docker("exec", "cc", "touch", "/tmp/go")
        assert rest(raw)[1] == b"done\r\n"
    until_ended(client, made["Id"], 3)


@pytest.mark.parametrize(("terminal", "text"), [(True, b"a\r\n"), (False, b"a\n")])
def test_who_starts_an_exec_says_whether_its_stream_has_frames(
    engine: Engine, client: docker.DockerClient, terminal: bool, text: bytes
):
    """Whether the process has a terminal was said when it was made."""
    engine.background("cc", "sleep 1000")
    for raw in (True, False):
        made = client.api.exec_create("cc", ["echo", "a"], tty=terminal)
        head = b"" if raw else b"\1\0\0\0\0\0\0" + bytes([len(text)])
        assert started(engine, made["Id"], tty=raw)[1] == head + text


def test_detach_keys_of_an_exec_are_checked_when_it_is_made(engine: Engine):
    engine.background("cc", "sleep 1000")
    refused = engine.run("exec", "--detach-keys", "ctrl-nope", "cc", "true")
    assert "ctrl-nope" in refused.stderr
    assert refused.returncode
    engine.docker("exec", "--detach-keys", "ctrl-a,b", "cc", "true")


@pytest.mark.proves("GET /containers/{name}/attach/ws")
def test_attach_over_websocket(engine: Engine):
    engine.docker("create", "-i", "--network", "none", "--name", "cc", "box", "cat")
    address = "ws://localhost/v1.45/containers/cc/attach/ws?stream=1&stdin=1&stdout=1&stderr=1"
    with unix_connect(str(engine.daemon.socket), address) as web:
        engine.docker("start", "cc")
        web.send(b"hello\n")
        assert web.recv(timeout=20) == b"hello\n"
        web.send("text too\n")
        assert web.recv(timeout=20) == b"text too\n"
        engine.docker("kill", "cc")
        with contextlib.suppress(Exception):
            while True:
                web.recv(timeout=20)
    assert "attach" in engine.events("cc")
    assert engine.docker("logs", "cc") == "hello\ntext too\n"
    status, answer = engine.daemon.api("GET", "/containers/cc/attach/ws")
    assert (status, "WebSocket" in answer["message"]) == (400, True)


def test_docker_py_speaks_with_it(engine: Engine, client: docker.DockerClient):
    assert client.containers.run("box", "echo hi", network_mode="none", remove=True) == b"hi\n"
    made = client.containers.run(
        "box", ["sh", "-c", "echo out; echo err >&2; sleep 1000"], network_mode="none", detach=True
    )
    code, output = made.exec_run("sh -c 'echo a; echo b >&2; exit 3'", demux=True)
    assert (code, output) == (3, (b"a\n", b"b\n"))
    assert made.logs(stdout=True, stderr=False) == b"out\n"
    chunks, stat = made.get_archive("/etc/passwd")
    assert stat["name"] == "passwd"
    assert b"alice" in b"".join(chunks)
    assert made.diff() is None  # what is mounted on is no change
    made.stop(timeout=0)
    assert made.wait()["StatusCode"] == 137
    made.remove()


@pytest.mark.daemon_args(
    "--log-driver", "local", "--log-opt", "max-size=4k", "--log-opt", "max-file=2", "--init"
)
def test_what_the_daemon_s_configuration_says(daemon: Daemon):
    engine = boxed(daemon)
    assert (
        engine.docker("info", "-f", "{{.LoggingDriver}} {{.Plugins.Log}}")
        == "local [json-file local none syslog]\n"
    )
    engine.docker("run", "--network", "none", "--name", "cc", "box", "cat", "/proc/1/comm")
    assert engine.docker("logs", "cc") == "docker-init\n"
    found = json.loads(engine.docker("inspect", "cc"))[0]["HostConfig"]["LogConfig"]
    assert found == {"Type": "local", "Config": {"max-size": "4k", "max-file": "2"}}
    options = ["--log-driver", "json-file", "--log-opt", "max-size=1m", "--init=false"]
    engine.docker("run", "--network", "none", "--name", "dd", *options, "box", "cat", "/proc/1/comm")
    assert engine.docker("logs", "dd") == "cat\n"
    found = json.loads(engine.docker("inspect", "dd"))[0]["HostConfig"]["LogConfig"]
    assert found == {"Type": "json-file", "Config": {"max-size": "1m"}}
    refused = engine.daemon.lading("daemon", "--validate", "--log-driver", "journald")
    assert "journald" in refused.stderr
    engine.docker("rm", "-f", "cc", "dd")
