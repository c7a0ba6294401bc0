"""The command starts fast because it imports little."""

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lading.cli.client import Client
from lading.errors import InvalidArgumentError, UnavailableError

SOURCE = str(Path(__file__).parents[3] / "src")
HEAVY = {
    "aiohttp",
    "anyio",
    "asyncio",
    "click",
    "rich",
    "structlog",
    "msgspec",
    "http.client",
    "json",
    "ssl",
    "google",
}


def imported(*arguments: str) -> tuple[set[str], str, int]:
    """Modules that a run of the command imports, what it prints, and its exit status."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "lading", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": SOURCE, "DOCKER_HOST": "unix:///nonexistent/lading.sock"},
    )
    names = {
        line.rpartition("|")[2].strip()
        for line in done.stderr.splitlines()
        if line.startswith("import time:")
    }
    return names, done.stdout, done.returncode


def test_help_imports_nothing_of_ours_and_nothing_heavy() -> None:
    names, text, status = imported("--help")
    assert status == 0
    assert "Usage: lading" in text
    assert names & HEAVY == set()
    assert {name for name in names if name.startswith("lading")} <= {"lading", "lading.__main__"}


@pytest.mark.parametrize("command", ["why", "gc", "fsck", "store"])
def test_help_of_a_command_does_not_load_the_daemon(command: str) -> None:
    names, text, status = imported(command, "--help")
    assert status == 0
    assert f"lading {command}" in text
    assert names & {"aiohttp", "anyio", "asyncio", "rich", "structlog", "msgspec", "google"} == set()


def test_daemon_help_does_not_load_the_rooms() -> None:
    names, text, status = imported("daemon", "--help")
    assert status == 0
    assert "--data-root" in text
    assert not {
        name for name in names if name.startswith(("lading.remotes", "lading.images", "lading.runtime"))
    }


def test_a_missing_daemon_is_said_with_what_to_do() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lading", "store", "status"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": SOURCE, "DOCKER_HOST": "unix:///nonexistent/lading.sock"},
    )
    assert done.returncode == 1
    assert "cannot reach the Lading daemon at unix:///nonexistent/lading.sock" in done.stderr
    assert "lading daemon" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["nonsense"], ["why"], ["-H", "gopher://x", "store", "status"]])
def test_bad_arguments_are_said_without_a_traceback(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lading", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": SOURCE},
    )
    assert done.returncode != 0
    assert done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "host", ["tcp://localhost", "tcp://localhost:xx", "tcp://:1", "tcp://h:99999", "http://x:1"]
)
def test_a_host_that_is_none_is_named(host: str) -> None:
    with pytest.raises(InvalidArgumentError, match="invalid host"):
        Client(host).get("/info")


@pytest.mark.parametrize("answer", [b"", b'{"a":', b'{"ok": 1}\nno json\n'])
def test_an_answer_that_breaks_off_is_an_error_in_words(tmp_path: Path, answer: bytes) -> None:
    """The peer resets the connection in the middle of an answer that promised more."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()

        def serve() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.recv(4096)
                peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(UnavailableError, match="broke off its answer"):
            list(Client(f"unix://{tmp_path / 's'}").stream("/lading/gc"))
        thread.join()
