"""The docker command pulls, lists, runs, tags, pushes, saves and loads through the daemon."""

import json
import subprocess

import pytest
from e2e.conftest import MakeImage
from support.daemon import Daemon
from support.registry import docker_registry

pytestmark = pytest.mark.e2e


def digest_of(reference: str) -> str:
    done = subprocess.run(
        ["skopeo", "inspect", "--tls-verify=false", "--raw", f"docker://{reference}"],
        capture_output=True,
        check=True,
    )
    import hashlib

    return f"sha256:{hashlib.sha256(done.stdout).hexdigest()}"


@pytest.mark.parametrize(("layers", "compression"), [(1, "gzip"), (8, "zstd"), (60, "")])
def test_pull_run_tag_push_keeps_the_digest(
    shared_daemon: Daemon, registry: str, images: MakeImage, layers: int, compression: str
) -> None:
    daemon = shared_daemon
    name = images(f"light-{layers}:one", layers=layers, compression=compression, foreign=False)
    daemon.docker("pull", name)
    digest = digest_of(name)
    inspected = json.loads(daemon.docker("image", "inspect", name))[0]
    assert inspected["Id"] == digest
    assert len(inspected["RootFS"]["Layers"]) == layers
    output = daemon.docker("run", "--rm", "--network", "none", name, "sh", "-c", "cat /etc/passwd; ls /")
    assert "root:x:0:0" in output
    assert output.count("layer-") == layers - 1
    copy = f"{registry}/copy-{layers}:two"
    daemon.docker("tag", name, copy)
    daemon.docker("push", copy)
    assert digest_of(copy) == digest


def test_what_was_not_pulled_is_not_pushed_elsewhere(shared_daemon: Daemon, images: MakeImage) -> None:
    name = images("two-platforms:one")
    shared_daemon.docker("pull", name)
    with docker_registry() as elsewhere:
        copy = f"{elsewhere}/one-platform:one"
        shared_daemon.docker("tag", name, copy)
        assert "Not all multiplatform-content is present" in shared_daemon.docker("push", copy)
        assert digest_of(copy) == inspected_manifest(shared_daemon, name)


def test_what_was_not_pulled_is_copied_within_its_registry(
    shared_daemon: Daemon, registry: str, images: MakeImage
) -> None:
    name = images("both-platforms:one")
    shared_daemon.docker("pull", name)
    copy = f"{registry}/both-platforms-too:one"
    shared_daemon.docker("tag", name, copy)
    assert "Not all multiplatform-content" not in shared_daemon.docker("push", copy)
    assert digest_of(copy) == digest_of(name)
    shared_daemon.docker("pull", "--platform", "linux/s390x", copy)


def inspected_manifest(daemon: Daemon, name: str) -> str:
    document = daemon.api("GET", f"/v1.51/images/{name}/json?manifests=1")[1]
    return next(each["ID"] for each in document["Manifests"] if each["Available"])


def test_save_and_load_into_an_empty_store_keeps_the_digest(daemon: Daemon, images: MakeImage) -> None:
    name = images("saved:one", layers=3)
    daemon.docker("pull", name)
    before = json.loads(daemon.docker("image", "inspect", name))[0]
    archive = daemon.directory / "image.tar"
    daemon.docker("save", "-o", str(archive), name)
    daemon.docker("rmi", name)
    assert daemon.docker("images", "-q") == ""
    daemon.docker("load", "-i", str(archive))
    after = json.loads(daemon.docker("image", "inspect", name))[0]
    assert after["RootFS"] == before["RootFS"]


def test_lading_s_own_commands(daemon: Daemon, images: MakeImage) -> None:
    name = images("own:one", layers=2)
    daemon.docker("pull", name)
    layer = json.loads(daemon.docker("image", "inspect", name))[0]["Id"]
    status = json.loads(daemon.lading("store", "status", "--json").stdout)
    assert status["Images"] == 1
    assert status["Layers"] == 2
    why = daemon.lading("why", layer)
    assert why.returncode == 0, why.stderr
    assert "image" in why.stdout
    assert name in why.stdout
    for other in (name, layer.removeprefix("sha256:")[:12]):
        assert daemon.lading("why", other).stdout == why.stdout
    assert daemon.lading("fsck").stdout.endswith("0 damaged, 0 repaired\n")
    assert json.loads(daemon.lading("gc", "--dry-run", "--json").stdout)["Deleted"] == {}
    planned = json.loads(daemon.lading("gc", "--dry-run", "--without", name, "--json").stdout)
    assert planned["FreedBytes"] == status["BlobBytes"] + status["LayerBytes"]
    assert daemon.lading("gc", "--without", name).returncode != 0
    assert daemon.lading("gc", "--dry-run", "--without", "absent").returncode != 0
    daemon.docker("rmi", name)
    freed = daemon.lading("gc")
    assert freed.returncode == 0, freed.stderr
    assert json.loads(daemon.lading("store", "status", "--json").stdout)["Blobs"] == 0
    missing = daemon.lading("why", layer)
    assert (missing.returncode, layer in missing.stderr) == (1, True)


def test_fsck_finds_damage_and_repairs_it_from_the_registry(daemon: Daemon, images: MakeImage) -> None:
    name = images("damaged:one", layers=2)
    daemon.docker("pull", name)
    blobs = sorted(
        (daemon.data_root / "content/blobs/sha256").iterdir(), key=lambda path: path.stat().st_size
    )
    victim = blobs[-1]
    data = bytearray(victim.read_bytes())
    data[100] ^= 1
    victim.chmod(0o600)
    victim.write_bytes(data)
    found = daemon.lading("fsck")
    assert found.returncode == 2
    assert victim.name in found.stdout
    repaired = daemon.lading("fsck", "--repair")
    assert repaired.returncode == 0, repaired.stdout + repaired.stderr
    assert "(repaired)" in repaired.stdout
    data[100] ^= 1
    assert victim.read_bytes() == data
    assert daemon.lading("fsck").returncode == 0
