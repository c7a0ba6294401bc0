"""Store, leases and collector against a dictionary: any order of steps, any restart, the same truth."""

import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

import anyio.from_thread
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from support.stores import MOBY, describe, open_stores

from lading.content.sweep import sweep
from lading.core.content import IngestRef
from lading.core.labels import GC_REF_CONTENT
from lading.core.leases import LeaseID
from lading.core.metadata import Node
from lading.errors import AlreadyExistsError
from lading.oci.digest import Digest

NAMES = st.sampled_from(["one", "two", "three"])
CONTENTS = st.sampled_from([b"a", b"b", b"c", b"d"])


class StoreMachine(RuleBasedStateMachine):
    leases = Bundle("leases")

    @initialize()
    def start(self):
        self.directory = tempfile.TemporaryDirectory()
        self.portal_context = anyio.from_thread.start_blocking_portal()
        self.portal = self.portal_context.__enter__()
        self.blobs: dict[Digest, tuple[bytes, set[Digest]]] = {}
        self.images: dict[str, Digest] = {}
        self.held: dict[LeaseID, set[Digest]] = {}
        self.partial: dict[str, bytes] = {}
        self.graph = None
        self.portal.call(self._open)

    async def _open(self):
        self.stack = AsyncExitStack()
        self.stores = await self.stack.enter_async_context(open_stores(Path(self.directory.name) / "root"))

    def teardown(self):
        if hasattr(self, "portal"):
            self.portal.call(self.stack.aclose)
            self.portal_context.__exit__(None, None, None)
            self.directory.cleanup()

    # What the model says

    def reachable(self):
        seen = set()
        rest = [*self.images.values(), *(one for held in self.held.values() for one in held)]
        while rest:
            digest = rest.pop()
            if digest not in seen and digest in self.blobs:
                seen.add(digest)
                rest.extend(self.blobs[digest][1])
        return seen

    # Steps

    @rule(data=CONTENTS, refs=st.sets(CONTENTS, max_size=2))
    def put(self, data, refs):
        self._put(data, refs, None)

    @rule(data=CONTENTS, refs=st.sets(CONTENTS, max_size=2), lease=leases)
    def put_under_lease(self, data, refs, lease):
        self._put(data, refs, lease)

    def _put(self, data, refs, lease):
        refs = {Digest.of(ref) for ref in refs}
        labels = {f"{GC_REF_CONTENT}.{ref.short}": ref for ref in refs}
        digest = Digest.of(data)

        async def run():
            try:
                await self.stores.put(data, lease=lease, labels=labels)
            except AlreadyExistsError:
                await self.stores.content.update(digest, labels)

        self.portal.call(run)
        old = self.blobs.get(digest, (data, set()))[1]
        self.blobs[digest] = (data, old | refs)
        if lease is not None:
            self.held[lease].add(digest)

    @rule(data=CONTENTS)
    def delete(self, data):
        digest = Digest.of(data)
        if digest in self.blobs:
            self.portal.call(self.stores.content.delete, digest)
            del self.blobs[digest]

    @rule(ref=NAMES, data=st.binary(min_size=4, max_size=8))
    def write_part(self, ref, data):
        async def run():
            async with self.stores.content.open_writer(IngestRef(ref)) as writer:
                assert writer.pread(1000, 0) == self.partial.get(ref, b"")
                writer.write(data)

        self.portal.call(run)
        self.partial[ref] = self.partial.get(ref, b"") + data

    @rule(ref=NAMES)
    def finish(self, ref):
        async def run():
            async with self.stores.content.open_writer(IngestRef(ref)) as writer:
                return await writer.commit()

        if ref in self.partial:
            data = self.partial.pop(ref)
            assert self.portal.call(run).digest == Digest.of(data)
            self.blobs.setdefault(Digest.of(data), (data, set()))

    @rule(name=NAMES, data=CONTENTS)
    def tag(self, name, data):
        self.portal.call(self.stores.database.images(MOBY).put, name, describe(data))
        self.images[name] = Digest.of(data)

    @rule(name=NAMES)
    def untag(self, name):
        if self.images.pop(name, None):
            self.portal.call(self.stores.database.images(MOBY).delete, name)

    @rule(target=leases)
    def lease(self):
        lease = self.portal.call(self.stores.database.leases(MOBY).create).id
        self.held[lease] = set()
        return lease

    @rule(lease=consumes(leases))
    def end_lease(self, lease):
        self.portal.call(self.stores.database.leases(MOBY).delete, lease)
        del self.held[lease]

    @rule()
    def collect(self):
        self.portal.call(self.stores.collector.collect)
        kept = self.reachable()
        self.blobs = {digest: blob for digest, blob in self.blobs.items() if digest in kept}

    @rule()
    def mark(self):
        async def run():
            return await self.stores.database.graph(MOBY, now=self.stores.content._clock())

        self.graph = self.portal.call(run)
        self.marked = set(self.blobs) - self.reachable()

    @rule()
    def condemn(self):
        """The second half of a collection, with whatever happened since the first half in between."""
        if self.graph is None:
            return
        graph, self.graph = self.graph, None
        nodes = [Node("content", digest) for digest in sorted(self.marked)]

        async def run():
            now = self.stores.content._clock()
            gone = await self.stores.database.condemn(MOBY, nodes, version=graph.version, now=now)
            for node in gone:
                await self.stores.content.delete_file(Digest(node.id))
            return {Digest(node.id) for node in gone}

        gone = self.portal.call(run)
        assert not gone & self.reachable()
        assert gone <= set(self.blobs)
        self.blobs = {digest: blob for digest, blob in self.blobs.items() if digest not in gone}

    @rule(name=NAMES, data=CONTENTS, again=st.booleans())
    def collect_while_others_work(self, name, data, again):
        self.mark()
        self.tag(name, data)
        if again:
            self._put(data, set(), None)
        self.condemn()

    @rule()
    def restart(self):
        self.graph = None
        self.portal.call(self.stack.aclose)
        self.portal.call(self._open)
        report = self.portal.call(sweep, self.stores.content.files, self.stores.database)
        assert (report.missing, report.orphans, report.ingests) == ([], 0, 0)

    @invariant()
    def the_store_agrees(self):
        if not hasattr(self, "stores"):
            return

        async def run():
            content = self.stores.content
            rows = {info.digest: info async for info in content.walk()}
            assert set(rows) == set(self.blobs)
            for digest, (data, refs) in self.blobs.items():
                assert await content.read(digest, limit=100) == data
                assert set(rows[digest].labels.values()) == refs
            files = {path.name for path in (content.files.root / "blobs/sha256").glob("*")}
            assert files == {digest.hex for digest in self.blobs}
            statuses = {status.ref: status.offset for status in await content.statuses()}
            assert statuses == {ref: len(data) for ref, data in self.partial.items()}

        self.portal.call(run)


def run(examples, steps):
    run_state_machine_as_test(
        StoreMachine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            derandomize=examples < 100,
            database=None,
        ),
    )


def test_store_agrees_with_a_dictionary():
    run(40, 30)


@pytest.mark.nightly
def test_store_agrees_with_a_dictionary_for_long():
    run(2000, 80)
