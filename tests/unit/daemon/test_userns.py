"""Whose subordinate IDs ``userns-remap`` gives, and what of the machine is tried."""

import os
import subprocess
from pathlib import Path

import pytest

from lading.containers.remapping import Remapping, acting, check, of_process
from lading.containers.request import HostConfig
from lading.core import idmap
from lading.core.idmap import IDENTITY, IdMap, IdRange, stacked
from lading.core.mounts import Mount
from lading.daemon import userns
from lading.daemon.userns import id_map, open_remapping, probe
from lading.errors import FailedPreconditionError, InvalidArgumentError

MAP = IdMap(uids=stacked([(500_000, 70_000)]), gids=stacked([(600_000, 40_000), (700_000, 30_000)]))


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    found = tmp_path / "subuid", tmp_path / "subgid"
    found[0].write_text("nobody:500000:70000\n")
    found[1].write_text("nogroup:600000:40000\n65534:700000:30000\nnobody:1:2\n")
    return found


@pytest.mark.parametrize("option", ["nobody:nogroup", "65534:65534", "65534:nogroup"])
def test_names_and_numbers(files: tuple[Path, Path], option: str) -> None:
    assert id_map(option, files) == MAP


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("no-such-user", "there is no user"),
        ("nobody", "there is no group 'nobody'"),
        ("nobody:no-such-group", "there is no group"),
        ("root", "root cannot be remapped"),
        ("nobody:root", "root cannot be remapped"),
        ("daemon:nogroup", "no subordinate IDs of 'daemon'"),
        ("99999999999999999999", "there is no user"),
        ("", "there is no user"),
    ],
)
def test_what_is_not_there_is_named(files: tuple[Path, Path], option: str, words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=words):
        id_map(option, files)


def test_the_default_user_is_made_with_ids_that_are_free(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[tuple[str, ...]] = []
    monkeypatch.setattr(userns, "_call", lambda *words: called.append(words))  # pyright: ignore[reportUnknownArgumentType]
    monkeypatch.setattr(userns, "DEFAULT_USER", "no-such-user")
    with pytest.raises(InvalidArgumentError):  # the stand-in has made nothing
        id_map("default", files)
    assert called == [
        ("useradd", "--system", "--user-group", "--no-create-home", "--shell", "/bin/false"),
        ("usermod", "--add-subuids", "100000-165535"),
        ("usermod", "--add-subgids", "100000-165535"),
    ]


def test_ids_are_mapped_both_ways() -> None:
    assert MAP.root == (500_000, 600_000)
    assert MAP.outside(7, 40_001) == (500_007, 700_001)
    assert MAP.inside(500_007, 700_001) == (7, 40_001)
    assert MAP.inside(0, 0) == (idmap.OVERFLOW, idmap.OVERFLOW)
    with pytest.raises(InvalidArgumentError, match="70000:0"):
        MAP.outside(70_000, 0)
    assert idmap.parse(idmap.text(MAP.gids)) == MAP.gids
    assert idmap.document(MAP.uids) == [{"containerID": 0, "hostID": 500_000, "size": 70_000}]
    assert IDENTITY.inside(12, 13) == IDENTITY.outside(12, 13) == (12, 13)
    assert of_process(os.getpid()) is IDENTITY


def test_the_machine_is_tried_and_nothing_stays(tmp_path: Path) -> None:
    made = Remapping(MAP)
    probe(made, tmp_path)
    made.close()
    assert os.listdir(tmp_path) == []
    with open_remapping("", tmp_path) as none:
        assert none is None


def test_a_file_system_without_other_owners_is_refused(tmp_path: Path) -> None:
    """sysfs stands for one that cannot; nothing may be left mounted either."""
    made = Remapping(MAP)
    try:
        with pytest.raises(FailedPreconditionError, match="with the owners of a user namespace"):
            made.mount([Mount(type="bind", source="/sys/kernel", options=("rbind", "ro"))], tmp_path)
    finally:
        made.close()
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()


def test_owners_are_others_in_the_mount_and_as_they_were_on_the_disk(tmp_path: Path) -> None:
    source, place = tmp_path / "source", tmp_path / "place"
    source.mkdir()
    place.mkdir()
    (source / "file").touch()
    os.chown(source / "file", 7, 8)
    made = Remapping(MAP)
    made.mount([Mount(type="bind", source=str(source), options=("rbind", "rw"))], place)
    try:
        assert ((place / "file").stat().st_uid, (place / "file").stat().st_gid) == (500_007, 600_008)
        with acting(MAP):
            (place / "new").touch()
        assert ((source / "new").stat().st_uid, (place / "new").stat().st_uid) == (0, 500_000)
        (source / "after").touch()
        assert (source / "after").stat().st_uid == 0
        assert os.access("/root", os.W_OK)
    finally:
        made.close()
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize(
    ("host", "words"),
    [
        (HostConfig(privileged=True), "privileged mode is incompatible with user namespaces"),
        (HostConfig(network_mode="host"), "cannot share the host's network namespace when user namespaces"),
        (HostConfig(pid_mode="host"), "cannot share the host PID namespace when user namespaces"),
        (HostConfig(ipc_mode="host"), "cannot share the host IPC namespace when user namespaces"),
    ],
)
def test_what_needs_the_machines_namespace_is_refused(host: HostConfig, words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=words):
        check(host)
    host.userns_mode = "host"
    check(host)


def test_a_map_of_ranges_is_contiguous_inside() -> None:
    assert stacked([(9, 2), (5, 1)]) == (IdRange(0, 9, 2), IdRange(2, 5, 1))
