"""A pull that is killed at any moment goes on where it was, and nothing that was acknowledged is lost."""

import contextlib
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from support import pull_child
from support.pull_child import IMAGE, NAMESPACE, REFERENCE

from lading.content.local import LocalContentStore
from lading.metadata.database import SqliteDatabase

pytestmark = [pytest.mark.anyio, pytest.mark.crash]

BIG = max(IMAGE.layers, key=lambda layer: layer.descriptor.size)
KILLS = 12


def start(root: Path, pause: float) -> subprocess.Popen[str]:
    """The child, up to its first fetch or its end."""
    tests = Path(__file__).parent.parent
    return subprocess.Popen(
        [sys.executable, pull_child.__file__, str(root), str(pause)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{tests.parent / 'src'}:{tests}"},
    )


def offsets(output: str, digest: str) -> list[int]:
    return [int(line.split()[1]) for line in output.splitlines() if line.endswith(digest)]


def run_and_kill(root: Path, after: int) -> str:
    """Kill the child when it has fetched about ``after`` bytes of the large layer, or let it end; what it printed."""
    child = start(root, 0.0005)
    try:
        output = ""
        assert child.stdout is not None
        for line in child.stdout:
            output += line
            if line.startswith("offset") and line.strip().endswith(BIG.descriptor.digest.short):
                break
        wait_for_bytes(root, after, child)
        child.kill()
        return output + child.stdout.read()
    finally:
        child.kill()
        child.wait()
        assert child.stdout is not None
        child.stdout.close()


def wait_for_bytes(root: Path, size: int, child: subprocess.Popen[str]) -> None:
    while child.poll() is None:
        with contextlib.suppress(FileNotFoundError):  # an ingest that became a blob meanwhile
            data = (root / "content" / "ingest").glob("*/data")
            if sum(path.stat().st_size for path in data) >= size:
                return


async def test_a_killed_pull_resumes_and_an_acknowledged_one_stays(tmp_path: Path):
    chance = random.Random(7)
    reached = 0
    pulled = False
    for _ in range(KILLS):
        output = run_and_kill(tmp_path, chance.randrange(1, 6_000_000))
        assert not pulled or "offset" not in output
        pulled = pulled or "pulled" in output
        for offset in offsets(output, BIG.descriptor.digest.short):
            assert offset >= reached, "bytes that were there are fetched again"
            reached = offset
    child = start(tmp_path, 0)
    output, _ = child.communicate(timeout=60)
    assert child.returncode == 0
    assert "pulled" in output
    assert reached, "no kill came while the large layer was on its way"
    async with SqliteDatabase.open(tmp_path / "lading.db") as database:
        content = LocalContentStore(tmp_path / "content", database.blobs(NAMESPACE))
        image = await database.images(NAMESPACE).get(str(REFERENCE))
        assert image.target.digest == IMAGE.descriptor.digest
        for descriptor, blob in IMAGE.blobs.items():
            assert await content.read(descriptor.digest, limit=1 << 30) == blob
        assert await database.leases(NAMESPACE).list() == []
        assert await content.statuses() == []
