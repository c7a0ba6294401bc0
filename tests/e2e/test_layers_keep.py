"""``layers.keep=compressed``: what a container needs is made again from the blobs, and what is pushed is what was pulled."""

import json
from pathlib import Path

import pytest
from support.daemon import running_daemon

from tests.e2e.test_images import raw_digest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]
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
