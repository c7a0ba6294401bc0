"""Large images keep their digest on every way in and out: 30,000 files, and 2 GB."""

import json
import random
import subprocess
from pathlib import Path

import pytest
from support.daemon import Daemon, running_daemon
from support.images import File, Layout, busybox_layer, compressed, layer_tar, layer_type, push
from support.rich import many_files, raw_image

pytestmark = pytest.mark.e2e


def digest_in(layout: Path, tag: str) -> str:
    index = json.loads((layout / "index.json").read_bytes())
    return next(
        each["digest"]
        for each in index["manifests"]
        if each["annotations"]["org.opencontainers.image.ref.name"] == tag
    )


def digest_of(reference: str) -> str:
    done = subprocess.run(
        ["skopeo", "inspect", "--tls-verify=false", "--format", "{{.Digest}}", f"docker://{reference}"],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def big_layer(name: str, source: random.Random) -> bytes:
    """Eight files of 64 MiB."""
    content = source.randbytes(32 << 20) + bytes(32 << 20)
    return layer_tar({f"{name}-{part}": File(content + str(part).encode()) for part in range(8)})


def round_trip(daemon: Daemon, registry: str, name: str, count: str, expected: str) -> None:
    """Pull, run, tag, push; save, load into an empty store, push from there: one digest."""
    daemon.docker("pull", "-q", name, timeout=300)
    # Files counted by the program in the container, not by us.
    listing = daemon.docker(
        *("run", "--rm", "--network", "none", name, "sh", "-c"),
        "n=0; for d in /many/*/; do set -- $d*; n=$((n+$#)); done; echo $n",
        timeout=300,
    )
    assert listing.strip() == count
    copy = name.replace(f"{registry}/", f"{registry}/copy-")
    daemon.docker("tag", name, copy)
    daemon.docker("push", "-q", copy, timeout=300)
    assert digest_of(copy) == expected
    archive = daemon.directory / "saved.tar"
    daemon.docker("save", "-o", str(archive), name, timeout=300)
    with running_daemon() as empty:
        empty.docker("load", "-q", "-i", str(archive), timeout=300)
        archive.unlink()
        assert empty.docker("image", "ls", "--no-trunc", "-q").strip() == expected
        loaded = name.replace(f"{registry}/", f"{registry}/loaded-")
        empty.docker("tag", name, loaded)
        empty.docker("push", "-q", loaded, timeout=300)
        assert digest_of(loaded) == expected


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "compression", ["gzip", *(pytest.param(kind, marks=pytest.mark.nightly) for kind in ("zstd", ""))]
)
def test_thirty_thousand_files(
    shared_daemon: Daemon, registry: str, tmp_path: Path, compression: str
) -> None:
    layout = Layout(tmp_path)
    archives = [layer_tar(busybox_layer()), many_files(30_000)]
    layout.name(
        raw_image(layout, [(tar, compressed(tar, compression), layer_type(compression)) for tar in archives]),
        "many",
    )
    name = f"{registry}/many-{compression or 'plain'}:one"
    push(tmp_path, "many", name)
    round_trip(shared_daemon, registry, name, "30000", digest_in(tmp_path, "many"))


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("compression", ["gzip", "zstd", ""])
def test_two_gigabytes(daemon: Daemon, registry: str, tmp_path: Path, compression: str) -> None:
    """Four layers of 512 MiB, half of it incompressible. The daemon's memory stays bounded."""
    layout = Layout(tmp_path)
    source = random.Random(2)
    archives = [layer_tar(busybox_layer()), many_files(10)]
    archives += [big_layer(f"big-{n}", source) for n in range(4)]
    layers = [(tar, compressed(tar, compression), layer_type(compression)) for tar in archives]
    layout.name(raw_image(layout, layers), "big")
    del layers, archives
    name = f"{registry}/big-{compression or 'plain'}:one"
    push(tmp_path, "big", name)
    round_trip(daemon, registry, name, "10", digest_in(tmp_path, "big"))
    assert daemon.process is not None
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    assert int(peak.split()[1]) < 300 << 10, peak
