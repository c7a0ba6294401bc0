"""The syslog driver: what is sent in each form, over each kind of socket, and what a server that is slow or away does to a container."""

import contextlib
import os
import re
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lading.containers import logdriver, syslog
from lading.containers.logdriver import Subject
from lading.containers.syslog import Sender, SyslogError, Target
from lading.errors import InvalidArgumentError

NOW = 1_715_000_000_123_456_789
SUBJECT = Subject(
    id="ab" * 32, name="web", image="box", image_id="sha256:" + "cd" * 32, command="sh", labels={}, env={}
)


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ("", "<30>May  6 12:53:20 tag[PID]: words\n"),
        ("rfc3164", "<30>May  6 12:53:20 host tag[PID]: words\n"),
        ("rfc5424", "<30>1 2024-05-06T12:53:20Z host tag PID tag - words\n"),
        ("rfc5424micro", "<30>1 2024-05-06T12:53:20.123456Z host tag PID tag - words\n"),
    ],
)
def test_forms(form: str, said: str):
    for message in (b"words\n", b"words"):
        made = syslog.record(Target(form=form), "tag", "host", message, "stdout", NOW)
        assert made.decode() == said.replace("PID", str(os.getpid()))


def test_error_output_and_facility_make_the_priority():
    made = syslog.record(syslog.parse({"syslog-facility": "local7"}), "t", "h", b"x", "stderr", NOW)
    assert made.startswith(b"<187>")
    assert (
        syslog.parse({"syslog-facility": "4"}).facility == syslog.parse({"syslog-facility": "auth"}).facility
    )


def test_records_over_tls_are_counted():
    """RFC 5425, 4.3; only for RFC 5424's form, as Docker does it."""
    address = {"syslog-address": "tcp+tls://logs:6514"}
    for form, counted in (("rfc5424", True), ("rfc5424micro", True), ("rfc3164", False), ("", False)):
        target = syslog.parse({**address, "syslog-format": form})
        made = syslog.record(target, "t", "h", b"x\n", "stdout", NOW)
        length, _, rest = made.partition(b" ")
        assert (length.isdigit() and int(length) == len(rest)) is counted


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("udp://192.0.2.1", "udp://192.0.2.1:514"),
        ("udp://192.0.2.1:1514", "udp://192.0.2.1:1514"),
        ("tcp://[::1]:601", "tcp://::1:601"),
        ("tcp+tls://logs", "tcp+tls://logs:514"),
        ("unix:///run/log", "unix:///run/log"),
        ("unixgram:///dev/log", "unixgram:///dev/log"),
    ],
)
def test_addresses(address: str, shown: str):
    assert str(syslog.parse({"syslog-address": address})) == shown


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"syslog-address": "http://logs"}, "syslog-address"),
        ({"syslog-address": "logs:514"}, "syslog-address"),
        ({"syslog-address": "udp://logs:99999"}, "syslog-address"),
        ({"syslog-address": "udp://"}, "no host"),
        ({"syslog-address": "unix://log"}, "no absolute path"),
        ({"syslog-facility": "kitchen"}, "syslog-facility"),
        ({"syslog-facility": "24"}, "syslog-facility"),
        ({"syslog-format": "rfc1"}, "syslog-format"),
        ({"cache-disabled": "perhaps"}, "cache-disabled"),
        ({"cache-max-size": "lots"}, "max-size"),
        ({"max-size": "1m"}, "unknown log opt 'max-size' for syslog"),
        ({"tag": "{{.What}}"}, "there is no {{.What}}"),
    ],
)
def test_bad_options(options: dict[str, str], words: str):
    with pytest.raises(InvalidArgumentError, match=re.escape(words)):
        logdriver.check("syslog", options)


def test_what_is_kept_here(tmp_path: Path):
    kept = logdriver.files("syslog", {"cache-max-size": "1m", "cache-max-file": "2"}, tmp_path, SUBJECT)
    assert kept is not None
    assert (kept.path, kept.limits.max_size, kept.limits.max_file, kept.limits.compress) == (
        tmp_path / "container-cached.log",
        1 << 20,
        2,
        True,
    )
    assert logdriver.files("syslog", {"cache-disabled": "true"}, tmp_path, SUBJECT) is None
    assert logdriver.sink("local", {}, SUBJECT) is None


class Server:
    """Takes what comes, from datagrams or connections one after the other."""

    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        self.data = b""
        self._client: socket.socket | None = None
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        try:
            if self.listener.type == socket.SOCK_DGRAM:
                while data := self.listener.recv(1 << 16):
                    self.data += data
            while True:
                self._take()
        except OSError:
            return

    def _take(self) -> None:
        try:
            client, _ = self.listener.accept()
        except ssl.SSLError:
            return  # a client that does not trust it
        with client:
            self._client = client
            while data := client.recv(1 << 16):
                self.data += data

    def wait_for(self, words: bytes) -> bytes:
        deadline = time.monotonic() + 10
        while words not in self.data:
            assert time.monotonic() < deadline, self.data
            time.sleep(0.005)
        return self.data

    def close(self) -> None:
        if self.listener.type == socket.SOCK_DGRAM:
            with socket.socket(self.listener.family, socket.SOCK_DGRAM) as last:
                last.sendto(b"", self.listener.getsockname())
        else:
            self.listener.shutdown(socket.SHUT_RDWR)
        if self._client is not None:
            with contextlib.suppress(OSError):
                self._client.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self.listener.close()


@contextmanager
def serving(scheme: str, directory: Path) -> Generator[tuple[str, Server]]:
    kind = socket.SOCK_STREAM if scheme in ("tcp", "unix") else socket.SOCK_DGRAM
    listener = socket.socket(socket.AF_UNIX if scheme.startswith("unix") else socket.AF_INET, kind)
    if scheme.startswith("unix"):
        listener.bind(str(directory / "log"))
        address = f"{scheme}://{directory}/log"
    else:
        listener.bind(("127.0.0.1", 0))
        address = f"{scheme}://127.0.0.1:{listener.getsockname()[1]}"
    if kind == socket.SOCK_STREAM:
        listener.listen()
    server = Server(listener)
    try:
        yield address, server
    finally:
        server.close()


@pytest.mark.parametrize("scheme", ["unixgram", "unix", "udp", "tcp"])
def test_messages_arrive_in_order(tmp_path: Path, scheme: str):
    with serving(scheme, tmp_path) as (address, server):
        sender = logdriver.sink("syslog", {"syslog-address": address, "tag": "{{.Name}}"}, SUBJECT)
        assert sender is not None
        sender.reach()
        for number in range(50):
            sender.send(f"line {number}\n".encode(), "stdout", NOW)
        sender.send(b"\n", "stdout", NOW)
        sender.close()
        data = server.wait_for(b"line 49\n").decode()
    assert [line.rpartition(" ")[2] for line in data.splitlines()] == [str(n) for n in range(50)]
    assert f" web[{os.getpid()}]: line 0" in data


def test_a_server_that_is_not_there_is_said_at_once(tmp_path: Path):
    target = syslog.parse({"syslog-address": f"unixgram://{tmp_path}/none"})
    with pytest.raises(SyslogError, match="failed to initialize logging driver: cannot reach unixgram:"):
        Sender(target, "t").reach()


def test_a_server_that_comes_back_gets_what_waited(tmp_path: Path):
    with serving("unix", tmp_path) as (address, server):
        sender = Sender(syslog.parse({"syslog-address": address}), "t")
        sender.reach()
        sender.send(b"before\n", "stdout", NOW)
        server.wait_for(b"before")
    (tmp_path / "log").unlink()
    for number in range(3):  # a connection tells of its end by the second message
        sender.send(f"away {number}\n".encode(), "stdout", NOW)
        time.sleep(0.05)
    with serving("unix", tmp_path) as (_, server):
        assert b"away 1" in server.wait_for(b"away 2")
        sender.close()
    assert sender.dropped == 0


def test_tls_knows_its_server(tmp_path: Path):
    words = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=localhost"
    files = [*("-addext", "subjectAltName=DNS:localhost", "-keyout", "key.pem", "-out", "cert.pem")]
    subprocess.run([*words.split(), *files], cwd=tmp_path, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    plain = socket.create_server(("127.0.0.1", 0))
    address = f"tcp+tls://localhost:{plain.getsockname()[1]}"
    server = Server(context.wrap_socket(plain, server_side=True))
    trusting = {"syslog-address": address, "syslog-tls-ca-cert": str(tmp_path / "cert.pem")}
    try:
        with pytest.raises(SyslogError, match="certificate"):
            Sender(syslog.parse({"syslog-address": address}), "t").reach()
        for options in (trusting, {"syslog-address": address, "syslog-tls-skip-verify": "true"}):
            sender = Sender(syslog.parse({**options, "syslog-format": "rfc5424"}), "t")
            sender.reach()
            sender.send(b"secret %d\n" % len(options.keys() & trusting.keys()), "stdout", NOW)
            sender.close()
        server.wait_for(b"secret 2")
        server.wait_for(b"secret 1")
    finally:
        server.close()


def stalled() -> tuple[Callable[[Target], socket.socket], socket.socket]:
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    ours.settimeout(30)
    return lambda _: ours, theirs


def test_attack_a_server_that_takes_nothing_holds_up_nobody():
    """The compatible twin is `test_messages_arrive_in_order`."""
    connect, theirs = stalled()
    with theirs:
        sender = Sender(Target(), "t", limit=64 * 1024, connect=connect)
        begun = time.monotonic()
        for _ in range(1000):
            sender.send(b"x" * 1000, "stdout", NOW)
        assert time.monotonic() - begun < 5
        assert sender.dropped > 900
        sender.close()
        assert time.monotonic() - begun < 10
