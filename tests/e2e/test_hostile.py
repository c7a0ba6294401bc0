"""Hostile images through the real daemon: a clear error, nothing visible, nothing kept, the daemon well; the honest twin works.

The rows are those of docs/reference/hostile-input.md. Each attack is one `docker pull`, `docker load`, `docker create` or
`docker run` of an image in a registry that serves whatever it was told to.
"""

import io
import json
import re
import tarfile
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from support.daemon import Daemon
from support.hostile import Document, Shelf, config_of, digest
from support.images import File, busybox_layer, compressed, layer_tar
from support.rich import Tar

from lading.oci import mediatypes
from lading.testing.registry import FakeRegistry

pytestmark = pytest.mark.e2e

Build = Callable[[Shelf], str]
BASE = layer_tar(busybox_layer())
SMALL = layer_tar({"file": File(b"content")})


@pytest.fixture(scope="module")
def registry() -> Generator[FakeRegistry]:
    with FakeRegistry() as running:
        yield running


@pytest.fixture
def shelf(registry: FakeRegistry, request: pytest.FixtureRequest) -> Shelf:
    return Shelf(registry, re.sub("[^a-z0-9]+", "-", request.node.name.lower()).strip("-"))


@pytest.fixture(autouse=True)
def nothing_from_others(shared_daemon: Daemon) -> Generator[None]:
    """One case that fails must not make the next ones fail."""
    yield
    for words, ids in ((("rm", "-f"), ("ps", "-aq")), (("rmi", "-f"), ("image", "ls", "-aq", "--no-trunc"))):
        if found := sorted(set(shared_daemon.docker(*ids).split())):
            shared_daemon.run(*words, *found)


def tagged(**change: Any) -> Build:
    """A manifest with some fields changed."""
    return lambda shelf: shelf.put("x", shelf.manifest([SMALL]) | change)[0]


def layer_changed(**change: Any) -> Build:
    def build(shelf: Shelf) -> str:
        manifest = shelf.manifest([SMALL])
        manifest["layers"][0] |= change
        return shelf.put("x", manifest)[0]

    return build


def config_changed(change: Callable[[Document], object]) -> Build:
    def build(shelf: Shelf) -> str:
        config = config_of([SMALL])
        change(config)
        return shelf.put("x", shelf.manifest([SMALL], config=config))[0]

    return build


def text_changed(old: str, new: str) -> Build:
    """A manifest changed as text, in ways that no encoder writes."""

    def build(shelf: Shelf) -> str:
        text = json.dumps(shelf.manifest([SMALL]))
        assert old in text
        return shelf.put("x", text.replace(old, new, 1).encode())[0]

    return build


def archive(tar: bytes) -> Build:
    """An image whose only fault lies in its layer."""
    return lambda shelf: shelf.put("x", shelf.manifest([tar]))[0]


def packed(blob: bytes, kind: str = mediatypes.OCI_LAYER_GZIP, tar: bytes = SMALL) -> Build:
    return lambda shelf: shelf.put("x", shelf.manifest([tar], packed=[blob], kind=kind))[0]


def wrong_body(shelf: Shelf) -> str:
    manifest = shelf.manifest([SMALL])
    name, _ = shelf.put("x", manifest)
    blobs = shelf.registry.repositories[shelf.path].blobs
    wanted = manifest["layers"][0]["digest"]
    blobs[wanted] = bytes(len(blobs[wanted]))
    return name


def nested(depth: int) -> Build:
    """Indexes inside indexes, an image at the bottom."""

    def build(shelf: Shelf) -> str:
        name, found = shelf.put("x", shelf.manifest([BASE]))
        for _ in range(depth):
            inner = found | {"platform": {"os": "linux", "architecture": config_of([])["architecture"]}}
            index = {"schemaVersion": 2, "mediaType": mediatypes.OCI_INDEX, "manifests": [inner]}
            name, found = shelf.put("x", index, mediatypes.OCI_INDEX)
        return name

    return build


def index_of(count: int) -> Build:
    def build(shelf: Shelf) -> str:
        _, found = shelf.put("inner", shelf.manifest([SMALL]))
        index = {"schemaVersion": 2, "mediaType": mediatypes.OCI_INDEX, "manifests": [found] * count}
        return shelf.put("x", index, mediatypes.OCI_INDEX)[0]

    return build


def schema1(shelf: Shelf) -> str:
    document = {"schemaVersion": 1, "name": "x", "tag": "x", "fsLayers": [], "history": []}
    return shelf.put("x", document, "application/vnd.docker.distribution.manifest.v1+prettyjws")[0]


def tar_of(*entries: tuple[str, dict[str, Any]]) -> bytes:
    tar = Tar()
    for name, fields in entries:
        tar.add(name, **fields)
    return tar.finished()


def spoiled_checksum() -> bytes:
    data = bytearray(SMALL)
    data[0] ^= 1
    return bytes(data)


def negative_size() -> bytes:
    data = bytearray(SMALL)
    data[124:136] = b"\xff" * 12
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    return bytes(data)


ATTACKS: dict[str, tuple[Build, str]] = {
    "D1 layers and manifests": (tagged(manifests=[]), "manifests"),
    "D1 another media type than served": (tagged(mediaType=mediatypes.OCI_INDEX), "media ?[tT]ype|index|served"),
    "D2 key twice": (text_changed('"schemaVersion": 2', '"schemaVersion": 2, "schemaVersion": 2'), "key twice"),
    "D2 key twice but for case": (text_changed('"schemaVersion": 2', '"schemaVersion": 2, "Layers": []'), "key twice"),
    "D3 size true": (layer_changed(size=True), "bool|size|malformed"),
    "D3 size negative": (layer_changed(size=-1), "size|malformed"),
    "D3 size with exponent": (text_changed('"schemaVersion": 2', '"schemaVersion": 2, "x": 1e3, "annotations": NaN'), "NaN"),
    "D4 deep nesting": (text_changed('"schemaVersion": 2', f'"x": {"[" * 100_000}{"]" * 100_000}, "schemaVersion": 2'), "nest|deep"),
    "D4 huge integer": (text_changed('"schemaVersion": 2', f'"x": {"9" * 5000}, "schemaVersion": 2'), "digits"),
    "D4 lone surrogate": (text_changed('"schemaVersion": 2', '"x": "\\ud800", "schemaVersion": 2'), "malformed|surrogate|text"),
    "D5 manifest over 4 MiB": (tagged(annotations={"x": "y" * (4 << 20)}), "4194304|bytes|large"),
    "D5 index of 10,001 entries": (index_of(10_001), "10,?000|entries|bytes|descriptors"),
    "D6 digest with newline": (layer_changed(digest=digest(b"x") + "\n"), "digest"),
    "D6 digest that is a path": (layer_changed(digest="sha256:../../../../etc/passwd"), "digest"),
    "D6 unknown algorithm": (layer_changed(digest="md5:" + "0" * 32), "md5|algorithm|digest"),
    "D7 size too small": (layer_changed(size=3), "size|bytes|longer|length"),
    "D7 size too large": (layer_changed(size=1 << 20), "size|bytes|shorter|length|range"),
    "D7 other bytes": (wrong_body, "digest|sha256"),
    "D8 config absent": (text_changed('"config"', '"konfig"'), "config"),
    "D8 fewer diff IDs than layers": (config_changed(lambda c: c["rootfs"].update(diff_ids=[])), "diff|layers"),
    "D8 rootfs absent": (config_changed(lambda c: c.pop("rootfs")), "rootfs"),
    "D9 depth 9": (nested(9), "deep|depth|nest|8"),
    "D13 schema 1": (schema1, "schema ?1|v1"),
    "T5 hard link to nothing": (archive(tar_of(("a", {"kind": tarfile.LNKTYPE, "link": "missing"}))), "missing"),
    "T9 whiteout of nothing": (archive(tar_of((".wh.", {}))), "whiteout|wh"),
    "T9 whiteout of the parent": (archive(tar_of(("d/.wh...", {}))), "whiteout|wh"),
    "T15 gzip bomb": (packed(compressed(b"\0" * 1100 * (1 << 20), "gzip")), "bomb|unpack|limit|times"),
    "T16 garbage behind": (packed(compressed(SMALL, "gzip") + b"garbage garbage"), "garbage|behind|gzip|trailing"),
    "T17 bzip2": (packed(b"BZh91AY&SY" + bytes(100)), "bzip2"),
    "T17 xz": (packed(b"\xfd7zXZ\0" + bytes(100)), "xz"),
    "T18 bad checksum": (archive(spoiled_checksum()), "checksum"),
    "T18 negative size": (archive(negative_size()), "size|number|negative"),
    "T19 component of 256 bytes": (archive(tar_of(("c" * 256, {}))), "name|component|255|long"),
    "T19 NUL in a name": (archive(tar_of(("a\0b", {}))), "PAX|NUL|name"),
    "T23 uid 2^32-1": (archive(tar_of(("f", {"uid": 2**32 - 1}))), "uid|owner"),
    "T23 uid 2^32": (archive(tar_of(("f", {"uid": 2**32}))), "uid|owner"),
    "T25 truncated": (archive(SMALL[:700]), "truncated|ends|end of|unexpected"),
    "T25 another diff ID": (config_changed(lambda c: c["rootfs"].update(diff_ids=[digest(b"other")])), "unpacks to"),
}  # fmt: skip


@pytest.mark.parametrize("row", ATTACKS)
def test_a_hostile_image_is_refused(shared_daemon: Daemon, shelf: Shelf, row: str) -> None:
    build, words = ATTACKS[row]
    name = build(shelf)
    refused = shared_daemon.run("pull", name)
    message = refused.stderr.decode()
    assert refused.returncode == 1, refused.stdout
    assert re.search(words, message), message
    assert "Traceback" not in message
    assert "nternal error" not in message, message
    check_nothing_is_left(shared_daemon)


def check_nothing_is_left(daemon: Daemon) -> None:
    """Nothing is listed, and after a collection nothing is stored."""
    assert daemon.docker("image", "ls", "-aq") == ""
    collected = daemon.lading("gc")
    assert collected.returncode == 0, collected.stderr
    content = daemon.data_root / "content"
    assert [path for path in content.rglob("*") if path.is_file()] == []
    assert list((daemon.data_root / "snapshots").glob("*/*/snapshots/*")) == []


def with_fields(**change: Any) -> Build:
    return lambda shelf: shelf.put("x", shelf.manifest([BASE]) | change)[0]


def with_config(change: Callable[[Document], object]) -> Build:
    def build(shelf: Shelf) -> str:
        config = config_of([BASE])
        change(config)
        return shelf.put("x", shelf.manifest([BASE], config=config))[0]

    return build


def with_layer(*layers: bytes) -> Build:
    return lambda shelf: shelf.put("x", shelf.manifest([BASE, *layers]))[0]


def with_packed(kind: str, pack: Callable[[bytes], bytes]) -> Build:
    return lambda shelf: shelf.put("x", shelf.manifest([BASE], packed=[pack(BASE)], kind=kind))[0]


def half(data: bytes) -> bytes:
    """Two gzip members in a row."""
    return compressed(data[:1000], "gzip") + compressed(data[1000:], "gzip")


def with_data_field(shelf: Shelf) -> str:
    import base64

    config = json.dumps(config_of([BASE])).encode()
    manifest = shelf.manifest([BASE], config=config)
    manifest["config"]["data"] = base64.b64encode(config).decode()
    return shelf.put("x", manifest)[0]


LINKS = tar_of(
    ("run", {"kind": tarfile.DIRTYPE, "mode": 0o755}),
    ("var-run", {"kind": tarfile.SYMTYPE, "link": "/run"}),
    ("var-run/through", {"content": b"in the root"}),
    ("hard", {"kind": tarfile.LNKTYPE, "link": "/run/through"}),
)
TWINS: dict[str, tuple[Build, str, str]] = {
    "D1 no media type inside": (lambda s: s.put("x", {k: v for k, v in s.manifest([BASE]).items() if k != "mediaType"})[0], "echo ok", "ok"),
    "D2 unknown keys": (with_fields(unknown={"a": [1, None]}), "echo ok", "ok"),
    "D4 brackets in text": (with_fields(annotations={"x": "[" * 5000}), "echo ok", "ok"),
    "D5 manifest of 3 MiB": (with_fields(annotations={"x": "y" * (3 << 20)}), "echo ok", "ok"),
    "D9 depth 8": (nested(8), "echo ok", "ok"),
    "D12 foreign urls are not followed": (lambda s: s.put("x", with_urls(s))[0], "echo ok", "ok"),
    "D14 data field": (with_data_field, "echo ok", "ok"),
    "D14 empty layer": (with_layer(bytes(1024)), "echo ok", "ok"),
    "D15 titles that are paths": (with_fields(annotations={"org.opencontainers.image.title": "../../../../etc/cron.d/x"}), "echo ok", "ok"),
    "D16 labels in reserved names": (with_config(lambda c: c["config"].update(Labels={"containerd.io/gc.root": "x", "lading.x": "y"})), "echo ok", "ok"),
    "T1 names that lead out": (with_layer(tar_of(("../../out", {"content": b"1"}), ("/abs", {"content": b"2"}), ("./../x/../y", {"content": b"3"}))), "cat /out /abs /y", "123"),
    "T3 absolute link inside the image": (with_layer(LINKS), "cat /run/through /var-run/through /hard", "in the root" * 3),
    "T12 duplicates, the last wins": (with_layer(tar_of(("f", {"content": b"1"}), ("f", {"content": b"2"}))), "cat /f", "2"),
    "T13 the root's own entry": (with_layer(tar_of((".", {"kind": tarfile.DIRTYPE, "mode": 0o700}))), "stat -c %a /", "755"),
    "T16 two gzip members": (with_packed(mediatypes.OCI_LAYER_GZIP, half), "echo ok", "ok"),
    "T17 zstd declared as gzip": (with_packed(mediatypes.OCI_LAYER_GZIP, lambda d: compressed(d, "zstd")), "echo ok", "ok"),
    "T22 setuid stays": (with_layer(tar_of(("s", {"mode": 0o4755}))), "stat -c %a /s", "4755"),
    "T23 the highest owner": (with_layer(tar_of(("s", {"uid": 2**32 - 2}))), "stat -c %u /s", str(2**32 - 2)),
}  # fmt: skip


def with_urls(shelf: Shelf) -> Document:
    manifest = shelf.manifest([BASE])
    manifest["layers"][0]["urls"] = ["http://169.254.169.254/latest", "https://example.test/layer"]
    return manifest


@pytest.mark.parametrize("row", TWINS)
def test_the_honest_twin_runs(shared_daemon: Daemon, shelf: Shelf, row: str) -> None:
    build, command, expected = TWINS[row]
    name = build(shelf)
    shared_daemon.docker("pull", "-q", name)
    said = shared_daemon.docker("run", "--rm", "--network", "none", name, "sh", "-c", command)
    assert said.strip() == expected
    shared_daemon.docker("rmi", "-f", name)
    check_nothing_is_left(shared_daemon)


# What is only seen when a container is made (D17, D18).


def configured(**run: Any) -> Build:
    return with_config(lambda config: config["config"].update(run))


def passwd(text: bytes, **run: Any) -> Build:
    layer = tar_of(("etc/passwd", {"content": text}))

    def build(shelf: Shelf) -> str:
        return shelf.put("x", shelf.manifest([BASE, layer], **run))[0]

    return build


def passwd_entry(run_as: str, **fields: Any) -> Build:
    # Where a link leads inside the image, there is another file than on the host.
    layer = tar_of(("etc/users", {"content": b"tape:x:77:77::/:/bin/sh\n"}), ("etc/passwd", fields))

    def build(shelf: Shelf) -> str:
        return shelf.put("x", shelf.manifest([BASE, layer], User=run_as))[0]

    return build


def mystery(shelf: Shelf) -> str:
    """A layer of a type that nobody knows; such artifacts may be stored (D11)."""
    manifest = shelf.manifest([BASE])
    manifest["layers"][0]["mediaType"] = "application/x-mystery"
    return shelf.put("x", manifest)[0]


CANARY = "/proc/self/fd/7"
REFUSED: dict[str, tuple[Build, str]] = {
    "D11 layer of unknown type": (mystery, "x-mystery"),
    "D17 USER 2^32": (configured(User="4294967296"), "user|uid|range"),
    "D17 USER -1": (configured(User="-1"), "user"),
    "D17 unknown user": (configured(User="nobody-here"), "nobody-here"),
    "D17 passwd is a FIFO": (passwd_entry("someone", kind=tarfile.FIFOTYPE), "passwd|someone"),
    "D17 passwd is huge": (passwd(b"x" * (11 << 20), User="someone"), "passwd"),
    "D18 WORKDIR through a magic link": (configured(WorkingDir=CANARY), "fd|directory|cwd"),
    "D18 VOLUME through a magic link": (configured(Volumes={"/proc/self/fd/7": {}}), "error mounting"),
}  # fmt: skip


@pytest.mark.parametrize("row", REFUSED)
def test_a_container_is_not_made_of_it(shared_daemon: Daemon, shelf: Shelf, row: str) -> None:
    build, words = REFUSED[row]
    name = build(shelf)
    refused = shared_daemon.run("run", "--rm", "--network", "none", name, "sh", "-c", "id; pwd; ls -la .")
    message = refused.stderr.decode()
    assert refused.returncode not in {0, 1}, refused.stdout
    assert re.search(words, message), message
    assert "Traceback" not in message
    assert "nternal error" not in message, message
    assert shared_daemon.docker("ps", "-aq") == ""
    shared_daemon.docker("rmi", "-f", name)
    check_nothing_is_left(shared_daemon)


ROOT_NAMES = "bin\ndev\netc\nproc\nroot\nsys\ntmp"
MADE: dict[str, tuple[Build, str, str]] = {
    "D17 digits are never a name": (passwd(b"root:x:0:0::/:/bin/sh\n1234:x:0:0::/:/bin/sh\n", User="1234"), "id -u", "1234"),
    "D17 the highest user": (configured(User="2147483647"), "id -u", "2147483647"),
    "D17 a name": (configured(User="user"), "id -u", "1000"),
    "D17 passwd links out": (passwd_entry("tape", kind=tarfile.SYMTYPE, link="../../../../../etc/users"), "id -u", "77"),
    "D18 WORKDIR leads up": (configured(WorkingDir="/a/../../../b"), "pwd", "/b"),
    "D18 VOLUME that leads up": (configured(Volumes={"/../../etc": {}}), "grep -c ' /etc ' /proc/mounts", "1"),
    "D18 WORKDIR is made": (configured(WorkingDir="/new/place"), "pwd", "/new/place"),
}  # fmt: skip


@pytest.mark.parametrize("row", MADE)
def test_its_twin_is_made_into_a_container(shared_daemon: Daemon, shelf: Shelf, row: str) -> None:
    build, command, expected = MADE[row]
    name = build(shelf)
    said = shared_daemon.docker("run", "--rm", "--network", "none", name, "sh", "-c", command)
    assert said.strip() == expected
    shared_daemon.docker("rmi", "-f", name)
    check_nothing_is_left(shared_daemon)


# Archives for `docker load` (D19).


def outer(**members: bytes | str) -> bytes:
    """A tar of these; text makes a symbolic link."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as made:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            if isinstance(content, str):
                member.type, member.linkname = tarfile.SYMTYPE, content
                made.addfile(member)
            else:
                member.size = len(content)
                made.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


CONFIG = json.dumps(config_of([BASE])).encode()


def docker_archive(
    config: str = "config.json",
    layer: str = "layer.tar",
    tags: tuple[str, ...] = ("loaded:it",),
    **more: bytes | str,
) -> bytes:
    manifest = json.dumps([{"Config": config, "RepoTags": list(tags), "Layers": [layer]}]).encode()
    return outer(**({"manifest.json": manifest, "config.json": CONFIG, "layer.tar": BASE} | more))


ARCHIVES: dict[str, tuple[bytes, str]] = {
    "config outside": (docker_archive(config="../../../../etc/hostname"), "etc/hostname|config"),
    "layer outside": (docker_archive(layer="/etc/hostname"), "etc/hostname|layer"),
    "layer is a link outside": (docker_archive(**{"layer.tar": "/etc/hostname"}), "layer|link|etc/hostname"),
    "manifest is a link": (docker_archive(**{"manifest.json": "/etc/hostname"}), "manifest|link|archive"),
    "manifest over 20 MiB": (docker_archive(**{"manifest.json": b" " * (21 << 20)}), "manifest|bytes|large"),
    "truncated": (docker_archive()[:5000], "truncated|end|archive"),
    "no archive": (b"not a tar archive at all" * 100, "archive|tar|header|checksum"),
    "index leads outside": (outer(**{"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": b'{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:../../../x","size":3}]}'}), "digest"),
}  # fmt: skip


@pytest.mark.parametrize("row", ARCHIVES)
def test_d19_a_hostile_archive_is_refused(shared_daemon: Daemon, row: str) -> None:
    data, words = ARCHIVES[row]
    refused = shared_daemon.run("load", input=data)
    message = (refused.stderr + refused.stdout).decode()
    assert refused.returncode == 1, message
    assert re.search(words, message), message
    assert "Traceback" not in message
    assert "nternal error" not in message, message
    check_nothing_is_left(shared_daemon)


def test_d19_the_honest_archive_loads(shared_daemon: Daemon) -> None:
    linked = docker_archive(layer="a/layer.tar", **{"a/layer.tar": "../layer.tar"})
    for data in (docker_archive(), linked):
        shared_daemon.docker("load", input=data)
        assert shared_daemon.docker("run", "--rm", "--network", "none", "loaded:it", "echo", "ok") == "ok\n"
        shared_daemon.docker("rmi", "-f", "loaded:it")
        check_nothing_is_left(shared_daemon)


def test_d19_a_name_that_is_none_is_not_taken(shared_daemon: Daemon) -> None:
    loaded = shared_daemon.docker("load", input=docker_archive(tags=("../../up:UP", "a b", "loaded:it")))
    assert shared_daemon.docker("image", "ls", "-a", "--format", "{{.Repository}}").split() == ["loaded"], (
        loaded
    )


def test_t7_devices_are_there_and_cannot_be_opened(shared_daemon: Daemon, shelf: Shelf) -> None:
    layer = tar_of(
        ("memory", {"kind": tarfile.CHRTYPE, "device": (1, 1), "mode": 0o666}),
        ("zero", {"kind": tarfile.CHRTYPE, "device": (1, 5), "mode": 0o666}),
    )
    name = with_layer(layer)(shelf)
    words = ("run", "--rm", "--network", "none", name, "sh", "-c")
    denied = shared_daemon.run(*words, "head -c 1 /memory")
    assert denied.returncode != 0
    assert b"not permitted" in denied.stderr, denied.stderr
    assert shared_daemon.docker(*words, "head -c 3 /zero | wc -c").strip() == "3"
    shared_daemon.docker("rmi", "-f", name)


def test_the_host_is_untouched(shared_daemon: Daemon, shelf: Shelf, tmp_path: Path) -> None:
    """T2, T4, T6: links that lead to the host, written through, linked to and changed through."""
    canary = tmp_path / "canary"
    canary.write_text("untouched")
    canary.chmod(0o600)
    before = canary.stat()
    up = "../" * 40
    layer = tar_of(
        ("link", {"kind": tarfile.SYMTYPE, "link": f"{up}{str(tmp_path)[1:]}"}),
        ("link/canary", {"content": b"written through", "mode": 0o777, "uid": 99}),
        ("absolute", {"kind": tarfile.SYMTYPE, "link": str(canary)}),
        ("absolute", {"kind": tarfile.SYMTYPE, "link": str(canary), "mode": 0o777, "uid": 99, "time": "5", "xattrs": {"trusted.x": b"1"}}),
        ("hard", {"kind": tarfile.LNKTYPE, "link": "absolute", "mode": 0o777, "uid": 99}),
    )  # fmt: skip
    name = with_layer(layer)(shelf)
    shared_daemon.docker("pull", "-q", name)
    assert shared_daemon.docker("run", "--rm", "--network", "none", name, "cat", f"{tmp_path}/canary") == (
        "written through"
    )
    after = canary.stat()
    assert canary.read_text() == "untouched"
    assert (after.st_mode, after.st_uid, after.st_nlink, after.st_mtime_ns) == (
        before.st_mode,
        before.st_uid,
        before.st_nlink,
        before.st_mtime_ns,
    )
    shared_daemon.docker("rmi", "-f", name)
