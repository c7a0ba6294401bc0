"""Directories, pidfile, sockets, notification."""

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from lading.daemon import lifecycle
from lading.daemon.config import Config
from lading.errors import AlreadyExistsError, FailedPreconditionError


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_directories_let_others_pass_and_list_nothing(tmp_path: Path) -> None:
    config = Config(data_root=tmp_path / "data", exec_root=tmp_path / "run")
    lifecycle.prepare_directories(config)
    assert (mode(config.data_root), mode(config.exec_root)) == (0o711, 0o711)


def test_a_data_root_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FailedPreconditionError, match="cannot write to"):
        lifecycle.prepare_directories(Config(data_root=tmp_path / "file" / "x", exec_root=tmp_path))


def test_a_pidfile_of_a_dead_or_foreign_process_is_stale(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    for stale in ("999999999", "1", "nonsense", ""):
        path.write_text(stale)
        with lifecycle.pidfile(path):
            assert path.read_text() == f"{os.getpid()}\n"
        assert not path.exists()


def test_a_pidfile_of_a_living_daemon_is_respected(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    code = "import sys; print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, "lading", "daemon"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        path.write_text(str(process.pid))
        with pytest.raises(AlreadyExistsError, match=str(process.pid)), lifecycle.pidfile(path):
            pass
        assert path.read_text() == str(process.pid)
        process.communicate()


def test_a_unix_socket_is_for_root_and_its_group(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with lifecycle.listening(Config(hosts=(f"unix://{path}",), group="0")):
        assert mode(path) == 0o660
        assert path.stat().st_gid == 0
    assert not path.exists()


def test_what_is_made_for_a_socket_and_a_pidfile_lets_others_pass_whatever_the_umask(tmp_path: Path) -> None:
    """Who is of the socket's group comes to it through directories that were made for it."""
    umask = os.umask(0o077)
    try:
        with (
            lifecycle.listening(Config(hosts=(f"unix://{tmp_path}/a/b/s",), group="0")),
            lifecycle.pidfile(tmp_path / "c/pid"),
        ):
            modes = [mode(tmp_path / each) for each in ("a", "a/b", "c")]
    finally:
        os.umask(umask)
    assert modes == [0o711, 0o711, 0o755]


def test_an_unknown_group_is_said_and_nothing_is_left_open(tmp_path: Path) -> None:
    config = Config(hosts=(f"unix://{tmp_path}/s",), group="no-such-group")
    with (
        pytest.raises(FailedPreconditionError, match="group no-such-group not found"),
        lifecycle.listening(config),
    ):
        pass


def test_a_dead_socket_is_replaced_and_a_living_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "s"
    config = Config(hosts=(f"unix://{path}",))
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with lifecycle.listening(config):
        with pytest.raises(AlreadyExistsError, match="another daemon"), lifecycle.listening(config):
            pass
        assert path.exists()


def test_a_file_in_the_socket_s_place_is_never_removed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    with (
        pytest.raises(FailedPreconditionError, match="is no socket"),
        lifecycle.listening(Config(hosts=(f"unix://{path}",))),
    ):
        pass
    assert path.read_text() == "precious"


def test_fd_without_activation_is_said() -> None:
    with (
        pytest.raises(FailedPreconditionError, match="socket activation"),
        lifecycle.listening(Config(hosts=("fd://",))),
    ):
        pass


def test_missing_tls_files_are_said(tmp_path: Path) -> None:
    config = Config(
        tlsverify=True, tlscert=f"{tmp_path}/c", tlskey=f"{tmp_path}/k", tlscacert=f"{tmp_path}/ca"
    )
    with pytest.raises(FailedPreconditionError, match="cannot load the TLS files"):
        lifecycle.tls_context(config)


def test_systemd_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(tmp_path / "n"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "n"))
        lifecycle.notify("READY=1")
        assert channel.recv(100) == b"READY=1"
    lifecycle.notify("STOPPING=1")  # nobody listens any more: a warning, not a failure


def test_only_root_can_run_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(FailedPreconditionError, match="has to run as root, if only of a user namespace"):
        lifecycle.prepare_process(Config())


def test_the_pidfile_names_the_process_that_its_readers_see(tmp_path: Path):
    path = tmp_path / "pid"
    path.write_text(
        f"{os.getpid()}"
    )  # a daemon whose command line says so here would be refused, in another namespace nobody is
    with lifecycle.pidfile(path, 4321):
        assert path.read_text() == "4321\n"
    assert not path.exists()


def test_the_socket_of_a_user_is_the_users_alone(tmp_path: Path):
    path = tmp_path / "s"
    with lifecycle.listening(Config(hosts=(f"unix://{path}",), rootless=True)):
        assert mode(path) == 0o600
