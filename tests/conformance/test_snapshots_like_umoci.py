"""The tree of an image is the one that `umoci unpack` makes of it: names, modes, owners, times, links, attributes, devices."""

import json
import os
import shutil
import stat
import subprocess

import pytest
from support.filesystems import tmpfs

from lading.core.metadata import Namespace
from lading.core.snapshots import SnapshotKey
from lading.formats.tar.entry import EntryType
from lading.oci.digest import Digest
from lading.snapshots.native import NativeSnapshotter
from lading.snapshots.overlay import OverlaySnapshotter
from lading.testing.layers import device, directory, file, hardlink, opaque, symlink, tar, unpack, whiteout
from lading.testing.memory.metadata import MemoryDatabase
from lading.testing.snapshots import inside

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not shutil.which("umoci"), reason="umoci is not installed"),
]

CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")
LAYERS = [
    tar(
        directory("etc", mode=0o751, uid=3),
        directory("etc/opaque"),
        file("etc/opaque/old"),
        directory("etc/gone"),
        file("etc/gone/x"),
        file("etc/edit", b"1", mode=0o640, uid=100, gid=2**31),
        directory("usr"),
        directory("usr/bin", mode=0o2755, gid=7),
        file("usr/bin/ping", b"elf", mode=0o755, xattrs={"security.capability": CAPABILITY}),
        file("usr/bin/su", b"elf", mode=0o4755),
        file("usr/bin/a", b"linked"),
        hardlink("usr/bin/b", "usr/bin/a"),
    ),
    tar(
        symlink("bin", "usr/bin", uid=8),
        directory("dev"),
        device("dev/null", EntryType.CHAR, 1, 3, mode=0o666),
        device("dev/loop", EntryType.BLOCK, 7, 0, mode=0o660),
        device("dev/pipe", EntryType.FIFO, 0, 0),
        directory("tmp", mode=0o1777),
        file("etc/new/implied", b"in a directory that is only implied"),
        file("noted", b"x", xattrs={"user.note": b"\0bytes"}),
    ),
    tar(
        whiteout("etc/gone"),
        directory("etc/opaque", mode=0o700),
        opaque("etc/opaque"),
        file("etc/opaque/new"),
        whiteout("usr/bin/su"),
        file("etc/edit", b"2", mtime=1_700_000_000_000_000_001),
        directory("noted"),
    ),
]


def describe(root):
    found = {}
    inodes = {}
    for top, directories, files in os.walk(root):
        for name in [*directories, *files]:
            place = os.path.join(top, name)
            path = os.path.relpath(place, root)
            status = os.lstat(place)
            content = ""
            if stat.S_ISREG(status.st_mode):
                with open(place, "rb") as opened:
                    content = opened.read()
            elif stat.S_ISLNK(status.st_mode):
                content = os.readlink(place)
            xattrs = {
                key: os.getxattr(place, key, follow_symlinks=False)
                for key in os.listxattr(place, follow_symlinks=False)
            }
            times = 0 if path in IMPLIED else status.st_mtime_ns
            found[path] = (
                oct(status.st_mode),
                status.st_uid,
                status.st_gid,
                status.st_rdev,
                times,
                content,
                xattrs,
            )
            inodes.setdefault(status.st_ino, set()).add(path)
    return found, {frozenset(paths) for paths in inodes.values() if len(paths) > 1}


IMPLIED = {"etc", "usr", "usr/bin", "etc/new"}
"""Layers change something in them and do not describe them. umoci, which extracts in place, leaves the time of its own work."""


def make_layout(place):
    blobs = place / "blobs/sha256"
    blobs.mkdir(parents=True)

    def put(data, media_type):
        digest = Digest.of(data)
        (blobs / digest.hex).write_bytes(data)
        return {"mediaType": f"application/vnd.oci.image.{media_type}", "digest": digest, "size": len(data)}

    layers = [put(layer, "layer.v1.tar") for layer in LAYERS]
    rootfs = {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]}
    config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": rootfs, "config": {}}).encode()
    manifest = {"schemaVersion": 2, "config": put(config, "config.v1+json"), "layers": layers}
    entry = put(json.dumps(manifest).encode(), "manifest.v1+json")
    entry["annotations"] = {"org.opencontainers.image.ref.name": "it"}
    (place / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (place / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


def unpack_by_umoci(disk):
    make_layout(disk / "layout")
    command = ["umoci", "unpack", "--image", f"{disk}/layout:it", disk / "bundle"]
    subprocess.run(command, check=True, capture_output=True)


@pytest.mark.parametrize("kind", [OverlaySnapshotter, NativeSnapshotter])
async def test_like_umoci(tmp_path, kind):
    with tmpfs(tmp_path / "disk") as disk:
        unpack_by_umoci(disk)
        snapshotter = kind(disk / "root", MemoryDatabase().snapshots(Namespace("n"), "s"), boot_id="b")
        parent = None
        for number, layer in enumerate(LAYERS):
            parent = await unpack(snapshotter, f"layer-{number}", parent, layer)
        tree, links = await inside(await snapshotter.view(SnapshotKey("v"), parent), describe)
        theirs, their_links = describe(disk / "bundle/rootfs")
        for path in sorted(tree.keys() | theirs.keys()):
            assert (path, tree.get(path)) == (path, theirs.get(path))
        assert links == their_links == {frozenset({"usr/bin/a", "usr/bin/b"})}
        await snapshotter.close()
