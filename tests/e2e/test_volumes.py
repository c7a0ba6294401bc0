"""Volumes with the unmodified ``docker`` command."""

import json
import os
import time
from collections.abc import Generator
from pathlib import Path

import pytest
from support import engine as engines
from support.daemon import Daemon, left_mounts, running_daemon
from support.engine import Engine, boxed
from support.images import File, layer_tar

pytestmark = pytest.mark.e2e
engines.APPLETS += ("ln", "rm", "stat", "touch")


def with_data() -> dict[str, File]:
    """An image whose ``/data`` has an owner, modes, links and files of its own."""
    return engines.box() | {
        "data": File(directory=True, mode=0o2750, uid=1000, gid=1001),
        "data/file": File(b"from the image\n", mode=0o640, uid=1000, gid=50),
        "data/sub": File(directory=True, mode=0o700),
        "data/sub/link": File(link="../file"),
        "data/out": File(link="/etc/passwd"),
    }


@pytest.fixture(scope="module")
def daemon() -> Generator[Daemon]:
    with running_daemon() as daemon:
        yield daemon


@pytest.fixture(scope="module")
def loaded(daemon: Daemon) -> Engine:
    made = boxed(daemon)
    change = ("--change", "CMD /bin/sh", "--change", "VOLUME /data")
    daemon.docker("import", *change, "-", "withdata", input=layer_tar(with_data()))
    return made


@pytest.fixture
def engine(loaded: Engine, daemon: Daemon) -> Generator[Engine]:
    yield loaded
    loaded.run("rm", "-fv", *loaded.docker("ps", "-aq").split())
    loaded.run("volume", "rm", "-f", *names(loaded))
    assert os.listdir(daemon.data_root / "lading/volumes/moby") == []
    assert [point for point in left_mounts(daemon.directory) if "volume" in point] == []


def run(engine: Engine, script: str, *options: str, image: str = "box") -> str:
    return engine.docker("run", "--rm", "--network", "none", *options, image, "sh", "-c", script)


def names(engine: Engine) -> list[str]:
    return engine.docker("volume", "ls", "-q").split()


@pytest.mark.proves(
    "POST /volumes/create", "GET /volumes/{name}", "DELETE /volumes/{name}", "HostConfig.Binds"
)
def test_a_named_volume_outlives_its_containers(engine: Engine):
    assert engine.docker("volume", "create", "--label", "a=b", "data") == "data\n"
    run(engine, "echo words >/v/file", "-v", "data:/v")
    assert run(engine, "cat /x/file", "-v", "data:/x:ro") == "words\n"
    failed = engine.run("run", "--rm", "--network", "none", "-v", "data:/v:ro", "box", "touch", "/v/more")
    assert "Read-only file system" in failed.stderr
    shown = json.loads(engine.docker("volume", "inspect", "data"))[0]
    assert (shown["Name"], shown["Driver"], shown["Scope"], shown["Labels"]) == (
        "data",
        "local",
        "local",
        {"a": "b"},
    )
    assert Path(shown["Mountpoint"], "file").read_text() == "words\n"
    assert engine.docker("volume", "rm", "data") == "data\n"
    assert not Path(shown["Mountpoint"]).exists()
    assert "no such volume" in engine.run("volume", "inspect", "data").stderr
    assert engine.run("volume", "rm", "-f", "data").returncode == 0


def test_an_empty_volume_gets_what_the_image_has(engine: Engine):
    script = "stat -c '%a %u %g %n' /data /data/file /data/sub; readlink /data/out; cat /data/sub/link"
    expected = (
        "2750 1000 1001 /data\n640 1000 50 /data/file\n700 0 0 /data/sub\n/etc/passwd\nfrom the image\n"
    )
    assert run(engine, script, "-v", "data:/data", image="withdata") == expected
    run(engine, "rm -r /data/file; echo mine >/data/file", "-v", "data:/data", image="withdata")
    assert run(engine, "cat /data/file", "-v", "data:/data", image="withdata") == "mine\n"  # once only
    assert run(engine, "ls /data", "-v", "bare:/data:nocopy", image="withdata") == ""
    assert run(engine, "ls /elsewhere", "-v", "other:/elsewhere", image="withdata") == ""


@pytest.mark.proves("Config.Volumes", "GET /volumes", "POST /volumes/prune", "DELETE /containers/{name}")
def test_a_volume_of_the_image_is_made_and_goes_with_its_container(engine: Engine):
    assert run(engine, "cat /data/file", image="withdata") == "from the image\n"
    assert names(engine) == []  # --rm
    engine.docker("run", "--network", "none", "--name", "one", "withdata", "true")
    [name] = names(engine)
    assert len(name) == 64
    mount = json.loads(engine.docker("inspect", "--format", "{{json .Mounts}}", "one"))[0]
    assert (mount["Type"], mount["Name"], mount["Destination"], mount["RW"]) == (
        "volume",
        name,
        "/data",
        True,
    )
    engine.docker("rm", "one")
    assert names(engine) == [name]
    assert engine.docker("volume", "ls", "-q", "--filter", "dangling=true").split() == [name]
    assert name in engine.docker("volume", "prune", "-f")
    engine.docker("create", "--network", "none", "--name", "two", "-v", "/extra", "-v", "kept:/kept", "box")
    assert len(names(engine)) == 2
    engine.docker("rm", "-v", "two")
    assert names(engine) == ["kept"]


@pytest.mark.proves("POST /volumes/prune")
def test_prune_keeps_named_ones_unless_told(engine: Engine):
    engine.docker("volume", "create", "--label", "keep=1", "one")
    engine.docker("volume", "create", "two")
    engine.docker("volume", "create")
    engine.docker("create", "--network", "none", "--name", "user", "-v", "used:/v", "box")
    engine.docker("volume", "prune", "-f")
    assert names(engine) == ["one", "two", "used"]
    engine.docker("volume", "prune", "-af", "--filter", "label!=keep")
    assert names(engine) == ["one", "used"]


def test_prune_keeps_volumes_with_options(engine: Engine, tmp_path: Path):
    options = ("type=none", "o=bind", f"device={tmp_path}")
    engine.docker("volume", "create", *(word for each in options for word in ("-o", each)), "share")
    engine.docker("volume", "create", "plain")
    engine.docker("volume", "prune", "-af")
    assert names(engine) == ["share"]


def test_what_is_used_is_not_removed(engine: Engine):
    engine.docker("create", "--network", "none", "--name", "user", "-v", "used:/v", "box")
    failed = engine.run("volume", "rm", "used")
    assert "volume is in use" in failed.stderr
    assert engine.docker("ps", "-aq", "--filter", "volume=used")
    assert engine.docker("volume", "ls", "-q", "--filter", "dangling=false") == "used\n"


@pytest.mark.proves("HostConfig.VolumesFrom")
def test_volumes_of_another_container(engine: Engine, tmp_path: Path):
    engine.docker(
        "create", "--network", "none", "--name", "giver", "-v", "data:/v", "-v", f"{tmp_path}:/h", "box"
    )
    run(engine, "echo one >/v/file; echo two >/h/file", "--volumes-from", "giver")
    assert (tmp_path / "file").read_text() == "two\n"
    assert run(engine, "cat /v/file /h/file", "--volumes-from", "giver:ro") == "one\ntwo\n"
    words = ("run", "--rm", "--network", "none", "--volumes-from", "giver:ro", "box", "touch")
    for path in ("/v/more", "/h/more"):
        assert "Read-only file system" in engine.run(*words, path).stderr
    assert "No such container" in engine.run("create", "--volumes-from", "nobody", "box").stderr


@pytest.mark.proves("POST /volumes/create")
def test_options_of_the_local_driver(engine: Engine, tmp_path: Path):
    (tmp_path / "file").write_text("there\n")
    bind = ("--opt", "type=none", "--opt", "o=bind", "--opt", f"device={tmp_path}")
    engine.docker("volume", "create", *bind, "bound")
    engine.docker(
        "volume", "create", "--opt", "type=tmpfs", "--opt", "device=tmpfs", "--opt", "o=size=1m", "ram"
    )
    script = "cat /b/file; mount | grep ' /r ' | grep -c size=1024k"
    assert run(engine, script, "-v", "bound:/b", "-v", "ram:/r") == "there\n1\n"
    engine.docker(
        "volume", "create", "--opt", "type=none", "--opt", "o=bind", "--opt", "device=/no/such", "bad"
    )
    failed = engine.run("run", "--rm", "--network", "none", "-v", "bad:/b", "box", "true")
    assert failed.returncode == 125
    assert "failed to mount local volume" in failed.stderr
    assert "invalid option" in engine.run("volume", "create", "--opt", "nope=1", "other").stderr
    assert "plugin" in engine.run("volume", "create", "--driver", "nope", "other").stderr
    engine.docker("volume", "rm", "bound")
    assert (tmp_path / "file").read_text() == "there\n"


@pytest.mark.proves("HostConfig.Mounts")
def test_part_of_a_volume(engine: Engine):
    run(
        engine,
        "mkdir -p /v/a/b; echo deep >/v/a/b/file; ln -s /etc /v/out; ln -s ../../.. /v/up",
        "-v",
        "data:/v",
    )
    part = "type=volume,source=data,target=/p,volume-subpath="
    assert run(engine, "cat /p/file", "--mount", f"{part}a/b") == "deep\n"
    assert run(engine, "cat /p", "--mount", f"{part}a/b/file") == "deep\n"
    for path in ("out", "nope"):  # a link is resolved in the volume, where there is no /etc
        failed = engine.run("run", "--rm", "--network", "none", "--mount", f"{part}{path}", "box", "true")
        assert failed.returncode == 125, path
        assert "cannot access path" in failed.stderr
    assert run(engine, "ls /p", "--mount", f"{part}up") == run(engine, "ls /v", "-v", "data:/v")


@pytest.mark.proves("PUT /volumes/{name}")
def test_only_volumes_of_a_cluster_can_be_updated(engine: Engine, daemon: Daemon):
    engine.docker("volume", "create", "data")
    assert daemon.api("PUT", "/v1.51/volumes/data")[0] == 501
    assert daemon.api("PUT", "/v1.51/volumes/nothing")[0] == 404


@pytest.mark.parametrize("name", ["../x", "a/b", "-x", "x"])
def test_names_that_are_none(engine: Engine, name: str):
    failed = engine.run("volume", "create", "--", name)
    assert failed.returncode
    assert "invalid characters" in failed.stderr


def test_copying_sees_the_volumes_of_a_stopped_container(engine: Engine, tmp_path: Path):
    engine.docker("create", "--network", "none", "--name", "box", "-v", "data:/v", "-v", "ro:/ro:ro", "box")
    (tmp_path / "file").write_text("words\n")
    engine.docker("cp", f"{tmp_path}/file", "box:/v/file")
    assert run(engine, "cat /v/file", "-v", "data:/v") == "words\n"
    assert "read-only" in engine.run("cp", f"{tmp_path}/file", "box:/ro/file").stderr


def test_usage_counts_volumes(engine: Engine):
    run(engine, "dd if=/dev/zero of=/v/file bs=1024 count=512 2>/dev/null", "-v", "data:/v")
    said = engine.docker("system", "df", "-v", "--format", "{{json .Volumes}}")
    [row] = json.loads(said)
    assert (row["Name"], row["Links"]) == ("data", "0")
    assert row["Size"].startswith("52")


def test_a_killed_daemon_leaves_volumes_as_they_were(engine: Engine, daemon: Daemon):
    engine.docker("volume", "create", "--opt", "type=tmpfs", "--opt", "device=tmpfs", "ram")
    for name in ("stays", "goes"):
        engine.docker(
            "run",
            "-d",
            "--network",
            "none",
            "--name",
            name,
            "-v",
            "ram:/r",
            "-v",
            "data:/v",
            "box",
            "sleep",
            "1000",
        )
    engine.docker("exec", "stays", "sh", "-c", "echo words >/r/file; echo more >/v/file")
    engine.docker("rm", "-f", "goes")
    daemon.kill()
    daemon.start()
    assert engine.docker("exec", "stays", "cat", "/r/file", "/v/file") == "words\nmore\n"
    assert "in use" in engine.run("volume", "rm", "ram").stderr
    assert run(engine, "cat /r/file", "-v", "ram:/r") == "words\n"  # the same mount still
    engine.docker("rm", "-f", "stays")
    engine.docker("volume", "rm", "ram", "data")


def test_volume_events(engine: Engine):
    engine.docker("volume", "create", "heard")
    run(engine, "true", "-v", "heard:/v")
    engine.docker("volume", "rm", "heard")
    words = ("--since", "1", "--until", f"{time.time():.9f}")
    words = (*words, "--filter", "volume=heard", "--format", "{{.Action}}")
    assert engine.docker("events", *words).split() == ["create", "mount", "unmount", "destroy"]


def test_a_daemon_that_is_killed_while_it_makes_a_container_leaves_no_volume(
    engine: Engine, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
):
    engine.docker("volume", "create")  # nobody's, but asked for
    before = names(engine)
    daemon.stop()
    with monkeypatch.context() as patch:
        patch.setenv("LADING_FAILPOINT", "volume.made:kill@2")
        daemon.start()
        failed = engine.run("create", "--network", "none", "-v", "/one", "-v", "/two", "withdata", "true")
        assert failed.returncode != 0
        assert daemon.process is not None
        assert daemon.process.wait(20) == -9
    daemon.start()
    assert names(engine) == before
    assert engine.docker("ps", "-aq") == ""
    assert len(os.listdir(daemon.data_root / "lading/volumes/moby")) == 1
