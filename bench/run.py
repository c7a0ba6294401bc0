"""Measure Lading beside its peers: the same work, in turn, on fresh file systems; ratios of paired runs, raw samples kept.

    python bench/run.py [--pairs N] [--images a,b] [--peers x,y] [--list N] [--memory]

Peers are Docker Engine 28 and containerd 2.1 in a chroot (PEERS_ROOT, default /var/lib/lading-peers); without it only Lading is
measured. Times are wall seconds of the client's command; "durable" adds flushing the engine's file system.
"""

import argparse
import hashlib
import json
import os
import pathlib
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from typing import Self

import engines
from corpus import Corpus, compressed_size

HERE = pathlib.Path(__file__).parent
IMAGES = ("one-file", "small-files", "eight-layers")


class Samples:
    """What was measured: operation to engine to values, in the order of the runs."""

    def __init__(self) -> None:
        self.values: dict[str, dict[str, list[float]]] = {}

    def add(self, operation: str, engine: str, value: float) -> None:
        self.values.setdefault(operation, {}).setdefault(engine, []).append(value)

    def table(self, ours: str) -> str:
        """Medians, and the median of the paired ratios of ours to each peer."""
        lines = [f"{'operation':34} {'engine':26} {'median':>10} {'min':>10} {'max':>10} {'lading/peer':>12}"]
        for operation, by_engine in self.values.items():
            for engine, values in by_engine.items():
                ratio = ""
                mine = by_engine.get(ours, [])
                if engine != ours and mine:
                    ratio = f"{statistics.median(a / b for a, b in zip(mine, values, strict=False) if b):.2f}"
                lines.append(
                    f"{operation:34} {engine:26} {statistics.median(values):10.3f} {min(values):10.3f} {max(values):10.3f} {ratio:>12}"
                )
        return "\n".join(lines)


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def calibrate() -> float:
    """Seconds that a fixed amount of hashing takes now: shows foreign load beside the samples."""
    data = b"\0" * (64 * 1024 * 1024)
    return timed(lambda: hashlib.sha256(data))


def measure(engine: engines.Engine, image: str, samples: Samples) -> None:
    """One engine, one image, everything that can be asked of it."""
    name, volume = engine.name, engine.volume

    def note(operation: str, value: float) -> None:
        samples.add(f"{operation} {image}", name, value)

    note("daemon start", engine.started)
    note("memory idle MB", engine.idle_memory() / 1e6)
    cpu = engine.cpu_seconds()
    ready = timed(lambda: engine.pull(image))
    note("pull", ready)
    note("pull+durable", ready + timed(volume.flush))
    note("pull cpu-s", engine.cpu_seconds() - cpu)
    note("disk MB", volume.used() / 1e6)
    note("pull again", timed(lambda: engine.pull(image)))
    note("run true, first", timed(lambda: engine.run_true(image)))
    for _ in range(5):
        note("run true", timed(lambda: engine.run_true(image)))
    copy = f"copy-{name}-{time.time_ns()}"
    note("push, empty", timed(lambda: engine.push(image, copy)))
    note("push, again", timed(lambda: engine.push(image, copy)))
    archive = volume.path / "saved.tar"
    note("save", timed(lambda: engine.save(image, archive)))
    names = [image] if isinstance(engine, engines.Containerd) else [image, copy]
    removing = timed(lambda: [engine.remove(each) for each in names])
    note("rmi", removing)
    note("rmi + gc", removing + timed(engine.collect))
    note("load", timed(lambda: engine.load(archive)))
    archive.unlink()
    note("peak memory MB", engine.peak_memory() / 1e6)


def many_images(engine: engines.Engine, archive: pathlib.Path, count: int, samples: Samples) -> None:
    """Load and list ``count`` images that share their layers, and start with them there."""

    def note(operation: str, value: float) -> None:
        samples.add(f"{operation}, {count} images", engine.name, value)

    def load() -> None:
        with archive.open("rb") as body:
            engine.api("POST", "/images/load?quiet=1", body)

    note("load", timed(load))
    found = json.loads(engine.api("GET", "/images/json"))
    if len(found) != count:
        raise RuntimeError(f"{engine.name} lists {len(found)} images instead of {count}")
    for _ in range(5):
        note("list by the API", timed(lambda: engine.api("GET", "/images/json")))
    for _ in range(3):
        note("list by the client", timed(engine.images))
    note("memory then MB", engine.idle_memory() / 1e6)
    if type(engine).collect is not engines.Engine.collect:
        note("gc", timed(engine.collect))
    for _ in range(3):
        engine.stop()
        engine.start()
        note("start", engine.started)
    note("first list after a start", timed(lambda: engine.api("GET", "/images/json")))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=3, help="alternating runs of each engine")
    parser.add_argument("--images", default=",".join(IMAGES))
    parser.add_argument(
        "--peers", default="docker-containerd-store,docker-classic,containerd-overlayfs,containerd-erofs"
    )
    parser.add_argument("--list", type=int, default=1000, help="how many images to list")
    parser.add_argument(
        "--memory", action="store_true", help="pull 16 layers of 500 MB and report the daemon's peak memory"
    )
    options = parser.parse_args()

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what is mounted is unmounted
    corpus = Corpus(HERE / "work" / "corpus")
    chroot = pathlib.Path(os.environ.get("PEERS_ROOT", "/var/lib/lading-peers"))
    peers = [p for p in engines.available(chroot) if p.name in options.peers.split(",")]
    samples = Samples()
    calibration: list[float] = []
    with (
        tempfile.TemporaryDirectory(prefix="bench-", dir=HERE / "work") as scratch,
        Registry(pathlib.Path(scratch)) as registry,
    ):
        images = [i for i in options.images.split(",") if i]
        for image in images:
            registry.fill(corpus.layout(image), image)
            print(f"{image}: {compressed_size(corpus.layout(image)) / 1e6:.0f} MB compressed", flush=True)

        def fresh(kind: type[engines.Engine]) -> engines.Engine:
            volume = engines.Volume(pathlib.Path(scratch) / kind.name)
            return (
                kind(volume, registry.host, chroot)
                if issubclass(kind, engines.Peer)
                else kind(volume, registry.host)
            )  # type: ignore[call-arg]

        for image in images:
            for _ in range(options.pairs):
                calibration.append(calibrate())
                for kind in [engines.Lading, *peers]:
                    engine = fresh(kind)
                    with engine.volume, engines.running(engine):
                        measure(engine, image, samples)
                print(samples.table("lading"), flush=True)
        if options.list:
            archive = corpus.many(options.list)
            for kind in [engines.Lading, *(p for p in peers if issubclass(p, engines.Docker))]:
                engine = fresh(kind)
                with engine.volume, engines.running(engine):
                    many_images(engine, archive, options.list, samples)
        if options.memory:
            registry.fill(corpus.sixteen(), "sixteen")
            engine = fresh(engines.Lading)
            with engine.volume, engines.running(engine):
                samples.add("pull sixteen", engine.name, timed(lambda: engine.pull("sixteen")))
                samples.add("peak memory MB sixteen", engine.name, engine.peak_memory() / 1e6)

    results = HERE / "results"
    results.mkdir(exist_ok=True)
    record = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "kernel": platform.release(),
        "cores": os.cpu_count(),
        "arguments": sys.argv[1:],
        "commit": engines.run("git", "-C", str(HERE), "rev-parse", "HEAD").strip(),
        "load": os.getloadavg(),
        "calibration": calibration,
        "samples": samples.values,
    }
    path = results / f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(samples.table("lading"))
    print(f"raw samples: {path.relative_to(HERE.parent)}")
    return 0


class Registry:
    """Debian's docker-registry on loopback, on the disk that the engines do not use."""

    def __init__(self, scratch: pathlib.Path) -> None:
        self._scratch = scratch
        self.host = ""
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.host = f"127.0.0.1:{probe.getsockname()[1]}"
        config = self._scratch / "registry.yml"
        config.write_text(
            f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {self._scratch}/registry}}}}\n"
            f'http: {{addr: "{self.host}"}}\nlog: {{level: error, accesslog: {{disabled: true}}}}\n'
        )
        with open(self._scratch / "registry.log", "wb") as log:
            self._process = subprocess.Popen(
                ["docker-registry", "serve", str(config)], stdout=log, stderr=log
            )
        for _ in range(200):
            try:
                urllib.request.urlopen(f"http://{self.host}/v2/").close()
            except OSError:
                time.sleep(0.05)
            else:
                return self
        self.__exit__()
        raise RuntimeError("the registry did not come up")

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait()

    def fill(self, layout: pathlib.Path, name: str) -> None:
        engines.run(
            "skopeo",
            "copy",
            "-q",
            "--all",
            "--dest-tls-verify=false",
            f"oci:{layout}:{name}",
            f"docker://{self.host}/{name}:latest",
        )


if __name__ == "__main__":
    sys.exit(main())
