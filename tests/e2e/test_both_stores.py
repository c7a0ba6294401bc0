"""What users rely on in either image store: each test runs over both, with one daemon per store."""

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import time
import urllib.parse
from pathlib import Path
from typing import Any

import pytest
from e2e.conftest import MakeImage
from support.daemon import Daemon, running_daemon
from support.images import File, Layout, busybox_layer, layer_tar, push, push_in_two_compressions

from lading.testing.registry import FakeRegistry

pytestmark = [pytest.mark.e2e, pytest.mark.stores("containerd", "classic"), pytest.mark.timeout(180)]


def raw(reference: str) -> dict[str, Any]:
    """What the registry has under a reference, by another tool; of an index the host's manifest."""
    document = json.loads(document_of(reference))
    if "manifests" not in document:
        return document
    host = next(m["digest"] for m in document["manifests"] if m["platform"]["architecture"] == "amd64")
    return raw(f"{reference.rpartition(':')[0] if reference.count(':') > 1 else reference}@{host}")


def document_of(reference: str) -> bytes:
    """The bytes that the registry has under a reference, by another tool."""
    words = ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{reference}"]
    return subprocess.run(words, check=True, capture_output=True).stdout


def one_of(reference: str, architecture: str) -> str:
    """The digest of an index's manifest for an architecture."""
    (found,) = [
        each["digest"]
        for each in json.loads(document_of(reference))["manifests"]
        if each["platform"]["architecture"] == architecture
    ]
    return found


def in_registry(reference: str) -> dict[str, Any]:
    """What a registry has under a tag, as a push notes it."""
    body = document_of(reference)
    return {"Tag": "latest", "Digest": f"sha256:{hashlib.sha256(body).hexdigest()}", "Size": len(body)}


def notes_of_push(daemon: Daemon, name: str) -> list[dict[str, Any]]:
    """The ``aux`` objects of a push, which the client reads and does not show."""
    answer = daemon.raw(
        f"POST /v1.51/images/{name}/push?tag=latest HTTP/1.0\r\nHost: x\r\nX-Registry-Auth: e30=\r\n\r\n".encode()
    )
    lines = answer.partition(b"\r\n\r\n")[2].split(b"\r\n")
    return [json.loads(line)["aux"] for line in lines if b'"aux"' in line]


def diff_ids(reference: str) -> list[str]:
    """The layers of an image in a registry, unpacked by another tool."""
    with tempfile.TemporaryDirectory() as place:
        words = ["skopeo", "copy", "-q", "--src-tls-verify=false", f"docker://{reference}", f"dir:{place}"]
        subprocess.run([*words, "--dest-decompress"], check=True, capture_output=True)
        manifest = json.loads(Path(place, "manifest.json").read_text())
        return [each["digest"] for each in manifest["layers"]]


def image(daemon: Daemon, name: str) -> dict[str, Any]:
    return json.loads(daemon.docker("image", "inspect", name))[0]


def row(daemon: Daemon, name: str, query: str = "") -> dict[str, Any]:
    status, rows = daemon.api("GET", f"/v1.51/images/json?{query}")
    assert status == 200
    return next(each for each in rows if name in each["RepoTags"])


def digest_of(reference: str) -> str:
    return in_registry(reference)["Digest"]


def trees(daemon: Daemon) -> list[Path]:
    """What is on the disk of unpacked layers."""
    patterns = ("image/overlay2/layerdb/sha256/*", "snapshots/*/*/snapshots/[0-9]*")
    return [path for pattern in patterns for path in daemon.data_root.glob(pattern)]


def says(daemon: Daemon, *command: str) -> str:
    """What a command that has to fail says."""
    done = daemon.run(*command)
    assert done.returncode, command
    return done.stderr.decode()


def run(daemon: Daemon, *words: str) -> str:
    return daemon.docker("run", "--rm", "--network", "none", *words)


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_pull_run_and_push_the_same_blobs_again(daemon: Daemon, images: MakeImage, compression: str) -> None:
    name = images(f"either/pull-{compression}", layers=3, compression=compression)
    said = daemon.docker("pull", name)
    layers = [line.partition(": ") for line in said.splitlines() if re.match("[0-9a-f]{12}: ", line)]
    steps = ["Pulling fs layer", "Download complete", "Pull complete"]
    each = {digest: [status for id, _, status in layers if id == digest] for digest, _, _ in layers}
    assert list(each.values()) == [steps] * 3
    assert [line for line in said.splitlines() if line[12:14] != ": "] == [
        "Using default tag: latest",
        f"latest: Pulling from {name.partition('/')[2]}",
        f"Digest: {digest_of(name)}",
        f"Status: Downloaded newer image for {name}:latest",
        f"{name}:latest",
    ]
    digest = next(line.split()[1] for line in said.splitlines() if line.startswith("Digest: "))
    again = daemon.docker("pull", name).splitlines()
    assert again[2:] == [
        f"Digest: {digest}",
        f"Status: Image is up to date for {name}:latest",
        f"{name}:latest",
    ]
    daemon.docker("pull", "-q", f"{name}@{digest}")
    assert image(daemon, f"{name}@{digest}")["Id"] == image(daemon, name)["Id"]
    assert run(daemon, name, "cat", "/layer-1").strip("0\n") == "1"
    copy = f"{name}-copy"
    daemon.docker("tag", name, copy)
    pushed = daemon.docker("push", copy)
    assert [each["digest"] for each in raw(copy)["layers"]] == [
        each["digest"] for each in raw(name)["layers"]
    ]
    assert raw(copy)["config"]["digest"] == raw(name)["config"]["digest"]
    types = [each["mediaType"] for each in [raw(copy), raw(copy)["config"], *raw(copy)["layers"]]]
    assert len({each.split(".")[1] for each in types}) == 1, types  # Docker's or OCI's, not mixed
    there = in_registry(copy)
    assert f"latest: digest: {there['Digest']} size: {there['Size']}" in pushed
    assert [there] == [note for note in notes_of_push(daemon, copy) if "Tag" in note]


def test_the_id_is_what_the_store_says(shared_daemon: Daemon, images: MakeImage) -> None:
    name = images("either/id")
    said = shared_daemon.docker("pull", name)
    digest = next(line.split()[1] for line in said.splitlines() if line.startswith("Digest: "))
    found = image(shared_daemon, name)
    assert found["Id"] == (raw(name)["config"]["digest"] if shared_daemon.classic else digest)
    assert found["RepoDigests"] == [f"{name}@{digest}"]


def test_all_tags_are_pulled(shared_daemon: Daemon, registry: str, tmp_path: Path) -> None:
    for tag in ("one", "two"):
        layout = Layout(tmp_path / tag)
        layout.name(layout.manifest([{"tag": File(tag.encode())}]), "image")
        push(layout.path, "image", f"{registry}/either/every:{tag}")
    shared_daemon.docker("pull", "--all-tags", f"{registry}/either/every")
    tags = shared_daemon.docker("images", "--format", "{{.Tag}}", f"{registry}/either/every").split()
    assert sorted(tags) == ["one", "two"]


def test_a_foreign_platform_is_pulled_inspected_and_told_apart(daemon: Daemon, images: MakeImage) -> None:
    name = images("either/foreign")
    assert "no matching manifest for linux/arm64" in says(daemon, "pull", "--platform", "linux/arm64", name)
    daemon.docker("pull", "--platform", "linux/s390x", name)
    assert image(daemon, name)["Architecture"] == "s390x"
    made = daemon.run("create", "--name", "elsewhere", "--network", "none", name)
    assert b"(linux/s390x) does not match the detected host platform (linux/" in made.stderr
    daemon.docker("rm", "elsewhere")
    asked = daemon.run(
        "create", "--name", "elsewhere", "--network", "none", "--platform", "linux/s390x", name
    )
    assert (asked.returncode, asked.stderr) == (0, b"")
    daemon.docker("rm", "elsewhere")
    (one,) = json.loads(daemon.docker("image", "inspect", "--platform", "linux/s390x", name))
    assert one["Architecture"] == "s390x"
    steps = daemon.docker("history", "--format", "{{.CreatedBy}}", "--platform", "linux/s390x", name)
    assert steps == "layer 0 for s390x\n"
    for command in (
        ["image", "inspect", "--platform", "linux/arm64", name],
        ["history", "--platform", "linux/arm64", name],
        ["push", "--platform", "linux/arm64", name],
        ["save", "--platform", "linux/arm64", name],
        ["create", "--pull", "never", "--platform", "linux/arm64", name],
    ):
        assert "linux/arm64" in says(daemon, *command)
    copy = f"{name}-s390x"
    daemon.docker("tag", name, copy)
    daemon.docker("push", "-q", "--platform", "linux/s390x", copy)
    assert raw(copy)["config"]["digest"] == raw(f"{name}@{one_of(name, 's390x')}")["config"]["digest"]
    # By force a platform that is not there is no failure for the client, but it is told.
    assert b"linux/arm64" in daemon.run("rmi", "--force", "--platform", "linux/arm64", name).stderr
    daemon.docker("rmi", copy)
    assert image(daemon, name)["Architecture"] == "s390x"
    said = daemon.docker("rmi", "--force", "--platform", "linux/s390x", name)
    assert "Deleted: sha256:" in said
    refused = says(daemon, "create", "--pull", "never", "--platform", "linux/s390x", name)
    if daemon.classic:  # with its only platform the image is gone
        assert "No such image" in refused
        assert daemon.docker("images", "-aq") == ""
    else:  # the index stays, without it
        assert "does not provide the specified platform (linux/s390x)" in refused
        assert daemon.docker("images", "-q", "--no-trunc").split() == [digest_of(name)]
    assert daemon.lading("gc").returncode == 0
    assert trees(daemon) == []


def test_one_content_in_two_blobs_stays_complete(
    shared_daemon: Daemon, registry: str, tmp_path: Path
) -> None:
    names = push_in_two_compressions(tmp_path, f"{registry}/either/twice-")
    for name in names:
        shared_daemon.docker("pull", "-q", name)
    for name in names:
        assert run(shared_daemon, name, "wc", "-c", "/same").split()[0] == "20000"
        shared_daemon.docker("tag", name, f"{name}-again")
        assert "digest: sha256:" in shared_daemon.docker("push", f"{name}-again")
        assert diff_ids(f"{name}-again") == diff_ids(name)
        if not shared_daemon.classic:
            assert document_of(f"{name}-again") == document_of(name)
    packed = {each["digest"] for name in names for each in raw(name)["layers"]}
    assert shared_daemon.lading("gc").returncode == 0
    here = {f"sha256:{path.name}" for path in shared_daemon.data_root.glob("content/blobs/sha256/*")}
    # The classic store keeps nothing of what a layer was packed in, the containerd store both.
    assert packed & here == (set() if shared_daemon.classic else packed)
    archive = tmp_path / "twice.tar"
    shared_daemon.docker("save", "-o", str(archive), *names)
    with running_daemon() as empty:
        empty.docker("load", "-i", str(archive))
        for name in names:
            assert run(empty, name, "wc", "-c", "/same").split()[0] == "20000"


def test_save_and_load(shared_daemon: Daemon, images: MakeImage, tmp_path: Path) -> None:
    name = images("either/saved", layers=2)
    shared_daemon.docker("pull", "-q", name)
    before = image(shared_daemon, name)["Id"]
    archive = tmp_path / "saved.tar"
    shared_daemon.docker("save", "-o", str(archive), "--platform", "linux/amd64", name)
    shared_daemon.docker("save", "-o", str(archive), name)
    for form in ("docker-archive", "oci-archive"):
        done = subprocess.run(
            ["skopeo", "copy", "-q", f"{form}:{archive}", f"dir:{tmp_path}/{form}"],
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    for tag in ("either/tags:1", "either/tags:2"):
        shared_daemon.docker("tag", name, tag)
    with tarfile.open(fileobj=io.BytesIO(shared_daemon.run("save", "either/tags").stdout)) as every:
        listed = json.loads(every.extractfile("manifest.json").read())
    assert [sorted(row["RepoTags"]) for row in listed] == [["either/tags:1", "either/tags:2"]]
    shared_daemon.docker("rmi", "either/tags:1", "either/tags:2", name)
    said = shared_daemon.docker("load", "--platform", "linux/amd64", "-i", str(archive))
    assert f"Loaded image: {name}:latest" in said
    assert image(shared_daemon, name)["Id"] == before
    assert run(shared_daemon, name, "cat", "/layer-0").strip("0\n") == ""
    assert "linux/arm64" in says(shared_daemon, "load", "--platform", "linux/arm64", "-i", str(archive))
    broken = tmp_path / "broken.tar"
    broken.write_bytes(b"no archive at all" * 100)
    says(shared_daemon, "load", "-i", str(broken))


def test_a_nested_index_is_loaded(shared_daemon: Daemon, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "nested")
    inner = layout.index([layout.manifest([busybox_layer(), {"nested": File(b"inside")}])])
    layout.name(layout.index([inner]), "either/nested:1")
    archive = tmp_path / "nested.tar"
    subprocess.run(["tar", "-C", str(layout.path), "-cf", str(archive), "."], check=True)
    assert "Loaded image: either/nested:1" in shared_daemon.docker("load", "-i", str(archive))
    assert run(shared_daemon, "either/nested:1", "cat", "/nested") == "inside"


def test_what_is_being_saved_may_be_removed_meanwhile(daemon: Daemon, tmp_path: Path) -> None:
    tree = layer_tar({"much": File(os.urandom(60 << 20))})
    daemon.docker("import", "-", "either/going", input=tree)
    environment = {**os.environ, "DOCKER_HOST": daemon.host}
    with subprocess.Popen(
        ["docker", "save", "either/going"], stdout=subprocess.PIPE, env=environment
    ) as saving:
        assert saving.stdout is not None
        if daemon.classic:  # the layer is made again before anything is sent
            while not list(daemon.data_root.glob("content/ingest/*/data")):
                assert saving.poll() is None
            begin = b""
        else:
            begin = saving.stdout.read(1)
        daemon.docker("rmi", "-f", "either/going")
        assert daemon.lading("gc").returncode == 0
        archive = tmp_path / "going.tar"
        archive.write_bytes(begin + saving.stdout.read())
        assert saving.wait() == 0
    assert daemon.docker("load", "-i", str(archive)) == "Loaded image: either/going:latest\n"


def test_one_platform_of_an_archive_is_loaded(daemon: Daemon, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "two")
    parts = [layout.manifest([busybox_layer()]), layout.manifest([{"f": File(b"f")}], architecture="s390x")]
    layout.name(layout.index(parts), "either/two:1")
    archive = tmp_path / "two.tar"
    subprocess.run(["tar", "-C", str(layout.path), "-cf", str(archive), "."], check=True)
    # What is refused says why, and leaves nothing.
    assert "linux/riscv64" in says(daemon, "load", "--platform", "linux/riscv64", "-i", str(archive))
    whole, bad = archive.read_bytes(), tmp_path / "bad.tar"
    layer = json.loads((layout.path / "blobs" / parts[0]["digest"].replace(":", "/")).read_text())["layers"][
        0
    ]
    at = whole.index((layout.path / "blobs" / layer["digest"].replace(":", "/")).read_bytes()) + 5000
    spoiled = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
    for body, words in {
        b"no archive at all" * 100: "",
        layer_tar({"etc/passwd": File(b"root")}): "the archive holds no image",
        whole[: at + 5000]: "truncated",
        spoiled: "",
    }.items():
        bad.write_bytes(body)
        # A blob that the store still has is not read from the archive, so what was refused before must be gone.
        assert daemon.lading("gc").returncode == 0
        refused = daemon.run("load", "-i", str(bad))
        assert (refused.returncode, refused.stdout) == (1, b"")
        assert refused.stderr.strip()
        assert words in refused.stderr.decode()
        assert b"nternal" not in refused.stderr
    assert daemon.docker("images", "-aq") == ""
    assert daemon.lading("gc").returncode == 0
    left = [*daemon.data_root.glob("content/blobs/sha256/*"), *daemon.data_root.glob("content/ingest/*")]
    assert [*left, *trees(daemon)] == []
    said = daemon.docker("load", "--platform", "linux/s390x", "-i", str(archive))
    assert said == "Loaded image: either/two:1\n"
    assert daemon.lading("gc").returncode == 0
    assert image(daemon, "either/two:1")["Architecture"] == "s390x"
    assert "linux/amd64" in says(daemon, "image", "inspect", "--platform", "linux/amd64", "either/two:1")


def test_import_change_commit_diff_export_and_copy(shared_daemon: Daemon, tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "bin").mkdir(parents=True)
    subprocess.run(["cp", "/bin/busybox", str(root / "bin/busybox")], check=True)
    (root / "bin/sh").symlink_to("busybox")
    tree = subprocess.run(["tar", "-C", str(root), "-c", "."], check=True, capture_output=True).stdout
    change = 'CMD ["/bin/busybox", "echo", "imported"]'
    shared_daemon.docker("import", "--change", change, "-", "either/imported", input=tree)
    assert run(shared_daemon, "either/imported") == "imported\n"
    lie = f"either/imported@sha256:{'0' * 64}"
    assert "cannot import digest reference" in says(shared_daemon, "import", "-", lie)
    script = "busybox mkdir /d; echo new > /d/new; busybox rm /bin/sh"
    shared_daemon.docker(
        "run", "--name", "changing", "--network", "none", "either/imported", "/bin/sh", "-c", script
    )
    changes = shared_daemon.docker("diff", "changing").splitlines()
    assert {"A /d", "A /d/new", "D /bin/sh", "C /bin"} <= set(changes)
    shared_daemon.docker("cp", "changing:/d/new", str(tmp_path / "new"))
    assert (tmp_path / "new").read_text() == "new\n"
    (tmp_path / "put").write_text("put")
    shared_daemon.docker("cp", str(tmp_path / "put"), "changing:/d/put")
    exported = shared_daemon.run("export", "changing").stdout
    names = (
        subprocess.run(["tar", "-t"], input=exported, capture_output=True, check=True).stdout.decode().split()
    )
    assert {"d/new", "d/put"} <= set(names)
    assert "bin/sh" not in names
    shared_daemon.docker("commit", "--change", "ENV made=here", "changing", "either/committed")
    assert run(shared_daemon, "either/committed", "/bin/busybox", "cat", "/d/put") == "put"
    assert run(shared_daemon, "either/committed", "/bin/busybox", "ls", "/bin") == "busybox\n"
    assert image(shared_daemon, "either/committed")["Config"]["Env"][-1] == "made=here"
    assert "busybox mkdir" in shared_daemon.docker("history", "--no-trunc", "either/committed")
    shared_daemon.docker("rm", "changing")
    base = image(shared_daemon, "either/imported")["Id"]
    shared_daemon.docker("tag", "either/committed", "either/renamed")
    assert image(shared_daemon, "either/renamed")["Parent"] == base
    steps = shared_daemon.docker("history", "-q", "--no-trunc", "either/committed").split()
    assert steps == [image(shared_daemon, "either/committed")["Id"], base]
    shared_daemon.docker("tag", "either/imported", "either/committed")
    assert image(shared_daemon, "either/committed")["Parent"] == ""


def test_lists_filters_and_history(daemon: Daemon, images: MakeImage) -> None:
    name = images("either/listed", layers=2)  # of 2024
    daemon.docker("pull", "-q", name)
    daemon.docker("tag", name, "either/listed:2")
    labels = ("--change", "LABEL made=here kind=tree")
    for number in (1, 2):  # of today, the first of them soon without a name
        tree = layer_tar({"file": File(str(number).encode())})
        daemon.docker("import", *labels, "-", "either/imported:1", input=tree)
    first, second, old = f"{name}:latest", "either/imported:1", "either/listed:2"
    dangling = "<none>:<none>"
    # The classic store asks when an image was made, the containerd store when its name came here, as Docker's do.
    before = {first, old} if "overlay2" in daemon.docker("info", "--format", "{{.Driver}}") else set()
    chosen = {
        ("reference=either/listed",): {old},
        ("reference=either/*:[12]",): {old, second},
        ("reference=either/*", "reference=*/*/listed"): {old, second, first},
        ("label=made",): {second, dangling},
        ("label=made=here", "label=kind=tree", "dangling=false"): {second},
        ("label=made=elsewhere",): set(),
        ("dangling=true",): {dangling},
        ("dangling=false",): {first, second, old},
        (f"before={second}", "dangling=false"): {first, old},
        (f"since={name}",): {second, dangling},
        (f"since={second}",): set(),
        ("until=2025-01-01",): before,
        ("until=24h",): before,
    }
    for filters, expected in chosen.items():
        words = [word for each in filters for word in ("--filter", each)]
        found = daemon.docker("images", *words, "--format", "{{.Repository}}:{{.Tag}}").split()
        assert (len(found), set(found)) == (len(expected), expected), filters
    assert "nonsense" in says(daemon, "images", "--filter", "nonsense=1")
    history = daemon.docker("history", "--format", "{{.CreatedBy}}", name).splitlines()
    assert history == ["layer 1 for amd64", "layer 0 for amd64"]


def test_tags_and_conflicts(daemon: Daemon, images: MakeImage) -> None:
    name = images("either/tagged", layers=2)
    daemon.docker("pull", "-q", name)
    digest = image(daemon, name)["Id"]
    daemon.docker("tag", name, "either/tagged:one")
    assert "must be forced" in says(daemon, "rmi", digest)
    assert "No such image: nothing:here" in says(daemon, "tag", "nothing:here", "x:y")
    assert "No such image: nothing:here" in says(daemon, "rmi", "nothing:here")
    daemon.docker("rmi", name)
    container = daemon.docker("create", "--network", "none", "either/tagged:one").strip()
    assert f"container {container[:12]} is using its referenced image" in says(
        daemon, "rmi", "either/tagged:one"
    )
    assert row(daemon, "either/tagged:one")["Containers"] == 1
    daemon.docker("rm", container)
    said = daemon.docker("rmi", "either/tagged:one")
    assert "Untagged: either/tagged:one" in said
    assert f"Deleted: {digest}" in said
    assert "No such image" in says(daemon, "image", "inspect", digest)


def test_a_tag_that_moves_leaves_a_dangling_image_for_prune(daemon: Daemon, images: MakeImage) -> None:
    first, second = images("either/first", layers=1), images("either/second", layers=4)
    daemon.docker("pull", "-q", first)
    old = image(daemon, first)["Id"]
    daemon.docker("tag", first, "either/moving")
    daemon.docker("rmi", first)
    daemon.docker("pull", "-q", second)
    daemon.docker("tag", second, "either/moving")
    dangling = ("images", "-q", "--no-trunc", "--filter", "dangling=true")
    assert old in daemon.docker(*dangling)
    assert f"deleted: {old}" in daemon.docker("image", "prune", "-f").lower()
    assert daemon.docker(*dangling) == ""


def test_a_platform_that_moves_in_leaves_the_other_one(daemon: Daemon, images: MakeImage) -> None:
    """Of one index: the containerd store keeps both below the tag, the classic store the one before as dangling."""
    name = images("either/moved-in")
    daemon.docker("pull", "-q", name)
    old = image(daemon, name)["Id"]
    daemon.docker("pull", "-q", "--platform", "linux/s390x", name)
    assert (image(daemon, name)["Id"] == old) is not daemon.classic
    assert (old in daemon.docker("images", "-q", "--no-trunc", "--filter", "dangling=true")) is daemon.classic
    assert json.loads(daemon.docker("image", "inspect", old))[0]["Id"] == old


def test_list_usage_and_prune_tell_the_same_sizes(daemon: Daemon, images: MakeImage) -> None:
    first, second = (
        images("either/sizes-1", layers=2, foreign=False),
        images("either/sizes-2", layers=3, foreign=False),
    )
    for name in (first, second):
        daemon.docker("pull", "-q", name)
    rows = {name: row(daemon, f"{name}:latest", "shared-size=1") for name in (first, second)}
    _, usage = daemon.api("GET", "/v1.51/system/df?type=image")
    sizes = {item["Id"]: item["Size"] for item in usage["Images"]}
    assert sizes == {each["Id"]: each["Size"] for each in rows.values()}
    shared = {each["SharedSize"] for each in rows.values()}
    own = {name: each["Size"] - each["SharedSize"] for name, each in rows.items()}
    assert usage["LayersSize"] <= sum(own.values()) + max(shared)
    container = daemon.docker("create", "--network", "none", first).strip()
    every = urllib.parse.quote('{"dangling":["false"]}')
    _, said = daemon.api("POST", f"/v1.51/images/prune?filters={every}")
    assert said["SpaceReclaimed"] == own[second] > 0
    _, after = daemon.api("GET", "/v1.51/system/df?type=image")
    assert after["LayersSize"] == usage["LayersSize"] - said["SpaceReclaimed"]
    assert "invalid filter" in says(daemon, "image", "prune", "-f", "--filter", "reference=x")
    daemon.docker("rm", container)
    assert "RECLAIMABLE" in daemon.docker("system", "df")


def test_an_image_is_mounted(shared_daemon: Daemon, images: MakeImage) -> None:
    name = images("either/mounted", layers=2)
    shared_daemon.docker("pull", "-q", name)
    mount = f"type=image,source={name},target=/other"
    script = "cat /other/layer-0; echo x >/other/x || echo refused"
    said = run(shared_daemon, "--mount", mount, name, "sh", "-c", script)
    assert said == f"{0:064d}refused\n"


def test_events_tell_what_happened(daemon: Daemon, images: MakeImage) -> None:
    name = images("either/events")
    since = time.time()
    daemon.docker("pull", "-q", name)
    daemon.docker("tag", name, "seen:1")
    archive = daemon.directory / "events.tar"
    daemon.docker("save", "-o", str(archive), "seen:1")
    daemon.docker("rmi", "seen:1")
    daemon.docker("rmi", name)
    daemon.docker("load", "-i", str(archive))
    actions = [each["Action"] for each in daemon.events(since, "type=image")]
    # The classic store has the digest of the pull as one more name of the image.
    untagged = ["untag"] * (3 if daemon.classic else 2)
    assert actions == ["pull", "tag", "save", *untagged, "delete", "load"]
    since = time.time()
    daemon.docker("import", "--change", "CMD x", "-", "made:1", input=layer_tar({"file": File(b"file")}))
    daemon.docker("create", "--name", "maker", "--network", "none", "made:1")
    daemon.docker("commit", "maker", "made:2")
    told = [(each["Action"], each["Actor"]["Attributes"]) for each in daemon.events(since)]
    assert [action for action, _ in told] == ["tag", "import", "create", "create", "tag", "commit"]
    assert [each["name"] for action, each in told if action == "tag"] == ["made:1", "made:2"]
    assert told[-1][1]["imageRef"] == "made:2"


def test_a_registry_is_looked_into(shared_daemon: Daemon, images: MakeImage) -> None:
    name = images("either/far")
    status, answer = shared_daemon.api("GET", f"/v1.51/distribution/{name}/json")
    assert status == 200
    assert {p["architecture"] for p in answer["Platforms"]} == {"amd64", "s390x"}
    domain, _, path = name.partition("/")
    assert path in shared_daemon.docker("search", "--format", "{{.Name}}", f"{domain}/either").split()


def test_streams_are_hijacked_and_kept_apart(shared_daemon: Daemon, images: MakeImage) -> None:
    name = images("either/streams")
    shared_daemon.docker("pull", "-q", name)
    done = shared_daemon.run(
        "run", "--rm", "-i", "--network", "none", name, "sh", "-c", "cat; echo err >&2; exit 3", input=b"in"
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, b"in", b"err\n")
    container = shared_daemon.docker("run", "-d", "--network", "none", name, "sleep", "1000").strip()
    done = shared_daemon.run("exec", "-i", container, "sh", "-c", "cat; exit 4", input=b"more")
    assert (done.returncode, done.stdout) == (4, b"more")
    shared_daemon.docker("rm", "-f", container)


def test_every_version_has_its_shape(daemon: Daemon, images: MakeImage) -> None:
    name = images("either/shapes")
    daemon.docker("pull", "-q", name)
    for minor in range(40, 56):
        _, (listed,) = daemon.api("GET", f"/v1.{minor}/images/json?manifests=1")
        assert ("Descriptor" in listed) is (minor >= 48 and not daemon.classic)
        assert ("Manifests" in listed) is (minor >= 47 and not daemon.classic)
        assert ("VirtualSize" in listed) is (minor < 44)
        assert listed["Containers"] == (0 if minor >= 51 else -1)
        _, one = daemon.api("GET", f"/v1.{minor}/images/{name}/json")
        assert ("GraphDriver" in one) is (minor < 52 or daemon.classic)
        assert ("Descriptor" in one) is (minor >= 48 and not daemon.classic)
        assert ("ContainerConfig" in one) is (minor < 45)
        _, usage = daemon.api("GET", f"/v1.{minor}/system/df")
        assert ("LayersSize" in usage, "ImageUsage" in usage) == (True, minor >= 52)
    container = daemon.docker("create", "--network", "none", name).strip()
    for minor in range(40, 56):
        _, one = daemon.api("GET", f"/v1.{minor}/containers/{container}/json")
        assert ("GraphDriver" in one) is (minor < 52 or daemon.classic)
        assert ("Storage" in one) is (minor >= 52 and not daemon.classic)
        assert ("ImageManifestDescriptor" in one) is (minor >= 48 and not daemon.classic)
        assert ("IPAddress" in one["NetworkSettings"], "OnBuild" in one["Config"]) == (minor < 52, minor < 52)
        _, (one,) = daemon.api("GET", f"/v1.{minor}/containers/json?all=1")
        assert ("ImageManifestDescriptor" in one) is (minor >= 48 and not daemon.classic)
    daemon.docker("rm", container)
    status, _ = daemon.api("GET", f"/v1.55/images/{name}/attestations")
    assert status == (501 if daemon.classic else 200)


def test_where_the_root_file_system_is(shared_daemon: Daemon, images: MakeImage) -> None:
    name = images("either/paths", layers=2)
    shared_daemon.docker("pull", "-q", name)
    driver = image(shared_daemon, name)["GraphDriver"]
    if not shared_daemon.classic:
        assert driver["Data"] is None
        return
    top = Path(driver["Data"]["UpperDir"])
    assert driver["Name"] == "overlay2"
    assert (top / "layer-0").exists()
    made = shared_daemon.docker("create", "--network=none", name, "true").strip()
    data = json.loads(shared_daemon.docker("inspect", made))[0]["GraphDriver"]["Data"]
    shared_daemon.docker("rm", made)
    assert data["LowerDir"].split(":")[0] == str(top)
    assert len(data["LowerDir"].split(":")) == len(image(shared_daemon, name)["RootFS"]["Layers"])
    assert Path(data["UpperDir"]).name == "diff"
    assert Path(data["WorkDir"]).parent == Path(data["MergedDir"]).parent == Path(data["UpperDir"]).parent


def client(
    daemon: Daemon, place: Path, *words: str, data: bytes | None = None
) -> subprocess.CompletedProcess[bytes]:
    """A client with a configuration of its own, so that what it is logged in to is this test's."""
    environment = {**os.environ, "DOCKER_HOST": daemon.host, "DOCKER_CONFIG": str(place)}
    return subprocess.run(
        ["docker", *words], env=environment, capture_output=True, check=False, input=data or b"", timeout=100
    )


@pytest.mark.parametrize("tokens", [True, False], ids=["token", "basic"])
def test_docker_login_opens_a_registry(shared_daemon: Daemon, tmp_path: Path, tokens: bool) -> None:
    with FakeRegistry() as registry:
        registry.login, registry.tokens = ("user", "secret"), tokens
        name = published(registry, "private/app")
        denied = client(shared_daemon, tmp_path, "pull", name)
        assert b"pull access denied" in denied.stderr
        login = ("login", "-u", "user", "--password-stdin", registry.host)
        assert client(shared_daemon, tmp_path, *login, data=b"wrong").returncode == 1
        assert b"Login Succeeded" in client(shared_daemon, tmp_path, *login, data=b"secret").stdout
        done = client(shared_daemon, tmp_path, "pull", name)
        assert done.returncode == 0, done.stderr
        client(shared_daemon, tmp_path, "tag", name, f"{name}:pushed")
        done = client(shared_daemon, tmp_path, "push", f"{name}:pushed")
        assert done.returncode == 0, done.stderr
        assert client(shared_daemon, tmp_path, "logout", registry.host).returncode == 0
        denied = client(shared_daemon, tmp_path, "pull", f"{name}:pushed")
        assert b"pull access denied" in denied.stderr


def published(registry: FakeRegistry, path: str) -> str:
    """Put a small image of one layer into a registry; its name."""
    from lading.oci import mediatypes
    from lading.testing import images as make

    made = make.image([make.layer({"from": path.encode()})])
    for descriptor, blob in made.blobs.items():
        registry.add_blob(path, blob, descriptor.media_type)
    registry.add_manifest(path, made.body, mediatypes.OCI_MANIFEST, tag="latest")
    return f"{registry.host}/{path}"


def test_hosts_toml_says_where_a_registry_is(shared_daemon: Daemon) -> None:
    place = Path("/etc/docker/certs.d/hosts-toml.lading.test")
    with FakeRegistry() as registry:
        published(registry, "either/told")
        place.mkdir(parents=True)
        try:
            (place / "hosts.toml").write_text(f'server = "http://{registry.host}"\n')
            shared_daemon.docker("pull", "-q", f"{place.name}/either/told")
            assert image(shared_daemon, f"{place.name}/either/told")["Os"] == "linux"
        finally:
            shutil.rmtree(place)


@contextlib.contextmanager
def mirrored(store: str, registry: FakeRegistry):
    classic = ("--storage-driver=overlay2",) if store == "classic" else ()
    with running_daemon(*classic, f"--registry-mirror=http://{registry.host}") as daemon:
        yield daemon


@pytest.mark.parametrize("store", ["containerd", "classic"])
def test_a_mirror_serves_docker_hub(store: str) -> None:
    with FakeRegistry() as registry, mirrored(store, registry) as daemon:
        published(registry, "library/mirrored")
        daemon.docker("pull", "mirrored")
        assert daemon.docker("images", "--format", "{{.Repository}}").split() == ["mirrored"]
        assert f"http://{registry.host}" in daemon.docker(
            "info", "--format", "{{json .RegistryConfig.Mirrors}}"
        )


def test_an_import_of_nothing_and_of_an_empty_command(shared_daemon: Daemon) -> None:
    daemon = shared_daemon
    daemon.docker("import", "-c", "CMD", "/dev/null", "nothing:1")
    shown = json.loads(daemon.docker("image", "inspect", "nothing:1"))[0]
    assert shown["Config"]["Cmd"] == ["/bin/sh", "-c"]
    assert len(shown["RootFS"]["Layers"]) == 1
    daemon.docker("create", "--name", "nothing", "nothing:1", "/x")
    daemon.docker("rm", "nothing")
    saved = daemon.directory / "nothing.tar"
    daemon.docker("save", "-o", str(saved), "nothing:1")
    daemon.docker("rmi", "nothing:1")
    assert "Loaded image: nothing:1" in daemon.docker("load", "-i", str(saved))
    daemon.docker("rmi", "nothing:1")


def test_no_registry_is_asked_for_scratch(shared_daemon: Daemon) -> None:
    refused = shared_daemon.run("pull", "scratch")
    assert refused.returncode
    assert b"'scratch' is a reserved name" in refused.stderr
    assert shared_daemon.api("POST", "/images/create?fromImage=scratch&tag=latest")[0] == 403


def test_prune_until_is_about_the_record_or_the_image(shared_daemon: Daemon, images: MakeImage) -> None:
    daemon, name = shared_daemon, images("until:old")
    daemon.docker("pull", name)
    assert daemon.docker("image", "inspect", "-f", "{{.Created}}", name) < "2025"
    classic = "overlay2" in daemon.docker("info", "--format", "{{.Driver}}")
    told = daemon.docker("image", "prune", "-a", "-f", "--filter", "until=24h")
    assert (f"untagged: {name}" in told) == classic
