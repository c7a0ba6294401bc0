"""What is particular to files: layout, modes, locks between processes, the sweep, cancellation."""

import fcntl
import os
import stat
from pathlib import Path

import anyio
import pytest
from support.stores import MOBY, describe, open_stores

from lading.content.sweep import sweep
from lading.core.content import IngestRef
from lading.core.labels import RECIPE
from lading.errors import DataLossError, UnavailableError
from lading.kit import aio, fs
from lading.oci.digest import Digest

pytestmark = pytest.mark.anyio
REF = IngestRef("ref")


@pytest.fixture
async def stores(tmp_path):
    async with open_stores(tmp_path / "root") as stores:
        yield stores


async def test_layout_is_containerds_and_blobs_are_read_only(stores):
    digest = await stores.put(b"data")
    path = stores.content.files.root / "blobs" / "sha256" / digest.hex
    assert path.read_bytes() == b"data"
    assert stat.S_IMODE(path.stat().st_mode) == 0o444
    assert stat.S_IMODE((stores.content.files.root / "blobs").stat().st_mode) == 0o700
    async with stores.content.open_writer(REF, expected=describe(b"data!")) as writer:
        writer.write(b"da")
    ingest = stores.content.files.ingest(MOBY, REF)
    assert {name: (ingest / name).read_bytes() for name in ("ref", "data", "total")} == {
        "ref": b"ref",
        "data": b"da",
        "total": b"5",
    }


async def test_reserved_space_is_given_back(stores):
    async with stores.content.open_writer(REF, expected=describe(b"x" * 1_000_000)) as writer:
        await aio.run(aio.DATA, writer.write, b"y" * 10)
        info = await writer.commit(size=10, expected=Digest.of(b"y" * 10))
    status = stores.content.files.blob(info.digest).stat()
    assert status.st_size == 10
    assert status.st_blocks * 512 < 100_000


async def test_an_interrupted_ingest_takes_the_space_of_what_has_come(stores):
    """The rest would be taken from the disk for hours, and no command shows or counts it."""
    body = b"x" * 1_000_000
    data = stores.content.files.ingest(MOBY, REF) / "data"
    async with stores.content.open_writer(REF, expected=describe(body)) as writer:
        await aio.run(aio.DATA, writer.write, body[:10])
        assert data.stat().st_blocks * 512 >= len(body)
    assert (data.stat().st_size, data.stat().st_blocks * 512 < 100_000) == (10, True)
    async with stores.content.open_writer(REF, expected=describe(body)) as writer:
        assert (writer.offset, data.stat().st_blocks * 512 >= len(body)) == (10, True)
        await aio.run(aio.DATA, writer.write, body[10:])
        assert (await writer.commit()).size == len(body)


async def test_the_sweep_gives_back_what_a_killed_writer_had_reserved(stores):
    async with stores.content.open_writer(REF, expected=describe(b"x" * 1_000_000)) as writer:
        await aio.run(aio.DATA, writer.write, b"x" * 10)
    data = stores.content.files.ingest(MOBY, REF) / "data"
    fd = os.open(data, os.O_RDWR)
    try:
        fs.allocate(fd, 1_000_000, offset=10, keep_size=True)
        fcntl.flock(fd, fcntl.LOCK_EX)
        await sweep(stores.content.files, stores.database)
        assert data.stat().st_blocks * 512 >= 1_000_000  # another process writes it
    finally:
        os.close(fd)
    assert (await sweep(stores.content.files, stores.database)).ingests == 0
    assert (data.stat().st_size, data.stat().st_blocks * 512 < 100_000) == (10, True)


async def test_an_ingest_of_another_process_is_left_alone(stores):
    async with stores.content.open_writer(REF) as writer:
        writer.write(b"data")
    data = stores.content.files.ingest(MOBY, REF) / "data"
    fd = os.open(data, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with pytest.raises(UnavailableError):
            async with stores.content.open_writer(REF):
                pass
    finally:
        os.close(fd)
    async with stores.content.open_writer(REF) as writer:
        assert writer.offset == 4


async def test_the_sweep_reports_lost_files_and_deletes_what_no_row_promises(stores):
    whole, lost, short = [await stores.put(data) for data in (b"whole", b"lost", b"short")]
    files = stores.content.files
    files.blob(lost).unlink()
    os.truncate(files.blob(short), 2) if os.geteuid() == 0 else os.chmod(files.blob(short), 0o600)
    orphan = files.blob(Digest.of(b"orphan"))
    orphan.write_bytes(b"orphan")
    (files.root / "ingest" / "left").mkdir()
    async with stores.content.open_writer(REF) as writer:
        writer.write(b"open")
        report = await sweep(files, stores.database)
        await writer.commit()
    assert (report.orphans, report.freed, report.ingests) == (1, 6, 1)
    assert {digest for _, digest in report.missing} == {lost, short}
    assert not orphan.exists()
    await stores.content.verify(whole)
    with pytest.raises(DataLossError):
        await stores.content.verify(lost)
    for data in (b"lost", b"short"):
        await stores.put(data)  # pulling again heals
    assert (await sweep(files, stores.database)).missing == []


async def test_the_sweep_notes_what_a_crash_let_go_or_brought_back(stores):
    rows = stores.database.blobs(MOBY)
    gone, back, kept = [await stores.put(data) for data in (b"gone", b"back", b"kept")]
    for digest in (gone, back):
        await stores.content.update(digest, {RECIPE: "{}"})
    stores.content.files.blob(gone).unlink()
    await rows.set_away({back: True})
    assert (await sweep(stores.content.files, stores.database)).missing == []
    assert await rows.away() == {gone}
    await stores.content.verify(kept)


async def test_a_cancelled_commit_leaves_a_blob_or_an_ingest(stores):
    for number in range(20):
        data = bytes([number]) * 1000
        with anyio.CancelScope() as scope:
            async with stores.content.open_writer(IngestRef(str(number))) as writer:
                await aio.run(aio.DATA, writer.write, data)
                scope.cancel()
                await writer.commit()
        blobs = {info.digest async for info in stores.content.walk()}
        refs = {status.ref for status in await stores.content.statuses()}
        assert (Digest.of(data) in blobs) != (str(number) in refs)
    report = await sweep(stores.content.files, stores.database)
    assert (report.orphans, report.ingests) == (0, 0)


async def test_a_reader_can_be_sent(stores, tmp_path):
    digest = await stores.put(b"0123456789")
    async with stores.content.open_reader(digest) as reader:
        with (tmp_path / "copy").open("wb") as copy:
            assert os.sendfile(copy.fileno(), reader.fileno(), 2, 8) == 8
    assert (tmp_path / "copy").read_bytes() == b"23456789"


def test_rename_new_does_not_replace(tmp_path):
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    with pytest.raises(FileExistsError):
        fs.rename_new(tmp_path / "a", tmp_path / "b")
    fs.rename_new(tmp_path / "a", tmp_path / "c")
    assert (tmp_path / "c").read_text() == "a"
    with pytest.raises(FileNotFoundError):
        fs.rename_new(tmp_path / "a", tmp_path / "d")


def test_new_directories_are_durable(tmp_path, monkeypatch):
    flushed: list[Path] = []
    monkeypatch.setattr(fs, "fsync_directory", flushed.append)
    fs.make_directories(tmp_path / "a/b/c", mode=0o700)
    assert (tmp_path / "a/b/c").stat().st_mode & 0o777 == 0o700
    fs.make_directories(tmp_path / "a/b/c")
    assert flushed == [tmp_path, tmp_path / "a", tmp_path / "a/b"]


def test_a_reserve_is_made_and_given_up(tmp_path):
    reserve = fs.Reserve(tmp_path / "reserve", 4096)
    assert reserve.ensure()
    assert reserve.ensure()
    assert (tmp_path / "reserve").stat().st_blocks * 512 >= 4096
    assert reserve.release()
    assert not reserve.release()
    (tmp_path / "reserve").touch()  # all that a power cut left
    assert fs.Reserve(tmp_path / "reserve", 4096).ensure()
    assert (tmp_path / "reserve").stat().st_blocks * 512 >= 4096
    assert not fs.Reserve(tmp_path / "reserve", 1 << 60).ensure()
