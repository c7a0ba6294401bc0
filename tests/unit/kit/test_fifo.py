"""Input for a FIFO whose reader is not there yet, or never comes."""

import os
from functools import partial
from pathlib import Path

import anyio
import pytest

from lading.errors import UnavailableError
from lading.kit import aio, fifo
from lading.kit.fifo import FifoInput

pytestmark = pytest.mark.anyio


@pytest.fixture
def path(tmp_path: Path) -> str:
    made = tmp_path / "stdin"
    os.mkfifo(made)
    return str(made)


def read_all(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


async def test_a_reader_that_comes_late_gets_all(path: str) -> None:
    many = os.urandom(300_000)
    got: list[bytes] = []

    async def read() -> None:
        await anyio.sleep(0.05)
        got.append(await aio.run(aio.DISK, partial(read_all, path)))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(read)
            with FifoInput(path) as stdin:
                await stdin.write(many)
                await anyio.sleep(0.05)  # the reader sees no end while more may come
                await stdin.write(b"more")
    assert got == [many + b"more"]


async def test_nothing_is_opened_for_nothing(path: str) -> None:
    with FifoInput(path), pytest.raises(OSError, match="No such device"):
        os.open(path, os.O_WRONLY | os.O_NONBLOCK)


async def test_a_reader_that_never_comes_is_not_waited_for_long(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fifo, "_PATIENCE", 0.05)
    with FifoInput(path) as stdin, pytest.raises(UnavailableError, match="takes no input"):
        await stdin.write(b"data")
    with FifoInput(f"{path}-other") as stdin, pytest.raises(UnavailableError, match="takes no input"):
        await stdin.write(b"data")


async def test_a_reader_that_leaves_is_told(path: str) -> None:
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with FifoInput(path) as stdin:
        await stdin.write(b"data")
        os.close(reader)
        with pytest.raises(UnavailableError, match="any more"):
            await stdin.write(b"data")
