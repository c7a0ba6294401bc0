"""A daemon that an unprivileged user starts, with the unmodified ``docker`` command.

The user is made for these tests, with subordinate IDs of their own. Each attack has its twin that works.
"""

import io
import json
import os
import subprocess
import tarfile
from collections.abc import Generator
from pathlib import Path

import pytest
from support import engine as engines
from support.daemon import left_mounts
from support.engine import Engine, boxed
from support.images import File, busybox_image, layer_tar
from support.newer import CLI_PLUGINS
from support.registry import docker_registry
from support.rootless import OUTSIDE, RootlessDaemon, gone, rootless_daemon
from support.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.stores("containerd", "classic", itself=True)]
engines.APPLETS += ("chmod", "chown", "cp", "httpd", "id", "ls", "rm", "stat", "wget")
REGISTRY = f"{OUTSIDE}/24"


@pytest.fixture(
    scope="module",
    params=["", *(pytest.param(name, marks=pytest.mark.nightly) for name in ("overlay2", "native"))],
)
def daemon(request: pytest.FixtureRequest) -> Generator[RootlessDaemon]:
    chosen = (f"--storage-driver={request.param}",) if request.param else ()
    with rootless_daemon(f"--insecure-registry={REGISTRY}", *chosen) as running:
        yield running
        # Whether RootlessKit is killed, as below, or the daemon in it: nothing stays.
        running.kill_inside()
        gone(running)


@pytest.fixture(scope="module")
def engine(daemon: RootlessDaemon) -> Engine:
    return boxed(daemon)


def get(daemon: RootlessDaemon, address: str) -> str:
    """What a client on the machine is answered."""
    return daemon.machine.run("curl", "-sS", "--max-time", "10", f"http://{address}/", check=False)


def fails(engine: Engine, *words: str) -> str:
    done = engine.run(*words)
    assert done.returncode, done
    return done.stderr


def test_the_daemon_is_the_users_and_says_so(daemon: RootlessDaemon, engine: Engine):
    info = json.loads(engine.docker("info", "--format", "{{json .}}"))
    assert "name=rootless" in info["SecurityOptions"]
    expected = next((each.partition("=")[2] for each in daemon.arguments if "driver" in each), "overlayfs")
    assert (info["Driver"], info["CgroupDriver"]) == (expected, "none")
    assert (info["MemoryLimit"], info["LiveRestoreEnabled"]) == (False, False)
    assert info["DockerRootDir"] == str(daemon.data_root)
    assert os.stat(daemon.socket).st_uid == daemon.owner.pw_uid
    assert int((daemon.runtime / "lading.pid").read_text()) in daemon.processes()
    again = subprocess.run(daemon.command(), capture_output=True, text=True, check=False, timeout=60)
    assert again.returncode == 1
    assert "is still running" in again.stderr


def test_root_of_a_container_is_the_user(daemon: RootlessDaemon, engine: Engine):
    """It may do what the user may, on files of the machine; what others are in it are the user's subordinate IDs."""
    theirs, secret = daemon.home / "theirs", daemon.directory / "secret"
    theirs.mkdir()
    os.chown(theirs, daemon.owner.pw_uid, daemon.owner.pw_gid)
    secret.write_text("of root")
    secret.chmod(0o600)
    share = ("run", "--rm", "--network", "none", "-v", f"{theirs}:/t", "-v", f"{daemon.directory}:/m")
    script = "id -u; touch /t/a; touch /t/b; chown 1000:7 /t/b; chmod 4755 /t/a; stat -c %u:%g /t/a /t/b"
    assert engine.docker(*share, "box", "sh", "-c", script).split() == ["0", "0:0", "1000:7"]
    assert (theirs / "a").stat().st_uid == daemon.owner.pw_uid  # set-user-ID, of nobody but the user
    assert ((theirs / "b").stat().st_uid, (theirs / "b").stat().st_gid) == (
        daemon.first + 999,
        daemon.first + 6,
    )
    for option in ((), ("--privileged",)):
        for attack in (
            "cat /m/secret",
            "rm /m/secret",
            "chown 0 /m/secret",
            "touch /m/made",
            "echo x >/proc/sysrq-trigger",
        ):
            refused = engine.run(*share, *option, "box", "sh", "-c", attack)
            assert refused.returncode, attack
    assert secret.read_text() == "of root"


def test_pull_push_and_run_through_the_way_out(daemon: RootlessDaemon, engine: Engine, tmp_path: Path):
    with docker_registry(address=OUTSIDE, machine=daemon.machine) as registry:
        pushing = daemon.machine.wrapper(tmp_path, "/usr/bin/skopeo")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PATH", f"{Path(pushing).parent}{os.pathsep}{os.environ['PATH']}")
            busybox_image(tmp_path / "layout", f"{registry}/img", layers=3)
        assert "Digest: sha256:" in engine.docker("pull", f"{registry}/img")
        engine.docker("tag", f"{registry}/img", f"{registry}/other")
        engine.docker("push", f"{registry}/other")
        digests = [
            engine.docker("inspect", "--format", "{{(index .RepoDigests 0)}}", f"{registry}/{name}").split(
                "@"
            )[1]
            for name in ("img", "other")
        ]
        assert digests[0] == digests[1]
        assert engine.docker("run", "--rm", "--network", "none", f"{registry}/img", "echo", "ran") == "ran\n"


def test_layers_of_strange_owners_and_devices(engine: Engine):
    """An ID that is nobody's here is named with the remedy; device nodes, which no such user can make, are left out."""
    strange = layer_tar({"f": File(b"x", uid=100_000, gid=5)})
    done = engine.daemon.run("import", "-", "strange", input=strange)
    assert done.returncode
    assert b"the owner 100000:5 has no counterpart" in done.stderr
    assert b"/etc/subuid" in done.stderr
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        device = tarfile.TarInfo("disk")
        device.type, device.devmajor, device.devminor = tarfile.BLKTYPE, 8, 0
        archive.addfile(device)
        archive.addfile(tarfile.TarInfo("file"))
    engine.daemon.docker("import", "-", "devices", input=buffer.getvalue())
    engine.docker("create", "--name", "devices", "devices", "x")
    exported = engine.daemon.run("export", "devices").stdout
    with tarfile.open(fileobj=io.BytesIO(exported)) as archive:
        assert "file" in archive.getnames()
        assert "disk" not in archive.getnames()
    engine.docker("rm", "devices")


def test_builds_run_their_steps_and_hide_what_they_delete(
    daemon: RootlessDaemon, engine: Engine, tmp_path: Path
):
    """Overlayfs keeps its marks in attributes that the user may set: a directory made anew shows nothing of the old one."""
    plugins = daemon.directory / ".docker"
    plugins.mkdir(exist_ok=True)
    (plugins / "cli-plugins").symlink_to(CLI_PLUGINS)
    (tmp_path / "Dockerfile").write_text(
        "FROM box\nRUN mkdir -p /d && echo old >/d/old && echo 1 >/one && chown 1000:50 /one\n"
        "RUN --mount=type=secret,id=s cat /run/secrets/s >/dev/null\n"
        "RUN rm -r /d /etc/not-executable && mkdir /d && echo new >/d/new\nCOPY Dockerfile /d/\n"
    )
    secret = tmp_path / "Dockerfile"
    engine.docker("build", "-q", "-t", "built", "--secret", f"id=s,src={secret}", str(tmp_path))
    show = "ls /d /etc; stat -c %u:%g /one"
    shown = engine.docker("run", "--rm", "--network", "none", "built", "sh", "-c", show).split()
    assert shown == ["/d:", "Dockerfile", "new", "/etc:", "group", "hostname", "hosts", "passwd", "resolv.conf", "1000:50"]  # fmt: skip
    saved = daemon.run("save", "built").stdout
    engine.docker("rmi", "built")
    daemon.docker("load", input=saved)
    assert engine.docker("run", "--rm", "--network", "none", "built", "ls", "/d").split() == [
        "Dockerfile",
        "new",
    ]


def test_networks_names_and_published_ports(daemon: RootlessDaemon, engine: Engine):
    engine.docker("network", "create", "--ipv6", "net")
    page = "mkdir /www; echo hello >/www/index.html; httpd -f -p 80 -h /www"
    ports = ("-p", "8080:80", "-p", f"{OUTSIDE}:8081:80", "-p", "80")
    engine.docker("run", "-d", "--name", "web", "--network", "net", *ports, "box", "sh", "-c", page)
    assert engine.docker("run", "--rm", "--network", "net", "box", "wget", "-qO-", "http://web/") == "hello\n"
    free = engine.docker("port", "web", "80").splitlines()
    chosen = next(line for line in free if not line.endswith(("8080", "8081"))).rpartition(":")[2]
    for address in ("127.0.0.1:8080", f"{OUTSIDE}:8080", f"{OUTSIDE}:8081", f"127.0.0.1:{chosen}"):
        assert get(daemon, address) == "hello\n", address
    assert get(daemon, "127.0.0.1:8081") == ""
    again = ("run", "--rm", "--network", "net", "-p", "8080:80", "box", "true")
    assert "port is already allocated" in fails(engine, *again)
    assert "ip_unprivileged_port_start" in fails(engine, "run", "--rm", "-p", "81:80", "box", "true")
    assert "sctp" in fails(engine, "run", "--rm", "-p", "8082:80/sctp", "box", "true")
    engine.docker("rm", "-f", "web")
    engine.docker(*again)
    engine.docker("network", "rm", "net")
    assert "addresses_not_announced" not in daemon.tail()


def test_streams_files_figures_and_volumes(engine: Engine):
    """Without cgroups there are no counts of memory; processes are found by their PID namespace."""
    engine.docker(
        "run",
        "-d",
        "--name",
        "one",
        "-v",
        "data:/data",
        "box",
        "sh",
        "-c",
        "echo out; touch /made; sleep 600",
    )
    assert engine.docker("exec", "one", "sh", "-c", "echo kept >/data/f; id -u") == "0\n"
    assert engine.docker("logs", "one") == "out\n"
    assert "A /made" in engine.docker("diff", "one").splitlines()
    assert [line.split()[-2:] for line in engine.docker("top", "one").splitlines()[1:]].count(
        ["sleep", "600"]
    ) == 1
    figures = json.loads(engine.docker("stats", "--no-stream", "--format", "{{json .}}", "one"))
    assert (figures["PIDs"], figures["CPUPerc"], figures["BlockIO"]) == ("1", "0.00%", "0B / 0B")
    assert "--pause=false" in fails(engine, "commit", "one", "committed")
    engine.docker("commit", "--pause=false", "one", "committed")
    engine.docker("rm", "-f", "one")
    assert engine.docker("run", "--rm", "-v", "data:/data", "committed", "cat", "/data/f") == "kept\n"
    engine.docker("volume", "rm", "data")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("-m", "64m"), "HostConfig.Memory "),
        (("--cpus", "1"), "HostConfig.NanoCpus"),
        (("--pids-limit", "9"), "HostConfig.PidsLimit"),
        (("--cgroup-parent", "/x"), "HostConfig.CgroupParent"),
        (("--device", "/dev/null:/dev/n:r"), "HostConfig.Devices"),
        (("--storage-opt", "size=64m"), "cannot limit the size"),
        (("--oom-score-adj", "-500"), "HostConfig.OomScoreAdj"),
    ],
)
def test_what_needs_cgroups_or_loop_devices_is_refused_by_name(
    engine: Engine, options: tuple[str, ...], named: str
):
    assert named in fails(engine, "create", *options, "box", "true")


def test_processes_in_the_daemons_pid_namespace_end_with_their_container(
    daemon: RootlessDaemon, engine: Engine
):
    engine.background("shared", "sleep 611 & sleep 612", "--pid", "host")
    shown = engine.docker("top", "shared", "-eo", "pid,args").splitlines()[1:]
    assert sorted(line.split()[-1] for line in shown)[:2] == ["611", "612"]
    engine.docker("kill", "shared")
    assert engine.docker("wait", "shared") == "137\n"
    assert not [line for line in daemon.processes().values() if "sleep 61" in line]
    engine.docker("rm", "shared")


def test_pausing_and_updating_are_refused_by_name(engine: Engine):
    engine.background("one", "sleep 600")
    assert "cannot be paused" in fails(engine, "pause", "one")
    assert "HostConfig.Memory " in fails(engine, "update", "-m", "64m", "one")
    engine.docker("update", "--restart", "no", "one")
    engine.docker("rm", "-f", "one")


def test_a_stop_lets_containers_end_first(daemon: RootlessDaemon, engine: Engine):
    """Also one that is never to be stopped by itself: nobody stopped it, so that it runs again with the next daemon."""
    script = "trap 'echo ended >>/data/f; exit 3' TERM; echo begun >>/data/f; while :; do sleep 0.1; done"
    for name, policy in (("tidy", "no"), ("again", "unless-stopped")):
        engine.background(name, script, "-v", f"{name}:/data", "--restart", policy)
    files = {name: daemon.data_root / f"lading/volumes/moby/{name}/_data/f" for name in ("tidy", "again")}
    eventually(lambda: all(file.exists() for file in files.values()))
    assert daemon.stop() == 0
    gone(daemon)
    assert {file.read_text() for file in files.values()} == {"begun\nended\n"}
    daemon.start()
    eventually(lambda: files["again"].read_text() == "begun\nended\nbegun\n")
    assert engine.docker("inspect", "--format", "{{.State.ExitCode}}", "tidy") == "3\n"
    assert files["tidy"].read_text() == "begun\nended\n"
    engine.docker("rm", "-f", "tidy", "again")


def test_a_kill_ends_all_and_the_next_daemon_goes_on(daemon: RootlessDaemon, engine: Engine):
    """For containers it is as if the machine had gone down: those that are always to run, run again, with what they wrote."""
    engine.docker("run", "-d", "--name", "always", "--restart", "always", "-p", "8090:80", "box", "sh", "-c", "echo run >>/runs; mkdir -p /www; cp /runs /www/index.html; httpd -f -p 80 -h /www")  # fmt: skip
    engine.background("once", "sleep 600")
    eventually(lambda: get(daemon, "127.0.0.1:8090") == "run\n")
    daemon.kill()
    gone(daemon)
    assert left_mounts(daemon.directory) == []
    daemon.start()
    assert engine.docker("inspect", "--format", "{{.State.Status}} {{.State.Pid}}", "once") == "exited 0\n"
    eventually(lambda: get(daemon, "127.0.0.1:8090") == "run\nrun\n")
    engine.docker("rm", "-f", "always", "once")
