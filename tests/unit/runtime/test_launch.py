"""What shims print, what they are told, and what is known of runtimes."""

import os
import signal
import socket
import stat
import tempfile
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from lading.core.runtime import ContainerID
from lading.errors import InvalidArgumentError, NotFoundError, UnsupportedError
from lading.runtime._pb import task_pb2
from lading.runtime.bundle import Bootstrap, Bundle
from lading.runtime.config import RUNC_V2, encode_options, find_shim
from lading.runtime.launch import Launcher, ShimLaunchError, parse_start
from lading.runtime.probe import choose_runtime, crun_warnings, probe_runtime, runc_warnings
from lading.runtime.shim import joined

ADDRESS = "unix:///run/containerd/s/" + "a" * 64


@pytest.mark.parametrize(
    ("output", "version"),
    [
        (ADDRESS.encode(), 2),
        (ADDRESS.encode() + b"\n", 2),
        (b'{"version":3,"address":"%s","protocol":"ttrpc"}' % ADDRESS.encode(), 3),
        (b'{"version":2,"address":"%s","protocol":"ttrpc","more":1}' % ADDRESS.encode(), 2),
        (task_pb2.BootstrapResult(version=3, address=ADDRESS, protocol="ttrpc").SerializeToString(), 3),
    ],
)
def test_every_form_of_a_shims_answer_is_understood(output: bytes, version: int) -> None:
    assert parse_start(output) == Bootstrap(version=version, address=ADDRESS)


@pytest.mark.parametrize(
    "output",
    [
        b"",
        b"\n",
        b"{",
        b'{"version":3}',
        b"usage: shim",
        b'{"version":4,"address":"unix:///x"}',
        b'{"version":3,"address":"unix:///x","protocol":"grpc"}',
    ],
)
def test_any_other_answer_is_told(output: bytes) -> None:
    with pytest.raises(UnsupportedError):
        parse_start(output)


def shim(directory: Path, name: str, body: str) -> Path:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def launcher(directory: Path) -> Launcher:
    return Launcher(
        namespace="n",
        ttrpc_address="/t.sock",
        grpc_address="/g.sock",
        publish_binary="/bin/false",
        socket_directory=directory / "s",
        adopt=lambda _: None,
    )


@pytest.fixture
def sockets() -> Generator[Path]:
    """A directory whose name leaves room for a socket's: `tmp_path` is too long for that in some places."""
    with tempfile.TemporaryDirectory(prefix="lading-") as name:
        yield Path(name)


def bundle(directory: Path, binary: Path) -> Bundle:
    made = Bundle(ContainerID("one"), directory / "state/n/one", directory / "root/n/one")
    made.create({"ociVersion": "1.0.2"}, binary)
    return made


@pytest.mark.anyio
async def test_a_new_shim_gets_its_parameters_and_a_clean_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/secret")
    binary = shim(tmp_path, "new", f'cat >params; env >env; echo "$@" >args; pwd >cwd; echo {ADDRESS}')
    made = bundle(tmp_path, binary)
    assert (await launcher(tmp_path).start(binary, made)).address == ADDRESS
    params = task_pb2.BootstrapParams.FromString((made.path / "params").read_bytes())
    assert (params.instance_id, params.namespace, params.containerd_ttrpc_address) == ("one", "n", "/t.sock")
    assert (
        made.path / "args"
    ).read_text() == "-namespace n -id one -address /g.sock -publish-binary /bin/false start\n"
    assert (made.path / "cwd").read_text().strip() == str(made.path)
    environment = (made.path / "env").read_text()
    assert "TTRPC_ADDRESS=/t.sock\n" in environment
    assert "NOTIFY_SOCKET" not in environment


@pytest.mark.anyio
async def test_an_old_shim_is_asked_again_and_remembered(tmp_path: Path) -> None:
    binary = shim(
        tmp_path,
        "old",
        f'echo x >>calls; [ -z "$(cat)" ] || {{ echo "proto: bad" >&2; exit 1; }}; echo {ADDRESS}',
    )
    made = bundle(tmp_path, binary)
    starter = launcher(tmp_path)
    assert (await starter.start(binary, made)).version == 2
    assert (await starter.start(binary, made)).version == 2
    assert (made.path / "calls").read_text() == "x\nx\nx\n"


@pytest.mark.anyio
async def test_a_shim_that_fails_is_quoted(tmp_path: Path) -> None:
    binary = shim(tmp_path, "bad", "echo no luck >&2; exit 1")
    made = bundle(tmp_path, binary)
    for action in (launcher(tmp_path).start, launcher(tmp_path).delete):
        with pytest.raises(ShimLaunchError, match="no luck"):
            await action(binary, made)


def test_shims_are_found_in_path_and_beside_the_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    for directory in ("bin", "beside"):
        (tmp_path / directory).mkdir()
    other = shim(tmp_path / "beside", "containerd-shim-other-v1", "")
    mine = shim(tmp_path / "bin", "containerd-shim-mine-v2", "")
    assert find_shim("io.containerd.other.v1", beside=tmp_path / "beside") == other
    assert find_shim("io.containerd.mine.v2", beside=tmp_path / "beside") == mine
    assert find_shim(str(other), beside=tmp_path) == other
    for name in ("io.containerd.mine.v3", "io.containerd.../x.v1", "mine", "", str(tmp_path)):
        with pytest.raises(NotFoundError):
            find_shim(name, beside=tmp_path / "beside")


def test_options_are_taken_under_both_spellings_and_checked() -> None:
    for options in ({"BinaryName": "crun"}, {"binary_name": "crun"}):
        made = encode_options(RUNC_V2, options, runc_root="/r")
        assert made is not None
        assert made.type_url == "containerd.runc.v1.Options"
        assert task_pb2.RuncOptions.FromString(made.value) == task_pb2.RuncOptions(
            binary_name="crun", root="/r"
        )
    assert encode_options("io.containerd.wasmtime.v1", {}, runc_root="/r") is None
    made = encode_options("io.containerd.wasmtime.v1", {"ConfigBody": "a = 1"}, runc_root="/r")
    assert made is not None
    assert task_pb2.RuntimeOptions.FromString(made.value).config_body == b"a = 1"
    for options in ({"Nonsense": 1}, {"BinaryName": 3}):
        with pytest.raises(InvalidArgumentError):
            encode_options(RUNC_V2, options, runc_root="/r")


def test_a_bundle_is_private_unless_its_root_is_remapped(tmp_path: Path) -> None:
    mapped = {"linux": {"gidMappings": [{"containerID": 0, "hostID": 7, "size": 9}]}}
    for name, spec, mode, group in (("a", {}, 0o700, 0), ("b", mapped, 0o710, 7)):
        made = Bundle(ContainerID(name), tmp_path / "s/n" / name, tmp_path / "r/n" / name)
        made.create(spec, Path("/bin/true"))
        found = made.path.stat()
        assert (stat.S_IMODE(found.st_mode), found.st_gid) == (mode, group)
        made.remove()
        made.remove()
        assert not made.path.exists()
        assert not made.work.exists()


def test_the_last_words_of_a_runtime_are_found(tmp_path: Path) -> None:
    made = bundle(tmp_path, Path("/bin/true"))
    assert made.runtime_error() == ""
    (made.path / "log.json").write_text(
        '{"level":"error","msg":"first"}\nnot json\n{"level":"warning","msg":"w"}\n{"level":"error","msg":" last "}\n'
    )
    assert made.runtime_error() == "last"


def test_known_holes_are_named_by_version() -> None:
    assert len(runc_warnings((1, 1, 5))) == 2
    assert len(runc_warnings((1, 2, 8))) == 1
    assert len(runc_warnings((1, 3, 2))) == 2
    assert len(runc_warnings((1, 3, 5))) == 1
    assert runc_warnings((1, 3, 6)) == []
    assert len(runc_warnings((1, 4, 2))) == 1
    assert runc_warnings((1, 4, 3)) == []
    assert crun_warnings((1, 18, 2)) == []
    assert crun_warnings((1, 19, 0)) == crun_warnings((1, 26, 9)) != []
    assert crun_warnings((1, 27, 0)) == []


def test_a_runtime_is_probed(tmp_path: Path) -> None:
    old = shim(tmp_path, "runc", "echo 'runc version 1.1.5+ds1'")
    probe = probe_runtime(str(old))
    assert (probe.version, probe.unusable, len(probe.warnings)) == ("1.1.5+ds1", "", 2)
    bad = shim(tmp_path, "broken", "echo GLIBC not found >&2; exit 1")
    assert "GLIBC" in probe_runtime(str(bad)).unusable
    assert choose_runtime((str(tmp_path / "none"), str(bad), str(old))) == probe


@pytest.mark.parametrize(
    ("message", "said", "together"),
    [
        ("create failed", "", "create failed"),
        ("create failed: no such file", "no such file", "create failed: no such file"),
        ("create failed", "no such file", "create failed: no such file"),
        (
            "failed: cannot write to x",
            "cannot write to x: invalid argument",
            "failed: cannot write to x: invalid argument",
        ),
        ("an error", "runc failed", "an error: runc failed"),
    ],
)
def test_what_a_shim_cut_off_is_not_said_twice(message: str, said: str, together: str) -> None:
    assert joined(message, said) == together


DIRECT = (
    'if [ "$1" = -v ]; then echo "containerd-shim-runc-v2:"; echo "  Version:  $VERSION"; exit; fi\n'
    "if [ -e broken ]; then exit 1; fi\n"
    'umask >umask; pwd >cwd; env >env; echo "$@" >args; readlink /proc/self/fd/3 >socket\n'
    "mv socket done; exec sleep 1000"
)


@pytest.mark.anyio
@pytest.mark.parametrize(("version", "task"), [("1.6.20~ds1", 2), ("2.1.4", 3), ("2.3.0", 3)])
async def test_a_runc_shim_s_server_is_started_without_its_starter(
    tmp_path: Path, sockets: Path, monkeypatch: pytest.MonkeyPatch, version: str, task: int
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/secret")
    binary = shim(tmp_path, "containerd-shim-runc-v2", DIRECT.replace("$VERSION", version))
    made, children = bundle(tmp_path, binary), list[int]()
    starter = replace(launcher(sockets), adopt=children.append)
    await starter.look(binary)
    found = await starter.start(binary, made)
    (pid,) = children
    try:
        with socket.socket(socket.AF_UNIX) as client:  # heard although nobody accepts yet
            client.connect(found.address.removeprefix("unix://"))
        while not (made.path / "done").exists():
            await anyio.sleep(0.01)
        score = int(Path(f"/proc/{pid}/oom_score_adj").read_text())
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    said = {name: (made.path / name).read_text().strip() for name in ("umask", "cwd", "args", "done")}
    assert found.version == task
    assert (said["umask"], said["cwd"]) == ("0022", str(made.path))
    assert said["args"] == "-namespace n -id one -address /g.sock"
    assert said["done"].startswith("socket:")
    assert score == min(int(Path("/proc/self/oom_score_adj").read_text()) + 1, 1000)
    assert "NOTIFY_SOCKET" not in (made.path / "env").read_text()
    assert await starter.distrust(binary)
    assert not await starter.distrust(binary)


@pytest.mark.anyio
async def test_other_shims_keep_their_starter(tmp_path: Path) -> None:
    old = DIRECT.replace("$VERSION", "1.5.9") + f"\necho {ADDRESS}"
    for name, body in (("old", old.replace("exec sleep 1000", "")), ("unknown", f"echo {ADDRESS}")):
        binary = shim(tmp_path, name, body)
        starter = launcher(tmp_path)
        await starter.look(binary)
        made = Bundle(ContainerID(name), tmp_path / "state/n" / name, tmp_path / "root/n" / name)
        made.create({}, binary)
        assert (await starter.start(binary, made)).address == ADDRESS
