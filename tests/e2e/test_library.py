"""The library, on the same store as the daemon's, and the example of the README."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from e2e.conftest import MakeImage
from support.daemon import SOURCE, left_mounts, running_daemon

import lading
from lading.core.progress import Phase, Progress
from lading.errors import NotFoundError, UnavailableError
from lading.oci.digest import Digest

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]
EXAMPLE = Path(__file__).parents[2] / "examples" / "library.py"


async def test_pull_list_tag_export_load_mount_remove(images: MakeImage, tmp_path: Path) -> None:
    name = images("library:one", layers=3)
    progress = Progress()
    async with lading.open_store(tmp_path / "store") as store:
        image = await store.pull(name, progress=progress)
        assert image.tags == (name,)
        assert {item.phase for item in progress.items.values()} <= {
            Phase.COMPLETE,
            Phase.DOWNLOADED,
            Phase.EXISTS,
        }
        await store.tag(name, "other:two")
        assert [set(each.tags) for each in await store.images()] == [{name, "other:two"}]
        async with store.mount("other:two") as root:
            assert (root / "etc/passwd").read_text().startswith("root:")
            assert (root / "layer-1").exists()
            with pytest.raises(OSError, match="Read-only"):
                (root / "new").write_text("x")
        await store.export([name, "other:two"], tmp_path / "image.tar")
        index = json.loads(await store.read(Digest(image.id)))
        assert len(index["manifests"]) == 2
    with tarfile.open(tmp_path / "image.tar") as archive:
        assert {"index.json", "manifest.json", "oci-layout"} <= set(archive.getnames())
    async with lading.open_store(tmp_path / "second") as store:
        assert sorted(await store.load(tmp_path / "image.tar")) == sorted([name, "other:two"])
        await store.remove("other:two")
        await store.remove(name)
        assert await store.images() == []
        with pytest.raises(NotFoundError, match="No such image"):
            await store.image(name)
        with pytest.raises(NotFoundError):
            await store.export(name, tmp_path / "none.tar")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image.tar", "second", "store"]
    assert left_mounts(tmp_path) == []


async def test_a_store_that_a_daemon_serves_is_not_opened_twice() -> None:
    with running_daemon() as daemon, pytest.raises(UnavailableError, match="in use by process"):
        async with lading.open_store(daemon.data_root):
            pass


def test_the_example_runs(images: MakeImage, tmp_path: Path) -> None:
    name = images("example:one", layers=2)
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), str(tmp_path), name],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": SOURCE},
    )
    assert done.returncode == 0, done.stderr
    assert f"pulled {name}: sha256:" in done.stdout
    assert "root holds bin, dev, etc, layer-0" in done.stdout
    assert (tmp_path / "copy.tar").stat().st_size > 100_000
