"""The image service over a world in memory: what lists, lookups and removals answer."""

from collections.abc import Sequence
from typing import Any

import pytest
from support.world import NAMESPACE, World

from lading.core.content import Info
from lading.core.facts import Kind
from lading.errors import ConflictError, InvalidArgumentError, NotFoundError
from lading.images.lookup import NoSuchImageError
from lading.images.removal import Change, Removed, Use
from lading.images.service import ImageService, PlatformMissingError
from lading.kit import times
from lading.oci import reference
from lading.oci.config import RunConfig
from lading.oci.digest import Digest
from lading.testing import images as make

pytestmark = pytest.mark.anyio

LAYER_BYTES = 4096  # each layer is one file of one block
ARM = make.ARM64


class Images:
    """A service, its world, and who uses images."""

    def __init__(self) -> None:
        self.world = World()
        self.uses: list[Use] = []
        self.collected = 0
        self.service = ImageService(
            store=self.world.content,
            records=self.world.images,
            transfer=self.world.service,
            fact_rows=self.world.database.facts(NAMESPACE),
            uses=self._uses,
            bus=self.world.bus,
            host=make.AMD64,
            collect=self._collect,
            collected=self._collected,
        )

    async def _uses(self) -> Sequence[Use]:
        return self.uses

    def _collect(self) -> None:
        self.collected += 1

    async def _collected(self) -> None:
        self.collected += 1

    async def pull(
        self, target: make.TestImage | make.TestIndex, name: str = "registry.test/app:latest"
    ) -> str:
        ref = reference.parse(name)
        make.publish(self.world.registries.registry(ref.domain).repository(ref.path), target, ref.tag)
        return (await self.world.service.pull(ref)).target.digest

    def actions(self) -> list[str]:
        return [e.action for e in self.world.events]


@pytest.fixture
def images() -> Images:
    return Images()


def image(text: str = "x", **kwargs: Any) -> make.TestImage:
    return make.image([make.layer({"base": b"base"}), make.layer({"top": text.encode()})], **kwargs)


async def test_a_list_has_one_row_per_target_with_all_its_names(images: Images) -> None:
    target = image()
    digest = await images.pull(target)
    await images.service.tag("registry.test/app:latest", reference.parse("other:v1"))
    (row,) = await images.service.list()
    assert row.target.digest == digest
    assert row.tags == ["other:v1", "registry.test/app:latest"]
    assert sorted(row.digests) == [f"other@{digest}", f"registry.test/app@{digest}"]
    blobs = {target.descriptor, *target.blobs}
    assert row.size == sum(d.size for d in blobs) + 2 * LAYER_BYTES
    assert row.created == times.parse_rfc3339("2024-01-02T03:04:05Z")
    assert images.actions() == ["pull", "tag"]


async def test_shared_sizes_count_what_two_images_hold(images: Images) -> None:
    await images.pull(image("a"), "a:1")
    await images.pull(image("b"), "b:1")
    rows = await images.service.list(shared_size=True)
    base = make.layer({"base": b"base"}).descriptor.size
    assert [r.shared for r in rows] == [base + LAYER_BYTES] * 2
    assert [r.shared for r in await images.service.list()] == [-1, -1]


async def test_an_index_shows_every_platform_and_what_is_here(images: Images) -> None:
    amd, arm = image("amd"), image("arm", platform=ARM)
    await images.pull(make.index([amd, arm]))
    (row,) = await images.service.list()
    here, absent = row.manifests
    assert (here.available, absent.available) == (True, False)
    assert here.unpacked == 2 * LAYER_BYTES
    assert (absent.content, absent.unpacked) == (0, 0)
    assert absent.facts.kind is Kind.IMAGE
    assert absent.facts.platform == ARM


async def test_filters_choose(images: Images) -> None:
    await images.pull(image("a", run=RunConfig(labels={"tier": "web"})), "registry.test/team/a:1")
    await images.pull(image("b"), "b:1")
    await images.pull(image("c"), "b:1")

    async def tags(**filters: Sequence[str]) -> list[str]:
        return sorted(
            t
            for r in await images.service.list({k.replace("_", "!"): v for k, v in filters.items()})
            for t in r.tags
        )

    assert len(await images.service.list({"dangling": ["true"]})) == 1
    assert len(await images.service.list({"dangling": ["false"]})) == 2
    assert await tags(label=["tier=web"]) == ["registry.test/team/a:1"]
    assert await tags(label=["tier=db"]) == []
    assert await tags(label_=["tier"]) == ["b:1"]
    assert await tags(reference=["b"]) == ["b:1"]
    assert await tags(reference=["*/*/a:*"]) == ["registry.test/team/a:1"]
    assert await tags(reference=["*"]) == ["b:1"]
    assert await tags(reference=["[^a]"]) == ["b:1"]
    assert await tags(before=["b:1"]) == []
    with pytest.raises(InvalidArgumentError, match="nonsense"):
        await tags(nonsense=["1"])
    with pytest.raises(InvalidArgumentError):
        await tags(dangling=["true", "false"])
    with pytest.raises(InvalidArgumentError):
        await tags(dangling=["perhaps"])
    with pytest.raises(NoSuchImageError, match="No such image: nothing:latest"):
        await tags(since=["nothing"])


async def test_lookup_takes_names_ids_and_unique_prefixes(images: Images) -> None:
    digest = await images.pull(image())
    for name in (
        "registry.test/app",
        "registry.test/app:latest",
        digest,
        digest[7:],
        digest[7:19],
        f"registry.test/app@{digest}",
    ):
        assert (await images.service.find(name)).image.target.digest == digest
    for name in (
        "registry.test/app:other",
        "nothing",
        digest[7:10],
        f"elsewhere.test/app@{digest}",
        "sha256:" + "0" * 64,
    ):
        with pytest.raises(NoSuchImageError):
            await images.service.find(name)
    with pytest.raises(InvalidArgumentError):
        await images.service.find("not/VALID")


async def test_a_name_that_looks_like_an_id_is_found_by_name_first(images: Images) -> None:
    first = await images.pull(image("a"), "a:1")
    second = await images.pull(image("b"), f"{first[7:13]}:latest")
    assert (await images.service.find(first[7:13])).image.target.digest == second
    assert (await images.service.find(first[7:20])).image.target.digest == first


async def test_inspect_and_history_of_a_platform(images: Images) -> None:
    amd, arm = image("amd"), image("arm", platform=ARM)
    await images.pull(make.index([amd, arm]))
    detail = await images.service.inspect("registry.test/app")
    assert detail.manifest is not None
    assert detail.manifest.descriptor.digest == amd.descriptor.digest
    record = await images.world.images.get("registry.test/app:latest")
    assert detail.tagged_at == times.of_datetime(record.updated_at)
    with pytest.raises(PlatformMissingError, match="linux/arm64"):
        await images.service.inspect("registry.test/app", platform=ARM)
    rows = await images.service.history("registry.test/app")
    assert [r.history.created_by for r in rows] == ["layer 1", "layer 0"]
    assert [r.size for r in rows] == [LAYER_BYTES, LAYER_BYTES]
    assert rows[0].tags == ["registry.test/app:latest"]
    assert (rows[0].id, rows[1].id) == (str(detail.target.digest), "<missing>")


async def test_a_damaged_image_hides_no_other(images: Images) -> None:
    good = await images.pull(image("a"), "a:1")
    target = image("b")
    bad = await images.pull(target, "b:1")
    images.world.bytes.blobs[Digest(bad)] = b"{"
    await images.world.database.facts(NAMESPACE).forget_all()
    rows = {r.target.digest: r for r in await images.service.list()}
    assert set(rows) == {good, bad}
    assert list(rows[Digest(bad)].manifests) == []


async def test_untagging_leaves_the_image_and_the_last_name_takes_it_along(images: Images) -> None:
    digest = await images.pull(image())
    await images.service.tag(digest, reference.parse("copy"))
    (line,) = await images.service.remove("copy")
    assert (line.change, line.subject) == (Change.UNTAGGED, "copy:latest")
    lines = await images.service.remove("registry.test/app")
    assert [(li.change, li.subject) for li in lines] == [
        (Change.UNTAGGED, "registry.test/app:latest"),
        (Change.DELETED, digest),
    ]
    assert await images.service.list() == []
    assert images.collected == 2
    with pytest.raises(NoSuchImageError):
        await images.service.remove("registry.test/app")


async def test_an_id_with_names_in_two_repositories_must_be_forced(images: Images) -> None:
    digest = await images.pull(image())
    await images.service.tag(digest, reference.parse("copy"))
    with pytest.raises(
        ConflictError, match=r"\(must be forced\) - image is referenced in multiple repositories"
    ):
        await images.service.remove(digest)
    assert len(await images.service.remove(digest, force=True)) == 3


async def test_an_id_with_names_in_one_repository_needs_no_force(images: Images) -> None:
    digest = await images.pull(image())
    await images.service.tag(digest, reference.parse("registry.test/app:other"))
    assert len(await images.service.remove(digest[7:19])) == 3


def use(digest: str, *, running: bool) -> Use:
    return Use(container="c" * 64, target=digest, manifest=digest, running=running)


async def test_a_container_holds_its_image(images: Images) -> None:
    digest = await images.pull(image())
    images.uses = [use(digest, running=False)]
    with pytest.raises(ConflictError, match="container cccccccccccc is using its referenced image"):
        await images.service.remove("registry.test/app")
    with pytest.raises(ConflictError, match="image is being used by stopped container"):
        await images.service.remove(digest)
    (line,) = await images.service.remove("registry.test/app", force=True)
    assert line.change is Change.UNTAGGED
    (row,) = await images.service.list()
    assert row.tags == []


async def test_a_running_container_holds_its_image_against_force_by_id(images: Images) -> None:
    digest = await images.pull(image())
    images.uses = [use(digest, running=True)]
    with pytest.raises(ConflictError, match=r"\(cannot be forced\).*running container"):
        await images.service.remove(digest, force=True)
    assert len(await images.service.list()) == 1


async def test_a_replaced_tag_leaves_a_dangling_image_that_prune_removes(images: Images) -> None:
    old = await images.pull(image("old"))
    new = await images.pull(image("new"))
    rows = {r.target.digest: r for r in await images.service.list()}
    assert rows[Digest(old)].tags == []
    assert rows[Digest(old)].digests == []
    pruned = await images.service.prune()
    assert [(li.change, li.subject) for li in pruned.removed] == [(Change.DELETED, old)]
    only_old = {d.digest: d.size for d in (image("old").descriptor, *image("old").blobs)}
    for d in (image("new").descriptor, *image("new").blobs):
        only_old.pop(d.digest, None)
    assert pruned.reclaimed == sum(only_old.values()) + LAYER_BYTES
    assert [r.target.digest for r in await images.service.list()] == [new]


async def test_prune_all_spares_what_containers_use(images: Images) -> None:
    used = await images.pull(image("used"), "used:1")
    await images.pull(image("idle"), "idle:1")
    images.uses = [use(used, running=False)]
    pruned = await images.service.prune({"dangling": ["false"]})
    assert pruned.removed[0].subject == "idle:1"
    assert [r.tags for r in await images.service.list()] == [["used:1"]]


async def test_until_goes_by_the_moment_when_a_name_came_here(images: Images) -> None:
    """As in Docker's containerd store: an image may be years old and have come a minute ago."""
    digest = await images.pull(image(), "a:1")
    await images.service.tag("a:1", reference.parse("later:1"))
    moment = times.of_datetime((await images.world.images.get("docker.io/library/later:1")).created_at)
    between = f"{moment // times.SECOND}.{moment % times.SECOND:09d}"
    assert await images.service.list({"until": ["24h"]}) == []
    (row,) = await images.service.list({"until": [between]})
    assert (row.target.digest, row.tags) == (digest, ["a:1"])
    assert (await images.service.prune({"dangling": ["false"], "until": ["24h"]})).removed == []
    pruned = await images.service.prune({"dangling": ["false"], "until": [between]})
    assert pruned.removed == [Removed(change=Change.UNTAGGED, subject="a:1")]


async def test_prune_tells_that_an_image_is_gone_after_its_last_name(images: Images) -> None:
    digest = await images.pull(image(), "a:1")
    for name in ("b:1", "c:1"):
        await images.service.tag("a:1", reference.parse(name))
    pruned = await images.service.prune({"dangling": ["false"]})
    assert [line.subject for line in pruned.removed] == ["a:1", "b:1", "c:1", digest]
    assert images.actions()[-5:] == ["untag", "untag", "untag", "delete", "prune"]


async def test_prune_until_changes_nothing_when_it_reports_nothing(images: Images) -> None:
    await images.pull(image())
    pruned = await images.service.prune({"dangling": ["false"], "until": ["2020-01-01"]})
    assert (list(pruned.removed), pruned.reclaimed) == ([], 0)
    assert len(await images.service.list()) == 1


async def test_a_tag_with_a_digest_is_refused(images: Images) -> None:
    digest = await images.pull(image())
    with pytest.raises(InvalidArgumentError, match="digest"):
        await images.service.tag(digest, reference.parse(f"a@{digest}"))
    with pytest.raises(NotFoundError):
        await images.service.tag("nothing", reference.parse("a"))


async def test_removing_one_platform_lets_go_of_it_alone(images: Images) -> None:
    amd, arm = image("amd"), image("arm", platform=ARM)
    ref = reference.parse("registry.test/app:latest")
    make.publish(images.world.repository, make.index([amd, arm]), "latest")
    await images.world.service.pull(ref, platforms="all")
    with pytest.raises(InvalidArgumentError, match="force"):
        await images.service.remove("registry.test/app", platforms=[ARM])
    (line,) = await images.service.remove("registry.test/app", platforms=[ARM], force=True)
    assert line.subject == arm.descriptor.digest
    target = (await images.service.find("registry.test/app")).image.target
    labels: Info = await images.world.content.info(target.digest)
    assert arm.descriptor.digest not in labels.labels.values()
    assert amd.descriptor.digest in labels.labels.values()
    images.uses = [
        Use(container="d" * 64, target=target.digest, manifest=amd.descriptor.digest, running=False)
    ]
    with pytest.raises(ConflictError, match="linux/amd64"):
        await images.service.remove("registry.test/app", platforms=[make.AMD64], force=True)
