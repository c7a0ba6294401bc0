"""The daemon as a process: start, signals, sockets, TLS, the docker command's first questions."""

import http.client
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.daemon import SOURCE, Daemon

from lading.daemon.image_store import SNAPSHOTTERS

pytestmark = pytest.mark.e2e


def test_docker_is_told_what_it_asks_first(daemon: Daemon, tmp_path: Path) -> None:
    assert (
        daemon.docker("version", "--format", "{{.Server.APIVersion}} {{.Server.MinAPIVersion}}")
        == "1.55 1.40\n"
    )
    info = daemon.docker(
        "info", "--format", "{{.Driver}} {{.DriverStatus}} {{.Swarm.LocalNodeState}} {{.OSType}}"
    )
    driver, _, rest = info.partition(" ")
    assert driver == next(name for name, kind in SNAPSHOTTERS.items() if kind.probe(tmp_path) is None)
    assert rest == "[[driver-type io.containerd.snapshotter.v1]] inactive linux\n"
    assert daemon.docker("network", "ls", "--format", "{{.Name}}").split() == ["host", "none"]
    assert daemon.docker("volume", "ls", "-q") == ""
    assert daemon.docker("plugin", "ls", "-q") == ""
    missing = daemon.run("inspect", "no-such-thing")
    assert b"No such object: no-such-thing" in missing.stderr
    assert b"not a swarm manager" in daemon.run("node", "ls").stderr


def test_an_older_client_is_spoken_to_in_its_version(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in ("1.40", "1.43", "1.47"):
        monkeypatch.setenv("DOCKER_API_VERSION", version)
        assert daemon.docker("version", "--format", "{{.Client.APIVersion}}").strip() == version
        assert daemon.docker("info", "--format", "{{.OSType}}") == "linux\n"
        assert daemon.docker("images", "-aq") == daemon.docker("ps", "-aq") == ""
    assert daemon.api("GET", "/v1.40/info")[1]["BridgeNfIptables"] is False
    assert "BridgeNfIptables" not in daemon.api("GET", "/v1.51/info")[1]
    assert "Containerd" not in daemon.api("GET", "/v1.45/info")[1]
    status, body = daemon.api("GET", "/v1.39/info")
    assert (status, "too old" in body["message"]) == (400, True)


def test_sigterm_is_graceful_and_leaves_nothing(daemon: Daemon) -> None:
    begun = time.monotonic()
    assert daemon.stop() == 0
    assert time.monotonic() - begun < 10
    assert not daemon.socket.exists()
    assert not (daemon.directory / "pid").exists()


def test_sigterm_ends_an_open_event_stream_in_order(daemon: Daemon) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(daemon.socket))
        client.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
        client.settimeout(10)
        assert client.recv(65536).startswith(b"HTTP/1.1 200")
        begun = time.monotonic()
        daemon.signal(signal.SIGTERM)
        rest = b""
        while part := client.recv(65536):
            rest += part
    assert rest.endswith(b"0\r\n\r\n")
    assert daemon.process is not None
    assert daemon.process.wait(10) == 0
    assert time.monotonic() - begun < 5


def test_a_kill_leaves_nothing_that_stops_the_next_start(daemon: Daemon) -> None:
    daemon.kill()
    assert daemon.socket.exists()
    daemon.start()
    assert daemon.api("GET", "/info")[0] == 200


def test_one_daemon_per_data_root(daemon: Daemon, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "lading",
                "daemon",
                f"--data-root={daemon.data_root}",
                f"--exec-root={tmp_path}",
            ),
            *(f"--pidfile={tmp_path}/pid", f"--host=unix://{tmp_path}/s", "--oom-score-adjust=0"),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        env={**os.environ, "PYTHONPATH": SOURCE},
    )
    assert done.returncode == 1
    assert f"is in use by process {daemon.process.pid if daemon.process else 0}" in done.stderr
    assert "Traceback" not in done.stderr


def test_sighup_reloads_and_a_bad_file_changes_nothing(daemon: Daemon) -> None:
    config = daemon.directory / "daemon.json"
    config.write_text("{}")
    daemon.stop()
    daemon.arguments.append(f"--config-file={config}")
    daemon.start()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(daemon.socket))
        client.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
        client.settimeout(10)
        client.recv(65536)
        config.write_text('{"labels": ["tier=test"]}')
        daemon.signal(signal.SIGHUP)
        assert b'"Action":"reload"' in client.recv(65536)
        assert daemon.api("GET", "/info")[1]["Labels"] == ["tier=test"]
        config.write_text('{"nonsense": 1}')
        daemon.signal(signal.SIGHUP)
        assert b'"Action":"reload"' in client.recv(65536)
    assert daemon.api("GET", "/info")[1]["Labels"] == ["tier=test"]
    assert "nonsense" in daemon.tail()


def test_sigquit_dumps_stacks_and_goes_on(daemon: Daemon) -> None:
    daemon.signal(signal.SIGQUIT)
    deadline = time.monotonic() + 5
    while "most recent call first" not in daemon.tail():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert daemon.api("GET", "/version")[0] == 200


ACTIVATE = """
import os, socket, sys
s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen()
os.dup2(s.fileno(), 3); os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.executable, [sys.executable, "-m", "lading", "daemon", *sys.argv[2:]])
"""


def test_systemd_hands_over_a_socket_and_is_told_when_ready(tmp_path: Path) -> None:
    path, told = tmp_path / "s", tmp_path / "n"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(told))
        channel.settimeout(20)
        arguments = [
            f"--data-root={tmp_path}/d",
            f"--exec-root={tmp_path}/r",
            f"--pidfile={tmp_path}/pid",
            "-Hfd://",
        ]
        process = subprocess.Popen(
            [sys.executable, "-c", ACTIVATE, str(path), *arguments, "--oom-score-adjust=0"],
            env={**os.environ, "PYTHONPATH": SOURCE, "NOTIFY_SOCKET": str(told)},
            stderr=subprocess.DEVNULL,
        )
        try:
            assert channel.recv(100).startswith(b"READY=1\n")
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
                client.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
                assert client.recv(1000).startswith(b"HTTP/1.0 200")
            process.send_signal(signal.SIGTERM)
            assert channel.recv(100) == b"STOPPING=1"
            assert process.wait(15) == 0
        finally:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tls")
    run = lambda *words: subprocess.run(["openssl", *words], check=True, capture_output=True, cwd=directory)  # noqa: E731
    run(
        "req",
        "-x509",
        "-newkey",
        "ed25519",
        "-nodes",
        "-subj",
        "/CN=ca",
        "-keyout",
        "ca-key.pem",
        "-out",
        "ca.pem",
    )
    for name in ("server", "client"):
        run(
            "req",
            "-newkey",
            "ed25519",
            "-nodes",
            "-subj",
            f"/CN={name}",
            "-keyout",
            f"{name}-key.pem",
            "-out",
            "r.pem",
        )
        (directory / "x").write_text("subjectAltName=IP:127.0.0.1\n")
        run("x509", "-req", "-in", "r.pem", "-CA", "ca.pem", "-CAkey", "ca-key.pem", "-CAcreateserial")
        run(
            "x509",
            "-req",
            "-in",
            "r.pem",
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca-key.pem",
            "-extfile",
            "x",
            "-out",
            f"{name}.pem",
        )
    return directory


def test_tcp_wants_a_client_certificate_and_an_honest_host_header(daemon: Daemon, certificates: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    daemon.stop()
    daemon.arguments += [
        f"--host=tcp://127.0.0.1:{port}",
        "--tlsverify",
        f"--tlscacert={certificates}/ca.pem",
    ]
    daemon.arguments += [f"--tlscert={certificates}/server.pem", f"--tlskey={certificates}/server-key.pem"]
    daemon.start()
    context = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
    with pytest.raises((ssl.SSLError, OSError, http.client.HTTPException)):
        ask(port, context, "127.0.0.1")
    context.load_cert_chain(certificates / "client.pem", certificates / "client-key.pem")
    assert ask(port, context, f"127.0.0.1:{port}") == 200
    assert ask(port, context, "evil.example") == 403


def ask(port: int, context: ssl.SSLContext, host: str) -> int:
    connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=10)
    try:
        connection.request("GET", "/version", headers={"Host": host})
        return connection.getresponse().status
    finally:
        connection.close()
