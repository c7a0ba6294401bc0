"""What is particular to SQLite: one process, versions, damage, a full disk."""

import os
import subprocess
import sys
from contextlib import suppress
from importlib import resources
from pathlib import Path

import anyio
import apsw
import pytest

from lading.core.metadata import Namespace, Node
from lading.errors import DataLossError, InternalError, NotFoundError, PermissionDeniedError, UnavailableError
from lading.kit.fs import LockedError
from lading.kit.sqlite import connect
from lading.metadata import graph
from lading.metadata.database import SqliteDatabase
from lading.metadata.migrate import NewerSchemaError, released
from lading.oci.digest import Digest
from lading.testing.metadata import target

pytestmark = pytest.mark.anyio
MOBY = Namespace("moby")
SOURCE = Path(__file__).parents[3] / "src"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "lading.db"


def opened(path, **options):
    return SqliteDatabase.open(path, reserve=1 << 20, **options)


async def test_rows_survive(path):
    async with opened(path) as database:
        await database.images(MOBY).put("one", target("a"), labels={"k": "ü"})
        image = await database.images(MOBY).get("one")
    async with opened(path) as database:
        assert await database.images(MOBY).get("one") == image


async def test_a_second_process_is_refused_and_told_who(path):
    async with opened(path):
        script = (
            "import anyio, sys\n"
            "from lading.errors import LadingError\n"
            "from lading.metadata.database import SqliteDatabase\n"
            "async def main():\n"
            "    async with SqliteDatabase.open(sys.argv[1]): pass\n"
            "try: anyio.run(main)\n"
            "except LadingError as exc: print(exc)\n"
        )
        child = subprocess.run(
            [sys.executable, "-c", script, path],
            env=os.environ | {"PYTHONPATH": str(SOURCE)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert f"in use by process {os.getpid()}" in child.stdout
        with pytest.raises(LockedError):
            async with opened(path):
                pass
    async with opened(path):
        pass


async def test_settings_of_the_connection(path):
    async with opened(path) as database:

        def settings(connection):
            names = ("journal_mode", "synchronous", "mmap_size", "trusted_schema", "foreign_keys")
            return [connection.pragma(name) for name in names]

        assert await database._session.write(None, settings) == ["wal", 2, 0, 0, 1]
        with pytest.raises(PermissionDeniedError):
            await database._session.read(lambda connection: connection.execute("DELETE FROM image"))


async def test_a_failing_call_does_not_undo_its_neighbours(path):
    async with opened(path) as database:
        images = database.images(MOBY)

        async def fail(number):
            def call(connection):
                connection.execute("INSERT INTO setting VALUES (?, 'x')", (f"bad-{number}",))
                if number % 2:
                    raise ValueError(number)
                connection.execute("INSERT INTO nowhere VALUES (1)")

            with pytest.raises((ValueError, InternalError)):
                await database._session.write(MOBY, call)

        async with anyio.create_task_group() as group:
            for number in range(40):
                group.start_soon(images.put, f"image-{number}", target("a"))
                group.start_soon(fail, number)
        assert len(await images.list()) == 40
        assert await database.setting("bad-1") is None
        assert await database.setting("bad-2") is None


async def test_a_cancelled_caller_has_written_or_not_and_nothing_breaks(path):
    async with opened(path) as database:
        images = database.images(MOBY)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await images.put("one", target("a"))
        with suppress(NotFoundError):
            await images.get("one")
        await images.put("two", target("b"))
        assert (await images.get("two")).target == target("b")


async def test_a_newer_schema_is_refused_and_left_as_it_is(path):
    async with opened(
        path, schema=[*released(), "CREATE TABLE later (x) STRICT".replace("x)", "x INTEGER)")]
    ) as database:
        await database.images(MOBY).put("one", target("a"))
    with pytest.raises(NewerSchemaError):
        async with opened(path):
            pass


async def test_migration_keeps_the_old_file_and_goes_on_after_a_crash(path):
    async with opened(path) as database:
        await database.images(MOBY).put("one", target("a"))
    broken = [*released(), "CREATE TABLE later (x INTEGER) STRICT", "INSERT INTO nowhere VALUES (1)"]
    with pytest.raises(InternalError):
        async with opened(path, schema=broken):
            pass
    async with opened(path) as database:  # the old one still is as it was
        assert len(await database.images(MOBY).list()) == 1
    async with opened(path, schema=broken[:-1]) as database:
        assert len(await database.images(MOBY).list()) == 1
        assert await database._session.read(lambda c: c.execute("SELECT * FROM later").fetchall()) == []
    assert path.with_name(f"lading.db.v{len(released())}").exists()
    assert not path.with_name("lading.db.migrating").exists()


async def test_a_foreign_database_is_refused(path):
    connection = apsw.Connection(str(path))
    connection.execute("CREATE TABLE t (x); PRAGMA user_version = 1")
    connection.close()
    with pytest.raises(Exception, match="not a database of Lading"):
        async with opened(path):
            pass


async def test_damage_is_found_after_an_unclean_end(path):
    async with opened(path) as database:
        for number in range(200):
            await database.images(MOBY).put(f"image-{number}", target(str(number)))
        await database.backup(path.with_name("backup.db"))
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2 // 4096 * 4096)
        file.write(b"\xff" * 8192)
    path.with_name("lading.db-wal").write_bytes(b"not empty")
    with pytest.raises(DataLossError, match="damaged"):
        async with opened(path):
            pass
    async with opened(path.with_name("backup.db")) as database:
        assert len(await database.images(MOBY).list()) == 200


async def test_a_missing_directory_is_explained(tmp_path):
    with pytest.raises(PermissionDeniedError, match="cannot open"):
        async with opened(tmp_path / "missing" / "lading.db"):
            pass


async def test_a_closed_database_says_so(path):
    async with opened(path) as database:
        await database.close()
        with pytest.raises(UnavailableError):
            await database.namespaces()
        with pytest.raises(UnavailableError):
            await database.set_setting("k", "v")


async def test_what_is_held_for_deletions_is_little_and_grows_with_the_database(path):
    def held():
        return sum(file.stat().st_blocks for file in path.parent.iterdir()) * 512

    reserve = path.with_name("lading.db.reserve")
    async with SqliteDatabase.open(path) as database:
        assert 2 << 20 <= held() <= 3 << 20
        images = database.images(MOBY)
        for number in range(800):
            await images.put(f"image-{number}", target("a"), labels={"k": "x" * 4000})
        await database._session.write(None, lambda _: None)
        assert reserve.stat().st_size >= path.stat().st_size > 2 << 20
        # A checkpoint cuts off what is reserved behind the end: it is reserved again.
        assert path.stat().st_blocks * 512 >= path.stat().st_size + (128 << 10)
    async with opened(path):  # with a smaller one allowed
        assert reserve.stat().st_size >= 1 << 20


async def test_condemn_reads_again_when_the_journal_is_too_short(path, monkeypatch):
    monkeypatch.setattr("lading.metadata.session._JOURNAL", 3)
    async with opened(path) as database:
        await database.blobs(MOBY).add(target("a").digest, 1, labels={})
        await database.blobs(MOBY).add(target("b").digest, 1, labels={})
        now = (await database.blobs(MOBY).get(target("a").digest)).created_at
        graph = await database.graph(MOBY, now=now)
        await database.images(MOBY).put("one", target("a"))
        for number in range(10):
            await database.images(MOBY).put("other", target(str(number)))
        deleted = await database.condemn(MOBY, sorted(graph.nodes), version=graph.version, now=now)
        assert [node.id for node in deleted] == [target("b").digest]


async def test_what_a_deletion_looks_at_does_not_grow_with_what_is_kept(tmp_path):
    looked = []
    for count in (50, 1500):
        path = tmp_path / f"{count}.db"
        async with opened(path) as database:
            blobs = database.blobs(MOBY)
            nodes = [Node("content", Digest.of(str(number).encode())) for number in range(count)]
            await blobs.add_many({Digest(node.id): 1 for node in nodes})
            await blobs.update(Digest(nodes[0].id), {"containerd.io/gc.bref.content": nodes[1].id})
        connection = connect(path)
        steps = []
        connection.set_progress_handler(lambda steps=steps: bool(steps.append(1)), 10)
        assert graph.condemn(connection, MOBY, nodes[:3], touched={nodes[1]}) == [nodes[2]]
        connection.close()
        looked.append(len(steps))
    assert 0 < looked[1] < 2 * looked[0], looked


def test_versions_of_the_schema_are_numbered_without_a_gap():
    """A version is a count of files: one that came in between later would be missed by every database there is."""
    names = sorted(
        file.name
        for file in resources.files("lading.metadata.schema").iterdir()
        if file.name.endswith(".sql")
    )
    assert [int(name[:4]) for name in names] == list(range(1, len(names) + 1))


@pytest.mark.parametrize(
    "statement", ["SELECT count(*) FROM setting", "INSERT INTO setting VALUES ('theirs', 'x')"]
)
async def test_another_program_that_opens_the_file_does_not_end_the_log(path, statement):
    """It would if our locks were gone: SQLite's last user of a database writes the log back and removes it."""
    async with opened(path) as database:
        await database.set_setting("mine", "1")
        for number in range(200):  # through several looks at the space that is held
            await database.images(MOBY).put(f"image{number}", target(f"{number}"))
        script = "import sqlite3, sys\nwith sqlite3.connect(sys.argv[1]) as c: c.execute(sys.argv[2]).fetchall()\nc.close()"
        subprocess.run([sys.executable, "-c", script, path, statement], check=True)
        assert path.with_name("lading.db-wal").exists()
        await database.set_setting("mine", "2")
        script = "import sqlite3, sys\nprint(sqlite3.connect(sys.argv[1]).execute(\"SELECT value FROM setting WHERE key = 'mine'\").fetchone()[0])"
        seen = subprocess.run(
            [sys.executable, "-c", script, path], check=True, capture_output=True, text=True
        )
        assert seen.stdout == "2\n"
        if statement.startswith("INSERT"):
            assert await database.setting("theirs") == "x"
    async with opened(path) as database:
        assert await database.setting("mine") == "2"


async def test_who_asks_for_a_few_rows_lets_others_run_and_can_be_cancelled(path):
    async with opened(path) as database:
        await database.set_setting("mine", "1")
        turns = []

        async def others() -> None:
            turns.append("others")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(others)
            assert await database.setting("mine") == "1"
            assert turns == ["others"]
        with anyio.CancelScope() as scope:
            scope.cancel()
            await database.setting("mine")
        assert scope.cancelled_caught
    with pytest.raises(UnavailableError):
        await database.setting("mine")
