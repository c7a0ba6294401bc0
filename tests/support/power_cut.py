"""Power cuts, replayed: a store's disk is recorded, and then built again as it may have been at any moment.

The model is a disk that keeps what was flushed and may have kept any part of what was not, in any order. A *cut* is a place in the
record; of the writes since the last flush before it, all, none, a random half, or random sectors (*torn*) are there. The file
system on it is mounted, the store opened as after a reboot, and held to what it had acknowledged before the cut.

Run as a program, it is one campaign in a mount namespace of its own: ``power_cut.py TYPE DRIVER DURABILITY KEEP STATES SEED [no-flush]``
(``KEEP`` as in ``layers-keep``, or ``on-demand``; the driver ``overlay2`` is the classic store) prints a line of JSON for each state
and exits with 0; findings are for the caller to judge.
"""

import ctypes
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import anyio
import structlog

from lading import library
from lading.core.labels import RECIPE
from lading.core.metadata import TREE
from lading.core.mounts import Mount
from lading.core.snapshots import Kind, SnapshotKey, SnapshotName
from lading.daemon import image_store
from lading.kit import linux
from lading.testing.registry import FakeRegistry
from support import classic_check, power_cut_child
from support.loops import loop_mount
from support.power_cut_child import collect, index, opened
from support.power_cut_world import ADDED, IMAGES, Tree, by_name, publish, seen, stacked
from support.recorded_disk import FLUSH, MARK, WRITE, Event, read_log, recorded_disk

SIZE = 512 << 20
TEAR = {"ext4": 512, "xfs": 4096}
"""Bytes that a disk writes whole. With 512, one xfs in some hundred states could not be mounted (EBADMSG) -- presumably because recovery
replays nothing onto a block whose torn header looks newer than the log. What the file system loses is no business of the store's.
"""
MODES = ("none", "half", "torn", "all")
Mode = Literal["none", "half", "torn", "all"]
_MAKE = {
    "ext4": ["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"],
    "xfs": ["mkfs.xfs", "-q", "-f"],
}
_OPTIONS = {"ext4": "", "xfs": "nouuid"}


@dataclass(frozen=True, slots=True)
class Cut:
    """The power fails after event ``at``; ``flushed`` is the last flush before it (-1: none)."""

    flushed: int
    at: int
    mode: Mode
    seed: int


@dataclass(slots=True)
class Promise:
    """What was acknowledged before a cut."""

    opened: bool = False
    images: dict[str, str] = field(default_factory=dict[str, str])
    """Name to letter."""
    durable: set[str] = field(default_factory=set[str])
    """Letters of images whose snapshots were flushed."""
    maybe: set[str] = field(default_factory=set[str])
    """Names that are there or not."""
    made: dict[str, str] = field(default_factory=dict[str, str])
    """Committed snapshots, and the image that they stand on."""
    prepared: dict[str, str] = field(default_factory=dict[str, str])
    """Active snapshots that nobody has written to, and the image that they stand on."""


def promised(events: Sequence[Event], host: str, durability: str) -> Promise:
    """The promise at the end of ``events``."""
    promise = Promise()
    for event in events:
        if event.kind != MARK:
            continue
        mark = json.loads(event.data)
        what, short = mark["what"], mark.get("image", "")
        name = mark.get("name") or f"{host}/app:{short}"
        if what == "opened":
            promise.opened = True
        elif what in ("pulling", "tagging"):
            promise.maybe.add(name)
        elif what in ("pulled", "tagged"):
            promise.images[name] = short
            promise.maybe.discard(name)
            if durability == "strict":
                promise.durable.add(short)
        elif what == "settled":
            promise.durable |= set(promise.images.values())
        elif what == "removing":
            promise.images.pop(name)
            promise.durable.discard(short)
            promise.maybe.add(name)
        elif what == "removed":
            promise.maybe.discard(name)
        elif what == "made":
            promise.made[name] = short
        elif what == "prepared":
            promise.prepared[name] = short
    return promise


def choose(events: Sequence[Event], states: int, seed: int) -> list[Cut]:
    """Cuts in the order of the record: just before flushes, and now and then in the middle between two."""
    chance = random.Random(seed)
    flushes = [-1, *(n for n, event in enumerate(events) if event.kind == FLUSH)]
    ends = [*flushes[1:], len(events)]
    epochs = [(start, end) for start, end in zip(flushes, ends, strict=True) if end - start > 1]
    marked = [epoch for epoch in epochs if any(event.kind == MARK for event in events[slice(*epoch)])]
    cuts: list[Cut] = []
    for _ in range(states):
        start, end = chance.choice(marked if chance.random() < 0.3 else epochs)
        at = end - 1 if chance.random() < 0.7 else chance.randrange(start + 1, end)
        cuts.append(Cut(start, at, chance.choice(MODES), chance.getrandbits(32)))
    return sorted(cuts, key=lambda cut: (cut.flushed, cut.at))


def apply(image: int, events: Sequence[Event]) -> None:
    for event in events:
        if event.kind == WRITE:
            os.pwrite(image, event.data, event.offset)


def apply_some(image: int, events: Sequence[Event], mode: Mode, seed: int, tear: int) -> None:
    """Apply what an unflushed cache may have written."""
    chance = random.Random(seed)
    for event in events:
        if event.kind != WRITE or mode == "none":
            continue
        if mode == "all" or (mode == "half" and chance.random() < 0.5):
            os.pwrite(image, event.data, event.offset)
        elif mode == "torn":
            for start in range(0, len(event.data), tear):
                if chance.random() < 0.5:
                    os.pwrite(image, event.data[start : start + tear], event.offset + start)


def copy_sparse(source: Path, target: Path) -> None:
    """Copy a file without its holes, and without what is nothing but zeros."""
    with source.open("rb") as old, target.open("wb") as new:
        size = os.fstat(old.fileno()).st_size
        new.truncate(size)
        at = 0
        while at < size:
            try:
                at = os.lseek(old.fileno(), at, os.SEEK_DATA)
            except OSError:
                return
            end = os.lseek(old.fileno(), at, os.SEEK_HOLE)
            while at < end:
                chunk = os.pread(old.fileno(), min(1 << 20, end - at), at)
                if chunk.count(0) != len(chunk):
                    os.pwrite(new.fileno(), chunk, at)
                at += len(chunk)


class Campaign:
    """One record, and its states."""

    def __init__(self, place: Path, type: str, driver: str, durability: str, keep: str, host: str) -> None:
        self._place = place
        self._type = type
        self._driver = driver
        self._durability = durability
        self._keep = keep
        self._host = host
        self._classic = driver == "overlay2"
        self._boots = 0
        self.on_demand = 0
        """Layers that were decoded while they were read, in the last state."""

    def record(self, *, flush: bool = True) -> list[Event]:
        """Let a store work on a recorded disk. The image as it was before stays as ``base``."""
        image = self._place / "disk.img"
        with image.open("wb") as file:
            file.truncate(SIZE)
        subprocess.run([*_MAKE[self._type], image], check=True, stdin=subprocess.DEVNULL)
        copy_sparse(image, self._place / "base")
        (self._place / "record").mkdir()
        log = self._place / "log"
        options = [] if flush else ["no-flush"]
        with (
            recorded_disk(self._place / "served", image, log) as disk,
            loop_mount(disk, self._place / "record", self._type, _OPTIONS[self._type]) as root,
        ):
            facts = [
                root / "root",
                self._place / "served/mark",
                self._host,
                self._driver,
                self._durability,
                self._keep,
            ]
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
            for boot in ("first", "second"):
                command = [sys.executable, power_cut_child.__file__, boot, *facts, *options]
                subprocess.run(command, check=True, timeout=300, env=environment)
        image.unlink()
        return read_log(log)

    def replay(self, events: Sequence[Event], cuts: Sequence[Cut]) -> Iterator[tuple[Cut, list[str]]]:
        """Each state, and what is wrong with it."""
        base, state, target = self._place / "base", self._place / "state", self._place / "mnt"
        target.mkdir()
        done = 0
        image = os.open(base, os.O_RDWR)
        try:
            for cut in cuts:
                apply(image, events[done : cut.flushed + 1])
                done = cut.flushed + 1
                state.unlink(
                    missing_ok=True
                )  # a process that is just ending may hold the file system on the last one
                copy_sparse(base, state)
                fd = os.open(state, os.O_RDWR)
                try:
                    apply_some(fd, events[done : cut.at + 1], cut.mode, cut.seed, TEAR[self._type])
                finally:
                    os.close(fd)
                promise = promised(events[: cut.at + 1], self._host, self._durability)
                yield cut, self._judge(state, target, promise, self._healed(promise, cut.seed))
        finally:
            os.close(image)

    def _healed(self, promise: Promise, seed: int) -> list[str]:
        """The images to pull: those that were on their way, and one more."""
        cut_off = {short for short in IMAGES if f"{self._host}/app:{short}" in promise.maybe}
        return sorted({*cut_off, random.Random(seed).choice(IMAGES)})

    def _judge(self, state: Path, target: Path, promise: Promise, healed: Sequence[str]) -> list[str]:
        self.on_demand = 0
        try:
            with loop_mount(state, target, self._type, _OPTIONS[self._type]) as root:
                self._boots += 1
                problems: list[str] = []
                anyio.run(self._check, root / "root", promise, healed, f"boot-{self._boots}", problems)
                return problems
        except Exception:
            return [traceback.format_exc()]

    async def _check(
        self, root: Path, promise: Promise, healed: Sequence[str], boot: str, problems: list[str]
    ) -> None:
        if not root.is_dir():
            if promise.opened:
                problems.append("the data root is gone")
            return
        async with opened(root, self._driver, self._durability, self._keep, boot) as parts:
            store = library.Store(parts)
            if self._keep == "on-demand":
                await index(parts)
                await parts.snapshotter.settle()
            await self._check_records(parts, promise, problems)
            await self._check_blobs(parts, root, problems)
            await self._check_snapshots(parts, promise, problems)
            for name, short in promise.images.items():
                await self._check_image(store, name, short, problems)
            for name, short in promise.prepared.items():
                mounts = await parts.snapshotter.mounts(SnapshotKey(name))
                _compare(f"active snapshot {name}", self._through(mounts), by_name(short).tree, problems)
            for short in healed:  # a pull heals whatever was cut off
                name = f"{self._host}/app:{short}"
                await store.pull(name)
                await self._check_image(store, name, short, problems)
            self.on_demand = len(list(root.glob("snapshots/erofs/*/snapshots/*/layer.segments")))
            await parts.maintenance.tidy()
            await collect(parts)
            await self._check_files(parts, root, problems)
            await self._check_blobs(parts, root, problems)
            rows = parts.database.snapshots(parts.maintenance.namespace, parts.snapshotter.name)
            trees = [row.extra.get(TREE, "") for row in await rows.list()]
        if self._classic:  # dockerd finds it whole
            problems += classic_check.problems(root, ours=trees)

    async def _check_records(self, parts: image_store.Store, promise: Promise, problems: list[str]) -> None:
        records = {image.name: image.target.digest for image in await parts.records.list()}
        for name, short in promise.images.items():
            if records.get(name) != by_name(short).id(classic=self._classic):
                problems.append(f"image {name} was acknowledged and is {records.get(name)}")
        blobs = {info.digest async for info in parts.content.walk()}
        for name, digest in records.items():
            known = name in promise.images or name in promise.maybe
            # A classic image has names by digest, too, and those of its dangling ones.
            if not known and "dangling" not in name and not (self._classic and "@" in name):
                problems.append(f"image {name} came back")
            short = next((s for s in IMAGES if by_name(s).id(classic=self._classic) == digest), None)
            if short is None:
                problems.append(f"image {name} means {digest}")
                continue
            image = by_name(short).image
            needed = () if self._classic else image.blobs
            missing = {digest, *(one.digest for one in needed)} - blobs
            if missing:
                problems.append(f"image {name} lacks {missing}")

    async def _check_blobs(self, parts: image_store.Store, root: Path, problems: list[str]) -> None:
        async for info in parts.content.walk():
            path = root / "content/blobs" / info.digest.algorithm / info.digest.hex
            try:
                data = path.read_bytes()
            except FileNotFoundError:
                if RECIPE not in info.labels:
                    problems.append(f"blob {info.digest} has a row and no file")
                    continue
                data = await parts.content.read(info.digest, limit=SIZE)  # away, and made again
            if len(data) != info.size or sha256(data).hexdigest() != info.digest.hex:
                problems.append(f"blob {info.digest} has other bytes")

    async def _check_snapshots(self, parts: image_store.Store, promise: Promise, problems: list[str]) -> None:
        """What the store shows without unpacking anything again is right, and as much as was promised."""
        trees = {chain: tree for short in IMAGES for chain, tree in by_name(short).trees.items()}
        rows = {info.key: info async for info in parts.snapshotter.walk()}
        for name, short in promise.made.items():
            trees[name] = stacked(by_name(short).tree, ADDED)
            if name not in rows:
                problems.append(f"snapshot {name} was committed and is gone")
        problems += [
            f"the snapshot of image {short} was flushed and is gone"
            for short in promise.durable
            if by_name(short).image.chain[-1] not in rows
        ]
        for key, info in rows.items():
            if info.kind is Kind.COMMITTED and key in trees:
                found = await self._look(parts, SnapshotName(key))
                _compare(f"snapshot {key}", found, trees[key], problems)

    async def _look(self, parts: image_store.Store, name: SnapshotName) -> Tree:
        mounts = await parts.snapshotter.view(SnapshotKey("look"), name)
        try:
            return self._through(mounts)
        finally:
            await parts.snapshotter.remove("look")

    def _through(self, mounts: Sequence[Mount]) -> Tree:
        point = self._place / "point"
        point.mkdir(exist_ok=True)
        for each in mounts:
            linux.mount_with(each.source, str(point), each.type, each.options)
        try:
            return seen(point)
        finally:
            linux.unmount(str(point))

    async def _check_image(self, store: library.Store, name: str, short: str, problems: list[str]) -> None:
        async with store.mount(name) as root:
            _compare(f"image {name}", seen(root), by_name(short).tree, problems)

    async def _check_files(self, parts: image_store.Store, root: Path, problems: list[str]) -> None:
        """After the clean-up nothing is left that nobody needs."""
        rows = await parts.database.snapshots(parts.maintenance.namespace, parts.snapshotter.name).list()
        if not self._classic:
            kept = {str(row.id) for row in rows}
            there = set(os.listdir(root / "snapshots" / self._driver / "moby/snapshots"))
            if kept != there:
                problems.append(
                    f"snapshot directories: rows without {kept - there}, without rows {there - kept}"
                )
        blobs = {info.digest.hex async for info in parts.content.walk()}
        files = set(os.listdir(root / "content/blobs/sha256"))
        away = {info.digest.hex async for info in parts.content.walk() if RECIPE in info.labels}
        if blobs - files - away or files - blobs:
            problems.append(f"blobs: rows without {blobs - files}, without rows {files - blobs}")


def _compare(what: str, found: Tree, expected: Tree, problems: list[str]) -> None:
    if found != expected:
        wrong = sorted(path for path in {*found, *expected} if found.get(path) != expected.get(path))
        problems.append(f"{what}: {len(wrong)} paths are wrong, among them {wrong[:3]}")


def campaign(
    type: str, driver: str, durability: str, keep: str, states: int, seed: int, *, flush: bool
) -> None:
    """Record, replay, and print. The process gets a mount namespace, which takes all mounts with it."""
    if ctypes.CDLL(None, use_errno=True).unshare(0x20000):
        raise OSError(ctypes.get_errno(), "unshare")
    linux.mount("", "/", "", linux.MS_REC | linux.MS_PRIVATE)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    place = Path(tempfile.mkdtemp(prefix="lading-power-"))
    try:
        linux.mount("tmpfs", str(place), "tmpfs", 0, "size=3g")
        try:
            with FakeRegistry() as registry:
                publish(registry)
                run = Campaign(place, type, driver, durability, keep, registry.host)
                events = run.record(flush=flush)
                for cut, problems in run.replay(events, choose(events, states, seed)):
                    place_of_cut = [cut.flushed, cut.at, cut.mode, cut.seed]
                    _print({"cut": place_of_cut, "on-demand": run.on_demand, "problems": problems})
        finally:
            for point in linux.mount_points(str(place)):
                linux.unmount(point)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _print(line: Any) -> None:
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    os.umask(0o022)
    signal.alarm(3600)
    campaign(*sys.argv[1:5], int(sys.argv[5]), int(sys.argv[6]), flush="no-flush" not in sys.argv)
