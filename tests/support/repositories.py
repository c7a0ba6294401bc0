"""Git repositories, and servers that show them."""

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Generator
from pathlib import Path

from support.registry import free_port


def git(directory: Path, *arguments: str) -> str:
    directory.mkdir(parents=True, exist_ok=True)
    settings = ("-c", "protocol.file.allow=always", "-c", "user.name=a", "-c", "user.email=a@localhost")
    return subprocess.run(
        ["git", *settings, *arguments],
        cwd=directory,
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_TERMINAL_PROMPT": "0"},
    ).stdout.strip()


def commit(directory: Path, files: dict[str, str]) -> str:
    """A commit with these files, on the branch main; its name."""
    if not (directory / ".git").exists():
        git(directory, "init", "-q", "-b", "main")
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)
    git(directory, "add", "-A")
    git(directory, "commit", "-qm", "a commit")
    return git(directory, "rev-parse", "HEAD")


def wait_for(port: int) -> None:
    """Wait until something listens there."""
    deadline = time.monotonic() + 30
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        assert time.monotonic() < deadline, "the server does not listen"
        time.sleep(0.02)


@contextlib.contextmanager
def serving(command: list[str], port: int) -> Generator[None]:
    """A server on a port, with all that it starts."""
    server = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        wait_for(port)
        yield
    finally:
        os.killpg(server.pid, 15)
        server.wait()


@contextlib.contextmanager
def git_daemon(root: Path) -> Generator[str]:
    """The URL at which git's own server shows the repositories of a directory."""
    port = free_port()
    command = ["git", "daemon", "--export-all", "--reuseaddr", "--listen=127.0.0.1", f"--port={port}"]
    with serving([*command, f"--base-path={root}", str(root)], port):
        yield f"git://127.0.0.1:{port}"
