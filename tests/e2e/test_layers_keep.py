"""``layers-keep``: what is only a cache is made again when it is needed, and what is pushed and saved is what was pulled."""

import hashlib
import json
import os
import signal
import time
from pathlib import Path

import pytest
from support.daemon import running_daemon
from support.filesystems import left_mounted
from support.images import File, Layout, busybox_layer, push

from lading.devices import local as devices
from tests.e2e.test_images import raw_digest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]
BLOBS = "content/blobs/sha256/*"
CACHE = "snapshots/erofs/*/snapshots/*/layer.cache"


def test_an_image_kept_compressed_runs_and_leaves_as_it_came(registry: str, images, tmp_path: Path) -> None:
    config = tmp_path / "daemon.json"
    config.write_text(json.dumps({"lading": {"layers-keep": "compressed"}}))
    name = f"{registry}/compressed/three"
    assert images("compressed/three", layers=3, compression="gzip") == name
    digest = raw_digest(name)
    with running_daemon(f"--config-file={config}") as daemon:
        if "erofs" not in daemon.docker("info", "--format", "{{.Driver}}"):
            pytest.skip("no EROFS here")
        daemon.docker("pull", "-q", name)
        daemon.docker("pull", "-q", "--platform", "linux/s390x", name)
        daemon.stop()
        assert list(daemon.data_root.glob(CACHE)) == []
        daemon.start()
        assert daemon.docker("run", "--rm", "--network", "host", name, "echo", "it runs") == "it runs\n"
        assert len(list(daemon.data_root.glob(CACHE))) == 3
        copy = f"{registry}/compressed/copy"
        daemon.docker("tag", name, copy)
        assert f"digest: {digest}" in daemon.docker("push", copy)
        assert raw_digest(copy) == digest
        archive = tmp_path / "saved.tar"
        daemon.docker("save", "-o", str(archive), name)
        with running_daemon() as other:
            other.docker("load", "-q", "-i", str(archive))
            assert digest in other.docker("image", "inspect", "--format", "{{.Id}}", name)
        # Containers survive a daemon that lets go of what nobody uses.
        running = daemon.docker("run", "-d", "--network", "host", name, "sleep", "600").strip()
        daemon.stop()
        assert len(list(daemon.data_root.glob(CACHE))) == 3
        daemon.start()
        assert daemon.docker("exec", running, "echo", "still there") == "still there\n"
        daemon.docker("rm", "-f", running)
        daemon.stop()
        assert list(daemon.data_root.glob(CACHE)) == []


def test_an_image_kept_unpacked_leaves_as_it_came(registry: str, images, tmp_path: Path) -> None:
    config = tmp_path / "daemon.json"
    config.write_text(json.dumps({"lading": {"layers-keep": "unpacked"}}))
    name = images("unpacked/three", layers=3, compression="gzip")
    digest = raw_digest(name)
    with running_daemon(f"--config-file={config}") as daemon:
        if "erofs" not in daemon.docker("info", "--format", "{{.Driver}}"):
            pytest.skip("no EROFS here")

        def blobs() -> int:
            return len(list(daemon.data_root.glob(BLOBS)))

        def collected() -> int:
            done = daemon.lading("gc")
            assert done.returncode == 0, done.stderr
            return blobs()

        daemon.docker("pull", "-q", name)
        whole = blobs()
        daemon.stop()  # flushes the layers: until then the blobs are what they would be made of after a power cut
        daemon.start()
        assert collected() == whole - 3
        daemon.stop()
        daemon.start()
        assert blobs() == whole - 3
        assert "blob_missing" not in daemon.tail()
        assert daemon.docker("run", "--rm", "--network", "host", name, "echo", "it runs") == "it runs\n"
        assert "up to date" in daemon.docker("pull", name)
        checked = daemon.lading("fsck")
        assert checked.returncode == 0, checked.stdout + checked.stderr
        assert blobs() == whole - 3

        copy = f"{registry}/unpacked-elsewhere/copy"
        daemon.docker("tag", name, copy)
        daemon.docker("push", copy)
        assert raw_digest(copy) == digest
        assert collected() == whole - 3
        archive = tmp_path / "saved.tar"
        daemon.docker("save", "-o", str(archive), name)
        assert blobs() == whole
        with running_daemon() as other:
            other.docker("load", "-q", "-i", str(archive))
            assert digest in other.docker("image", "inspect", "--format", "{{.Id}}", name)

        # Another policy from now on, without a restart: what is here stays.
        assert collected() == whole - 3
        config.write_text(json.dumps({"lading": {"layers-keep": "both"}}))
        daemon.signal(signal.SIGHUP)
        daemon.docker("save", "-o", str(archive), name)
        assert collected() == whole

        daemon.docker("rmi", name, copy)
        assert collected() == 0
        assert list(daemon.data_root.glob("snapshots/erofs/*/snapshots/*/layer.data")) == []


def test_list_usage_and_prune_count_what_is_here(registry: str, images, tmp_path: Path) -> None:
    config = tmp_path / "daemon.json"
    config.write_text(json.dumps({"lading": {"layers-keep": "unpacked"}}))
    name = images("unpacked/sizes", layers=2, compression="gzip")
    with running_daemon(f"--config-file={config}") as daemon:
        if "erofs" not in daemon.docker("info", "--format", "{{.Driver}}"):
            pytest.skip("no EROFS here")

        def size() -> int:
            (row,) = daemon.api("GET", "/v1.51/images/json")[1]
            usage = daemon.api("GET", "/v1.51/system/df?type=image")[1]
            assert usage["LayersSize"] == usage["Images"][0]["Size"] == row["Size"]
            return row["Size"]

        def blobs() -> int:
            return sum(path.stat().st_size for path in daemon.data_root.glob(BLOBS))

        daemon.docker("pull", "-q", name)
        whole, packed = size(), blobs()
        daemon.stop()
        daemon.start()
        assert daemon.lading("gc").returncode == 0
        assert blobs() < packed
        assert size() == whole - (packed - blobs())
        daemon.kill()
        daemon.start()
        assert size() == whole - (packed - blobs())
        daemon.docker("save", "-o", str(tmp_path / "saved.tar"), name)
        assert (blobs(), size()) == (packed, whole)
        assert daemon.lading("gc").returncode == 0
        left, (tree,) = size(), daemon.data_root.glob("snapshots/erofs/*/snapshots")
        here = blobs() + sum(path.stat().st_blocks * 512 for path in tree.glob("*/*"))
        assert left == here
        said = daemon.api("POST", "/v1.51/images/prune?filters=%7B%22dangling%22%3A%5B%22false%22%5D%7D")[1]
        assert said["SpaceReclaimed"] == left
        assert blobs() == 0


def test_a_large_layer_is_decoded_while_it_is_read(registry: str, tmp_path: Path) -> None:
    """By processes that outlive the daemon, and each other, as the container does."""
    config = tmp_path / "daemon.json"
    config.write_text(json.dumps({"lading": {"layers-keep": "compressed"}}))
    files = {f"big/{number}": os.urandom(2 << 20).hex().encode() for number in range(9)}
    layout = Layout(tmp_path / "layout")
    big = {name: File(content) for name, content in files.items()}
    layout.name(layout.manifest([busybox_layer(), big]), "image")
    name = f"{registry}/compressed/large"
    push(layout.path, "image", name)
    with running_daemon(f"--config-file={config}") as daemon:
        if "erofs" not in daemon.docker("info", "--format", "{{.Driver}}"):
            pytest.skip("no EROFS here")
        if problem := devices.probe():
            pytest.skip(problem)

        def layers(pattern: str) -> list[Path]:
            return list(daemon.data_root.glob(f"snapshots/erofs/*/snapshots/{pattern}"))

        def decoded() -> int:
            (path,) = layers("*/layer.segments")
            return path.stat().st_blocks * 512

        daemon.docker("pull", "-q", name)
        until = time.monotonic() + 60
        while not layers("*/layer.seek"):  # in the background, nothing tells of it
            assert time.monotonic() < until, daemon.tail()
            time.sleep(0.05)
        daemon.stop()
        daemon.start()
        running = daemon.docker("run", "-d", "--network", "host", name, "sleep", "600").strip()
        assert decoded() < 4 << 20
        assert len(layers("*/layer.cache")) == 1  # of the layer with the shell
        root = Path(f"/proc/{daemon.docker('inspect', '-f', '{{.State.Pid}}', running).strip()}/root")
        assert (root / "big/1").read_bytes() == files["big/1"]
        some = decoded()
        assert 4 << 20 < some < 30 << 20

        daemon.kill()
        assert (root / "big/4").read_bytes() == files["big/4"]
        daemon.start()
        (place,) = daemon.data_root.glob("snapshots/erofs/*/devices.sock")
        served = devices.LocalDevices(place.parent)
        for which, left in ((1, "big/6"), (0, "big/7")):
            os.kill(served.pids()[which], signal.SIGKILL)
            assert (root / left).read_bytes() == files[left]
        served.close()
        said = daemon.docker("exec", running, "busybox", "sha256sum", *(f"/{each}" for each in files))
        assert [line.split()[0] for line in said.splitlines()] == [
            hashlib.sha256(content).hexdigest() for content in files.values()
        ]
        checked = daemon.lading("fsck")
        assert checked.returncode == 0, checked.stdout + checked.stderr
        daemon.docker("rm", "-f", running)
        daemon.stop()
        assert layers("*/layer.segments") == layers("*/layer.cache") == []
        assert left_mounted(daemon.data_root) == []
