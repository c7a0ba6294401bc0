"""Measure Lading beside its peers: the same work, in turn, on fresh file systems; ratios of paired runs, raw samples kept.

    python bench/run.py [--quick] [--pairs N] [--others N] [--images a,b] [--peers x,y] [--phases a,b]

Peers are Docker Engine 28 (both stores), containerd 2.1 (overlayfs and its own erofs snapshotter) and podman 5 in a chroot
(PEERS_ROOT, default /var/lib/lading-peers); without it only Lading is measured. Times are wall seconds of the client's command.

Phases: ``pull`` (``--pairs``), ``everything`` (push, save, load, commit, diff, rmi), ``compressed`` (layers-keep), ``reads`` (in containers, warm and cold: drops the
machine's page cache), ``fleet`` (eight images at once, and how often the registry sent each blob), ``link`` (400 Mbit/s), ``many`` (300 images), ``memory`` (16 layers of
500 MB, only if named), ``build`` (``--builds`` of small, files, parallel, platforms, large), ``containers`` (run, exec, 100 at once, memory,
restart), ``gc`` (100,000 nodes). The page docs/benchmark-results.md is made of the samples.
"""

import argparse
import contextlib
import hashlib
import json
import os
import pathlib
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Callable

import builds
import containers
import engines
import gc_stall
import operations
import report
from corpus import Corpus, compressed_size
from registry import Registry, shaped
from samples import Samples

HERE = pathlib.Path(__file__).parent
IMAGES = ("one-file", "small-files", "torch-like", "eight-layers")
PHASES = ("pull", "everything", "compressed", "reads", "fleet", "link", "many", "build", "containers", "gc")
PEERS = ("docker-containerd-store", "docker-classic", "containerd-overlayfs", "containerd-erofs", "podman")
QUICK_PEERS = ("docker-containerd-store", "containerd-erofs")


def calibrate() -> float:
    """Seconds that a fixed amount of hashing takes now: shows foreign load beside the samples."""
    data = b"\0" * (64 * 1024 * 1024)
    return operations.timed(lambda: hashlib.sha256(data))


def commit() -> str:
    """What is measured; ``unknown`` where this is no working copy of git."""
    try:
        return engines.run("git", "-C", str(HERE), "rev-parse", "HEAD").strip()
    except (RuntimeError, FileNotFoundError):
        return "unknown"


class Run:
    """One invocation: the engines, the registry and the samples."""

    def __init__(self, options: argparse.Namespace, scratch: pathlib.Path, registry: Registry) -> None:
        self.options = options
        self.scratch = scratch
        self.registry = registry
        self.samples = Samples()
        self.calibration: list[float] = []
        self.chroot = pathlib.Path(os.environ.get("PEERS_ROOT", "/var/lib/lading-peers"))
        self.corpus = Corpus(pathlib.Path(options.corpus))
        self._filled: set[str] = set()
        self.empty: tuple[str, ...] = ()
        wanted = options.peers.split(",")
        self.peers = [p for p in engines.available(self.chroot) if p.name in wanted]

    def fill(self, *images: str) -> None:
        """Have images in the registry."""
        for image in images:
            if image not in self._filled:
                self._filled.add(image)
                layout = self.corpus.layout(image)
                self.registry.fill(layout, image)
                print(f"{image}: {compressed_size(layout) / 1e6:.0f} MB compressed", flush=True)

    def fresh(self, kind: type[engines.Engine], host: str = "", kept: str = "") -> engines.Engine:
        """An engine that has a new file system, or one of the directory ``kept``, and is not started."""
        volume = engines.Volume(pathlib.Path(kept or self.scratch) / kind.name, kept=bool(kept))
        if issubclass(kind, engines.Peer):
            return kind(volume, host or self.registry.host, self.chroot)
        return kind(volume, host or self.registry.host)

    def pair(
        self,
        work: Callable[[engines.Engine, str, operations.Note], None],
        image: str,
        *,
        pairs: int,
        kinds: list[type[engines.Engine]] | None = None,
        host: str = "",
        kept: str = "",
    ) -> None:
        """Every engine in turn, ``pairs`` times, each second time the other way round."""
        kinds = kinds or [engines.Lading, *self.peers]
        for number in range(pairs):
            self.calibration.append(calibrate())
            for kind in kinds if number % 2 == 0 else kinds[::-1]:
                engine = self.fresh(kind, host, kept)
                engine.empty = self.empty
                with engine.volume, engines.running(engine), operations.attempted(engine, work.__name__):
                    work(
                        engine,
                        image,
                        lambda name, value, engine=engine: self.samples.add(name, engine.name, value),
                    )
            print(f"{work.__name__} {image}: {number + 1} of {pairs}", flush=True)

    def phase(self, name: str) -> None:
        """One of `PHASES`."""
        getattr(self, f"_{name}")()

    def _pull(self) -> None:
        images = [i for i in self.options.images.split(",") if i]
        self.fill(*images, *(["ninety"] if "eight-layers" in images else []))
        for image in images:
            kinds: list[type[engines.Engine]] = [engines.Lading, *self.peers, engines.Floor, engines.Instant]
            self.pair(operations.pull, image, pairs=self.options.pairs, kinds=kinds)

    def _everything(self) -> None:
        images = ("small-files",) if self.options.quick else ("small-files", "eight-layers")
        self.fill(*images)
        with contextlib.ExitStack() as stack:
            for _ in range(2):
                place = stack.enter_context(tempfile.TemporaryDirectory(dir=self.scratch))
                self.empty += (stack.enter_context(Registry(pathlib.Path(place))).host,)
            for image in images:
                kinds: list[type[engines.Engine]] = [engines.Lading, *self.peers, engines.Instant]
                self.pair(operations.everything, image, pairs=self.options.others, kinds=kinds)
        self.empty = ()

    def _compressed(self) -> None:
        images = ("small-files",) if self.options.quick else ("small-files", "torch-like", "eight-layers")
        self.fill(*images)
        for image in images:
            self.pair(operations.compressed, image, pairs=1, kinds=[engines.LadingCompressed])

    def _reads(self) -> None:
        images = ("small-files",) if self.options.quick else tuple(operations.READS)
        self.fill(*images)
        kinds: list[type[engines.Engine]] = [engines.Lading]
        kinds += [
            p
            for p in self.peers
            if p.name in ("docker-containerd-store", "containerd-overlayfs", "containerd-erofs")
        ]
        for image in images:
            self.pair(operations.reads, image, pairs=self.options.others, kinds=kinds)

    def _fleet(self) -> None:
        self.fill(*operations.FLEET)
        with Registry(self.scratch, counted=True) as registry:

            def fleet(engine: engines.Engine, image: str, note: operations.Note) -> None:
                with registry.sent() as sent:
                    operations.fleet(engine, image, note)
                note("eight at once, most requests for one blob", max(sent.requests.values(), default=0))
                note("eight at once, MB sent", sent.size / 1e6)

            self.pair(fleet, "fleet", pairs=self.options.others, host=registry.host)

    def _link(self) -> None:
        self.fill("torch-like")
        size = compressed_size(self.corpus.layout("torch-like"))
        self.samples.add("pull, 400 Mbit/s torch-like", "line rate", size * 8 / 400e6)
        kinds: list[type[engines.Engine]] = [engines.Lading]
        kinds += [p for p in self.peers if p.name == "docker-containerd-store"]
        with shaped(self.scratch, "400mbit") as registry:
            self.pair(
                operations.link, "torch-like", pairs=self.options.others, kinds=kinds, host=registry.host
            )

    def _many(self) -> None:
        count = 100 if self.options.quick else self.options.list
        archive = self.corpus.many(count)
        kinds: list[type[engines.Engine]] = [engines.Lading]
        kinds += [p for p in self.peers if issubclass(p, engines.Docker)]
        self.pair(
            lambda engine, _, note: operations.many(engine, archive, count, note),
            "",
            pairs=1,
            kinds=kinds,
            kept=self.options.kept,
        )

    def _containers(self) -> None:
        kinds: list[type[engines.Engine]] = [engines.Lading]
        if any(p.name == "docker-containerd-store" for p in self.peers):
            kinds += [engines.DockerSameRunc, engines.Docker]
        rounds = 3 if self.options.quick else max(self.options.pairs, 7)
        containers.measure(
            [self.fresh(kind) for kind in kinds], self.corpus.archive("tiny"), rounds, self.samples.add
        )

    def _build(self) -> None:
        if problem := builds.missing():
            operations.failures.append(problem)
            return
        kinds: list[type[engines.Engine]] = [engines.Lading]
        kinds += [p for p in self.peers if p.name == "docker-containerd-store"]

        def measure(engine: engines.Engine, which: str, note: operations.Note) -> None:
            builds.builds(engine, which, note, rounds=2 if self.options.quick else 3)

        for which in self.options.builds.split(","):
            self.pair(measure, which, pairs=self.options.pairs, kinds=kinds)

    def _memory(self) -> None:
        self.registry.fill(self.corpus.sixteen(), "sixteen")

        def sixteen(engine: engines.Engine, image: str, note: operations.Note) -> None:
            note(f"pull {image}", operations.timed(lambda: engine.pull(image)))
            note(f"peak memory MB {image}", engine.peak_memory() / 1e6)

        self.pair(sixteen, "sixteen", pairs=1, kinds=[engines.Lading])

    def _gc(self) -> None:
        for name, value in gc_stall.measure(self.scratch, 10_000 if self.options.quick else 100_000).items():
            self.samples.add(name, "lading", value)
        command = str(HERE.parent / ".venv/bin/lading")
        for _ in range(10):
            self.samples.add(
                "lading --help", "lading", operations.timed(lambda: engines.run(command, "--help"))
            )

    def save(self) -> pathlib.Path:
        """Write the raw samples down; the file."""
        results = HERE / "results"
        results.mkdir(exist_ok=True)
        record = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "kernel": platform.release(),
            "cores": os.cpu_count(),
            "arguments": sys.argv[1:],
            "commit": commit(),
            "load": os.getloadavg(),
            "calibration": self.calibration,
            "failures": operations.failures,
            "samples": self.samples.values,
        }
        path = results / f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}.json"
        path.write_text(json.dumps(record, indent=1) + "\n")
        return path


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="one pair, two peers, small counts: some six minutes"
    )
    parser.add_argument(
        "--pairs", type=int, help="alternating pulls of each image by each engine (default 3, or 1)"
    )
    parser.add_argument(
        "--others", type=int, help="alternating pairs of everything, reads, fleet and link (default 2, or 1)"
    )
    parser.add_argument("--images", default=",".join(IMAGES))
    parser.add_argument("--peers")
    parser.add_argument("--phases", default=",".join(PHASES))
    parser.add_argument("--list", type=int, default=300, help="how many images to list")
    parser.add_argument("--builds", default=",".join(builds.KINDS), help="what the build phase builds")
    parser.add_argument(
        "--scratch",
        help="where the file systems of the run are made (default bench/scratch); memory, say /dev/shm, for what should not wait for the disk",
    )
    parser.add_argument(
        "--kept",
        default="",
        help="an existing directory in which the file systems of the phase many are kept: the next run need not load the images again",
    )
    parser.add_argument(
        "--corpus",
        default=str(HERE / "scratch" / "corpus"),
        help="where the images that are pulled are made, and kept for the next run",
    )
    options = parser.parse_args()
    for name, known in (("phases", (*PHASES, "memory")), ("peers", PEERS), ("builds", builds.KINDS)):
        if unknown := sorted({*(getattr(options, name) or "").split(",")} - {*known, ""}):
            parser.error(f"--{name}: there is no {', '.join(unknown)}; choose from {', '.join(known)}")
    containers.own_mount_namespace()
    options.pairs = options.pairs or (1 if options.quick else 3)
    options.others = options.others or (1 if options.quick else 2)
    options.peers = (
        options.peers if options.peers is not None else ",".join(QUICK_PEERS if options.quick else PEERS)
    )

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what is mounted is unmounted
    (HERE / "scratch").mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="bench-", dir=options.scratch or HERE / "scratch") as scratch,
        Registry(pathlib.Path(scratch)) as registry,
    ):
        run = Run(options, pathlib.Path(scratch), registry)
        try:
            for name in options.phases.split(","):
                begun = time.monotonic()
                run.phase(name)
                print(f"== {name}: {time.monotonic() - begun:.0f} s", flush=True)
        finally:
            path = run.save()
            print(run.samples.table("lading"))
            print(f"raw samples: {path.relative_to(HERE.parent)}")
    report.write(path, HERE.parent / "docs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
