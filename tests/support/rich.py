"""An image that has in it everything that a tar archive can say about a file, in four layers that change each other."""

import hashlib
import io
import json
import os
import struct
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path

from support.images import GOARCH, Layout, busybox_layer, layer_tar

TIME = 1_600_000_000
NANOSECONDS = "1600000000.123456789"
BINARY_NAME = b"odd/n\xff\xfe\x80me"
"""Not UTF-8."""
LONG_COMPONENT = "c" * 255
DEEP = "deep/" + "/".join(f"level-{n:03d}-{'d' * 40}" for n in range(60))
"""More than 2,900 bytes of path."""
NET_RAW = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)
"""``security.capability`` version 2, effective: cap_net_raw."""


def _acl() -> bytes:
    """A POSIX access list: user 70000 may read and write."""
    entries = [
        (1, 7, 0xFFFFFFFF),
        (2, 6, 70000),
        (4, 5, 0xFFFFFFFF),
        (16, 7, 0xFFFFFFFF),
        (32, 0, 0xFFFFFFFF),
    ]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def record(key: bytes, value: bytes) -> bytes:
    """A PAX record (POSIX.1-2017, pax, extended header)."""
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest) + 1
    while length != len(rest) + len(str(length)):
        length = len(rest) + len(str(length))
    return b"%d" % length + rest


class Tar:
    """An archive whose PAX records are exactly those that were asked for, as Go's writer makes them."""

    def __init__(self) -> None:
        self.data = bytearray()

    def add(
        self,
        name: str | bytes,
        content: bytes = b"",
        *,
        kind: bytes = tarfile.REGTYPE,
        mode: int = 0o644,
        uid: int = 0,
        gid: int = 0,
        link: str = "",
        device: tuple[int, int] = (0, 0),
        time: str = NANOSECONDS,
        xattrs: Mapping[str, bytes] | None = None,
    ) -> None:
        raw = os.fsencode(name)
        records = {b"path": raw, b"mtime": time.encode()}
        if link:
            records[b"linkpath"] = link.encode()
        records |= {b"uid": b"%d" % uid, b"gid": b"%d" % gid}
        for key, value in (xattrs or {}).items():
            records[b"SCHILY.xattr." + key.encode()] = value
        body = b"".join(record(key, value) for key, value in records.items())
        extension = tarfile.TarInfo("PaxHeaders/x")
        extension.type, extension.size = b"x", len(body)
        self.data += extension.tobuf(tarfile.USTAR_FORMAT) + body + bytes(-len(body) % 512)
        member = tarfile.TarInfo("member")
        member.type, member.mode, member.size, member.mtime = kind, mode, len(content), TIME
        member.devmajor, member.devminor = device
        self.data += member.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % 512)

    def directory(self, name: str, mode: int = 0o755, **more: object) -> None:
        self.add(name, kind=tarfile.DIRTYPE, mode=mode, **more)  # pyright: ignore[reportArgumentType]

    def finished(self) -> bytes:
        return bytes(self.data) + bytes(1024)


def _first() -> bytes:
    tar = Tar()
    tar.data += layer_tar(busybox_layer())[:-1024].rstrip(b"\0")
    tar.data += bytes(-len(tar.data) % 512)
    tar.directory("modes")
    for mode in (0o000, 0o400, 0o644, 0o755, 0o777, 0o4755, 0o2755, 0o6711, 0o1644, 0o7777):
        tar.add(f"modes/{mode:04o}", b"x", mode=mode)
        tar.directory(f"modes/d{mode:04o}", mode)
    tar.directory("owners", uid=12, gid=34)
    for uid, gid in ((1, 2), (65534, 65535), (65536, 70000), (2_000_000_000, 4_294_967_294)):
        tar.add(f"owners/{uid}-{gid}", b"x", uid=uid, gid=gid, mode=0o4755)
        tar.add(f"owners/link-{uid}", kind=tarfile.SYMTYPE, link="nowhere", uid=uid, gid=gid)
        tar.directory(f"owners/d{uid}", 0o2770, uid=uid, gid=gid)
    tar.directory("times")
    for time in ("0", "1.000000001", "981173106.5", "1600000000.999999999", "4102444800.1"):
        tar.add(f"times/{time}", b"t", time=time)
        tar.add(f"times/link-{time}", kind=tarfile.SYMTYPE, link=time, time=time)
        tar.directory(f"times/d{time}", time=time)
    tar.directory("xattrs")
    tar.add(
        "xattrs/user", b"x", xattrs={"user.one": b"1", "user.binary": bytes(range(256)), "user.empty": b""}
    )
    tar.add("xattrs/capable", b"x", mode=0o755, uid=5, xattrs={"security.capability": NET_RAW})
    tar.add("xattrs/acl", b"x", mode=0o770, xattrs={"system.posix_acl_access": _acl()})
    tar.directory("xattrs/directory", xattrs={"user.dir": b"d", "system.posix_acl_default": _acl()})
    tar.add("xattrs/read-only", b"x", mode=0o444, uid=7, xattrs={"user.late": b"v" * 3000})
    tar.directory("links")
    tar.add("links/target", b"shared content", mode=0o4750, uid=3, gid=4)
    for name in ("second", "third"):
        tar.add(f"links/{name}", kind=tarfile.LNKTYPE, link="links/target", mode=0o4750, uid=3, gid=4)
    tar.add("links/absolute-hard", kind=tarfile.LNKTYPE, link="/links/target", mode=0o4750, uid=3, gid=4)
    tar.add("links/relative", kind=tarfile.SYMTYPE, link="target")
    tar.add("links/absolute", kind=tarfile.SYMTYPE, link="/links/target")
    tar.add("links/up", kind=tarfile.SYMTYPE, link="../../../etc/passwd")
    tar.add("links/dangling", kind=tarfile.SYMTYPE, link="/not/there")
    tar.add("links/to-symlink", kind=tarfile.LNKTYPE, link="links/relative")
    tar.add("links/long", kind=tarfile.SYMTYPE, link="/".join(["far" * 20] * 20))
    tar.directory("devices")
    tar.add("devices/null", kind=tarfile.CHRTYPE, device=(1, 3), mode=0o666)
    tar.add("devices/disk", kind=tarfile.BLKTYPE, device=(7, 200), mode=0o660, gid=6)
    tar.add("devices/large", kind=tarfile.CHRTYPE, device=(200, 70000), mode=0o600)
    tar.add("devices/pipe", kind=tarfile.FIFOTYPE, mode=0o620, uid=9)
    tar.add("devices/pipe-again", kind=tarfile.LNKTYPE, link="devices/pipe", mode=0o620, uid=9)
    tar.add("run-dir/real/file", b"implied parents")
    tar.add("var-run", kind=tarfile.SYMTYPE, link="/run-dir/real")
    tar.directory("odd")
    tar.add(BINARY_NAME, b"binary name")
    tar.add("odd/ leading and trailing ", b"spaces")
    tar.add("odd/back\\slash:colon,comma", b"option syntax")
    tar.add("odd/umlaut-\u00fc-\u6f22", b"utf-8")
    tar.add(f"odd/{LONG_COMPONENT}", b"255 bytes")
    tar.add(f"{DEEP}/leaf", b"deep")
    tar.directory("empty")
    tar.add("empty-file")
    tar.directory("changed", 0o755)
    for name in ("gone", "rewritten", "to-directory", "kept"):
        tar.add(f"changed/{name}", name.encode())
    tar.directory("changed/to-file", 0o750)
    tar.add("changed/to-file/below", b"below")
    tar.directory("changed/to-symlink")
    tar.add("changed/to-symlink/below", b"below")
    tar.add("changed/symlink-to-directory", kind=tarfile.SYMTYPE, link="/empty")
    tar.directory("opaque", 0o711, uid=20)
    tar.add("opaque/lower", b"lower")
    tar.directory("opaque/deeper")
    tar.add("opaque/deeper/lower", b"lower")
    tar.directory("metadata", 0o755)
    tar.add("metadata/file", b"same content")
    return tar.finished()


def _second() -> bytes:
    """Removes and replaces."""
    tar = Tar()
    tar.add("changed/.wh.gone")
    tar.add("changed/rewritten", b"new content", mode=0o600, uid=1)
    tar.directory("changed/to-directory", 0o700)
    tar.add("changed/to-directory/inside", b"inside")
    tar.add("changed/to-file", b"now a file")
    tar.add("changed/to-symlink", kind=tarfile.SYMTYPE, link="kept")
    tar.directory("changed/symlink-to-directory", 0o711)
    tar.add("changed/symlink-to-directory/inside", b"inside")
    tar.directory("opaque", 0o700, uid=21)
    tar.add("opaque/upper", b"upper")
    tar.add("opaque/.wh..wh..opq")
    tar.directory("metadata", 0o2750, uid=70000, gid=70001, xattrs={"user.new": b"yes"})
    tar.add("metadata/file", b"same content", mode=0o640, gid=70001, time="1500000000.000000001")
    tar.add("var-run/through-symlink", b"lands in /run-dir/real")
    tar.add(".wh.empty-file")
    return tar.finished()


def _third() -> bytes:
    """Brings back what the second took away."""
    tar = Tar()
    tar.add("changed/gone", b"back again")
    tar.add("changed/to-directory", b"a file again")
    tar.directory("changed/to-file", 0o755)
    tar.add("changed/to-file/again", b"a directory again")
    tar.directory("opaque", 0o755)
    tar.add("opaque/lower", b"another lower")
    tar.directory("empty-file", 0o1777)
    return tar.finished()


def sparse(directory: Path, form: str, *, packed: bool = True) -> bytes:
    """Files with holes, packed by GNU tar; or the same files with their zeros written out."""
    source = directory / f"sparse-{form}-{packed}"
    (source / f"sparse-{form}").mkdir(parents=True)
    for name, pieces, size in (
        ("one-hole", [(0, b"begin"), (1 << 20, b"end")], (1 << 20) + 3),
        ("only-hole", [], 3 << 20),
        ("many", [(n << 17, b"piece %d" % n) for n in range(40)], 41 << 17),
    ):
        with (source / f"sparse-{form}" / name).open("wb") as file:
            file.truncate(size)
            for at, data in pieces:
                file.seek(at)
                file.write(data)
    words = ["tar", "--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--mtime=@1600000000"]
    words += ["--format=pax", "--sparse-version=1.0"] if form == "pax" else ["--format=gnu"]
    words += ["--sparse"] if packed else []
    return subprocess.run(
        [*words, "-C", source, "-c", f"sparse-{form}"], check=True, capture_output=True
    ).stdout


def rich_layers(directory: Path) -> list[bytes]:
    """The layers, lowest first, not compressed."""
    return [_first(), _second(), _third(), sparse(directory, "pax"), sparse(directory, "gnu")]


def raw_image(layout: Layout, layers: list[tuple[bytes, bytes, str]], **config: object) -> dict[str, object]:
    """Add an image of layers given as archive, packed bytes and media type; the descriptor of its manifest."""
    document = {
        "architecture": GOARCH,
        "os": "linux",
        "config": {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"], **config},
        "rootfs": {
            "type": "layers",
            "diff_ids": [f"sha256:{hashlib.sha256(tar).hexdigest()}" for tar, _, _ in layers],
        },
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": layout.blob(json.dumps(document).encode(), "application/vnd.oci.image.config.v1+json"),
        "layers": [layout.blob(packed, kind) for _, packed, kind in layers],
    }
    return layout.blob(json.dumps(manifest).encode(), str(manifest["mediaType"]))


def many_files(count: int) -> bytes:
    """``count`` files in directories of two hundred."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for n in range(count):
            member = tarfile.TarInfo(f"many/{n // 200:04d}/{n:06d}")
            content = b"%d\n" % n * 20
            member.size, member.mtime, member.mode = len(content), TIME, 0o644
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()
