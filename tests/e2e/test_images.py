"""Images through the unmodified docker client: pull, list, tag, push, save, load, remove."""

import json
import subprocess
import time
from pathlib import Path

import pytest
from support.daemon import Daemon, running_daemon

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]


def raw_digest(reference: str) -> str:
    """Digest of what the registry has under a reference, by another tool."""
    done = subprocess.run(
        ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{reference}"],
        check=True,
        capture_output=True,
    )
    return (
        "sha256:"
        + subprocess.run(["sha256sum"], input=done.stdout, check=True, capture_output=True)
        .stdout.decode()
        .split()[0]
    )


def image_id(daemon: Daemon, name: str) -> str:
    return daemon.docker("image", "inspect", "--format", "{{.Id}}", name).strip()


@pytest.mark.parametrize("compression", ["gzip", "zstd", ""])
@pytest.mark.parametrize("layers", [1, 8, 60])
def test_pull_run_push_save_load_keep_the_digest(
    shared_daemon: Daemon, registry: str, images, layers: int, compression: str
) -> None:
    daemon = shared_daemon
    name = f"{registry}/kept/{layers}-{compression or 'plain'}"
    assert images(name.partition("/")[2], layers=layers, compression=compression) == name
    digest = raw_digest(name)

    said = daemon.docker("pull", name)
    assert f"Digest: {digest}" in said
    assert "Downloaded newer image for" in said
    assert "Image is up to date for" in daemon.docker("pull", name)
    assert image_id(daemon, name) == digest
    daemon.docker("pull", "-q", "--platform", "linux/s390x", name)

    assert daemon.docker("run", "--rm", "--network", "host", name, "echo", "it runs") == "it runs\n"

    copy = f"{registry}/copied/{layers}-{compression or 'plain'}"
    daemon.docker("tag", name, copy)
    assert f"digest: {digest}" in daemon.docker("push", copy)
    assert raw_digest(copy) == digest

    archive = daemon.directory / "saved.tar"
    daemon.docker("save", "-o", str(archive), name)
    with running_daemon() as empty:
        assert f"Loaded image: {name}:latest" in empty.docker("load", "-i", str(archive))
        assert image_id(empty, name) == digest
        assert (
            empty.docker("run", "--rm", "--network", "host", name, "echo", "it runs too") == "it runs too\n"
        )


def test_platforms_stand_side_by_side(daemon: Daemon, images) -> None:
    name = images("sides")
    daemon.docker("pull", "-q", name)
    tree = daemon.docker("image", "ls", "--tree")
    assert "linux/amd64" in tree
    first = image_id(daemon, name)
    daemon.docker("pull", "-q", "--platform", "linux/s390x", name)
    assert image_id(daemon, name) == first
    manifests = json.loads(
        daemon.docker("image", "inspect", "--format", "{{json .Manifests}}", name) or "null"
    )
    status, listed = daemon.api("GET", "/v1.51/images/json?manifests=1")
    assert status == 200
    assert [m["Available"] for m in listed[0]["Manifests"]] == [True, True]
    assert {m["ImageData"]["Platform"]["architecture"] for m in listed[0]["Manifests"]} == {"amd64", "s390x"}
    assert manifests is None or len(manifests) == 2
    one = json.loads(daemon.docker("image", "inspect", "--platform", "linux/s390x", name))
    assert one[0]["Architecture"] == "s390x"


def test_a_missing_platform_is_named(daemon: Daemon, images) -> None:
    name = images("missing")
    failed = daemon.run("pull", "--platform", "linux/arm64", name)
    assert failed.returncode == 1
    assert b"no matching manifest for linux/arm64" in failed.stderr
    assert daemon.docker("image", "ls", "-q") == ""


def test_what_does_not_exist_is_said_in_dockers_words(daemon: Daemon, registry: str) -> None:
    assert b"not found" in daemon.run("pull", f"{registry}/nothing:here").stderr
    assert b"No such image: nothing" in daemon.run("image", "inspect", "nothing").stderr
    assert b"No such image: nothing" in daemon.run("rmi", "nothing").stderr
    assert b"tag does not exist" in daemon.run("push", f"{registry}/nothing:here").stderr
    assert b"invalid reference format" in daemon.run("pull", "Not/Valid").stderr


def test_tags_follow_dockers_rules(daemon: Daemon, images) -> None:
    name = images("tags")
    daemon.docker("pull", "-q", name)
    digest = image_id(daemon, name)
    daemon.docker("tag", name, "local:one")
    daemon.docker("tag", "local:one", "local:two")
    rows = daemon.docker(
        "image", "ls", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}"
    ).splitlines()
    assert sorted(rows) == sorted(f"{n} {digest}" for n in (f"{name}:latest", "local:one", "local:two"))
    refused = daemon.run("rmi", digest)
    assert refused.returncode == 1
    assert b"must be forced" in refused.stderr
    assert daemon.docker("rmi", "local:one").strip() == "Untagged: local:one"
    gone = daemon.docker("rmi", "-f", digest)
    assert f"Deleted: {digest}" in gone
    assert daemon.docker("image", "ls", "-q") == ""


def test_a_container_holds_its_image(daemon: Daemon, images) -> None:
    name = images("held")
    daemon.docker("pull", "-q", name)
    container = daemon.docker("create", "--network", "host", name).strip()
    refused = daemon.run("rmi", name)
    assert refused.returncode == 1
    assert b"is using its referenced image" in refused.stderr
    daemon.docker("rm", container)
    assert "Deleted: " in daemon.docker("rmi", name)


def test_history_and_labels_and_filters(daemon: Daemon, images) -> None:
    name = images("history", layers=3)
    daemon.docker("pull", "-q", name)
    steps = daemon.docker("history", "--format", "{{.CreatedBy}}", name).splitlines()
    assert len(steps) == 3
    assert daemon.docker("image", "ls", "-q", "--filter", "dangling=true") == ""
    assert daemon.docker("image", "ls", "-q", "--filter", f"reference={name}") != ""
    bad = daemon.run("image", "ls", "--filter", "nonsense=1")
    assert bad.returncode == 1
    assert b"nonsense" in bad.stderr


def test_import_makes_an_image_of_a_tree(daemon: Daemon, tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "bin").mkdir(parents=True)
    subprocess.run(["cp", "/bin/busybox", str(root / "bin/busybox")], check=True)
    tree = subprocess.run(["tar", "-C", str(root), "-c", "."], check=True, capture_output=True).stdout
    made = daemon.docker(
        "import", "--change", 'CMD ["/bin/busybox", "echo", "imported"]', "-", "made:here", input=tree
    ).strip()
    assert made.startswith("sha256:")
    assert daemon.docker("run", "--rm", "--network", "host", "made:here") == "imported\n"


def test_prune_removes_what_has_no_name(daemon: Daemon, registry: str, images) -> None:
    first = images("prune-a", layers=1)
    second = images("prune-b", layers=2)
    daemon.docker("pull", "-q", first)
    daemon.docker("pull", "-q", second)
    old = image_id(daemon, first)
    daemon.docker("tag", second, first)
    assert daemon.docker("image", "ls", "-q", "--no-trunc", "--filter", "dangling=true").strip() == old
    said = daemon.docker("image", "prune", "-f")
    assert f"deleted: {old}" in said.lower()
    assert "Total reclaimed space: " in said
    assert daemon.docker("image", "ls", "-q", "--filter", "dangling=true") == ""
    assert "up to date" in daemon.docker("pull", second)


def test_events_tell_what_happened_to_images(daemon: Daemon, images) -> None:
    name = images("events")
    since = time.time()
    daemon.docker("pull", "-q", name)
    daemon.docker("tag", name, "seen:1")
    daemon.docker("rmi", "seen:1")
    assert [each["Action"] for each in daemon.events(since, "type=image")] == ["pull", "tag", "untag"]


def test_distribution_inspect_does_not_pull(daemon: Daemon, images) -> None:
    name = images("far")
    status, answer = daemon.api("GET", f"/v1.51/distribution/{name}/json")
    assert status == 200
    assert answer["Descriptor"]["digest"] == raw_digest(name)
    assert {p["architecture"] for p in answer["Platforms"]} == {"amd64", "s390x"}
    assert daemon.docker("image", "ls", "-q") == ""


def test_older_clients_get_the_shapes_they_know(daemon: Daemon, images) -> None:
    daemon.docker("pull", "-q", images("old"))
    _, (new,) = daemon.api("GET", "/v1.51/images/json")
    _, (old,) = daemon.api("GET", "/v1.43/images/json")
    assert "Descriptor" in new
    assert "VirtualSize" not in new
    assert "Descriptor" not in old
    assert old["VirtualSize"] == old["Size"] == new["Size"]
    _, oldest = daemon.api("GET", f"/v1.44/images/{new['Id']}/json")
    assert oldest["Container"] == ""
