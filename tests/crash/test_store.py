"""kill -9 and failing system calls at every point of the blob protocol: what was acknowledged stays, nothing dangles.

I1 acknowledged survives; I2 rows never precede data; I3 no row before the bytes are verified; I4 a failed fsync is final.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.stores import MOBY, open_stores

from lading.content.sweep import sweep
from lading.oci.digest import Digest

pytestmark = [pytest.mark.anyio, pytest.mark.crash]

HERE = Path(__file__).parent
POINTS = [
    "open.after_directory",
    "open.after_row",
    "write.before",
    "write.after",
    "commit.verified",
    "commit.fsync",
    "commit.after_fsync",
    "commit.after_rename",
    "commit.after_dirsync",
    "commit.after_row",
    "many.written",
    "many.renamed",
    "gc.marked",
    "gc.condemned",
    "delete.before_unlink",
    "blob.released",
    "blob.restored",
]


def run_child(root: Path, failpoint: str) -> tuple[list[list[str]], int]:
    paths = [str(HERE.parents[1] / "src"), str(HERE.parent)]
    environment = os.environ | {"LADING_FAILPOINT": failpoint, "PYTHONPATH": os.pathsep.join(paths)}
    child = subprocess.run(
        [sys.executable, HERE / "store_child.py", root],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in child.stderr, child.stderr
    return [line.split() for line in child.stdout.splitlines()], child.returncode


async def check(root: Path, said: list[list[str]]) -> None:
    """Reopen, check the invariants, sweep, check that nothing is left over, and do the work again."""
    tagged = {words[1] for words in said if words[0] == "tagged"}
    if ["untagged", "0"] in said:
        tagged.discard("0")
    async with open_stores(root) as stores:
        if ["many"] in said:
            await stores.content.verify(Digest.of(b"small"))
        for number in {words[1] for words in said if words[0] == "stored"} | tagged:
            if number != "0" or "0" in tagged:
                await stores.content.verify(Digest.of(bytes([int(number)]) * 100_000))
        async for info in stores.content.walk():
            await stores.content.verify(info.digest)
        names = {image.name for image in await stores.database.images(MOBY).list()}
        assert {f"image-{number}" for number in tagged} <= names
        report = await sweep(stores.content.files, stores.database)
        assert report.missing == []
        rows = {info.digest.hex async for info in stores.content.walk()}
        assert set(os.listdir(root / "content/blobs/sha256")) == rows
        assert len(os.listdir(root / "content/ingest")) == len(await stores.content.statuses())
    said, code = run_child(root, "none:kill")
    assert code == 0
    assert said[-1] == ["collected", "0"]
    async with open_stores(root) as stores:
        left = {info.digest async for info in stores.content.walk()}
        assert left == {Digest.of(bytes([number]) * 100_000) for number in (1, 2)} | {Digest.of(b"small")}


@pytest.mark.parametrize("point", POINTS)
async def test_kill(tmp_path, point):
    nth = 1 if point.startswith(("gc", "delete", "many", "blob")) else 2
    said, code = run_child(tmp_path / "root", f"{point}:kill@{nth}")
    assert code == -9, said
    await check(tmp_path / "root", said)


@pytest.mark.parametrize("nth", [1, 4])
@pytest.mark.parametrize(("error", "code"), [("eio", "data-loss"), ("enospc", "resource-exhausted")])
@pytest.mark.parametrize(
    "point", ["write.before", "commit.fsync", "commit.after_fsync", "commit.after_rename"]
)
async def test_failing_system_call(tmp_path, point, error, code, nth):
    nth = nth if point == "write.before" else (nth + 2) // 3
    root = tmp_path / "root"
    said, status = run_child(root, f"{point}:{error}@{nth}")
    assert status != -9
    assert [words[2] for words in said if words[0] == "failed"] == [code], said
    if point == "commit.fsync":
        async with open_stores(root) as stores:
            assert await stores.content.statuses() == []
            failed = next(words[1] for words in said if words[0] == "failed")
            ingest = stores.content.files.ingest(MOBY, f"r{failed}")
            assert not ingest.exists()
