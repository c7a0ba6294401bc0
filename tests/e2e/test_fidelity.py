"""The tree of a container is the tree that the image says, as containerd and `umoci unpack` make it of the same bytes."""

import hashlib
import json
import os
import stat
import subprocess
import tarfile
import time
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import pytest
from support import containerd
from support.daemon import Daemon, running_daemon
from support.images import Layout, compressed, layer_type, push
from support.rich import BINARY_NAME, DEEP, LONG_COMPONENT, TIME, Tar, raw_image, rich_layers, sparse

from lading.devices import local as devices

pytestmark = [pytest.mark.e2e, pytest.mark.stores("containerd", "classic")]

OURS = {b"proc", b"sys", b"dev", b".dockerenv", b"etc/hosts", b"etc/hostname", b"etc/resolv.conf"}
"""What a container has of the daemon's, not of the image's; mounted, or made as mount points."""

Tree = dict[bytes, dict[str, Any]]


def tree(root: bytes) -> Tree:
    """Everything that can be told from outside about each name below ``root``, symbolic links not followed."""
    found: Tree = {}
    inodes: dict[tuple[int, int], list[bytes]] = {}

    def visit(path: bytes, relative: bytes) -> None:
        status = os.lstat(path)
        entry: dict[str, Any] = {
            "type": stat.S_IFMT(status.st_mode),
            "mode": oct(stat.S_IMODE(status.st_mode)),
            "owner": (status.st_uid, status.st_gid),
            "mtime": status.st_mtime_ns,
            "xattrs": {
                name: os.getxattr(path, name, follow_symlinks=False)
                for name in os.listxattr(path, follow_symlinks=False)
            },
        }
        if stat.S_ISREG(status.st_mode):
            with open(path, "rb") as file:
                entry["content"] = (status.st_size, hashlib.file_digest(file, "sha256").hexdigest())
        elif stat.S_ISLNK(status.st_mode):
            entry["content"] = os.readlink(path)
        elif stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
            entry["content"] = (os.major(status.st_rdev), os.minor(status.st_rdev))
        if not stat.S_ISDIR(status.st_mode):
            inodes.setdefault((status.st_dev, status.st_ino), []).append(relative)
        found[relative] = entry
        if stat.S_ISDIR(status.st_mode):
            for name in sorted(os.listdir(path)):
                inner = relative + b"/" + name if relative else name
                if inner not in OURS:
                    visit(path + b"/" + name, inner)

    visit(root, b"")
    for group in inodes.values():
        for name in group:
            found[name]["links"] = sorted(group)
    return found


NO_TIME = {b"", b"etc", b"run-dir", b"run-dir/real", b"var-run"} | {
    b"/".join(DEEP.encode().split(b"/")[:n]) for n in range(1, DEEP.count("/") + 2)
}
"""Directories that no entry describes: everyone makes them 0755 and root's, and the image says nothing about their time.
In ``etc`` the daemon makes mount points."""


def differing(umoci: Tree) -> Tree:
    """What is right where umoci's tree is not the one to agree with, and why."""
    expected = {name: dict(entry) for name, entry in umoci.items()}
    # An extended attribute may be empty. Go's tar reader takes an empty PAX value to mean "not there"; containerd reads the raw
    # records and sets it, as GNU tar does.
    expected[b"xattrs/user"]["xattrs"] |= {"user.empty": b""}
    # A later layer puts a file below /var-run, which is a symbolic link in a lower one. umoci has all layers in one directory
    # and follows the link; containerd and Docker unpack each layer alone, where the parent is an implied directory, which
    # hides the link. So do we: a layer's snapshot must not depend on who unpacked it.
    file = expected.pop(b"run-dir/real/through-symlink")
    expected[b"var-run/through-symlink"] = file | {"links": [b"var-run/through-symlink"]}
    expected[b"var-run"] = {
        "type": stat.S_IFDIR,
        "mode": "0o755",
        "owner": (0, 0),
        "mtime": None,
        "xattrs": {},
    }
    return expected


def compare(ours: Tree, theirs: Tree, whose: str) -> list[str]:
    """Every difference, in words."""
    out = [f"missing: {name!r}" for name in sorted(theirs.keys() - ours.keys())]
    out += [f"extra: {name!r}" for name in sorted(ours.keys() - theirs.keys())]
    for name in sorted(ours.keys() & theirs.keys()):
        for key in ("type", "mode", "owner", "mtime", "xattrs", "content", "links"):
            mine, other = ours[name].get(key), theirs[name].get(key)
            if mine != other and not (key == "mtime" and name in NO_TIME):
                out.append(f"{name[-80:]!r}: {key} is {mine!r}, {whose} has {other!r}")
    return out


KINDS = ["", "gzip", "zstd", "gzip", ""]
"""How the layers are compressed."""
PIECE = 4 << 20
RECORD = 20 * 512
PAD = bytes(3400 * RECORD - 3 * 512)
"""What makes a layer large enough to be decoded while it is read; with its headers, whole records, as tar writes them."""


def large(tar: bytes, number: int) -> bytes:
    """A layer with one file more, and large."""
    first = Tar()
    first.add(f"pad-{number}", PAD, time=str(TIME))
    assert len(first.data) % RECORD == 0
    return bytes(first.data) + tar


def in_pieces(tar: bytes, kind: str) -> bytes:
    """Compressed so that decoding can begin in many places: members, frames."""
    return b"".join(compressed(tar[at : at + PIECE], kind) for at in range(0, len(tar), PIECE))


def pads(layers: int) -> Tree:
    """The files that `large` adds, as they should be."""
    content = (len(PAD), hashlib.sha256(PAD).hexdigest())
    return {
        name: {
            "type": stat.S_IFREG,
            "mode": "0o644",
            "owner": (0, 0),
            "mtime": TIME * 10**9,
            "xattrs": {},
            "content": content,
            "links": [name],
        }
        for name in (b"pad-%d" % number for number in range(layers))
    }


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    directory = tmp_path_factory.mktemp("rich")
    made = Layout(directory / "layout")
    tars = rich_layers(directory)
    layers = [(tar, compressed(tar, kind), layer_type(kind)) for tar, kind in zip(tars, KINDS, strict=True)]
    made.name(raw_image(made, layers), "rich")
    # containerd and Debian 12's umoci do not read GNU tar's own sparse entries (type S), and umoci no zstd: the same archives,
    # the last one with its zeros written out, and for umoci none compressed.
    archives = [*tars[:-1], sparse(directory, "gnu", packed=False)]
    plain = [(tar, tar, layer_type("")) for tar in archives]
    made.name(raw_image(made, plain), "plain")
    packed = [
        (tar, compressed(tar, kind), layer_type(kind)) for tar, kind in zip(archives, KINDS, strict=True)
    ]
    made.name(raw_image(made, packed), "packed")
    return made


@pytest.fixture(scope="module")
def large_layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    directory = tmp_path_factory.mktemp("large")
    made = Layout(directory / "layout")
    tars = [large(tar, number) for number, tar in enumerate(rich_layers(directory))]
    layers = [(tar, in_pieces(tar, kind), layer_type(kind)) for tar, kind in zip(tars, KINDS, strict=True)]
    made.name(raw_image(made, layers), "rich")
    return made


@pytest.fixture(scope="module")
def unpacked(layout: Layout, tmp_path_factory: pytest.TempPathFactory) -> Tree:
    bundle = tmp_path_factory.mktemp("umoci") / "bundle"
    subprocess.run(
        ["umoci", "unpack", "--image", f"{layout.path}:plain", bundle], check=True, capture_output=True
    )
    return tree(os.fsencode(bundle / "rootfs"))


@pytest.fixture(scope="module")
def by_containerd(layout: Layout) -> Tree:
    """What its overlayfs snapshotter makes of the same image, and what is right where that is not the one to agree with."""
    if problem := containerd.missing():
        pytest.skip(problem)
    with containerd.running_containerd() as running, running.mounted(layout.path, "packed") as root:
        found = tree(os.fsencode(root))
    # Later layers put something into it and do not describe it. Everyone takes its attributes from the layers below; containerd
    # then writes into it, and leaves the time of that.
    assert found[b"changed"]["mtime"] > layout.path.stat().st_ctime_ns
    found[b"changed"]["mtime"] = TIME * 10**9 + 123_456_789
    return found


FORMS: Mapping[str, tuple[str, Mapping[str, object]]] = {
    "overlayfs": ("overlayfs", {}),
    "native": ("native", {}),
    "erofs": ("erofs", {}),
    "overlay2": ("overlay2", {}),
    "overlayfs-unpacked": ("overlayfs", {"layers-keep": "unpacked", "layers-refetch": True}),
    "erofs-unpacked": ("erofs", {"layers-keep": "unpacked", "layers-refetch": True}),
    "erofs-compressed": ("erofs", {"layers-keep": "compressed"}),
    "erofs-on-demand": ("erofs", {"layers-keep": "compressed"}),
}
"""Snapshotters (overlay2: the classic store), and what is kept of layers."""


def keep_only(form: str, daemon: Daemon, layers: int) -> None:
    """Come to where all that is kept of an image is what the form says."""

    def found(pattern: str) -> list[Path]:
        return list(daemon.data_root.glob(pattern))

    if form == "erofs-on-demand":
        until = time.monotonic() + 60
        while len(found("snapshots/erofs/*/snapshots/*/layer.seek")) < layers:
            assert time.monotonic() < until, daemon.tail()
            time.sleep(0.05)
    daemon.stop()
    daemon.start()
    if form.endswith("unpacked"):
        assert daemon.lading("gc").returncode == 0
        assert len(found("content/blobs/sha256/*")) == 2  # manifest and config
    else:
        assert found("snapshots/erofs/*/snapshots/*/layer.cache") == []


@pytest.fixture(scope="module", params=FORMS)
def container(request: pytest.FixtureRequest, registry: str) -> Generator[tuple[str, Tree]]:
    """The tree that a process of a running container sees, by the name of the form."""
    form: str = request.param
    driver, settings = FORMS[form]
    on_demand = form == "erofs-on-demand"
    if on_demand and (problem := devices.probe()):
        pytest.skip(problem)
    source: Layout = request.getfixturevalue("large_layout" if on_demand else "layout")
    name = f"{registry}/rich:{form}"
    push(source.path, "rich", name)
    config = source.path.parent / f"{form}.json"
    config.write_text(json.dumps({"lading": settings}))
    with running_daemon(f"--storage-driver={driver}", f"--config-file={config}") as daemon:
        daemon.docker("pull", name)
        if settings:
            keep_only(form, daemon, len(KINDS))
        made = daemon.docker("run", "-d", "--network", "none", name, "sleep", "1000").strip()
        process = int(daemon.docker("inspect", "-f", "{{.State.Pid}}", made))
        shown = tree(b"/proc/%d/root/." % process)
        if on_demand:
            lazy = list(daemon.data_root.glob("snapshots/erofs/*/snapshots/*/layer.segments"))
            assert len(lazy) == len(KINDS)
            expected = pads(len(KINDS))
            assert {name: shown.pop(name) for name in expected} == expected
        yield form, shown


def test_layers_leave_the_classic_store_as_they_came(layout: Layout, registry: str, tmp_path: Path) -> None:
    """Those with sparse files, too: Docker's own store cannot give them back."""
    name = f"{registry}/rich:leaving"
    push(layout.path, "rich", name)
    with running_daemon("--storage-driver=overlay2") as daemon:
        daemon.docker("pull", "-q", name)
        daemon.docker("save", "-o", str(tmp_path / "saved.tar"), name)
    with tarfile.open(tmp_path / "saved.tar") as saved:
        (manifest,) = json.loads(saved.extractfile("manifest.json").read())
        wanted = json.loads(saved.extractfile(manifest["Config"]).read())["rootfs"]["diff_ids"]
        found = [hashlib.sha256(saved.extractfile(each).read()).hexdigest() for each in manifest["Layers"]]
        assert [f"sha256:{each}" for each in found] == wanted


def test_the_tree_is_umoci_s(container: tuple[str, Tree], unpacked: Tree) -> None:
    _, ours = container
    expected = differing(unpacked)
    differences = compare(ours, expected, "umoci")
    assert differences == [], "\n".join(differences)


def test_the_tree_is_containerd_s(container: tuple[str, Tree], by_containerd: Tree) -> None:
    _, ours = container
    differences = compare(ours, by_containerd, "containerd")
    assert differences == [], "\n".join(differences)


def test_the_image_has_in_it_what_it_should(container: tuple[str, Tree]) -> None:
    """So that agreeing with umoci cannot mean that both lost it."""
    _, ours = container
    assert ours[b"xattrs/capable"]["xattrs"].keys() == {"security.capability"}
    assert "system.posix_acl_access" in ours[b"xattrs/acl"]["xattrs"]
    assert ours[b"owners/2000000000-4294967294"]["owner"] == (2_000_000_000, 4_294_967_294)
    assert ours[b"modes/7777"]["mode"] == "0o7777"
    assert ours[b"times/1600000000.999999999"]["mtime"] == 1_600_000_000_999_999_999
    assert ours[b"links/second"]["links"] == [
        b"links/absolute-hard",
        b"links/second",
        b"links/target",
        b"links/third",
    ]
    assert ours[b"devices/large"]["content"] == (200, 70000)
    assert BINARY_NAME in ours
    assert f"odd/{LONG_COMPONENT}".encode() in ours
    assert f"{DEEP}/leaf".encode() in ours
    assert ours[b"changed/gone"]["content"][0] == len(b"back again")
    assert {name for name in ours if name.startswith(b"opaque/")} == {b"opaque/lower", b"opaque/upper"}
    assert ours[b"sparse-gnu/many"]["content"] == ours[b"sparse-pax/many"]["content"]
