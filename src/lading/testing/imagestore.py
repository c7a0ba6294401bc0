"""What both image stores promise to those who use images: a suite to be subclassed with a ``store`` fixture.

It speaks through the services, as an edge does, so that what is tested is the port with everything that stands on it: names, and
what they mean (`lading.core.images.Naming`), pulls, lists, look-ups, removals, archives. Where Docker's two stores
differ, `ImageStore.single` says which one this is.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import pytest

from lading.core import images as records_port
from lading.core import snapshots
from lading.core.progress import Progress
from lading.errors import ConflictError, InvalidArgumentError, NotFoundError
from lading.images.exchange import ImageExchange, Login
from lading.images.lookup import NoSuchImageError
from lading.images.removal import Change, Use
from lading.images.service import ImageService, PlatformMissingError
from lading.oci import reference
from lading.oci.digest import Digest
from lading.testing import images as make
from lading.testing.memory.remotes import MemoryRegistries
from lading.transfer.import_ import ImportOptions
from lading.transfer.pull import PullResult
from lading.transfer.service import TransferService

NAME = "registry.test/app:latest"


@dataclass(kw_only=True)
class ImageStore:
    """A store under test, over registries in memory. ``single``: an image is one platform's config."""

    images: ImageService
    exchange: ImageExchange
    transfer: TransferService
    records: records_port.Store
    snapshotter: snapshots.Snapshotter
    registries: MemoryRegistries
    single: bool
    uses: list[Use] = field(default_factory=list[Use])

    def publish(self, target: make.TestImage | make.TestIndex, name: str = NAME) -> None:
        """Put an image into a registry."""
        ref = reference.parse(name).with_default_tag()
        make.publish(self.registries.registry(ref.domain).repository(ref.path), target, ref.tag)

    async def pull(self, target: make.TestImage | make.TestIndex, name: str = NAME) -> PullResult:
        """Publish and pull."""
        self.publish(target, name)
        return await self.pull_again(name)

    async def pull_again(self, name: str = NAME) -> PullResult:
        """Pull what the registry has."""
        return await self.exchange.pull(reference.parse(name), login=Login(), progress=Progress())

    async def tags(self) -> list[str]:
        """Every tag."""
        return sorted(tag for row in await self.images.list() for tag in row.tags)

    def id_of(self, image: make.TestImage, target: make.TestIndex | None = None) -> Digest:
        """The ID that the store gives a pulled image."""
        return image.config_descriptor.digest if self.single else (target or image).descriptor.digest


def image(text: str = "x") -> make.TestImage:
    """An image of two layers; the lower one is always the same."""
    return make.image([make.layer({"base": b"base"}), make.layer({"top": text.encode()})])


async def _one(data: bytes) -> AsyncIterator[bytes]:
    yield data


class ImageStoreSuite:
    """The promises."""

    @pytest.fixture
    def store(self) -> ImageStore:
        """The store under test, empty."""
        raise NotImplementedError

    async def test_a_pulled_image_is_listed_found_and_unpacked(self, store: ImageStore) -> None:
        made = image()
        result = await store.pull(made)
        assert (result.updated, result.target.digest) == (True, made.descriptor.digest)
        assert result.image.digest == store.id_of(made)
        (row,) = await store.images.list()
        assert (row.target.digest, list(row.tags)) == (store.id_of(made), [NAME])
        assert list(row.digests) == [f"registry.test/app@{made.descriptor.digest}"]
        assert row.size > 0
        digest = row.target.digest
        for name in (
            NAME,
            digest,
            digest.hex,
            digest.hex[:12],
            f"registry.test/app@{made.descriptor.digest}",
        ):
            assert (await store.images.find(name)).image.target.digest == digest
            assert (await store.images.find_one(name)).target.digest == digest
        assert (await store.snapshotter.stat(made.chain[-1])).kind is snapshots.Kind.COMMITTED
        with pytest.raises(NoSuchImageError):
            await store.images.find("registry.test/app:other")
        with pytest.raises(NoSuchImageError):
            await store.images.find_one("registry.test/app:other")

    async def test_pulling_again_brings_nothing(self, store: ImageStore) -> None:
        await store.pull(image())
        again = await store.pull_again()
        assert not again.updated
        assert len(await store.images.list()) == 1

    async def test_of_an_index_the_host_s_platform_is_pulled(self, store: ImageStore) -> None:
        made = image()
        index = make.index([made, make.image([make.layer({"a": b"arm"})], platform=make.ARM64)])
        await store.pull(index)
        (row,) = await store.images.list()
        assert row.target.digest == store.id_of(made, index)
        detail = await store.images.inspect(NAME)
        assert detail.manifest is not None
        assert detail.manifest.platform.architecture == "amd64"
        with pytest.raises(PlatformMissingError):
            await store.images.inspect(NAME, platform=make.ARM64)

    async def test_a_moved_name_leaves_a_nameless_image(self, store: ImageStore) -> None:
        old, new = image("old"), image("new")
        await store.pull(old)
        assert (await store.pull(new)).updated
        rows = {row.target.digest: list(row.tags) for row in await store.images.list()}
        assert rows == {store.id_of(new): [NAME], store.id_of(old): []}
        await store.pull(old, "registry.test/app:kept")
        assert len(await store.images.list()) == 2

    async def test_names_come_and_go(self, store: ImageStore) -> None:
        made = image()
        await store.pull(made)
        await store.images.tag(NAME, reference.parse("other:v1"))
        assert await store.tags() == ["other:v1", NAME]
        (line,) = await store.images.remove("other:v1")
        assert (line.change, line.subject) == (Change.UNTAGGED, "other:v1")
        assert await store.tags() == [NAME]
        lines = await store.images.remove(NAME)
        assert next(line.subject for line in lines if line.change is Change.UNTAGGED) == NAME
        assert store.id_of(made) in [line.subject for line in lines if line.change is Change.DELETED]
        assert await store.images.list() == []
        assert await store.records.list() == []
        with pytest.raises(NotFoundError):
            await store.images.remove(NAME)

    async def test_a_tag_needs_an_image_and_no_digest(self, store: ImageStore) -> None:
        await store.pull(image())
        with pytest.raises(NotFoundError):
            await store.images.tag("nothing:here", reference.parse("a:1"))
        with pytest.raises(InvalidArgumentError):
            await store.images.tag(NAME, reference.parse(f"a@{image().descriptor.digest}"))

    async def test_an_image_in_use_stays(self, store: ImageStore) -> None:
        made = image()
        digest = (await store.pull(made)).image.digest
        store.uses.append(Use(container="c" * 64, target=digest, manifest=digest, running=True))
        with pytest.raises(ConflictError, match="cannot be forced"):
            await store.images.remove(digest, force=True)
        with pytest.raises(ConflictError, match="must"):
            await store.images.remove(NAME)
        assert await store.tags() == [NAME]
        await store.images.remove(NAME, force=True)
        (row,) = await store.images.list()
        assert (row.target.digest, list(row.tags)) == (digest, [])
        assert (await store.images.prune()).removed == []
        store.uses.clear()
        assert (await store.images.prune()).removed
        assert await store.images.list() == []

    async def test_several_names_of_an_id_must_be_forced(self, store: ImageStore) -> None:
        digest = (await store.pull(image())).image.digest
        await store.images.tag(NAME, reference.parse("other:v1"))
        with pytest.raises(ConflictError, match="referenced in multiple repositories"):
            await store.images.remove(digest)
        await store.images.remove(digest, force=True)
        assert await store.images.list() == []

    async def test_prune_of_all_spares_what_is_used(self, store: ImageStore) -> None:
        kept = (await store.pull(image("kept"), "kept.test/a:1")).image.digest
        await store.pull(image("gone"), "gone.test/a:1")
        store.uses.append(Use(container="c" * 64, target=kept, manifest=kept, running=False))
        pruned = await store.images.prune({"dangling": ["false"]})
        assert "gone.test/a:1" in [line.subject for line in pruned.removed]
        assert pruned.reclaimed > 0
        assert await store.tags() == ["kept.test/a:1"]

    async def test_history_is_newest_first(self, store: ImageStore) -> None:
        made = image()
        await store.pull(made)
        rows = await store.images.history(NAME)
        assert rows[0].id == store.id_of(made)
        assert list(rows[0].tags) == [NAME]
        assert all(row.id == "<missing>" for row in rows[1:])

    async def test_an_archive_brings_the_image_back(self, store: ImageStore) -> None:
        made = image()
        await store.pull(made)
        before = await store.images.inspect(NAME)
        parts: list[bytes] = []

        async def sink(data: bytes) -> None:
            parts.append(data)

        await store.exchange.save(await store.exchange.to_save([NAME]), sink)
        await store.images.remove(NAME)
        (loaded,) = await store.exchange.load(_one(b"".join(parts)), progress=Progress())
        assert loaded.target.digest == before.target.digest
        after = await store.images.inspect(NAME)
        assert (after.target, list(after.tags), after.config) == (before.target, [NAME], before.config)

    async def test_a_root_file_system_becomes_an_image(self, store: ImageStore) -> None:
        options = ImportOptions(platform=make.AMD64, message="from a test")
        target = await store.exchange.import_(
            _one(make.tar({"file": b"data"})), options, name=reference.parse("made:1")
        )
        (row,) = await store.images.list()
        assert (row.target.digest, list(row.tags)) == (target.digest, ["made:1"])
        nameless = await store.exchange.import_(_one(make.tar({"a": b"b"})), options, name=None)
        assert (await store.images.find(nameless.digest)).named == ()

    async def test_what_is_pushed_can_be_pulled(self, store: ImageStore) -> None:
        made = image()
        digest = (await store.pull(made)).image.digest
        copy = "registry.test/copy:1"
        self.open_registry(store, copy)
        await store.images.tag(NAME, reference.parse(copy))
        pushed = await store.exchange.push(reference.parse(copy), login=Login(), progress=Progress())
        if not store.single:
            assert pushed.pushed.digest == made.descriptor.digest
        await store.images.remove(digest, force=True)
        assert (await store.pull_again(copy)).target.digest == pushed.pushed.digest
        config = (await store.images.inspect(copy)).config
        assert config is not None
        assert list(config.rootfs.diff_ids) == [layer.diff_id for layer in made.layers]

    def open_registry(self, store: ImageStore, name: str) -> None:
        """Have an empty repository."""
        ref = reference.parse(name)
        store.registries.registry(ref.domain).repository(ref.path)

    async def test_filters(self, store: ImageStore) -> None:
        await store.pull(image("a"), "registry.test/team/a:1")
        await store.pull(image("b"), "b:1")

        async def tags(**filters: Sequence[str]) -> list[str]:
            return sorted(tag for row in await store.images.list(filters) for tag in row.tags)

        assert await tags(reference=["b"]) == ["b:1"]
        assert await tags(reference=["*/team/a:*"]) == ["registry.test/team/a:1"]
        assert await tags(until=["2020-01-01"]) == []
        assert len(await tags(dangling=["false"])) == 2
        with pytest.raises(InvalidArgumentError):
            await tags(nonsense=["1"])
