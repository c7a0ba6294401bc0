"""Run by test_full_disk.py on a small file system of its own: fills it, and shows that deleting still works."""

import os
import sys
from pathlib import Path

import anyio
from support.stores import MOBY, describe, open_stores

from lading.errors import ResourceExhaustedError


def fill(path: Path) -> None:
    """Leave not one free block."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for size in (1 << 20, 1 << 12, 1):
        try:
            while True:
                os.write(fd, b"x" * size)
        except OSError:
            continue
    os.fsync(fd)
    os.close(fd)


async def main(root: Path) -> None:
    async with open_stores(root, reserve=1 << 20) as stores:
        images = stores.database.images(MOBY)
        for number in range(60):
            data = b"%d" % number * 50_000
            await stores.put(data)
            await images.put(f"image-{number}", describe(data))
        fill(root / "filler")
        refused = ""
        try:
            await stores.put(os.urandom(1 << 20))
        except ResourceExhaustedError as exc:
            refused = str(exc)
        assert "no space left to store" in refused, refused
        assert "docker image rm" in refused
        # Rows go on until the space that is set aside for them is used up, then refuse, and say why.
        refused = ""
        more = 0
        try:
            while more < 20_000:
                await images.put(f"more-{more}", describe(b"0" * 50_000), labels={"n": "x" * 4000})
                more += 1
        except ResourceExhaustedError as exc:
            refused = str(exc)
        assert "no space left for the database" in refused
        fill(root / "filler")
        for number in range(more):
            await images.delete(f"more-{number}")
        for number in range(60):
            await images.delete(f"image-{number}")
        collected = await stores.collector.collect()
        assert not collected.failed
        assert collected.freed > 60 * 50_000
        await stores.put(os.urandom(1 << 20))
    async with open_stores(root, reserve=1 << 20) as stores:
        assert await stores.database.images(MOBY).list() == []
        await stores.put(b"goes on")
    sys.stdout.write("passed\n")


anyio.run(main, Path(sys.argv[1]))
