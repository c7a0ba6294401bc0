"""A daemon of a user who is not root: its places, what it refuses, what it says is missing, how it starts itself."""

import os
from pathlib import Path

import pytest

from lading.daemon import places, rootless
from lading.daemon.config import Config, load
from lading.errors import FailedPreconditionError, InvalidArgumentError, LadingError, UnsupportedError
from lading.kit import linux


@pytest.fixture(autouse=True)
def alice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Somebody whose programs and IDs are all there; her home."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", places.STATE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("rootlesskit", "slirp4netns", "newuidmap", "newgidmap"):
        (programs / name).write_text("#!/bin/sh\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setattr(rootless, "_PATH", "/nonexistent")
    (tmp_path / "run").mkdir()
    ids = tmp_path / "subid"
    ids.write_text("1000:100000:65536\n")
    monkeypatch.setattr(rootless, "_SUBORDINATE", (ids, ids))
    monkeypatch.setattr(rootless, "_NSSWITCH", tmp_path / "none")
    (tmp_path / "tun").touch()
    monkeypatch.setattr(rootless, "_TUN", tmp_path / "tun")
    monkeypatch.setattr(rootless, "_SWITCHES", ())
    return tmp_path


def inside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(places.STATE, "/state")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(linux, "in_user_namespace", lambda: True)


def started(config: Config, *arguments: str) -> tuple[list[str], dict[str, str]]:
    """What the process would become."""
    found: list[tuple[list[str], dict[str, str]]] = []
    with pytest.MonkeyPatch.context() as patch:

        def execvpe(program: str, words: list[str], environment: dict[str, str]) -> None:
            assert program == "rootlesskit"
            found.append((words, environment))
            raise KeyboardInterrupt

        patch.setattr(os, "execvpe", execvpe)
        with pytest.raises(KeyboardInterrupt):
            rootless.launch(config, arguments)
    return found[0]


def test_the_places_are_the_users(alice: Path):
    config = load([]).config
    assert config.rootless
    assert config.data_root == alice / "home/.local/share/lading"
    assert config.exec_root == alice / "run/lading"
    assert config.pidfile == alice / "run/lading.pid"
    assert config.hosts == (f"unix://{alice}/run/docker.sock",)


def test_places_of_xdg_and_of_flags_come_first(alice: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(alice / "config"))
    (alice / "config/lading").mkdir(parents=True)
    (alice / "config/lading/daemon.json").write_text('{"labels": ["a=b"]}')
    config = load(["--pidfile=/p", "-H", "unix:///s"]).config
    assert (config.data_root, config.pidfile) == (Path("/data/lading"), Path("/p"))
    assert config.hosts == ("unix:///s",)
    assert config.labels == ("a=b",)


def test_without_a_runtime_directory_it_is_looked_for_and_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    config = load([]).config
    assert config.exec_root == Path("/run/user/1000/lading")
    with pytest.raises(FailedPreconditionError, match="/run/user/1000 is missing") as caught:
        rootless.launch(config, [])
    assert "XDG_RUNTIME_DIR" in str(caught.value)


def test_inside_what_goes_with_a_reboot_goes_with_the_namespaces(monkeypatch: pytest.MonkeyPatch):
    inside(monkeypatch)
    config = load(["--exec-root=/given"]).config
    assert config.rootless
    assert config.exec_root == Path("/run/lading")
    assert rootless.api_socket() == "/state/api.sock"
    monkeypatch.setenv(rootless.PROCESS, "77")
    assert rootless.process() == 77


def test_it_becomes_rootlesskit_which_starts_it_again(alice: Path):
    words, environment = started(load(["--debug"]).config, "--debug")
    assert words[0] == "rootlesskit"
    assert f"--state-dir={alice}/run/lading" in words
    assert {"--pidns", "--disable-host-loopback", "--copy-up=/run"} <= set(words)
    assert words[-4:] == ["-m", "lading", "daemon", "--debug"]
    assert environment[rootless.PROCESS] == str(os.getpid())
    assert environment["HOME"] == f"{alice}/home"


@pytest.mark.parametrize(
    ("missing", "package"),
    [("rootlesskit", "rootlesskit"), ("newgidmap", "uidmap"), ("slirp4netns", "slirp4netns")],
)
def test_a_missing_program_is_named_with_its_package(alice: Path, missing: str, package: str):
    (alice / "bin" / missing).unlink()
    with pytest.raises(FailedPreconditionError, match=f"needs {missing}") as caught:
        rootless.launch(load([]).config, [])
    assert f"apt install {package}" in str(caught.value)


def test_missing_subordinate_ids_are_said_with_the_command(alice: Path):
    (alice / "subid").write_text("bob:100000:65536\n1000:200000:10\n")
    with pytest.raises(FailedPreconditionError, match="too few") as caught:
        rootless.launch(load([]).config, [])
    assert "usermod --add-subuids" in str(caught.value)
    (alice / "none").write_text("passwd: files\nsubid: sss\n")  # another source may have them
    started(load([]).config)


def test_what_the_administrator_forbids_is_named(alice: Path, monkeypatch: pytest.MonkeyPatch):
    (alice / "max").write_text("0\n")
    monkeypatch.setattr(rootless, "_SWITCHES", ((alice / "max", "user.max_user_namespaces"),))
    with pytest.raises(FailedPreconditionError, match=r"user\.max_user_namespaces is 0"):
        rootless.launch(load([]).config, [])
    (alice / "max").write_text("1000\n")
    (alice / "tun").unlink()
    with pytest.raises(FailedPreconditionError, match="slirp4netns cannot use"):
        rootless.launch(load([]).config, [])


@pytest.mark.parametrize(
    ("flag", "error", "named"),
    [
        ("--userns-remap=default", UnsupportedError, "userns-remap"),
        ("--group=docker", UnsupportedError, "group"),
        ("--host=fd://", UnsupportedError, "cannot listen on fd://"),
        ("--rootless=false", InvalidArgumentError, "has to run as root"),
    ],
)
def test_what_it_cannot_have_is_refused_by_name(flag: str, error: type[LadingError], named: str):
    with pytest.raises(error, match=named):
        load([flag])


def test_root_of_the_machine_is_not_rootless(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert load([]).config == Config()
    with pytest.raises(InvalidArgumentError, match="--rootless is for a user who is not root"):
        load(["--rootless"])
