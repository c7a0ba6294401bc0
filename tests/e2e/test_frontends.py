"""Frontends that are images: ``# syntax=`` and BUILDKIT_SYNTAX run them, and they ask the daemon over standard input and output."""

import json
import os
import pty
import select
import shutil
import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest
from support import frontend_image
from support.daemon import Daemon, running_daemon

from .test_build import build, give_plugins

pytestmark = pytest.mark.e2e
FRONTEND = "recipes"
SYNTAX = f"# syntax={FRONTEND} with words\n"


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Generator[Daemon]:
    """A daemon that has the frontend's image."""
    with running_daemon() as daemon:
        give_plugins(daemon)
        place = tmp_path_factory.mktemp("frontend")
        frontend_image.write(place)
        build(daemon, place, "-t", FRONTEND)
        yield daemon


def make(
    daemon: Daemon, context: Path, recipe: str, *arguments: str, check: bool = True
) -> subprocess.CompletedProcess[str]:
    context.mkdir(exist_ok=True)
    (context / "Dockerfile").write_text(recipe)
    return build(daemon, context, *arguments, check=check)


def exported(daemon: Daemon, context: Path, recipe: str, *arguments: str) -> Path:
    out = context.parent / "out"
    make(daemon, context, recipe, "-o", str(out), *arguments)
    return out


def test_syntax_runs_the_image(builder: Daemon, tmp_path: Path) -> None:
    recipe = f"{SYNTAX}base {FRONTEND}\nsay\nwrite /made by a frontend\n"
    done = make(builder, tmp_path / "c", recipe, "-t", "made", "--build-arg", "SAY=hello")
    assert f"resolve image config for docker-image://docker.io/library/{FRONTEND}:latest" in done.stderr
    assert "write /made" in done.stderr
    image = json.loads(builder.docker("image", "inspect", "made"))[0]
    assert image["Config"]["Labels"] == {"said": "hello"}
    program = "import pathlib; print(pathlib.Path('/made').read_text())"
    python = image["Config"]["Entrypoint"][0]
    shown = builder.docker("run", "--rm", "--network", "none", "--entrypoint", python, "made", "-c", program)
    assert shown == "by a frontend\n"
    # What it solved is cached, as the operations of any frontend.
    again = make(builder, tmp_path / "c", recipe, "-t", "made", "--build-arg", "SAY=hello")
    assert "CACHED" in again.stderr


def test_a_build_argument_names_it(builder: Daemon, tmp_path: Path) -> None:
    named = exported(
        builder, tmp_path / "c", "write /x y\n", "--build-arg", f"BUILDKIT_SYNTAX={FRONTEND} words"
    )
    assert (named / "x").read_text() == "y"


def test_it_may_ask_another_frontend(builder: Daemon, tmp_path: Path) -> None:
    context = tmp_path / "c"
    context.mkdir()
    (context / "Dockerfile.inner").write_text("FROM scratch\nCOPY Dockerfile.inner /copied\n")
    out = exported(builder, context, f"{SYNTAX}forward\n")
    assert (out / "copied").read_text().startswith("FROM scratch")
    # Lines at fault are shown through both.
    (context / "Dockerfile.inner").write_text("FROM scratch\nCOPPY a b\n")
    failed = make(builder, context, f"{SYNTAX}forward\n", check=False)
    assert failed.returncode == 1
    assert "unknown instruction: COPPY" in failed.stderr


def test_frontends_ask_for_each_other_to_some_depth_only(builder: Daemon, tmp_path: Path) -> None:
    failed = make(builder, tmp_path / "c", f"{SYNTAX}again {FRONTEND}\n", check=False)
    assert failed.returncode == 1
    assert f"8 frontends have asked for each other already: {FRONTEND} > {FRONTEND} > " in failed.stderr


@pytest.mark.parametrize("words", [["yes"], ["cat"], ["cat", "/dev/zero"]])
def test_a_program_that_does_not_speak_grpc_is_ended_at_once(
    builder: Daemon, tmp_path: Path, words: list[str]
) -> None:
    place = tmp_path / "image"
    place.mkdir()
    shutil.copy("/bin/busybox", place / "busybox")
    entrypoint = json.dumps(["/busybox", *words])
    (place / "Dockerfile").write_text(f"FROM scratch\nCOPY busybox /busybox\nENTRYPOINT {entrypoint}\n")
    build(builder, place, "-t", "stranger")
    failed = make(builder, tmp_path / "c", "# syntax=stranger\nFROM scratch\n", check=False)
    assert failed.returncode == 1
    assert "frontend stranger: its program does not speak gRPC on its standard output" in failed.stderr


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ("fail so it is\n", "so it is"),
        ("exit 7\n", "exit code: 7"),
        ("exit 0\n", "it returned nothing"),
        ("base missing.invalid/x\n", "missing.invalid"),
    ],
)
def test_what_goes_wrong_is_told(builder: Daemon, tmp_path: Path, recipe: str, said: str) -> None:
    failed = make(builder, tmp_path / "c", SYNTAX + recipe, check=False)
    assert failed.returncode == 1
    assert said in failed.stderr
    if "exit" in recipe:
        assert "this went wrong" in failed.stderr
        assert ">>> # syntax=" in failed.stderr


def test_an_image_that_is_not_there_or_no_frontend(builder: Daemon, tmp_path: Path) -> None:
    failed = make(builder, tmp_path / "c", "# syntax=127.0.0.1:1/none\nFROM scratch\n", check=False)
    assert "127.0.0.1:1/none" in failed.stderr
    place = tmp_path / "plain"
    place.mkdir()
    shutil.copy("/bin/busybox", place / "busybox")
    (place / "Dockerfile").write_text(
        'FROM scratch\nCOPY busybox /busybox\nENTRYPOINT ["/busybox", "true"]\n'
    )
    build(builder, place, "-t", "plain")
    failed = make(builder, tmp_path / "c", "# syntax=plain\nFROM scratch\n", check=False)
    assert "it returned nothing" in failed.stderr


def test_what_a_frontend_cannot_do_is_refused(builder: Daemon, tmp_path: Path) -> None:
    context = tmp_path / "c"
    failed = make(builder, context, "# syntax=plain\nFROM scratch\n", "--call=outline", check=False)
    assert failed.returncode == 1
    assert "moby.buildkit.frontend.subrequests" in failed.stderr


def test_nothing_is_left_of_it(builder: Daemon, tmp_path: Path) -> None:
    make(builder, tmp_path / "c", f"{SYNTAX}exit 3\n", check=False)
    mounts = Path("/proc/self/mounts").read_text()
    assert f"{builder.exec_root}/build/processes" not in mounts
    assert not list((builder.exec_root / "build/processes").glob("*"))


def test_a_client_runs_processes_in_what_it_built(builder: Daemon, tmp_path: Path) -> None:
    """``docker buildx debug`` wants a terminal, and makes its containers over the bridge."""
    shutil.copy("/bin/busybox", tmp_path / "busybox")
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY busybox /bin/sh\nWORKDIR /made\n")
    command = ["docker", "buildx", "debug", "--on=always", "--invoke=/bin/sh", "build"]
    command += ["--progress=plain", str(tmp_path)]
    ours, theirs = pty.openpty()
    client = subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        env={
            **os.environ,
            "DOCKER_HOST": builder.host,
            "DOCKER_CONFIG": str(builder.directory / "docker-config"),
            "BUILDX_EXPERIMENTAL": "1",
            "TERM": "dumb",
        },
    )
    os.close(theirs)
    try:
        said = _read_until(ours, b"# ")
        os.write(ours, b"pwd; echo found-$(ls / | tr '\\n' ,); exit 3\n")
        said += _read_until(ours, b"exit code: 3")
        os.write(ours, b"exit\n")
        _read_until(ours, b"")
        assert client.wait(60) == 0
    finally:
        client.kill()
        client.wait()
        os.close(ours)
    assert b"found-bin,dev,etc,made,proc,sys," in said


def _read_until(terminal: int, wanted: bytes) -> bytes:
    """What a terminal shows up to some bytes, or if these are none to its end."""
    said = b""
    while not wanted or wanted not in said:
        ready, _, _ = select.select([terminal], [], [], 60)
        assert ready, said
        try:
            data = os.read(terminal, 4096)
        except OSError:  # the other end is closed
            data = b""
        if not data:
            assert not wanted, said
            return said
        said += data
    return said
