"""A data-root that a real dockerd wrote (scripts/record_classic.py), opened, read and changed without dockerd."""

import gzip
import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest

import lading
from lading.classic import assemble
from lading.classic.imagedb import ImageDatabase, KnownBlobs, Names
from lading.classic.layerdb import SPLIT, LayerDatabase
from lading.classic.layout import Layout, prior_driver
from lading.classic.store import foreign_containers
from lading.errors import ConflictError, DataLossError
from lading.formats import tarsplit
from lading.oci.digest import DiffID, Digest

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(os.geteuid() != 0, reason="making whiteouts takes root")]
ARCHIVE = Path(__file__).parents[2] / "data" / "classic-dockerd.tar.gz"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    place = tmp_path / "docker"
    place.mkdir()
    options = ["--extract", "--xattrs", "--xattrs-include=*", "--numeric-owner", "--same-owner"]
    subprocess.run(["tar", *options, f"--file={ARCHIVE}", f"--directory={place}"], check=True)
    return place


@pytest.fixture
def layout(root: Path) -> Layout:
    return Layout(root)


def test_it_is_recognised(root: Path, tmp_path: Path) -> None:
    assert prior_driver(root) == "overlay2"
    assert prior_driver(tmp_path / "nothing") == ""
    (tmp_path / "btrfs" / "subvolumes").mkdir(parents=True)
    assert prior_driver(tmp_path) == "btrfs"


def test_layers_in_order(layout: Layout) -> None:
    layers = LayerDatabase(layout).layers()
    assert len(layers) == 6
    seen: set[str] = set()
    for layer in layers:
        assert layer.parent is None or layer.parent in seen
        seen.add(layer.chain_id)


def test_every_layer_gives_its_bytes(layout: Layout) -> None:
    database = LayerDatabase(layout)
    for layer in database.layers():
        hasher = hashlib.sha256()
        for piece in assemble.stream(
            layout.trees / layer.tree / "diff", database.directory(layer.chain_id) / SPLIT
        ):
            hasher.update(piece)
        assert f"sha256:{hasher.hexdigest()}" == layer.diff_id


def test_our_lines_are_dockerd_s(layout: Layout) -> None:
    """The same lines and the same size, but for where the zeros at the end are cut."""
    database = LayerDatabase(layout)
    for layer in database.layers():
        split = database.directory(layer.chain_id) / SPLIT
        stream = b"".join(assemble.stream(layout.trees / layer.tree / "diff", split))
        packer = tarsplit.Packer()
        ours = packer.feed(stream) + packer.finish()
        assert merged(ours) == merged(gzip.decompress(split.read_bytes()))
        assert packer.size == layer.size


def merged(lines: bytes) -> list[tuple[object, ...]]:
    found: list[tuple[object, ...]] = []
    for line in lines.splitlines():
        each = json.loads(line)
        if each["type"] == 2 and found and found[-1][0] == 2:
            held = tarsplit.parse(line)
            assert isinstance(held, tarsplit.Segment)
            found[-1] = (2, found[-1][1] + held.data)  # type: ignore[operator]
        elif each["type"] == 2:
            found.append((2, tarsplit.parse(line).data))  # type: ignore[union-attr]
        else:
            found.append((1, each.get("name"), each.get("size"), each["payload"]))
    return found


@pytest.mark.parametrize("how", ["other bytes", "gone", "longer", "a link out"])
def test_a_changed_file_is_found(layout: Layout, how: str) -> None:
    database = LayerDatabase(layout)
    layer = next(each for each in database.layers() if each.parent is None and each.size > 200)
    file = layout.trees / layer.tree / "diff" / "bin" / "tool"
    data = file.read_bytes()
    file.unlink()
    if how == "other bytes":
        file.write_bytes(data[:-1] + b"?")
    elif how == "longer":
        file.write_bytes(data + b"!")
    elif how == "a link out":
        elsewhere = layout.root / "elsewhere"
        elsewhere.write_bytes(data)
        file.symlink_to(elsewhere)
    with pytest.raises(DataLossError, match="bin/tool"):
        list(assemble.stream(layout.trees / layer.tree / "diff", database.directory(layer.chain_id) / SPLIT))


def test_images_names_and_blobs(layout: Layout) -> None:
    images, names = ImageDatabase(layout), Names(layout).read()
    assert len(images.ids()) == 4
    assert set(names.values()) < set(images.ids())
    parents = images.parents()
    assert parents == {names["child:1"]: names["library:1"]}
    assert any(images.touched(image) % 1000 for image in images.ids()), "no digit of dockerd's is lost"
    known = KnownBlobs(layout)
    config = json.loads(images.config(names["library:1"]))
    for diff_id in config["rootfs"]["diff_ids"]:
        (blob,) = known.of_layer(DiffID(diff_id))
        assert blob.source_repository.startswith("127.0.0.1:")
        assert known.layer_of(Digest(blob.digest)) == diff_id
    assert list(foreign_containers(layout.root).values()) == [names["child:1"]]
    (layout.configs / names["child:1"].hex).write_bytes(b"{}")
    with pytest.raises(DataLossError, match="damaged"):
        images.config(names["child:1"])


async def test_it_opens_as_it_is(root: Path, layout: Layout, tmp_path: Path) -> None:
    names = Names(layout).read()
    async with lading.open_store(root) as store:
        images = {image.id: image for image in await store.images()}
        assert set(images) == set(ImageDatabase(layout).ids())
        assert images[names["child:1"]].tags == ("child:1",)
        assert sum(not image.tags for image in images.values()) == 1
        async with store.mount("child:1") as tree:
            assert (tree / "etc" / "name").read_text() == "base\n"
            assert not (tree / "etc" / "gone").exists()
            assert {each.name for each in (tree / "var").iterdir()} == {"new"}
            assert (tree / "added").read_bytes() == b"by cp"
            assert (tree / "bin" / "tool").stat().st_mode & 0o7777 == 0o4755
        await store.export("child:1", tmp_path / "child.tar")

        history = await store._parts.images.history("child:1")
        assert [row.id for row in history[:2]] == [names["child:1"], names["library:1"]]
        with pytest.raises(ConflictError, match="has dependent child images"):
            await store.remove(names["library:1"], force=True)

        # A container of dockerd stands on it, and dockerd alone shows that.
        with pytest.raises(ConflictError, match="is using its referenced image"):
            await store.remove("child:1")
        await store.tag("library:1", "other:2")
        await store.remove("import:1")
        assert await store.load(tmp_path / "child.tar") == ["child:1"]
        await store._parts.maintenance.collector.collect()  # the daemon does so by itself
    after = Names(layout).read()
    assert after == {name: id_ for name, id_ in names.items() if name != "import:1"} | {
        "other:2": names["library:1"]
    }
    assert len(ImageDatabase(layout).ids()) == 3
    assert len(LayerDatabase(layout).layers()) == 5
    assert {each.name for each in layout.trees.glob("rm-*")} == set()


async def test_damage_is_found(root: Path, layout: Layout) -> None:
    layer = next(each for each in LayerDatabase(layout).layers() if each.parent is None and each.size > 200)
    (layout.trees / layer.tree / "diff" / "bin" / "tool").write_bytes(b"!" * 280)
    async with lading.open_store(root) as store:
        told = [each async for each in store._parts.maintenance.check(repair=False)]
    (finding,) = [each["finding"] for each in told if "finding" in each]
    assert (finding["Kind"], finding["ID"]) == ("layer", layer.chain_id)
    assert "bin/tool" in finding["Problem"]
    assert told[-1]["result"]["Damaged"] == 1
    assert told[-1]["result"]["Checked"] == 4 + 6


async def test_a_database_that_was_lost_is_made_again(root: Path, layout: Layout) -> None:
    before = {each.chain_id for each in LayerDatabase(layout).layers()}
    async with lading.open_store(root) as store:
        images = {image.id for image in await store.images()}
    for path in root.glob("lading.db*"):
        path.unlink()
    async with lading.open_store(root) as store:
        assert {image.id for image in await store.images()} == images
    assert {each.chain_id for each in LayerDatabase(layout).layers()} == before


async def test_layers_that_nothing_here_needs_are_dockerd_s(root: Path, layout: Layout) -> None:
    """Its builder keeps layers without an image. What is damaged is passed over and left alone."""
    names = Names(layout).read()
    image = names["import:1"]
    (layout.configs / image.hex).unlink()
    damaged = next(each for each in LayerDatabase(layout).layers() if each.parent is None)
    layers = set(os.listdir(layout.layers))
    broken = layout.layers / ("f" * 64)
    broken.mkdir()
    (broken / "diff").write_text("nonsense")
    async with lading.open_store(root) as store:
        assert image not in {each.id for each in await store.images()}
    assert set(os.listdir(layout.layers)) == layers | {broken.name}
    assert (layout.trees / damaged.tree / "diff").is_dir()
