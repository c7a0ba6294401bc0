"""What a build is given by the unmodified client: contexts on its standard input, Dockerfiles that are no text."""

import io
import json
import os
import stat
import subprocess
import tarfile
import threading
from collections.abc import Generator
from pathlib import Path

import pytest
from support import buildx
from support.buildx import give_plugins
from support.daemon import Daemon, running_daemon
from support.images import BUSYBOX

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def builder() -> Generator[Daemon]:
    """A daemon, and a docker client with its plugins."""
    with running_daemon() as daemon:
        give_plugins(daemon)
        yield daemon


def build(daemon: Daemon, given: bytes, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``docker build -``, which reads ``given``."""
    done = subprocess.run(
        ["docker", "build", "--progress=plain", *arguments, "-"],
        input=given,
        capture_output=True,
        check=False,
        timeout=100,
        env=os.environ
        | {"DOCKER_HOST": daemon.host, "DOCKER_CONFIG": str(daemon.directory / "docker-config")},
    )
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode(errors="replace")
    )


def archive(files: dict[str, str], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_an_archive_on_standard_input_is_the_context(builder: Daemon, mode: str) -> None:
    files = {"own/Dockerfile": "FROM scratch\nCOPY a b/c /\n", "a": f"{mode}\n", "b/c": "c\n"}
    platforms = "--platform=linux/amd64,linux/arm64"
    done = build(builder, archive(files, mode), platforms, "-f", "own/Dockerfile", "-t", "given")
    assert done.returncode == 0, f"{done.stderr}\n{builder.tail()}"
    builder.docker("create", "--name", "looked", "given", "none")
    try:
        given = builder.run("export", "looked").stdout
    finally:
        builder.docker("rm", "looked")
    with tarfile.open(fileobj=io.BytesIO(given)) as tar:
        assert {"a", "c"} <= set(tar.getnames())
        member = tar.extractfile("a")
        assert member is not None
        assert member.read() == f"{mode}\n".encode()


def test_an_archive_that_breaks_off_is_refused(builder: Daemon) -> None:
    whole = archive({"Dockerfile": "FROM scratch\nCOPY Dockerfile /\n"}, "w:gz")
    done = build(builder, whole[:-20])
    assert done.returncode == 1
    assert "truncated" in done.stderr


def test_bytes_that_are_no_text_become_the_replacement_character(builder: Daemon) -> None:
    done = build(builder, b"FROM scratch\nLABEL x=\xe9 \xe9=1\nENV A=\xe9\n", "-t", "latin")
    assert done.returncode == 0, f"{done.stderr}\n{builder.tail()}"
    config = json.loads(builder.docker("image", "inspect", "--format", "{{json .Config}}", "latin"))
    assert config["Labels"] == {"x": "�", "�": "1"}
    assert "A=�" in config["Env"]


def test_a_dockerfile_of_another_encoding_is_refused_with_its_first_word(builder: Daemon) -> None:
    done = build(builder, "FROM scratch\n".encode("utf-16"))
    assert done.returncode == 1
    assert "unknown instruction: ��F" in done.stderr


def test_bytes_that_a_step_would_need_are_refused(builder: Daemon) -> None:
    done = build(builder, b"FROM scratch\nCOPY <<a /\xe9\nA\na\n")
    assert done.returncode == 1
    assert "bytes that are no UTF-8" in done.stderr


def test_a_program_given_as_a_dockerfile_is_refused_and_shows_a_few_lines(builder: Daemon) -> None:
    done = build(builder, Path(BUSYBOX).read_bytes())
    assert done.returncode == 1
    assert "dockerfile parse error on line 1: unknown instruction" in done.stderr
    assert len(done.stderr) < 100_000
    builder.docker("version")


def test_a_copy_onto_a_file_names_the_place_that_is_in_the_way(builder: Daemon) -> None:
    done = build(builder, b"FROM scratch AS x\nCOPY <<a /\nA\na\nFROM x\nCOPY --from=x /a /a/c\n")
    assert done.returncode == 1
    assert "cannot copy /a to /a/c: not a directory" in done.stderr


def test_odd_files_of_a_context_arrive_as_they_are(builder: Daemon, tmp_path: Path) -> None:
    context = tmp_path / "context"
    (context / "files").mkdir(parents=True)
    names = ("a\nb", "x" * 255, " ", "-rf", "$HOME", "ünï", "a\\b", "*", "[a")
    for name in names:
        (context / "files" / name).write_text(name)
    (context / "files" / "loop").symlink_to("loop")
    (context / "files" / "out").symlink_to("/etc/passwd")
    os.link(context / "files" / "-rf", context / "files" / "zhard")
    os.mkfifo(context / "files" / "fifo")
    (context / "Dockerfile").write_text("FROM scratch\nCOPY files /\n")
    out = tmp_path / "out.tar"
    done = build_in(builder, context, "-o", f"type=tar,dest={out}")
    assert done.returncode == 0, f"{done.stderr}\n{builder.tail()}"
    with tarfile.open(out) as archive:
        found = {member.name: member for member in archive}
        assert {*names, "loop", "out", "zhard", "fifo"} <= set(found)
        assert found["out"].linkname == "/etc/passwd"
        assert found["fifo"].isfifo()


def test_a_device_in_a_context_arrives_and_cannot_be_opened(builder: Daemon, tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    os.mknod(context / "memory", 0o666 | stat.S_IFCHR, os.makedev(1, 1))
    (context / "busybox").write_bytes(Path(BUSYBOX).read_bytes())
    (context / "busybox").chmod(0o755)
    (context / "Dockerfile").write_text(
        "FROM scratch\nCOPY busybox memory /\n"
        'RUN --mount=type=bind,target=/m ["/busybox", "sh", "-c", "/busybox head -c1 /memory || /busybox head -c1 /m/memory || '
        "echo clo''sed\"]\n"
    )
    out = tmp_path / "out.tar"
    done = build_in(builder, context, "--network=none", "-o", f"type=tar,dest={out}")
    assert done.returncode == 0, f"{done.stderr}\n{builder.tail()}"
    assert "closed" in done.stderr
    assert done.stderr.count("Operation not permitted") == 2
    with tarfile.open(out) as archive:
        found = archive.getmember("memory")
        assert (found.ischr(), found.devmajor, found.devminor) == (True, 1, 1)
    # A Dockerfile that is one is not read.
    (context / "Dockerfile").unlink()
    os.mknod(context / "Dockerfile", 0o666 | stat.S_IFCHR, os.makedev(1, 5))
    done = build_in(builder, context)
    assert done.returncode == 1
    assert "Dockerfile is no regular file" in done.stderr


def test_files_that_change_while_they_are_sent_end_the_build_or_not_but_nothing_else(
    builder: Daemon, tmp_path: Path
) -> None:
    for number in range(200):
        (tmp_path / f"{number}").write_bytes(bytes(100_000))
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY . /\n")
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            for number in range(200):
                path = tmp_path / f"{number}"
                path.unlink(missing_ok=True) if number % 3 else path.write_bytes(os.urandom(number * 1000))

    changing = threading.Thread(target=change)
    changing.start()
    try:
        for _ in range(2):
            done = build_in(builder, tmp_path)
            assert "internal error" not in done.stderr
    finally:
        stop.set()
        changing.join()
    assert build_in(builder, tmp_path).returncode == 0


def build_in(daemon: Daemon, context: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``docker build`` of a directory."""
    return buildx.build(daemon, context, *arguments, check=False)


def test_a_config_that_could_not_be_read_again_is_not_named(builder: Daemon) -> None:
    assert build(builder, b"FROM scratch\nENV A=b\n", "-t", "keep").returncode == 0
    before = builder.docker("image", "inspect", "-f", "{{.Id}}", "keep")
    grown = "".join(f"ENV A{number}=${{A{number - 1}:-x}}y\n" for number in range(1, 3000))
    failed = build(builder, f"FROM scratch\n{grown}".encode(), "-t", "keep")
    assert failed.returncode == 1
    assert "the image's config has 9" in failed.stderr
    assert "bytes, more than 8388608" in failed.stderr
    assert builder.docker("image", "inspect", "-f", "{{.Id}}", "keep") == before
