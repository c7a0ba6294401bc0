"""Images through their whole life against a simple model: pull, tag, remove, prune, collect, save, load, crash and reopen.

The model knows which names mean which image and which platforms of an image were brought in. What the store must agree with after every
step: the names, the platforms that are complete, and that list, usage and the rows add up to the same bytes. After a collection nothing
is left that no name leads to. A crash is a database and files that nobody closed in order, opened again.

The switch between two stores is a further rule: whoever adds it overrides `ImageMachine.reopen`.
"""

import shutil
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

import anyio.from_thread
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from support.stores import MOBY, open_stores

from lading.content.sweep import sweep
from lading.core.facts import Kind
from lading.daemon.events import EventBus
from lading.images.exchange import ImageExchange
from lading.images.service import ImageService
from lading.kit import linux
from lading.oci import reference
from lading.oci.digest import Digest
from lading.snapshots.native import NativeSnapshotter
from lading.testing import images as make
from lading.testing.memory.remotes import MemoryRegistries
from lading.transfer.archive_out import SavedImage
from lading.transfer.service import TransferService

BASE = make.layer({"base": b"base"})
PLATFORMS = {"amd64": make.AMD64, "arm64": make.ARM64}
MADE = {
    text: {arch: make.image([BASE, make.layer({"top": (text + arch).encode()})], platform=p) for arch, p in PLATFORMS.items()}
    for text in ("a", "b")
}  # fmt: skip
INDEXES = {text: make.index(list(MADE[text].values())) for text in MADE}
TEXTS = st.sampled_from(sorted(MADE))
TAGS = st.sampled_from(["one", "two", "three"])
ARCHS = st.sets(st.sampled_from(sorted(PLATFORMS)), min_size=1)


class ImageMachine(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.root = Path(self.directory.name) / "root"
        self.portal_context = anyio.from_thread.start_blocking_portal()
        self.portal = self.portal_context.__enter__()
        self.registries = MemoryRegistries()
        for text, index in INDEXES.items():
            make.publish(self.registries.registry("registry.test").repository("app"), index, text)
        self.names: dict[str, str] = {}
        """Tag to text."""
        self.here: dict[str, set[str]] = {text: set() for text in MADE}
        """Text to the platforms brought in, as long as something names it."""
        self.archive: tuple[bytes, dict[str, str], dict[str, set[str]]] | None = None
        self.portal.call(self._open)

    async def _open(self) -> None:
        self.stack = AsyncExitStack()
        stores = self.stores = await self.stack.enter_async_context(open_stores(self.root))
        database = stores.database
        self.snapshotter = NativeSnapshotter(
            self.root / "snapshots", database.snapshots(MOBY, "native"), boot_id=linux.boot_id()
        )
        self.stack.push_async_callback(self.snapshotter.close)
        await self.snapshotter.recover()
        stores.collector._snapshotters["native"] = self.snapshotter
        bus = EventBus()
        self.transfer = TransferService(
            store=stores.content,
            image_store=database.images(MOBY),
            fact_rows=database.facts(MOBY),
            lease_manager=database.leases(MOBY),
            snapshotter=self.snapshotter,
            registries=self.registries,
            bus=bus,
            host=make.AMD64,
        )
        await self.transfer.recover()

        async def unused() -> list[None]:
            return []

        self.service = ImageService(
            store=stores.content,
            records=database.images(MOBY),
            transfer=self.transfer,
            fact_rows=database.facts(MOBY),
            uses=unused,
            bus=bus,
            host=make.AMD64,
            collect=lambda: None,
            collected=stores.collector.collect,
        )
        self.exchange = ImageExchange(
            service=self.service,
            records=database.images(MOBY),
            transfer=self.transfer,
            registries=self.registries,
        )

    def teardown(self) -> None:
        if hasattr(self, "portal"):
            self.portal.call(self.stack.aclose)
            self.portal_context.__exit__(None, None, None)
            self.directory.cleanup()

    # What the model says

    @staticmethod
    def full(tag: str) -> str:
        return f"local.test/{tag}:latest"

    def _assign(self, tag: str, text: str) -> None:
        """Point a tag; an image that loses its last name to that stays dangling, and one that gets a name is dangling no more."""
        old = self.names.get(tag)
        self.names[tag] = text
        self.names.pop(f"dangling-{text}", None)
        if old is not None and old not in self.names.values():
            self.names[f"dangling-{old}"] = old

    # Steps

    @rule(text=TEXTS, archs=ARCHS)
    def pull(self, text: str, archs: set[str]) -> None:
        ref = reference.parse(f"registry.test/app:{text}")

        async def run() -> None:
            await self.transfer.pull(ref, platforms=[PLATFORMS[arch] for arch in sorted(archs)])

        self.portal.call(run)
        self._assign(f"pulled-{text}", text)
        self.here[text] |= archs

    @precondition(lambda self: self.names)
    @rule(tag=TAGS, data=st.data())
    def tag(self, tag: str, data: st.DataObject) -> None:
        source = data.draw(st.sampled_from(sorted(self.names)))
        self.portal.call(self.service.tag, self._name(source), reference.parse(self.full(tag)))
        self._assign(tag, self.names[source])

    def _name(self, tag: str) -> str:
        """How a name of the model is asked for."""
        if tag.startswith("pulled-"):
            return f"registry.test/app:{tag.removeprefix('pulled-')}"
        if tag.startswith("dangling-"):
            return str(INDEXES[self.names[tag]].descriptor.digest)
        return self.full(tag)

    @precondition(lambda self: self.names)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        tag = data.draw(st.sampled_from(sorted(self.names)))
        self.portal.call(self.service.remove, self._name(tag))
        del self.names[tag]

    @precondition(lambda self: any(len(self.here[text]) > 1 for text in self.names.values()))
    @rule(data=st.data())
    def remove_platform(self, data: st.DataObject) -> None:
        text = data.draw(
            st.sampled_from(sorted(t for t in set(self.names.values()) if len(self.here[t]) > 1))
        )
        arch = data.draw(st.sampled_from(sorted(self.here[text])))
        digest = str(INDEXES[text].descriptor.digest)

        async def run() -> None:
            await self.service.remove(digest, force=True, platforms=[PLATFORMS[arch]])

        self.portal.call(run)
        self.here[text].discard(arch)
        self._collected()

    @rule(everything=st.booleans())
    def prune(self, everything: bool) -> None:
        async def run() -> int:
            return (await self.service.prune({"dangling": ["false"]} if everything else None)).reclaimed

        total = self.portal.call(self.service.total)
        reclaimed = self.portal.call(run)
        assert self.portal.call(self.service.total) == total - reclaimed
        self.names = (
            {} if everything else {t: x for t, x in self.names.items() if not t.startswith("dangling-")}
        )
        self._collected()

    @rule()
    def collect(self) -> None:
        self.portal.call(self.stores.collector.collect)
        self._collected()

    def _collected(self) -> None:
        for text in MADE:
            if text not in self.names.values():
                self.here[text] = set()

    @precondition(lambda self: any(not t.startswith("dangling-") for t in self.names))
    @rule(data=st.data())
    def save(self, data: st.DataObject) -> None:
        tag = data.draw(st.sampled_from(sorted(t for t in self.names if not t.startswith("dangling-"))))
        text = self.names[tag]
        out = bytearray()

        async def sink(chunk: bytes) -> None:
            out.extend(chunk)

        async def run() -> None:
            name = reference.parse(self._name(tag)).with_default_tag()
            await self.transfer.save([SavedImage(target=INDEXES[text].descriptor, reference=name)], sink)

        self.portal.call(run)
        self.archive = (bytes(out), {tag: text}, {text: set(self.here[text])})

    @precondition(lambda self: self.archive is not None)
    @rule()
    def load(self) -> None:
        assert self.archive is not None
        data, names, here = self.archive

        async def source():
            yield data

        self.portal.call(self.transfer.load, source())
        for tag, text in names.items():
            self._assign(tag, text)
            self.here[text] |= here[text]

    @rule(crash=st.booleans())
    def reopen(self, crash: bool) -> None:
        """Close in order, or copy what a crash would leave and go on with the copy."""
        if crash:
            copy = self.root.with_name(f"{self.root.name}+")
            shutil.copytree(self.root, copy, symlinks=True)
            self.portal.call(self.stack.aclose)
            shutil.rmtree(self.root)
            self.root = copy
        else:
            self.portal.call(self.stack.aclose)
        self.portal.call(self._open)
        report = self.portal.call(sweep, self.stores.content.files, self.stores.database)
        assert (report.missing, report.orphans, report.ingests) == ([], 0, 0)

    # What must hold

    @invariant()
    def the_store_agrees(self) -> None:
        if hasattr(self, "service"):
            self.portal.call(self._agrees)

    async def _agrees(self) -> None:
        records = {r.name: r.target.digest for r in await self.stores.database.images(MOBY).list()}
        expected: dict[str, Digest] = {}
        for tag, text in self.names.items():
            digest = INDEXES[text].descriptor.digest
            dangling = tag.startswith("dangling-")
            name = (
                reference.dangling_name(digest)
                if dangling
                else str(reference.parse(self._name(tag)).with_default_tag())
            )
            expected[name] = digest
        assert records == expected
        rows = {row.target.digest: row for row in await self.service.list(shared_size=True)}
        assert set(rows) == set(expected.values())
        parts: dict[str, int] = {}
        for text, index in INDEXES.items():
            row = rows.get(index.descriptor.digest)
            if row is None:
                continue
            available = {
                m.facts.platform.architecture
                for m in row.manifests
                if m.available and m.facts.kind is Kind.IMAGE
            }
            assert available == self.here[text], text
            held = await self.stores.database.facts(MOBY).inventory(index.descriptor.digest)
            own = {**held.blobs, **{f"snapshot {name}": size for name, size in held.snapshots.items()}}
            assert row.size == sum(own.values())
            parts |= own
        assert await self.service.total() == sum(parts.values())
        blobs = {info.digest: info.size async for info in self.stores.content.walk()}
        assert {d: s for d, s in parts.items() if d in blobs} == {d: blobs[d] for d in parts if d in blobs}


def run(examples: int, steps: int) -> None:
    run_state_machine_as_test(
        ImageMachine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            derandomize=examples < 100,
            database=None,
        ),
    )


def test_images_agree_with_a_model() -> None:
    run(12, 25)


@pytest.mark.nightly
@pytest.mark.timeout(3 * 3600)
def test_images_agree_with_a_model_for_a_hundred_thousand_steps() -> None:
    run(1000, 100)
