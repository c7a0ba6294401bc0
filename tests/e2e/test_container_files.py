"""docker cp, diff, export and commit on running and stopped containers; links, swaps and mounts do not lead them astray."""

import base64
import io
import json
import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.daemon import Daemon
from support.engine import Engine, boxed
from support.images import busybox_layer, layer_tar

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def engine(shared_daemon: Daemon) -> Engine:
    return boxed(shared_daemon)


@pytest.fixture(autouse=True)
def _clean(engine: Engine) -> Iterator[None]:
    yield
    for each in engine.run("ps", "-aq").stdout.split():
        engine.run("rm", "-f", each)


@pytest.fixture(params=["running", "stopped", "created"])
def place(request: pytest.FixtureRequest, engine: Engine) -> str:
    """A container in each state, with some files that its own shell made."""
    name = f"c-{request.param}"
    script = (
        "mkdir -p /data/sub && echo hello >/data/sub/f && ln -s sub /data/link && ln -s /data/sub/f /abs"
        " && ln -s ../../../../etc/passwd /data/up && chmod 4750 /data/sub/f && touch /ready"
    )
    if request.param == "created":
        engine.docker("create", "--network", "none", "--name", name, "box", "true")
        archive = tar_of({"data/sub/f": "hello\n"}, links={"data/link": "sub", "abs": "/data/sub/f"})
        assert engine.daemon.run("cp", "-", f"{name}:/", input=archive).returncode == 0
        return name
    end = "sleep 1000" if request.param == "running" else "true"
    engine.background(name, f"{script}; {end}")
    if request.param == "running":
        engine.docker("exec", name, "sh", "-c", "until test -e /ready; do sleep 0.05; done")
    else:
        engine.docker("wait", name)
    return name


def tar_of(files: dict[str, str], links: dict[str, str] | None = None, **info: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(text), 1_700_000_000
            for key, value in info.items():
                setattr(member, key, value)
            archive.addfile(member, io.BytesIO(text.encode()))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
    return buffer.getvalue()


def members(engine: Engine, source: str, *options: str) -> dict[str, tarfile.TarInfo]:
    done = engine.daemon.run("cp", *options, source, "-")
    assert done.returncode == 0, done.stderr
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        return {member.name: member for member in archive}


@pytest.mark.proves(
    "HEAD /containers/{name}/archive", "GET /containers/{name}/archive", "PUT /containers/{name}/archive"
)
def test_files_go_out_and_in(engine: Engine, place: str, tmp_path: Path):
    engine.docker("cp", f"{place}:/data/sub", str(tmp_path / "out"))
    assert (tmp_path / "out/f").read_text() == "hello\n"
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a").write_text("A" * 3_000_000)
    (tmp_path / "in/b").symlink_to("a")
    engine.docker("cp", str(tmp_path / "in"), f"{place}:/data/link")  # through a link to a directory
    engine.docker("cp", f"{place}:/data/sub/in/.", str(tmp_path / "back"))
    assert (tmp_path / "back/a").read_text() == "A" * 3_000_000
    assert os.readlink(tmp_path / "back/b") == "a"
    assert set(members(engine, f"{place}:/data/sub/in")) == {"in", "in/a", "in/b"}


def test_links_are_copied_or_followed_inside_the_root(engine: Engine, place: str, tmp_path: Path):
    assert members(engine, f"{place}:/abs")["abs"].issym()
    engine.docker("cp", "-L", f"{place}:/abs", str(tmp_path / "followed"))
    assert (tmp_path / "followed").read_text() == "hello\n"
    engine.docker("cp", f"{place}:/data/link/", str(tmp_path / "dir"))
    assert (tmp_path / "dir/f").read_text() == "hello\n"


def test_what_is_not_there_and_what_is_no_directory(engine: Engine, place: str, tmp_path: Path):
    assert "Could not find the file /nope" in engine.run("cp", f"{place}:/nope", str(tmp_path)).stderr
    (tmp_path / "f").write_text("x")
    assert engine.run("cp", str(tmp_path / "f"), f"{place}:/no/such/dir/").returncode != 0
    status, answer = engine.daemon.api("GET", f"/containers/{place}/archive?path=/proc/version")
    assert status == 404, answer  # the kernel's files are no files of the container
    (tmp_path / "d").mkdir()
    assert "cannot copy" in engine.run("cp", str(tmp_path / "d"), f"{place}:/data/sub/f").stderr


def test_modes_and_owners_survive(engine: Engine):
    engine.background("cc", "sleep 1000", "--user", "alice")
    archive = tar_of({"f": "x"}, mode=0o6755, uid=12, gid=13)
    assert engine.daemon.run("cp", "-", "cc:/tmp", input=archive).returncode == 0
    found = members(engine, "cc:/tmp/f")["f"]
    assert (found.mode, found.uid, found.gid, found.mtime) == (0o6755, 12, 13, 1_700_000_000)
    assert engine.daemon.run("cp", "-a", "-", "cc:/tmp", input=archive).returncode == 0
    found = members(engine, "cc:/tmp/f")["f"]
    assert (found.uid, found.gid) == (1000, 1001)


@pytest.mark.proves("HostConfig.ReadonlyRootfs")
@pytest.mark.parametrize("running", [True, False])
def test_volumes_are_seen_and_read_only_ones_kept(engine: Engine, tmp_path: Path, running: bool):
    (tmp_path / "rw").mkdir()
    (tmp_path / "ro").mkdir()
    (tmp_path / "ro/f").write_text("kept")
    engine.background(
        "cc", "sleep 1000", "--read-only", "-v", f"{tmp_path}/rw:/rw", "-v", f"{tmp_path}/ro:/ro:ro"
    )
    if not running:
        engine.docker("kill", "cc")
        engine.docker("wait", "cc")
    assert engine.daemon.run("cp", "-", "cc:/rw", input=tar_of({"new": "n"})).returncode == 0
    assert (tmp_path / "rw/new").read_text() == "n"
    engine.docker("cp", "cc:/ro/f", str(tmp_path / "got"))
    assert (tmp_path / "got").read_text() == "kept"
    for path, words in (("/ro", "volume is marked read-only"), ("/etc", "rootfs is marked read-only")):
        done = engine.daemon.run("cp", "-", f"cc:{path}", input=tar_of({"f": "x"}))
        assert words in done.stderr.decode()
    assert (tmp_path / "ro/f").read_text() == "kept"


def test_a_mounted_file_is_written_and_stays_mounted(engine: Engine):
    engine.background("cc", "sleep 1000")
    assert engine.daemon.run("cp", "-", "cc:/etc", input=tar_of({"hosts": "1.2.3.4 there\n"})).returncode == 0
    assert "1.2.3.4 there" in engine.docker("exec", "cc", "cat", "/etc/hosts")
    assert " /etc/hosts " in engine.docker("exec", "cc", "cat", "/proc/self/mounts")


def test_no_archive_and_no_link_leads_out(engine: Engine, place: str, tmp_path: Path):
    """T2, T26: names with dots, links in the archive and links in the container end inside the root."""
    canary = tmp_path / "canary"
    canary.write_text("alive")
    links = {"evil": str(tmp_path), "evil2": "../../../../../../.." + str(tmp_path)}
    archive = tar_of({f"../../..{tmp_path}/canary": "dead"}, links=links)
    engine.daemon.run("cp", "-", f"{place}:/data", input=archive)
    for name in ("evil", "evil2"):
        engine.daemon.run("cp", "-", f"{place}:/data", input=tar_of({f"{name}/canary": "dead"}))
        engine.daemon.run("cp", "-", f"{place}:/data/{name}", input=tar_of({"canary": "dead"}))
        assert engine.run(
            "cp", "-L", f"{place}:/data/{name}/canary", str(tmp_path / "stolen")
        ).returncode in (0, 1)
    assert canary.read_text() == "alive"
    stolen = tmp_path / "stolen"
    assert not stolen.exists() or stolen.read_text() == "dead"  # what was planted inside, never the canary


def test_swapped_directories_never_lead_out(engine: Engine, tmp_path: Path):
    """T26 (CVE-2018-15664): a directory that becomes a link to the outside again and again while files are copied."""
    canary = tmp_path / "canary"
    canary.write_text("alive")
    script = (
        "mkdir -p /w/real; echo inside >/w/real/canary; "
        f"ln -s {tmp_path} /w/link; ln -s / /w/root; mkdir -p {tmp_path}; echo inside >{tmp_path}/canary; "
        "cp=0; ln -s real /w/x; while :; do ln -sfn real /w/x; ln -sfn link /w/x; ln -sfn root /w/x; done"
    )
    engine.background("cc", script, "--cap-add", "ALL")
    for number in range(30):
        engine.daemon.run("cp", "-", "cc:/w/x", input=tar_of({"canary": f"dead {number}"}))
        done = engine.daemon.run("cp", "cc:/w/x/canary", "-")
        assert b"alive" not in done.stdout
    assert canary.read_text() == "alive"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["canary"]


def test_hostile_archives_are_refused(engine: Engine):
    engine.background("cc", "sleep 1000")
    for body, words in (
        (b"this is no tar" * 100, ""),
        (tar_of({"f": "x" * 5000})[:2000], "truncated"),
        (tar_of({"f": "x"}, uid=2**32), "range"),
    ):
        done = engine.daemon.run("cp", "-", "cc:/tmp", input=body)
        assert done.returncode != 0
        assert words in done.stderr.decode()
    assert engine.docker("exec", "cc", "echo", "fine") == "fine\n"


def test_kinds_are_not_exchanged_unless_asked(engine: Engine):
    engine.background("cc", "mkdir -p /tmp/d/e; touch /tmp/f /ready; sleep 1000")
    engine.docker("exec", "cc", "sh", "-c", "until test -e /ready; do sleep 0.05; done")
    assert (
        "cannot overwrite"
        in engine.daemon.run("cp", "-", "cc:/tmp", input=tar_of({"d": "x"})).stderr.decode()
    )
    body = tar_of({"d": "x", "f/g": "y"})
    head = (
        f"PUT /containers/cc/archive?path=/tmp HTTP/1.0\r\nContent-Length: {len(body)}\r\n"
        "Content-Type: application/x-tar\r\n\r\n"
    )
    answer = engine.daemon.raw(head.encode() + body)
    assert b" 400 " in answer.split(b"\r\n")[0]  # a file cannot have a file below it
    assert engine.docker("exec", "cc", "cat", "/tmp/d") == "x"


@pytest.mark.parametrize("name", [".", "./", "", "/", "a/.."])
def test_a_file_that_has_the_name_of_the_directory_itself(engine: Engine, name: str):
    """As with Docker it is passed over, and the rest is not."""
    engine.background("cc", "sleep 1000")
    body = tar_of({name: "x" * 5000, "f": "found"})
    done = engine.daemon.run("cp", "-", "cc:/tmp", input=body)
    assert done.returncode == 0, done.stderr
    assert engine.docker("exec", "cc", "cat", "/tmp/f") == "found"


def test_a_file_may_be_of_any_time(engine: Engine):
    """Also of the epoch itself, which is a time, and of years that the format of the header does not have."""
    engine.background("cc", "sleep 1000", "--tmpfs", "/t")
    for mtime, shown in ((0, "1970-01-01T00:00:00Z"), (10**12, "9999-12-31T23:59:59Z")):
        engine.docker("exec", "cc", "touch", "-d", f"@{mtime}", "/t/f")
        answer = engine.daemon.raw(b"HEAD /containers/cc/archive?path=/t/f HTTP/1.0\r\n\r\n")
        stat = re.search(rb"Path-Stat: (\S+)", answer)
        assert stat is not None
        assert json.loads(base64.b64decode(stat[1]))["mtime"] == shown
        assert members(engine, "cc:/t/f")["f"].mtime == mtime


@pytest.mark.proves("GET /containers/{name}/changes")
def test_diff(engine: Engine, place: str):
    found = engine.docker("diff", place).splitlines()
    assert "A /data/sub/f" in found
    assert "A /data/link" in found
    engine.docker("rm", "-f", place)


def test_what_is_mounted_on_is_no_change(engine: Engine):
    """An image that has nothing of what the runtime needs; the files of the network are mounted, too."""
    engine.daemon.docker(
        "import", "-", "bare", input=layer_tar({"bin/busybox": busybox_layer()["bin/busybox"]})
    )
    engine.docker("run", "--network", "host", "--name", "cc", "bare", "/bin/busybox", "true")
    assert engine.docker("diff", "cc") == ""
    engine.docker("commit", "cc", "again")
    engine.docker(
        "run", "--network", "host", "--name", "dd", "again", "/bin/busybox", "mkdir", "-p", "/etc/mine"
    )
    assert engine.docker("diff", "dd").splitlines()[-1] == "A /etc/mine"
    engine.docker("rm", "cc", "dd")


def test_diff_names_deletions(engine: Engine):
    engine.docker("run", "--network", "none", "--name", "cc", "box", "sh", "-c", "echo >>/etc/group; kill $$")
    assert "C /etc/group" in engine.docker("diff", "cc")


@pytest.mark.proves("GET /containers/{name}/export")
def test_export_has_the_root_alone(engine: Engine, place: str, tmp_path: Path):
    engine.docker("export", "-o", str(tmp_path / "all.tar"), place)
    with tarfile.open(tmp_path / "all.tar") as archive:
        names = {member.name for member in archive}
    assert {"data/sub/f", "bin/busybox", "etc/passwd"} <= names
    assert not [name for name in names if name.startswith(("proc/", "sys/", "dev/")) and name.count("/") > 1]


def test_export_leaves_volumes_out(engine: Engine, tmp_path: Path):
    (tmp_path / "secret").write_text("s")
    engine.background("cc", "sleep 1000", "-v", f"{tmp_path}:/vol")
    done = engine.daemon.run("export", "cc")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        names = [member.name for member in archive]
    assert "vol" in names
    assert "vol/secret" not in names


@pytest.mark.proves("POST /commit")
def test_commit_makes_an_image_that_runs(engine: Engine, place: str):
    image = engine.docker(
        "commit",
        "-a",
        "Ann",
        "-m",
        "why",
        "-c",
        'CMD ["cat", "/data/sub/f"]',
        "-c",
        "ENV A=b",
        place,
        "new:1",
    )
    assert engine.docker("run", "--rm", "--network", "none", "new:1") == "hello\n"
    found = json.loads(engine.docker("image", "inspect", "new:1"))[0]
    assert found["Id"] == image.strip()
    assert found["Author"] == "Ann"
    assert "A=b" in found["Config"]["Env"]
    history = engine.docker("history", "--format", "{{.Comment}}", "new:1").splitlines()
    assert history[0] == "why"
    engine.docker("rmi", "new:1")


@pytest.mark.proves("Config.Entrypoint")
def test_commit_pauses_says_so_and_keeps_what_was_asked_for(engine: Engine):
    engine.docker(
        *("run", "-d", "--network", "none", "--name", "cc", "-l", "x=y", "-w", "/tmp", "-u", "alice"),
        *("--entrypoint", "sleep", "box", "1000"),
    )
    image = engine.docker("commit", "cc").strip()
    config = json.loads(engine.docker("image", "inspect", image))[0]["Config"]
    assert (config["User"], config["WorkingDir"]) == ("alice", "/tmp")
    assert (config["Entrypoint"], config["Cmd"], config["Labels"]) == (["sleep"], ["1000"], {"x": "y"})
    assert engine.events("cc")[-3:] == ["pause", "unpause", "commit"]
    assert engine.docker("inspect", "--format", "{{.State.Status}}", "cc") == "running\n"
    assert "ENTRYPOINTS" in engine.run("commit", "-c", "ENTRYPOINTS x", "cc").stderr
    engine.docker("rmi", image)


def test_nothing_is_left_behind(engine: Engine, place: str):
    pid = engine.daemon.process.pid  # type: ignore[union-attr]
    before = len(os.listdir(f"/proc/{pid}/fd"))
    for _ in range(10):
        engine.daemon.run("cp", f"{place}:/data", "-")
        engine.daemon.run("cp", "-", f"{place}:/data", input=tar_of({"f": "x"}))
        engine.daemon.raw(f"GET /containers/{place}/archive?path=/bin HTTP/1.0\r\n\r\n".encode())
    assert len(os.listdir(f"/proc/{pid}/fd")) <= before + 2
