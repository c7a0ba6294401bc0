"""What is measured: each function takes a fresh engine, does its work, and notes values by operation."""

import concurrent.futures
import contextlib
import json
import pathlib
import subprocess
import time
from collections.abc import Callable, Iterator

import engines

Note = Callable[[str, float], None]
READ_ALL = "/busybox find / -xdev -type f -exec /busybox cat {} + | /busybox wc -c"
FIND = "/busybox find / -xdev -size +99999999k"
GREP = "/busybox grep -rqs no-such-text-anywhere /usr/include /linux-source-6.1/arch/arm; true"
IMPORT = (
    "LD_LIBRARY_PATH=/usr/lib/x86_64-linux-gnu/openblas-pthread PYTHONDONTWRITEBYTECODE=1 "
    "/usr/bin/python3 -I -c 'import torch, pandas, scipy.stats, scipy.optimize, sympy'"
)
READS = {
    "small-files": (("find", FIND), ("grep -r", GREP), ("read all", READ_ALL)),
    "torch-like": (("find", FIND), ("grep -r", GREP), ("read all", READ_ALL)),
    "python": (("find", FIND), ("import torch and others", IMPORT)),
}
"""What is read of an image, warm and cold."""
SETTLED = 15
"""Seconds after which an engine has given back what it cached only while something read."""
FLEET = tuple(f"fleet-{number}" for number in range(8))
STARTED = 3
"""Seconds that each daemon has after its start, so that what it does by itself then is part of no pull."""


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def pull(engine: engines.Engine, image: str, note: Note) -> None:
    """Pull to ready, the same again, the first container and the next ones, removal."""
    if isinstance(engine, engines.Floor):
        wall, cpu = engine.least(image)
        note(f"pull {image}", wall)
        note(f"pull cpu-s {image}", cpu)
        return
    if isinstance(engine, engines.Instant):
        note(f"pull again {image}", timed(lambda: engine.pull(image)))
        note(f"rmi {image}", timed(lambda: engine.remove(image)))
        return
    note(f"daemon start {image}", engine.started)
    time.sleep(STARTED)
    note(f"memory idle MB {image}", engine.idle_memory() / 1e6)
    cpu = engine.cpu_seconds()
    note(f"pull {image}", timed(lambda: engine.pull(image)))
    note(f"pull cpu-s {image}", engine.cpu_seconds() - cpu)
    with attempted(engine, "run"):
        note(f"run true, first {image}", timed(lambda: engine.run_true(image)))
        for _ in range(3):
            note(f"run true {image}", timed(lambda: engine.run_true(image)))
    note(f"pull again {image}", timed(lambda: engine.pull(image)))
    if engine.has_api:
        note(f"pull again, by the API {image}", timed(lambda: engine.api_pull(image)))
    engine.volume.flush()
    note(f"disk MB {image}", engine.volume.used() / 1e6)
    if image == "eight-layers":
        note("pull, most layers there ninety", timed(lambda: engine.pull("ninety")))
    note(f"rmi {image}", timed(lambda: engine.remove(image)))
    note(f"peak memory MB {image}", engine.peak_memory() / 1e6)


def everything(engine: engines.Engine, image: str, note: Note) -> None:
    """What one does with an image besides pulling it."""
    if isinstance(engine, engines.Instant):
        for operation in ("push to an empty registry", "push, again", "push, layers mounted"):
            note(f"{operation} {image}", timed(lambda: engine.push(image, f"{engine.registry}/copy:latest")))
        return
    note(f"pull and flush {image}", timed(lambda: (engine.pull(image), engine.volume.flush())))
    copy, mounted, other = _pushes(engine, image, note)
    with attempted(engine, "commit and diff"):
        engine.container(image, "changed", "echo x > /changed")
        note(f"diff {image}", timed(lambda: engine.diff("changed")))
        note(f"commit {image}", timed(lambda: engine.commit("changed", "committed")))
    archive = engine.volume.path / "saved.tar"
    with attempted(engine, "save and load"):
        note(f"save {image}", timed(lambda: engine.save(image, archive)))
        with contextlib.suppress(RuntimeError):
            engine.discard("changed")
            engine.remove("committed")
        names = [image, *([copy, mounted, *other] if engine.tags_copies else [])]
        note(f"rmi, all {image}", timed(lambda: [engine.remove(each) for each in names]))
        if type(engine).collect is not engines.Engine.collect:
            note(f"gc {image}", timed(engine.collect))
        note(f"load {image}", timed(lambda: engine.load(archive)))
        archive.unlink()


def _pushes(engine: engines.Engine, image: str, note: Note) -> tuple[str, str, list[str]]:
    """Push to registries that have nothing, again, and where the layers are; the names that were given to the image."""
    copy, other = (f"{host}/copy-{engine.name}-{time.time_ns()}:latest" for host in engine.empty)
    mounted = copy.replace(engine.empty[0], engine.registry)
    with attempted(engine, "push"):
        note(f"push to an empty registry {image}", timed(lambda: engine.push(image, copy)))
        note(f"push, again {image}", timed(lambda: engine.push(image, copy)))
        if engine.has_api:
            note(f"push, again, by the API {image}", timed(lambda: engine.api_push(copy)))
            engine.docker("tag", copy, other)
            cpu = engine.cpu_seconds()
            note(f"push to an empty registry, by the API {image}", timed(lambda: engine.api_push(other)))
            note(f"push to an empty registry, by the API, cpu-s {image}", engine.cpu_seconds() - cpu)
        note(f"push, layers mounted {image}", timed(lambda: engine.push(image, mounted)))
    return copy, mounted, [other] if engine.has_api else []


def reads(engine: engines.Engine, image: str, note: Note) -> None:
    """Pull and read everything; then `READS`, warm and cold, and what the page cache holds then and a little later."""
    with attempted(engine, "reads"):
        note(f"pull and read all {image}", timed(lambda: (engine.pull(image), engine.shell(image, READ_ALL))))
        for name, script in READS[image]:
            note(f"{name}, warm {image}", timed(lambda script=script: engine.shell(image, script)))
        engine.volume.flush()
        for name, script in READS[image]:
            drop_caches()
            before = cached()
            note(f"{name}, cold {image}", timed(lambda script=script: engine.shell(image, script)))
            if name != "find":
                note(f"page cache at once MB, {name} {image}", (cached() - before) / 1e6)
        time.sleep(SETTLED)
        note(f"page cache MB, {name} {image}", (cached() - before) / 1e6)


def fleet(engine: engines.Engine, _: str, note: Note) -> None:
    """Eight images with a common base at once."""
    with concurrent.futures.ThreadPoolExecutor(len(FLEET)) as pool:
        note("pull eight at once", timed(lambda: list(pool.map(engine.pull, FLEET))))


def link(engine: engines.Engine, image: str, note: Note) -> None:
    """A pull over a shaped link."""
    note(f"pull, 400 Mbit/s {image}", timed(lambda: engine.pull(image)))


def compressed(engine: engines.Engine, image: str, note: Note) -> None:
    """Lading with ``layers-keep: compressed``: what is on the disk before first use, and what the first use costs."""
    assert isinstance(engine, engines.LadingCompressed)
    note(f"pull, kept compressed {image}", timed(lambda: engine.pull(image)))
    cpu = engine.cpu_seconds()
    note(f"index, kept compressed {image}", timed(engine.wait_indexed))
    note(f"index cpu-s, kept compressed {image}", engine.cpu_seconds() - cpu)
    engine.stop()  # what is only a cache goes a minute after its last use, or now
    engine.volume.flush()
    note(f"disk MB, kept compressed {image}", engine.volume.used() / 1e6)
    engine.start()
    note(f"run true, first, kept compressed {image}", timed(lambda: engine.run_true(image)))
    note(f"decoded MB after the first, kept compressed {image}", engine.decoded() / 1e6)
    note(f"run true, second, kept compressed {image}", timed(lambda: engine.run_true(image)))
    cpu = engine.cpu_seconds()
    note(f"read all, kept compressed {image}", timed(lambda: engine.shell(image, READ_ALL)))
    note(f"read all cpu-s, kept compressed {image}", engine.cpu_seconds() - cpu)
    note(f"read all again, kept compressed {image}", timed(lambda: engine.shell(image, READ_ALL)))
    note(f"decoded MB after all, kept compressed {image}", engine.decoded() / 1e6)
    engine.stop()
    engine.forget_indexes()
    engine.start()
    note(f"run true, first, decoded whole {image}", timed(lambda: engine.run_true(image)))
    note(f"read all, decoded whole {image}", timed(lambda: engine.shell(image, READ_ALL)))


def repeated(times: int, work: Callable[[], object]) -> Iterator[float]:
    """Seconds of each of several runs; of fewer, but one, where they take longer than a minute together."""
    begun = time.monotonic()
    for number in range(times):
        if number and time.monotonic() - begun > 60:
            return
        yield timed(work)


def many(engine: engines.Engine, archive: pathlib.Path, count: int, note: Note) -> None:
    """Load, unless an earlier run has, and list ``count`` images that share their layers, and start with them there."""
    if not json.loads(engine.api("GET", "/images/json")):
        with archive.open("rb") as body:
            note(f"load {count} images", timed(lambda: engine.api("POST", "/images/load?quiet=1", body)))
    found = json.loads(engine.api("GET", "/images/json"))
    if len(found) != count:
        raise RuntimeError(f"{engine.name} lists {len(found)} images instead of {count}")
    for each in repeated(5, lambda: engine.api("GET", "/images/json")):
        note(f"list {count} images", each)
    for each in repeated(3, lambda: engine.api("GET", "/images/json?manifests=1")):
        note(f"list {count} images with manifests", each)
    for each in repeated(3, engine.images):
        note(f"docker images of {count}", each)
    for each in repeated(3, engine.tree):
        note(f"docker images --tree of {count}", each)
    for each in repeated(3, engine.usage):
        note(f"docker system df with {count} images", each)
    for each in repeated(5, lambda: engine.api("GET", "/system/df")):
        note(f"df with {count} images", each)
    note(f"memory with {count} images MB", engine.idle_memory() / 1e6)
    if type(engine).collect is not engines.Engine.collect:
        note(f"gc with {count} images", timed(engine.collect))
    for _ in range(3):
        engine.stop()
        engine.start()
        note(f"start with {count} images", engine.started)
    note(f"first list after a start with {count} images", timed(lambda: engine.api("GET", "/images/json")))


failures: list[str] = []


@contextlib.contextmanager
def attempted(engine: engines.Engine, what: str) -> Iterator[None]:
    """An engine that cannot do something is listed with its words, and the others go on."""
    try:
        yield
    except RuntimeError as exc:
        words = str(exc).replace(str(engine.volume.path), "…")  # the record is kept, and is of no machine
        failures.append(f"{engine.name}: {what}: {words}")
        print(f"FAILED {failures[-1][:400]}", flush=True)


def cached() -> int:
    """Bytes in the machine's page cache."""
    with open("/proc/meminfo") as facts:
        return next(int(line.split()[1]) * 1024 for line in facts if line.startswith("Cached:"))


def drop_caches() -> None:
    """Forget clean pages, names and inodes."""
    subprocess.run(["sh", "-c", "echo 3 > /proc/sys/vm/drop_caches"], check=True)
