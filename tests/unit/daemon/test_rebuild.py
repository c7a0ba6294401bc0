"""A new database out of a damaged one and of what the disk has; nothing is deleted."""

import json
import shutil
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from lading.content.local import LocalContentStore
from lading.core.content import IngestRef
from lading.core.metadata import Namespace
from lading.core.snapshots import Kind, Usage
from lading.core.volumes import Volume
from lading.daemon.config import Config
from lading.daemon.holdings import holdings, refuse_new_database
from lading.daemon.image_store import DATABASE
from lading.daemon.rebuild import rebuild, words
from lading.errors import DataLossError, FailedPreconditionError, NotFoundError
from lading.kit.fs import LockedError
from lading.kit.sqlite import connect
from lading.metadata.database import SqliteDatabase
from lading.metadata.migrate import NewerSchemaError, migrate, released
from lading.oci.digest import Digest
from lading.oci.reference import is_dangling
from lading.testing import images

pytestmark = pytest.mark.anyio
MOBY = Namespace("moby")
PAGE = 4096
ID = "ab" * 32


@pytest.fixture
def config(tmp_path: Path) -> Config:
    root = tmp_path / "root"
    root.mkdir()
    return Config(data_root=root)


async def fill(config: Config) -> images.TestImage:
    """An image with a name, and a blob that nothing refers to."""
    image = images.image([images.layer({"a": b"1"}), images.layer({"b": b"2"})])
    async with SqliteDatabase.open(config.data_root / DATABASE) as database:
        store = LocalContentStore(config.data_root / "content", database.blobs(MOBY), namespace=MOBY)
        for body in (image.body, *image.blobs.values(), b"stray"):
            async with store.open_writer(IngestRef(str(Digest.of(body)))) as writer:
                writer.write(body)
                await writer.commit()
        await database.images(MOBY).put("docker.io/library/one:latest", image.descriptor)
    return image


def lose(config: Config) -> None:
    for path in config.data_root.glob("lading.db*"):
        path.unlink()


async def rows(config: Config) -> tuple[list[str], set[Digest]]:
    """Names of images, and the blobs."""
    async with SqliteDatabase.open(config.data_root / DATABASE) as database:
        names = [record.name for record in await database.images(MOBY).list()]
        return names, {info.digest for info in await database.blobs(MOBY).list()}


async def test_a_new_data_root_is_no_loss(config: Config) -> None:
    refuse_new_database(config.data_root, DATABASE)
    theirs = config.data_root / "containers" / ID
    theirs.mkdir(parents=True)
    (theirs / "config.v2.json").write_text("{}")
    (config.data_root / "image/overlay2/layerdb/mounts" / ID).mkdir(parents=True)
    (config.data_root / "image/overlay2/layerdb/mounts" / ID / "mount-id").write_text("cd" * 32)
    refuse_new_database(config.data_root, DATABASE)  # a data-root of dockerd's
    with pytest.raises(NotFoundError, match="nothing to rebuild"):
        await rebuild(config)


@pytest.mark.parametrize(
    ("place", "what"),
    [
        (f"content/blobs/sha256/{ID}", "1 blob"),
        ("snapshots/erofs/moby/snapshots/7", "1 snapshot"),
        (f"containers/{ID}", "1 container"),
        (f"containers.classic/{ID}", "1 container"),
        ("lading/volumes/moby/data/_data", "1 volume"),
    ],
)
def test_what_a_new_database_would_not_know_is_refused(config: Config, place: str, what: str) -> None:
    (config.data_root / place).mkdir(parents=True)
    (config.data_root / DATABASE).touch()  # as good as none
    with pytest.raises(DataLossError, match=f"holds {what}, which a new one would not know") as caught:
        refuse_new_database(config.data_root, DATABASE)
    assert "fsck --rebuild" in str(caught.value)


async def test_the_disk_alone_brings_the_image_back(config: Config) -> None:
    image = await fill(config)
    lose(config)
    spoilt = image.layers[1].descriptor.digest
    damaged = config.data_root / "content/blobs/sha256" / spoilt.hex
    volume = config.data_root / "lading/volumes/moby/data/_data"
    volume.mkdir(parents=True)
    snapshot = config.data_root / "snapshots/erofs/moby/snapshots/7"
    snapshot.mkdir(parents=True)
    damaged.chmod(0o600)
    damaged.write_bytes(b"other bytes")
    report = await rebuild(config)
    names, blobs = await rows(config)
    assert len(names) == 1
    assert is_dangling(names[0])
    below = {descriptor.digest for descriptor in image.blobs}
    assert blobs == {image.descriptor.digest, *below} - {spoilt}
    assert report.aside == {
        "blob": [f"content/blobs/sha256/{Digest.of(b'stray').hex}"],
        "damaged blob": [str(damaged.relative_to(config.data_root))],
        "snapshot": ["snapshots/erofs/moby/snapshots/7"],
    }
    assert (report.lost / "snapshots/erofs/moby/snapshots/7").is_dir()
    assert (report.lost / damaged.relative_to(config.data_root)).read_bytes() == b"other bytes"
    assert any("docker tag names it again" in line for line in words(report))
    async with SqliteDatabase.open(config.data_root / DATABASE) as database:
        assert [each.name for each in await database.volumes(MOBY).list()] == ["data"]
        assert await database.snapshots(MOBY, "erofs").allocate() > 7
        labels = (await database.blobs(MOBY).get(image.descriptor.digest)).labels
        assert set(labels.values()) == below
    assert {path.name for path in config.data_root.iterdir()} == {
        "content", "lading", "lading.db", "lading.db.lock", "lading.db.reserve", "lost", "snapshots"
    }  # fmt: skip


async def test_what_stands_in_the_log_alone_is_read(config: Config, tmp_path: Path) -> None:
    await fill(config)
    async with SqliteDatabase.open(config.data_root / DATABASE) as database:
        await database.volumes(MOBY).create(Volume(name="late", created=1))
        copy = tmp_path / "killed"
        shutil.copytree(config.data_root, copy)
    assert (copy / f"{DATABASE}-wal").stat().st_size
    await rebuild(Config(data_root=copy))
    async with SqliteDatabase.open(copy / DATABASE) as database:
        assert [each.name for each in await database.volumes(MOBY).list()] == ["late"]


async def test_rows_on_both_sides_of_a_damaged_page_come_along(config: Config) -> None:
    path = config.data_root / DATABASE
    async with SqliteDatabase.open(path) as database:
        for number in range(300):
            volume = Volume(name=f"v{number:03}", created=1, labels={"text": "x" * 100})
            await database.volumes(MOBY).create(volume)
    connection = connect(path)
    pages = [
        int(row[0])
        for row in connection.execute(
            "SELECT pageno FROM dbstat WHERE name = 'volume' AND pagetype = 'leaf' ORDER BY path"
        )
    ]
    connection.close()
    assert len(pages) > 5
    with path.open("r+b") as file:
        file.seek((pages[len(pages) // 2] - 1) * PAGE)
        file.write(b"\xa5" * PAGE)
    report = await rebuild(config)
    assert set(report.recovered.damaged) == {"volume"}
    async with SqliteDatabase.open(path) as database:
        found = [each.name for each in await database.volumes(MOBY).list()]
    assert found[0] == "v000"
    assert found[-1] == "v299"
    assert 300 - 300 // len(pages) * 3 < len(found) < 300


async def test_a_writable_snapshot_goes_with_its_container(config: Config) -> None:
    """The collector would take it, with what the container has written."""
    async with SqliteDatabase.open(config.data_root / DATABASE) as database:
        snapshots = database.snapshots(MOBY, "erofs")
        number = await snapshots.allocate()
        none = Usage(size=0, inodes=0)
        await snapshots.create(ID, id=number, kind=Kind.ACTIVE, parent=None, labels={}, usage=none, extra={})
    (config.data_root / f"snapshots/erofs/moby/snapshots/{number}").mkdir(parents=True)
    report = await rebuild(config)
    assert report.aside == {"snapshot": [f"snapshots/erofs/moby/snapshots/{number}"]}


async def test_a_container_that_runs_on_is_named(config: Config, tmp_path: Path) -> None:
    (config.data_root / "containers" / ID).mkdir(parents=True)
    bundle = tmp_path / "run" / "tasks" / "moby" / ID
    bundle.mkdir(parents=True)
    address = tmp_path / "shim"
    with socket.socket(socket.AF_UNIX) as shim:
        shim.bind(str(address))
        shim.listen()
        (bundle / "bootstrap.json").write_text(json.dumps({"address": f"unix://{address}"}))
        report = await rebuild(replace(config, exec_root=tmp_path / "run"))
    assert report.running == [ID]
    assert f"container {ID} still runs, and no daemon will know it: end its processes" in words(report)


async def test_an_older_database_is_brought_up(config: Config) -> None:
    path = config.data_root / DATABASE
    migrate(path, released()[:3])
    connection = connect(path)
    connection.execute("INSERT INTO setting (key, value) VALUES ('image-store', 'classic')")
    connection.close()
    report = await rebuild(config)
    assert report.recovered.damaged == {}
    async with SqliteDatabase.open(path) as database:
        assert await database.setting("image-store") == "classic"


async def test_databases_that_are_not_ours_to_read_are_left(config: Config) -> None:
    path = config.data_root / DATABASE
    migrate(path, [*released(), "CREATE TABLE later (a)"])
    with pytest.raises(NewerSchemaError):
        await rebuild(config)
    path.unlink()
    connection = connect(path)
    connection.execute("CREATE TABLE theirs (a); PRAGMA user_version = 3")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(FailedPreconditionError, match="not a database of Lading's"):
        await rebuild(config)
    assert path.read_bytes() == before
    assert not holdings(config.data_root).words()


async def test_a_crash_before_the_last_step_is_finished(config: Config) -> None:
    await fill(config)
    path = config.data_root / DATABASE
    path.rename(config.data_root / f"{DATABASE}.rebuilt")
    with pytest.raises(DataLossError):
        refuse_new_database(config.data_root, DATABASE)
    await rebuild(config)
    assert (await rows(config))[0] == ["docker.io/library/one:latest"]


async def test_a_run_that_was_cut_short_is_begun_again(config: Config) -> None:
    image = await fill(config)
    for end in ("rebuilding", "rebuilt", "reading"):
        (config.data_root / f"{DATABASE}.{end}").write_bytes(b"half")
    await rebuild(config)
    names, blobs = await rows(config)
    assert names == ["docker.io/library/one:latest"]
    assert image.descriptor.digest in blobs
    assert not list(config.data_root.glob(f"{DATABASE}.re[!s]*"))


async def test_a_database_in_use_is_left(config: Config) -> None:
    async with SqliteDatabase.open(config.data_root / DATABASE):
        with pytest.raises(LockedError):
            await rebuild(config)
