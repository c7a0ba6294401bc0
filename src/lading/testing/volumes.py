"""The conformance suite of `lading.core.volumes.Volumes`.

Subclass `VolumesSuite` and give it a ``world`` fixture: a machine on which daemons come and go.
"""

import os
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

import pytest

from lading.core.volumes import LOCAL, Volumes
from lading.errors import (
    ConflictError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    UnsupportedError,
)


class World(Protocol):
    """The machine. Implementations clean up after themselves, whatever a test leaves."""

    def open(self) -> AbstractAsyncContextManager[Volumes]:
        """Volumes as a daemon that starts would have them; several in turn, never two at a time."""
        ...

    def mounted(self) -> list[str]:
        """Where volumes with options are mounted now."""
        ...

    def entries(self) -> set[str]:
        """Names of what the machine keeps for volumes."""
        ...


class VolumesSuite:
    """Every promise of the port."""

    @pytest.fixture
    def world(self) -> World:
        raise NotImplementedError

    @pytest.fixture
    async def volumes(self, world: World) -> AsyncGenerator[Volumes]:
        async with world.open() as volumes:
            await volumes.recover({})
            yield volumes

    async def test_creating(self, volumes: Volumes) -> None:
        made, new = await volumes.create("data", labels={"a": "b"})
        assert (made.name, made.driver, made.labels, made.options, new) == (
            "data",
            LOCAL,
            {"a": "b"},
            {},
            True,
        )
        assert made.created > 0
        assert volumes.find("data") == made
        assert await volumes.create("data") == (made, False)
        other, _ = await volumes.create(anonymous=True)
        assert len(other.name) == 64
        assert other.anonymous
        assert sorted(each.name for each in volumes.list()) == sorted(["data", other.name])

    @pytest.mark.parametrize("name", ["..", ".", "a/b", "../x", "-x", "x", "a b", "a\n", "é" * 3, "x" * 300])
    async def test_a_name_is_one_word(self, volumes: Volumes, world: World, name: str) -> None:
        with pytest.raises(InvalidArgumentError):
            await volumes.create(name)
        assert world.entries() == set()

    async def test_what_is_not_offered_is_refused(self, volumes: Volumes) -> None:
        with pytest.raises(UnsupportedError):
            await volumes.create("data", driver="elsewhere")
        for options in ({"size": "1"}, {"type": "nfs"}, {"device": "/x"}, {"type": "-t", "device": "/x"}):
            with pytest.raises(InvalidArgumentError):
                await volumes.create("data", options=options)
        with pytest.raises(NotFoundError):
            volumes.find("data")

    async def test_files_stay(self, world: World) -> None:
        async with world.open() as volumes:
            await volumes.recover({})
            before, _ = await volumes.create("data")
            path = await volumes.acquire("data", "one")
            assert path == volumes.path("data")
            (Path(path) / "file").write_text("words")
        async with world.open() as volumes:
            await volumes.recover({"data": ["one"]})
            assert volumes.find("data") == before
            assert (Path(await volumes.acquire("data", "two")) / "file").read_text() == "words"
            assert await volumes.usage("data") > 0

    async def test_a_volume_whose_files_are_gone_says_so_and_can_be_removed(
        self, volumes: Volumes, world: World
    ) -> None:
        await volumes.create("data")
        Path(volumes.path("data")).rmdir()
        with pytest.raises(FailedPreconditionError, match="data"):
            await volumes.acquire("data", "one")
        assert not volumes.holders("data")
        await volumes.remove("data")
        assert world.entries() == set()

    async def test_a_held_volume_is_not_removed(self, volumes: Volumes, world: World) -> None:
        await volumes.create("data")
        for holder in ("one", "two", "two"):
            await volumes.acquire("data", holder)
        assert set(volumes.holders("data")) == {"one", "two"}
        await volumes.release("data", "one")
        await volumes.release("data", "one")
        assert set(volumes.holders("data")) == {"two"}
        assert not volumes.holders("nothing")
        with pytest.raises(ConflictError, match="in use"):
            await volumes.remove("data")
        await volumes.release("data", "two")
        await volumes.remove("data")
        assert world.entries() == set()
        with pytest.raises(NotFoundError):
            await volumes.remove("data")
        with pytest.raises(NotFoundError):
            await volumes.acquire("data", "one")
        await volumes.release("data", "one")

    async def test_options_mount_while_it_is_held(self, volumes: Volumes, world: World) -> None:
        options = {"type": "tmpfs", "device": "tmpfs", "o": "size=1m,uid=1000"}
        made, _ = await volumes.create("data", options=options)
        assert made.options == options
        with pytest.raises(ConflictError):
            await volumes.create("data", options={"type": "tmpfs", "device": "tmpfs"})
        assert world.mounted() == []
        path = await volumes.acquire("data", "one")
        await volumes.acquire("data", "two")
        assert world.mounted() == [path]
        await volumes.release("data", "one")
        assert world.mounted() == [path]
        await volumes.release("data", "two")
        assert world.mounted() == []
        await volumes.remove("data")

    async def test_a_bind_volume_shows_a_directory_and_leaves_it(
        self, volumes: Volumes, tmp_path: Path
    ) -> None:
        there = tmp_path / "there"
        there.mkdir()
        (there / "file").write_text("words")
        await volumes.create("data", options={"type": "none", "device": str(there), "o": "bind"})
        path = await volumes.acquire("data", "one")
        assert (Path(path) / "file").read_text() == "words"
        await volumes.release("data", "one")
        await volumes.remove("data")
        assert (there / "file").read_text() == "words"

    async def test_what_cannot_be_mounted_says_so(self, volumes: Volumes) -> None:
        await volumes.create("data", options={"type": "none", "device": "/no/such/place", "o": "bind"})
        with pytest.raises(FailedPreconditionError, match="failed to mount"):
            await volumes.acquire("data", "one")
        await volumes.remove("data")

    async def test_mounts_of_the_dead_are_taken_away(self, world: World) -> None:
        options = {"type": "tmpfs", "device": "tmpfs"}
        async with world.open() as volumes:
            await volumes.recover({})
            for name in ("kept", "left"):
                await volumes.create(name, options=options)
                await volumes.acquire(name, "one")
        async with world.open() as volumes:
            await volumes.recover({"kept": ["one"]})
            assert world.mounted() == [volumes.path("kept")]
            with pytest.raises(ConflictError):
                await volumes.remove("kept")
            await volumes.remove("left")
            await volumes.release("kept", "one")
            assert world.mounted() == []

    # Filling

    async def test_an_empty_volume_is_filled_once(self, volumes: Volumes) -> None:
        await volumes.create("data")

        def copy(path: str) -> None:
            (Path(path) / "file").write_text("words")
            os.chmod(path, 0o750)

        assert await volumes.fill("data", copy)
        assert not await volumes.fill("data", copy)
        path = Path(await volumes.acquire("data", "one"))
        assert (path / "file").read_text() == "words"
        assert path.stat().st_mode & 0o7777 == 0o750

    async def test_what_is_held_is_not_filled(self, volumes: Volumes) -> None:
        await volumes.create("data")
        await volumes.acquire("data", "one")

        def copy(path: str) -> None:
            raise AssertionError(path)

        assert not await volumes.fill("data", copy)

    async def test_a_failed_filling_leaves_it_empty(self, volumes: Volumes) -> None:
        await volumes.create("data")

        def copy(path: str) -> None:
            (Path(path) / "half").write_text("wor")
            raise FailedPreconditionError("the disk is full")

        with pytest.raises(FailedPreconditionError):
            await volumes.fill("data", copy)
        assert os.listdir(await volumes.acquire("data", "one")) == []
