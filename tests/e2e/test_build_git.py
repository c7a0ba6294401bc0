"""Contexts and ``ADD`` from git repositories by the unmodified client: submodules, subdirectories, commits, tokens, an ssh agent."""

import base64
import functools
import http.server
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Generator
from pathlib import Path

import pytest
from support.buildx import build, docker, give_plugins
from support.daemon import Daemon, running_daemon
from support.images import BUSYBOX
from support.registry import free_port
from support.repositories import commit, git, git_daemon, serving

pytestmark = pytest.mark.e2e
TOKEN = "a-token-that-nobody-guesses"


@pytest.fixture(scope="module")
def builder() -> Generator[Daemon]:
    """A daemon, and a docker client with its plugins."""
    with running_daemon() as daemon:
        give_plugins(daemon)
        yield daemon


@pytest.fixture
def served(tmp_path: Path) -> Generator[tuple[Path, str]]:
    """A directory of repositories, and the URL at which git's own server shows it."""
    root = tmp_path / "served"
    root.mkdir()
    with git_daemon(root) as url:
        yield root, url


def files_of(out: Path) -> dict[str, str]:
    return {
        str(path.relative_to(out)): path.read_text(errors="replace")
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


def test_a_repository_with_a_submodule(builder: Daemon, served: tuple[Path, str], tmp_path: Path) -> None:
    root, url = served
    commit(root / "part", {"part.txt": "of another repository\n"})
    whole = root / "whole"
    commit(whole, {"Dockerfile": "FROM scratch\nCOPY . /\n", "dir/file.txt": "one\n"})
    git(whole, "submodule", "--quiet", "add", f"{url}/part", "module")
    first = commit(whole, {})
    commit(whole, {"dir/file.txt": "two\n"})
    git(whole, "tag", "v2")
    git(whole, "branch", "same", first)
    git(whole, "tag", "-a", "-m", "of the same name", "same")

    references = {
        "#v2": "two\n",
        "#same": "one\n",
        "#refs/tags/same": "two\n",
        f"#{first}": "one\n",
        "": "two\n",
    }
    for reference, text in references.items():
        out = tmp_path / f"out{reference.replace('/', '-')}"
        done = docker(builder, "build", "-o", str(out), f"{url}/whole{reference}")
        assert done.returncode == 0, done.stderr
        found = files_of(out)
        assert found["dir/file.txt"] == text
        assert found["module/part.txt"] == "of another repository\n"
        assert not any(".git/" in name for name in found)


def test_add_takes_a_directory_of_a_commit(
    builder: Daemon,
    served: tuple[Path, str],
    tmp_path: Path,
) -> None:
    root, url = served
    name = commit(root / "whole", {"dir/file.txt": "text\n", "other.txt": "not this\n"})
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(
        f"FROM scratch\nADD {url}/whole#main:dir /part/\nADD --keep-git-dir --checksum={name} {url}/whole#main /all/\n"
    )
    build(builder, context, "-o", str(tmp_path / "out"))
    found = files_of(tmp_path / "out")
    assert found["part/file.txt"] == "text\n"
    assert "part/other.txt" not in found
    assert found["all/other.txt"] == "not this\n"
    assert "all/.git/HEAD" in found
    (context / "Dockerfile").write_text(f"FROM scratch\nADD --checksum={'0' * 40} {url}/whole#main /\n")
    refused = build(builder, context, check=False)
    assert refused.returncode
    assert f"expected checksum to match {'0' * 40}, got {name}" in refused.stderr
    (context / "Dockerfile").write_text(f"FROM scratch\nADD {url}/whole#nothing /\n")
    missing = build(builder, context, check=False)
    assert "has no ref nothing" in missing.stderr


class _Guarded(http.server.SimpleHTTPRequestHandler):
    """Files for those who have the token."""

    def do_GET(self) -> None:
        wanted = base64.b64encode(f"x-access-token:{TOKEN}".encode()).decode()
        if self.headers.get("Authorization", "").lower() != f"basic {wanted}".lower():
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="git"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        super().do_GET()

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def guarded(tmp_path: Path) -> Generator[tuple[Path, str]]:
    """A directory that a web server shows to those who have the token."""
    root = tmp_path / "guarded"
    root.mkdir()
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(_Guarded, directory=str(root))
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield root, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_repository_that_asks_for_a_token(
    builder: Daemon,
    guarded: tuple[Path, str],
    tmp_path: Path,
) -> None:
    root, url = guarded
    commit(tmp_path / "work", {"Dockerfile": "FROM scratch\nCOPY file.txt /\n", "file.txt": "private\n"})
    git(root, "clone", "-q", "--bare", str(tmp_path / "work"), "private.git")
    git(root / "private.git", "update-server-info")
    refused = docker(builder, "build", "-o", str(tmp_path / "none"), f"{url}/private.git")
    assert refused.returncode
    out = tmp_path / "out"
    token = ("--secret", "id=GIT_AUTH_TOKEN", "-o", str(out))
    done = docker(builder, "build", *token, f"{url}/private.git", GIT_AUTH_TOKEN=TOKEN)
    assert done.returncode == 0, done.stderr
    assert files_of(out) == {"file.txt": "private\n"}
    assert TOKEN not in done.stderr
    assert TOKEN not in builder.tail()


@pytest.fixture
def agent(tmp_path: Path) -> Generator[Path]:
    """The socket of an agent that has one key, which lies beside it as ``key`` and ``key.pub``."""
    place = tmp_path / "agent"
    place.mkdir()
    key, at = place / "key", place / "socket"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(at)], stdout=subprocess.DEVNULL)
    try:
        while not at.exists():
            assert process.poll() is None
            time.sleep(0.02)
        subprocess.run(
            ["ssh-add", "-q", str(key)], env=os.environ | {"SSH_AUTH_SOCK": str(at)}, check=True, timeout=30
        )
        yield at
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def over_ssh(tmp_path: Path, agent: Path) -> Generator[tuple[Path, str]]:
    """A directory, and the URL at which those who have the key see it. The server's home is its own."""
    root = tmp_path / "over-ssh"
    root.mkdir()
    host_key = tmp_path / "host-key"
    subprocess.run(
        ["dropbearkey", "-t", "ed25519", "-f", str(host_key)], check=True, stdout=subprocess.DEVNULL
    )
    port = free_port()
    script = (
        f"mount -t tmpfs -o mode=700 tmpfs /root && mkdir -m 700 /root/.ssh && cp {agent.parent}/key.pub /root/.ssh/authorized_keys"
        f" && exec dropbear -F -E -s -r {host_key} -P {tmp_path}/pid -p 127.0.0.1:{port}"
    )
    with serving(["unshare", "--mount", "sh", "-c", script], port):
        yield root, f"ssh://root@127.0.0.1:{port}{root}"


def test_a_repository_over_ssh(
    builder: Daemon,
    over_ssh: tuple[Path, str],
    agent: Path,
    tmp_path: Path,
) -> None:
    root, url = over_ssh
    commit(tmp_path / "work", {"dir/file.txt": "only with the key\n"})
    git(root, "clone", "-q", "--bare", str(tmp_path / "work"), "private.git")
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(f"FROM scratch\nADD {url}/private.git#main:dir /\n")
    refused = build(builder, context, check=False)
    assert refused.returncode
    out = tmp_path / "out"
    build(builder, context, "--ssh", "default", "-o", str(out), SSH_AUTH_SOCK=str(agent))
    assert files_of(out) == {"file.txt": "only with the key\n"}


def test_a_step_finds_the_agent(builder: Daemon, agent: Path, tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    shutil.copy(str(BUSYBOX), context / "busybox")
    shell = "/busybox test -S $SSH_AUTH_SOCK && /busybox stat -c %a:%u $SSH_AUTH_SOCK"
    (context / "Dockerfile").write_text(
        "FROM scratch\nCOPY busybox /\n"
        f'RUN --mount=type=ssh,required=true,mode=0640 ["/busybox", "sh", "-c", "{shell}"]\n'
    )
    done = build(builder, context, "--ssh", "default", SSH_AUTH_SOCK=str(agent))
    assert "640:0" in done.stderr
    without = build(builder, context, "--no-cache", check=False)
    assert without.returncode
    assert "ssh" in without.stderr
