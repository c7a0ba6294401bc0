"""``--userns-remap`` with the unmodified ``docker`` command: root of a container is nobody on the machine.

Each attack has its twin: the same with ``--userns=host``, or from a container to itself, works.
"""

import io
import json
import os
import struct
import subprocess
import tarfile
from collections.abc import Generator
from pathlib import Path

import pytest
from support import engine as engines
from support.daemon import Daemon, NetnsDaemon, daemon_in_netns
from support.engine import Engine, boxed
from support.images import File, layer_tar
from support.newer import CLI_PLUGINS
from support.subids import FIRST, subordinate_ids

pytestmark = [pytest.mark.e2e, pytest.mark.stores("containerd", "classic", itself=True)]
engines.APPLETS += ("chmod", "chown", "id", "mknod", "nc", "stat", "ln", "rm", "hostname")


@pytest.fixture(
    scope="module",
    params=[
        "erofs",
        pytest.param("overlayfs", marks=pytest.mark.nightly),
        pytest.param("native", marks=pytest.mark.nightly),
        "overlay2",
    ],
)
def daemon(request: pytest.FixtureRequest) -> Generator[NetnsDaemon]:
    with (
        subordinate_ids() as owner,
        daemon_in_netns(f"--userns-remap={owner}", f"--storage-driver={request.param}") as daemon,
    ):
        daemon.directory.chmod(0o711)  # a machine's directories let everybody through
        yield daemon


@pytest.fixture(scope="module")
def loaded(daemon: Daemon) -> Engine:
    made = boxed(daemon)
    files = engines.box() | {
        "data": File(directory=True, mode=0o750, uid=1000, gid=1001),
        "data/file": File(b"from the image\n", mode=0o640, uid=1000, gid=50),
    }
    daemon.docker("import", "--change", "VOLUME /data", "-", "withdata", input=layer_tar(files))
    return made


@pytest.fixture
def engine(loaded: Engine) -> Generator[Engine]:
    yield loaded
    loaded.run("rm", "-fv", *loaded.docker("ps", "-aq").split())
    loaded.run("volume", "prune", "-af")


def run(engine: Engine, script: str, *options: str, image: str = "box") -> str:
    return engine.docker("run", "--rm", "--network", "none", *options, image, "sh", "-c", script)


def fails(engine: Engine, *words: str) -> str:
    done = engine.run(*words)
    assert done.returncode, done
    return done.stderr


def test_root_of_a_container_is_nobody_here(engine: Engine, daemon: Daemon):
    engine.background("box1", "touch /made; mkdir /tmp 2>/dev/null; while :; do sleep 1; done")
    assert run(engine, "id -u; stat -c %u:%g /etc/passwd") == "0\n0:0\n"
    pid = engine.docker("inspect", "--format", "{{.State.Pid}}", "box1").strip()
    status = Path(f"/proc/{pid}/status").read_text()
    assert f"Uid:\t{FIRST}\t{FIRST}\t{FIRST}\t{FIRST}" in status
    assert f"Gid:\t{FIRST}\t{FIRST}\t{FIRST}\t{FIRST}" in status
    assert Path(f"/proc/{pid}/uid_map").read_text().split() == ["0", str(FIRST), "65536"]
    assert engine.docker("exec", "box1", "stat", "-c", "%u:%g", "/made") == "0:0\n"
    assert os.stat(f"/proc/{pid}/root/made").st_uid == FIRST
    shown = list(daemon.exec_root.rglob("root*/made"))
    assert shown
    for each in shown:  # reached by nobody else
        for reader, passes in (("nobody", False), ("root", True)):
            words = ["runuser", "-u", reader, "--", "stat", str(each)]
            assert (subprocess.run(words, capture_output=True, check=False).returncode == 0) is passes
    assert "name=userns" in json.loads(engine.docker("info", "--format", "{{json .SecurityOptions}}"))


@pytest.mark.proves("HostConfig.UsernsMode")
def test_one_image_serves_both_kinds_of_containers(engine: Engine):
    assert run(engine, "stat -c %u /etc/passwd; cat /proc/self/uid_map").split() == [
        *("0", "0", str(FIRST), "65536")
    ]
    shown = run(engine, "stat -c %u /etc/passwd; cat /proc/self/uid_map", "--userns=host")
    assert shown.split() == ["0", "0", "0", "4294967295"]


def test_other_users_networks_execs_and_terminals(engine: Engine):
    assert run(
        engine, "id -u; id -g; echo words >/dev/stderr; echo >/dev/stdout", "--user", "alice"
    ).split() == [*("1000", "1001")]
    engine.docker("run", "-d", "--name", "web", "box", "sh", "-c", "while :; do sleep 1; done")
    assert engine.docker("exec", "-u", "alice", "web", "id", "-u") == "1000\n"
    assert "127.0.0.1" in engine.docker("exec", "web", "cat", "/etc/hosts")
    engine.docker("exec", "web", "sh", "-c", "echo 127.0.0.9 here >>/etc/hosts")
    # Low ports, and what is of its own network namespace.
    assert (
        engine.docker(
            "run", "--rm", "--sysctl", "net.ipv4.ip_forward=1", "box", "cat", "/proc/sys/net/ipv4/ip_forward"
        )
        == "1\n"
    )
    joined = engine.docker("run", "--rm", "--network", "container:web", "box", "cat", "/etc/hosts")
    assert "127.0.0.9\there" in joined.replace(" ", "\t")
    shares = ("--pid", "container:web", "--network", "container:web")
    assert engine.docker("run", "--rm", *shares, "box", "id", "-u") == "0\n"
    engine.background("other", "while :; do sleep 1; done", "--userns=host")
    refused = fails(engine, "run", "--rm", "--network", "container:other", "box", "true")
    assert "different user namespaces" in refused
    assert engine.docker("run", "--rm", "-t", "--network", "none", "box", "id", "-u").strip() == "0"
    assert "addresses_not_announced" not in engine.daemon.tail()


def test_files_go_in_and_out_with_the_containers_owners(engine: Engine, tmp_path: Path):
    engine.background("box1", "mkdir /d; echo words >/d/f; chown 7:8 /d/f; while :; do sleep 1; done")
    engine.docker(
        "exec",
        "box1",
        "sh",
        "-c",
        "while [ ! -e /d/f ]; do :; done; while [ $(stat -c %u /d/f) != 7 ]; do :; done",
    )
    (tmp_path / "in").write_text("in\n")
    os.chown(tmp_path / "in", 5, 6)
    for stopped in (False, True):
        if stopped:
            engine.docker("stop", "-t", "0", "box1")
        name = f"in-{stopped}"
        engine.docker("cp", "-a", f"{tmp_path}/in", f"box1:/d/{name}")
        out = subprocess.run(
            ["docker", "cp", "box1:/d", "-"], env=engine.env, capture_output=True, check=True
        )
        with tarfile.open(fileobj=io.BytesIO(out.stdout)) as tar:
            owners = {each.name: (each.uid, each.gid) for each in tar}
        assert owners["d"] == (0, 0)
        assert owners["d/f"] == (7, 8)
        assert owners[f"d/{name}"] == (5, 6)
        exported = subprocess.run(
            ["docker", "export", "box1"], env=engine.env, capture_output=True, check=True
        )
        with tarfile.open(fileobj=io.BytesIO(exported.stdout)) as tar:
            assert {each.name: each.uid for each in tar}["d/f"] == 7
    assert "A /d/f" in engine.docker("diff", "box1")
    engine.docker("commit", "box1", "made")
    for userns in ((), ("--userns=host",)):
        assert run(engine, "stat -c %u:%g /d/f /d/in-True", *userns, image="made") == "7:8\n5:6\n"


def test_volumes_have_the_machines_owners(engine: Engine):
    assert run(engine, "stat -c %u:%g /data /data/file; cat /data/file", image="withdata") == (
        "1000:1001\n1000:50\nfrom the image\n"
    )
    run(engine, "touch /v/file; stat -c %u /v", "-v", "data:/v")
    place = Path(json.loads(engine.docker("volume", "inspect", "data"))[0]["Mountpoint"])
    assert (place.stat().st_uid, (place / "file").stat().st_uid) == (FIRST, FIRST)
    assert run(engine, "stat -c %u /v/file", "-v", "data:/v") == "0\n"
    assert run(engine, "stat -c %u /v/file", "-v", "data:/v", "--userns=host") == f"{FIRST}\n"
    shown = run(
        engine, "stat -c %u:%g /dev/shm; touch /t/f; stat -c %u /t/f", "--tmpfs", "/t", "--ipc=shareable"
    )
    assert shown == "0:0\n0\n"


def test_attack_files_of_the_machines_root(engine: Engine, tmp_path: Path):
    tmp_path.chmod(0o755)
    secret = tmp_path / "secret"
    secret.write_text("hidden\n")
    secret.chmod(0o600)
    bound = ("-v", f"{tmp_path}:/host")
    refused = run(engine, "cat /host/secret || chown 0 /host/secret || touch /host/new || echo no", *bound)
    assert refused == "no\n"
    assert run(engine, "cat /host/secret", *bound, "--userns=host") == "hidden\n"


def test_attack_set_user_id_file_in_a_volume(engine: Engine, tmp_path: Path):
    tmp_path.chmod(0o777)
    run(engine, "cat /bin/busybox >/host/id; chmod 4755 /host/id", "-v", f"{tmp_path}:/host")
    found = (tmp_path / "id").stat()
    assert (found.st_uid, found.st_mode & 0o7777) == (FIRST, 0o4755)
    run(
        engine,
        "cat /bin/busybox >/host/id2; chmod 4755 /host/id2",
        "-v",
        f"{tmp_path}:/host",
        "--userns=host",
    )
    assert (tmp_path / "id2").stat().st_uid == 0


def test_attack_devices_and_proc(engine: Engine):
    script = (
        "mknod /disk b 254 0 2>/dev/null && echo made; "
        "echo 1 >/proc/sys/kernel/panic 2>/dev/null && echo wrote; "
        "mount -t tmpfs none /etc 2>/dev/null && echo mounted; echo end"
    )
    assert run(engine, script) == "end\n"
    assert run(engine, "mknod /null c 1 3 && echo made", "--userns=host") == "made\n"


def test_what_cannot_be_is_refused_in_dockers_words(engine: Engine):
    for options, words in (
        (("--privileged",), "privileged mode is incompatible with user namespaces"),
        (("--network=host",), "cannot share the host's network namespace when user namespaces are enabled"),
        (("--pid=host",), "cannot share the host PID namespace when user namespaces are enabled"),
        (("--ipc=host",), "cannot share the host IPC namespace when user namespaces are enabled"),
    ):
        assert words in fails(engine, "run", "--rm", *options, "box", "true")
        assert engine.docker("run", "--rm", *options, "--userns=host", "box", "id", "-u") == "0\n"


def test_health_checks_mounted_images_and_parts_of_volumes(engine: Engine):
    run(engine, "mkdir -p /v/a && echo deep >/v/a/file && chown 7:8 /v/a/file", "-v", "parts:/v")
    mounts = ("type=image,source=withdata,target=/i", "type=volume,source=parts,target=/p,volume-subpath=a")
    check = ("--health-cmd", "id -u; cat /i/data/file", "--health-interval", "50ms")
    engine.background("cc", "sleep 1000", *check, *(word for mount in mounts for word in ("--mount", mount)))
    script = (
        "stat -c %u:%g /i/data/file /p/file; touch /i/x 2>/dev/null || echo read-only; echo more >>/p/file"
    )
    for _ in range(2):  # the second time after the daemon was killed
        assert engine.docker("exec", "cc", "sh", "-c", script) == "1000:50\n7:8\nread-only\n"
        template = "{{with .State.Health}}{{.Status}} {{with .Log}}{{(index . 0).Output}}{{end}}{{end}}"
        while not (shown := engine.docker("inspect", "--format", template, "cc")).startswith("healthy"):
            assert "unhealthy" not in shown
        assert shown.split(maxsplit=1)[1].startswith("0\nfrom the image\n")
        engine.restart()
    assert run(engine, "cat /v/a/file", "-v", "parts:/v") == "deep\nmore\nmore\n"


def test_capabilities_of_files_are_those_of_the_container(engine: Engine, tmp_path: Path):
    """security.capability of version 2 goes in and out; on the disk it is bound to the container's root (capabilities(7))."""
    program = tmp_path / "program"
    program.write_bytes(b"x")
    raw = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)  # cap_net_bind_service, effective
    os.setxattr(program, "security.capability", raw)
    header = {"SCHILY.xattr.security.capability": raw.decode("latin-1")}
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT, encoding="latin-1") as tar:
        entry = tarfile.TarInfo("program")
        entry.size, entry.mode, entry.pax_headers = 1, 0o755, header
        tar.addfile(entry, io.BytesIO(b"x"))
    engine.background("cc", "sleep 1000")
    words = ["docker", "cp", "-", "cc:/"]
    subprocess.run(words, env=engine.env, input=archive.getvalue(), check=True)
    out = subprocess.run(
        ["docker", "cp", "cc:/program", "-"], env=engine.env, capture_output=True, check=True
    )
    with tarfile.open(fileobj=io.BytesIO(out.stdout), encoding="latin-1") as tar:
        found = tar.getmember("program").pax_headers["SCHILY.xattr.security.capability"].encode("latin-1")
    assert found == raw
    pid = engine.docker("inspect", "--format", "{{.State.Pid}}", "cc").strip()
    kept = os.getxattr(f"/proc/{pid}/root/program", "security.capability")
    assert struct.unpack("<6I", kept)[::5] == (0x03000001, FIRST)


def test_a_restarted_daemon_finds_them(engine: Engine):
    engine.background("box1", "while :; do sleep 1; done")
    before = engine.docker("inspect", "--format", "{{.State.Pid}}", "box1")
    engine.restart()
    assert engine.docker("inspect", "--format", "{{.State.Pid}}", "box1") == before
    assert engine.docker("exec", "box1", "id", "-u") == "0\n"
    engine.docker("restart", "-t", "0", "box1")
    assert engine.docker("exec", "box1", "stat", "-c", "%u", "/etc/passwd") == "0\n"


def build(engine: Engine, context: Path, *, legacy: bool = False) -> None:
    config = context / "config"
    (config / "cli-plugins").mkdir(parents=True)
    if not legacy:
        (config / "cli-plugins/docker-buildx").symlink_to(CLI_PLUGINS / "docker-buildx")
    secret = () if legacy else ("--secret", f"id=s,src={context}/secret")
    done = subprocess.run(
        ["docker", "build", "-t", "built", *secret, str(context)],
        env={**engine.env, "DOCKER_CONFIG": str(config), "DOCKER_BUILDKIT": "0" if legacy else "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("legacy", [False, True])
def test_a_build_runs_its_steps_remapped(engine: Engine, tmp_path: Path, *, legacy: bool):
    (tmp_path / "file").write_text("context\n")
    (tmp_path / "secret").write_text("hidden\n")
    extra = (
        "RUN --mount=type=bind,from=one,target=/one --mount=type=cache,target=/cache "
        "--mount=type=secret,id=s stat -c %u:%g /one/made >>/seen && touch /cache/kept && "
        "stat -c %u /cache/kept >>/seen && cat /run/secrets/s >>/seen\n"
    )
    (tmp_path / "Dockerfile").write_text(
        "FROM box AS one\n"
        "RUN touch /made && chown 7:8 /made && cat /proc/self/uid_map >/map\n"
        "FROM box\n"
        "COPY --chown=3:4 file /file\n"
        "COPY --from=one /made /map /\n"
        "RUN stat -c %u:%g /file >/seen\n" + ("" if legacy else extra)
    )
    build(engine, tmp_path, legacy=legacy)
    shown = run(engine, "cat /map /seen; stat -c %u:%g /made /seen", "--userns=host", image="built")
    assert shown.split() == [
        *("0", str(FIRST), "65536", "3:4"),
        *(() if legacy else ("7:8", "0", "hidden")),
        *("7:8", "0:0"),
    ]
