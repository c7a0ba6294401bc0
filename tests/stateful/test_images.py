"""Two image stores through their whole life against a simple model.

Steps: pull, tag, remove (by name, by ID, one platform), prune, collect, switch to the other store, migrate, save, load, close and open
again, crash and open again. Images are brought in and out through the services that the daemon assembles, over one data-root.

What must hold after every step: the names of the store in use, which platforms are complete, that list, usage and the rows add up to the
same bytes, and that the hidden store has as many images as the model says. After a collection nothing is left that no name leads to. A
crash is a database and files that nobody closed in order, opened again.
"""

import logging
import os
import shutil
import tempfile
from collections import Counter
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from unittest import mock

import anyio.from_thread
import pytest
import structlog
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from support.image_model import (
    Archive,
    ClassicModel,
    ContainerdModel,
    dangling,
    known_target,
    read_manifest,
    repository,
    tagged,
)

from lading.classic.layerdb import LayerDatabase
from lading.classic.layout import Layout
from lading.content.sweep import sweep
from lading.core.facts import Kind
from lading.core.progress import Progress
from lading.daemon import image_store, registry_client, stores, wiring
from lading.daemon.config import Config
from lading.daemon.events import EventBus
from lading.daemon.selection import StoreKind
from lading.errors import ConflictError, NotFoundError
from lading.images.exchange import Login
from lading.kit import aio
from lading.metadata.database import SqliteDatabase
from lading.oci import reference
from lading.oci.reference import dangling_name
from lading.testing import images as make
from lading.testing.memory.remotes import MemoryRegistries

CONTAINERD, CLASSIC = StoreKind.CONTAINERD, StoreKind.CLASSIC
BASE = make.layer({"base": b"base"})
PLATFORMS = {"amd64": make.AMD64, "arm64": make.ARM64}
MADE = {
    text: {arch: make.image([BASE, make.layer({"top": (text + arch).encode()})], platform=p) for arch, p in PLATFORMS.items()}
    for text in ("a", "b")
}  # fmt: skip
INDEXES = {text: make.index(list(MADE[text].values())) for text in MADE}
CONFIGS = {
    image.config_descriptor.digest: (text, arch)
    for text, archs in MADE.items()
    for arch, image in archs.items()
}
CHAINS = {
    image.config_descriptor.digest: set(image.chain) for archs in MADE.values() for image in archs.values()
}
REPOSITORY = "registry.test/app"
TEXTS = st.sampled_from(sorted(MADE))
TAGS = st.sampled_from(["local.test/x:one", "local.test/x:two", "local.test/y:one"])
ARCHS = st.sets(st.sampled_from(sorted(PLATFORMS)), min_size=1)
ARCH = st.sampled_from(sorted(PLATFORMS))
NO_LOGIN = Login(credentials=None, headers=None)
steps: Counter[str] = Counter()
"""How often each kind of step was taken, over all runs of this process."""


class ImageMachine(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.directory = tempfile.TemporaryDirectory(dir=memory())
        self.root = Path(self.directory.name) / "root"
        self.root.mkdir()
        self.registries = MemoryRegistries()
        for text, index in INDEXES.items():
            make.publish(self.registries.registry("registry.test").repository("app"), index, text)
        self.patches = [
            mock.patch.object(registry_client, "make", return_value=self.registries),
            mock.patch.object(image_store.platforms, "host", return_value=make.AMD64),
            mock.patch.object(aio, "run", in_place),
            mock.patch.object(SqliteDatabase, "open", partial(SqliteDatabase.open, reserve=0)),
        ]
        for patch in self.patches:
            patch.start()
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
        targets = {t.digest: t for t in map(known_target, INDEXES.values())}
        self.containerd = ContainerdModel(targets=targets)
        self.classic = ClassicModel(configs=CONFIGS)
        self.kind = CONTAINERD
        self.made: dict[str, str] = {}
        """Config to the manifest that a migration makes for it; the same each time."""
        self.archives: list[Archive] = []
        self.portal_context = anyio.from_thread.start_blocking_portal()
        self.portal = self.portal_context.__enter__()
        self.portal.call(self._open)

    async def _open(self) -> None:
        self.config = Config(data_root=self.root, storage_driver="native")
        self.stack = AsyncExitStack()
        self.store = await image_store.open_store(self.stack, self.config, EventBus(), list)
        assert self.store.selection.kind is self.kind
        switch = stores.Switch(
            database=self.store.database,
            selection=self.store.selection,
            running=list,
            put_away=lambda _id: anyio.lowlevel.checkpoint(),
            restart=lambda: None,
            layers_keep=lambda: "both",
        )
        self.routes = wiring.StoreRoutes(self.config, self.store, switch)

    def teardown(self) -> None:
        if hasattr(self, "portal"):
            self.portal.call(self.stack.aclose)
            self.portal_context.__exit__(None, None, None)
            for patch in self.patches:
                patch.stop()
            structlog.reset_defaults()
            self.directory.cleanup()

    # What the model says

    @property
    def names(self):
        return (self.containerd if self.kind is CONTAINERD else self.classic).names

    def _asked(self, name: str) -> str:
        """How a name of the model is asked for."""
        return self.names.of[name] if dangling(name) else name

    def _adopted(self, archs: set[str], text: str) -> str:
        """The image that the classic store makes of an index: the host's, if it is offered."""
        return MADE[text]["amd64" if "amd64" in archs else "arm64"].config_descriptor.digest

    # Steps

    @rule(text=TEXTS, archs=ARCHS)
    def pull(self, text: str, archs: set[str]) -> None:
        if self.kind is CLASSIC:
            archs = {min(archs)}
        self._pull(text, [PLATFORMS[arch] for arch in sorted(archs)])
        if self.kind is CONTAINERD:
            self.containerd.bring(INDEXES[text].descriptor.digest, archs)
        self._pulled(text, archs)

    @rule(text=TEXTS)
    def pull_for_this_host(self, text: str) -> None:
        index = INDEXES[text].descriptor.digest
        dropped = self.containerd.dropped.get(index, set())
        self._pull(text, ())
        if self.kind is CONTAINERD:
            self.containerd.bring(index, {"amd64"})
            kept = self.portal.call(self.store.content.info, INDEXES[text].descriptor.digest).labels.values()
            assert MADE[text]["amd64"].descriptor.digest in kept
            if left := {digest for digest in dropped if digest not in kept}:
                self.containerd.dropped[index] = left
        self._pulled(text, {"amd64"})

    def _pull(self, text: str, platforms) -> None:
        async def run() -> None:
            await self.store.exchange.pull(
                reference.parse(f"{REPOSITORY}:{text}"),
                platforms=platforms,
                login=NO_LOGIN,
                progress=Progress(),
            )

        self.portal.call(run)

    def _pulled(self, text: str, archs: set[str]) -> None:
        steps["pull"] += 1
        index = INDEXES[text].descriptor.digest
        if self.kind is CONTAINERD:
            self.names.point(f"{REPOSITORY}:{text}", index)
        else:
            image = self._adopted(archs, text)
            self.names.point(f"{REPOSITORY}:{text}", image)
            self.names.point(f"{REPOSITORY}@{index}", image)

    @precondition(lambda self: self.names.of)
    @rule(tag=TAGS, data=st.data())
    def tag(self, tag: str, data: st.DataObject) -> None:
        source = data.draw(st.sampled_from(sorted(self.names.of)))
        self.portal.call(self.store.images.tag, self._asked(source), reference.parse(tag))
        self.names.point(tag, self.names.of[source])
        steps["tag"] += 1

    @precondition(lambda self: self.names.of)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.names.of)))
        digest = self.names.of[name]
        self.portal.call(self.store.images.remove, self._asked(name))
        self.names.drop([name] if dangling(name) else self.names.going_with(name))
        assert digest not in self.names.targets or not dangling(name)
        steps["remove"] += 1

    @precondition(lambda self: self.names.of)
    @rule(data=st.data(), force=st.booleans())
    def remove_by_id(self, data: st.DataObject, force: bool) -> None:
        digest = data.draw(st.sampled_from(sorted(self.names.targets)))
        named = self.names.named(digest)
        several = len({repository(name) for name in named}) > 1
        if self.kind is CLASSIC:
            several |= sum(map(tagged, named)) > 1

        async def run() -> None:
            await self.store.images.remove(digest, force=force)

        steps["remove"] += 1
        if several and not force:
            with pytest.raises(ConflictError, match="referenced in multiple repositories"):
                self.portal.call(run)
            return
        self.portal.call(run)
        self.names.drop([name for name, target in self.names.of.items() if target == digest])

    @precondition(
        lambda self: (
            self.kind is CONTAINERD
            and any(len(self.containerd.targets[d].parts) > 1 for d in self.names.targets)
        )
    )
    @rule(data=st.data(), arch=ARCH)
    def remove_platform(self, data: st.DataObject, arch: str) -> None:
        model = self.containerd
        digest = data.draw(
            st.sampled_from(sorted(d for d in self.names.targets if len(model.targets[d].parts) > 1))
        )

        async def run() -> None:
            await self.store.images.remove(digest, force=True, platforms=[PLATFORMS[arch]])

        self.portal.call(run)
        if arch in model.readable(digest):
            model.dropped.setdefault(digest, set()).add(model.targets[digest].parts[arch].digest)
        self._collected()
        steps["remove platform"] += 1

    @rule(everything=st.booleans())
    def prune(self, everything: bool) -> None:
        async def run() -> int:
            filters = {"dangling": ["false"]} if everything else None
            return (await self.store.images.prune(filters)).reclaimed

        total = self.portal.call(self.store.images.total)
        reclaimed = self.portal.call(run)
        freed = total - self.portal.call(self.store.images.total)
        assert reclaimed == freed, (reclaimed, freed)
        self.names.drop([name for name in self.names.of if everything or dangling(name)])
        if self.kind is CONTAINERD:
            self._collected()
        steps["prune"] += 1

    @rule()
    def collect(self) -> None:
        self.portal.call(self.store.maintenance.collector.collect)
        self._collected()
        steps["collect"] += 1

    def _collected(self) -> None:
        if self.kind is CONTAINERD:
            self.containerd.collect()
            assert self.portal.call(self._blobs) == self.containerd.present
        else:
            expected = set().union(*(CHAINS[image] for image in self.names.targets))
            assert {each.chain_id for each in LayerDatabase(Layout(self.root)).layers()} == expected
        configs = self.containerd.present if self.kind is CONTAINERD else self.names.targets
        chains = set().union(*(CHAINS[each] for each in configs if each in CHAINS))
        assert {info.key for info in self.portal.call(self._snapshots)} <= chains

    async def _blobs(self) -> set[str]:
        return {info.digest async for info in self.store.content.walk()}

    async def _snapshots(self):
        return [info async for info in self.store.snapshotter.walk()]

    @precondition(lambda self: self.names.of)
    @rule(data=st.data(), arch=st.none() | ARCH)
    def save(self, data: st.DataObject, arch: str | None) -> None:
        name = data.draw(st.sampled_from(sorted(self.names.of)))
        digest = self.names.of[name]
        here = self._saveable(digest)
        platforms = [PLATFORMS[arch]] if arch else []
        out = bytearray()

        async def sink(chunk: bytes) -> None:
            out.extend(chunk)

        async def run() -> None:
            chosen = await self.store.exchange.to_save([self._asked(name)])
            await self.store.exchange.save(chosen, sink, platforms=platforms)

        steps["save"] += 1
        if not here or (arch and arch not in here):
            with pytest.raises(NotFoundError):
                self.portal.call(run)
            assert not out
            return
        self.portal.call(run)
        archive = Archive.read(bytes(out), self.containerd.targets)
        assert [named for named, _ in archive.images] == [name if tagged(name) else None]
        self.archives = [*self.archives[-1:], archive]

    def _saveable(self, digest: str) -> set[str]:
        return {CONFIGS[digest][1]} if self.kind is CLASSIC else self.containerd.available(digest)

    @precondition(lambda self: self.archives)
    @rule(data=st.data())
    def load(self, data: st.DataObject) -> None:
        archive = self.archives[data.draw(st.integers(0, len(self.archives) - 1))]

        async def source():
            yield archive.data

        async def run() -> None:
            await self.store.exchange.load(source(), progress=Progress())

        self.portal.call(run)
        for name, digest in archive.images:
            target = self.containerd.targets[digest]
            whole = {
                arch for arch, part in target.parts.items() if {part.digest, *part.blobs} <= archive.blobs
            }
            if self.kind is CONTAINERD:
                self.containerd.bring(digest, whole)
                image = digest
            else:
                image = target.parts["amd64" if "amd64" in whole else "arm64"].config
            if name is not None:
                self.names.point(name, image)
            elif not self.names.named(image):
                self.names.point(dangling_name(image), image)
        if self.kind is CONTAINERD:
            self.containerd.present |= archive.blobs & self._known_blobs()
        steps["load"] += 1

    def _known_blobs(self) -> set[str]:
        parts = [part for target in self.containerd.targets.values() for part in target.parts.values()]
        return {*self.containerd.targets, *(p.digest for p in parts), *(b for p in parts for b in p.blobs)}

    @rule()
    def switch(self) -> None:
        async def run() -> None:
            assert (await self.routes.use(self.kind.other.value, stop=False))["Restarting"]
            await self.stack.aclose()

        self.portal.call(run)
        self.kind = self.kind.other
        self.portal.call(self._open)
        steps["switch"] += 1

    @precondition(lambda self: self.kind is CONTAINERD and self.classic.names.of)
    @rule(offline=st.booleans())
    def migrate(self, offline: bool) -> None:
        async def run():
            return [each async for each in self.routes.migrate(offline=offline, fetch=False)][-1]["result"]

        report = self.portal.call(run)
        assert report["Failed"] == []
        migrated = kept = 0
        for image, here in self._here().items():
            named = sorted(self.classic.names.named(image))
            tags = list(filter(tagged, named))
            free = [name for name in tags if name not in self.containerd.names.of]
            if here and not free:
                continue
            digests = [name for name in named if not tagged(name)]
            target = digests[0].partition("@")[2] if digests else self._made(image)
            part = next(p for p in self.containerd.targets[target].parts.values() if p.config == image)
            self.containerd.present |= {target, part.digest, image}
            self.containerd.dropped.pop(target, None)
            if not digests:
                self.containerd.present |= part.blobs
            if not free and target not in map(self.names.of.get, tags):
                free = digests[:1] or [dangling_name(target)]
            for name in free:
                self.names.point(name, target)
            migrated += 1
            kept += bool(digests)
        assert (report["Migrated"], report["DigestsKept"]) == (migrated, kept)
        steps["migrate"] += 1

    def _here(self) -> dict[str, bool]:
        """Whether each classic image is in the containerd store, under whatever name."""
        targets = [(digest, self.containerd.targets[digest]) for digest in self.containerd.names.targets]
        here = {
            target.parts[arch].config
            for digest, target in targets
            for arch in self.containerd.readable(digest)
        }
        return {image: image in here for image in sorted(self.classic.names.targets)}

    def _made(self, image: str) -> str:
        """The manifest that the migration made of an image, read once."""
        if image not in self.made:
            targets = self.containerd.targets

            async def blobs() -> dict[str, bytes]:
                return {
                    info.digest: await self.store.content.read(info.digest, limit=1 << 20)
                    async for info in self.store.content.walk()
                }

            found = self.portal.call(blobs)
            for digest in {r.target.digest for r in self.portal.call(self.store.records.list)} - set(targets):
                target = targets[digest] = read_manifest(digest, found.__getitem__)
                self.made |= {part.config: digest for part in target.parts.values()}
        return self.made[image]

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
        report = self.portal.call(sweep, self.store.content.files, self.store.database)
        assert (report.missing, report.orphans, report.ingests) == ([], 0, 0)
        steps["crash" if crash else "reopen"] += 1

    # What must hold

    @invariant()
    def the_store_agrees(self) -> None:
        if hasattr(self, "store"):
            self.portal.call(self._agrees)

    async def _agrees(self) -> None:
        records = {r.name: r.target.digest for r in await self.store.records.list()}
        assert records == self.names.of, sorted(records.items() ^ self.names.of.items())
        rows = {row.target.digest: row for row in await self.store.images.list(shared_size=True)}
        assert set(rows) == self.names.targets
        parts: dict[str, int] = {}
        fact_rows = self.store.database.facts(self.store.namespace)
        for digest, row in rows.items():
            if self.kind is CONTAINERD:
                available = {
                    m.facts.platform.architecture
                    for m in row.manifests
                    if m.available and m.facts.kind is Kind.IMAGE
                }
                assert available == self.containerd.available(digest), digest
            held = await fact_rows.inventory(row.target.digest)
            own = {**held.blobs, **{f"snapshot {name}": size for name, size in held.snapshots.items()}}
            assert row.size == sum(own.values())
            parts |= own
        assert await self.store.images.total() == sum(parts.values())
        blobs = {info.digest: info.size async for info in self.store.content.walk()}
        assert {d: s for d, s in parts.items() if d in blobs} == {d: blobs[d] for d in parts if d in blobs}
        if self.kind is CONTAINERD:
            assert self.containerd.present <= blobs.keys()
        hidden = self.classic if self.kind is CONTAINERD else self.containerd
        counts = await stores.hidden(self.config, self.store.database, self.kind.other)
        assert counts == {"images": len(hidden.names.targets), "containers": 0}


_on_a_thread = aio.run


async def in_place(lane, function, *args, **options):
    """Short calls need no thread when one step is taken at a time; what waits for others still has one."""
    if lane in (aio.DATA, aio.COMPRESS):
        return await _on_a_thread(lane, function, *args, **options)
    options.pop("abandon_on_cancel", None)
    return function(*args, **options)


def memory() -> str | None:
    """A directory in memory, if there is one and overlayfs takes it: the steps are about what is kept, not about a disk."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def run(examples: int, length: int, *, number: int | None = None) -> None:
    """Random steps; the same ones each time for a ``number``."""
    machine = type("ImageMachine", (ImageMachine,), {})  # a seed stays with its class
    run_state_machine_as_test(
        machine if number is None else seed(number)(machine),
        settings=settings(
            max_examples=examples,
            stateful_step_count=length,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )


@pytest.mark.stores("containerd", "classic")
def test_images_agree_with_a_model() -> None:
    steps.clear()
    kinds = ("pull", "tag", "remove", "save", "load", "switch", "crash")
    for number in range(10):
        run(12, 30, number=number)
        if all(steps[kind] for kind in kinds):
            break
    assert all(steps[kind] for kind in kinds), steps


@pytest.mark.nightly
@pytest.mark.timeout(12 * 3600)
def test_images_agree_with_a_model_for_a_hundred_thousand_steps() -> None:
    steps.clear()
    wanted = int(os.environ.get("STEPS", "100000"))
    while steps.total() < wanted:
        run(100, 100)
        print(f"{steps.total()} steps", flush=True)
    print(f"{steps.total()} steps without a divergence: {dict(steps)}")
