"""One image, many platforms: what the unmodified docker command sees and does, and the API in every version."""

import io
import json
import tarfile
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.daemon import Daemon, running_daemon
from support.images import GOARCH, File, Layout, busybox_layer, push, push_in_two_compressions
from support.registry import docker_registry

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

Made = dict[str, Any]
OTHERS = [arch for arch in ("amd64", "arm64", "s390x") if arch != GOARCH]
SPDX = "https://spdx.dev/Document"
PROVENANCE = "https://slsa.dev/provenance/v1"
SHARED = {"shared": File(b"shared by all platforms" * 1000)}


@pytest.fixture
def publish(registry: str, tmp_path: Path) -> Callable[..., Made]:
    """Make and push an index of three platforms that share a layer, with an attestation about the host's."""

    def make(name: str, *, text: str = "", attested: bool = True) -> Made:
        layout = Layout(tmp_path / name.replace("/", "-") / (text or "x"))
        manifests = {
            arch: layout.manifest(
                [
                    busybox_layer() if arch == GOARCH else {"only": File(arch.encode())},
                    SHARED,
                    {"text": File(text.encode() + arch.encode())},
                ],
                architecture=arch,
                config={"Labels": {"made": "for-tests"}},
            )
            for arch in (GOARCH, *OTHERS)
        }
        entries = list(manifests.values())
        attestation = attestation_for(layout, manifests[GOARCH]["digest"]) if attested else None
        if attestation:
            entries.append(attestation)
        index = layout.index(entries)
        layout.name(index, "image")
        reference = f"{registry}/{name}"
        push(layout.path, "image", reference)
        return {"name": reference, "index": index, "attestation": attestation, **manifests}

    return make


def attestation_for(layout: Layout, digest: str) -> Made:
    """An attestation manifest as BuildKit writes it."""
    layers = []
    for predicate in (SPDX, PROVENANCE):
        body = json.dumps({"_type": "https://in-toto.io/Statement/v0.1", "predicateType": predicate}).encode()
        layers.append(
            layout.blob(body, "application/vnd.in-toto+json")
            | {"annotations": {"in-toto.io/predicate-type": predicate}}
        )
    config = {"architecture": "unknown", "os": "unknown", "config": {}, "rootfs": {"type": "layers", "diff_ids": ["sha256:" + "0" * 64] * 2}}  # fmt: skip
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": layout.blob(json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json"),
        "layers": layers,
    }
    return layout.blob(json.dumps(manifest).encode(), manifest["mediaType"]) | {
        "annotations": {
            "vnd.docker.reference.type": "attestation-manifest",
            "vnd.docker.reference.digest": digest,
        },
        "platform": {"architecture": "unknown", "os": "unknown"},
    }


def listed(daemon: Daemon, version: str = "1.51") -> list[Made]:
    status, rows = daemon.api("GET", f"/v{version}/images/json?manifests=1")
    assert status == 200
    return rows


def available(daemon: Daemon) -> set[str]:
    """Architectures whose content is here, of the only image."""
    (row,) = listed(daemon)
    return {
        m["ImageData"]["Platform"]["architecture"]
        for m in row["Manifests"]
        if m["Kind"] == "image" and m["Available"]
    }


def platform_query(*architectures: str, key: str = "platform") -> str:
    documents = (json.dumps({"os": "linux", "architecture": a}) for a in architectures)
    return "&".join(f"{key}={urllib.parse.quote(each)}" for each in documents)


def members(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {m.name: tar.extractfile(m).read() for m in tar if m.isfile()}  # type: ignore[union-attr]


def body_of(daemon: Daemon, target: str) -> bytes:
    head, _, body = daemon.raw(
        f"GET {target} HTTP/1.0\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
    ).partition(b"\r\n\r\n")
    assert b" 200 " in head.split(b"\r\n")[0], body
    return body


def test_the_list_shows_platforms_and_attestations_as_what_they_are(daemon: Daemon, publish) -> None:
    made = publish("tree")
    daemon.docker("pull", "-q", made["name"])
    (row,) = listed(daemon)
    assert row["Id"] == row["Descriptor"]["digest"] == made["index"]["digest"]
    kinds = {m["Descriptor"]["digest"]: m for m in row["Manifests"]}
    attestation = kinds[made["attestation"]["digest"]]
    assert attestation["Kind"] == "attestation"
    assert attestation["AttestationData"] == {"For": made[GOARCH]["digest"]}
    assert attestation["Available"]
    host, absent = kinds[made[GOARCH]["digest"]], kinds[made[OTHERS[0]]["digest"]]
    assert host["Available"]
    assert host["Size"]["Total"] == host["Size"]["Content"] + host["ImageData"]["Size"]["Unpacked"]
    assert (absent["Available"], absent["Size"]["Total"]) == (False, 0)
    tree = daemon.docker("image", "ls", "--tree").splitlines()
    children = {
        words[1]: words[2:] for line in tree if len(words := line.split()) > 3 and "linux/" in words[1]
    }
    assert {arch.removeprefix("linux/"): words[0] for arch, words in children.items()} == {
        arch: made[arch]["digest"][7:19] for arch in (GOARCH, *OTHERS)
    }
    assert all(children[f"linux/{arch}"][1:3] == ["0B", "0B"] for arch in OTHERS)
    assert children[f"linux/{GOARCH}"][1:3] != ["0B", "0B"]
    assert "unknown" not in "".join(tree)


def test_several_platforms_come_in_one_pull(daemon: Daemon, publish) -> None:
    made = publish("several")
    wanted = ",".join(f"linux/{arch}" for arch in OTHERS)
    said = daemon.docker("pull", "--platform", wanted, made["name"])
    assert "Downloaded newer image" in said
    assert available(daemon) == set(OTHERS)
    daemon.docker("pull", "--platform", "all", made["name"])
    assert available(daemon) == {GOARCH, *OTHERS}
    failed = daemon.run("pull", "--platform", f"linux/{GOARCH},linux/riscv64", made["name"])
    assert failed.returncode == 1
    assert b"no matching manifest for linux/riscv64" in failed.stderr


def test_all_tags_are_pulled(daemon: Daemon, registry: str, tmp_path: Path) -> None:
    for tag in ("one", "two"):
        layout = Layout(tmp_path / tag)
        layout.name(layout.manifest([{"tag": File(tag.encode())}]), "image")
        push(layout.path, "image", f"{registry}/every:{tag}")
    daemon.docker("pull", "--all-tags", f"{registry}/every")
    assert sorted(tag for row in listed(daemon) for tag in row["RepoTags"]) == [
        f"{registry}/every:one",
        f"{registry}/every:two",
    ]


def test_inspect_history_and_run_choose_a_platform(daemon: Daemon, publish) -> None:
    made = publish("chosen")
    daemon.docker("pull", "-q", "--platform", "all", made["name"])
    for arch in (GOARCH, *OTHERS):
        (one,) = json.loads(daemon.docker("image", "inspect", "--platform", f"linux/{arch}", made["name"]))
        assert (one["Id"], one["Architecture"]) == (made[arch]["digest"], arch)
        assert one["Descriptor"]["digest"] == made[arch]["digest"]
        steps = daemon.docker(
            "history", "--format", "{{.CreatedBy}}", "--platform", f"linux/{arch}", made["name"]
        ).splitlines()
        assert steps == [f"layer {n} for {arch}" for n in (2, 1, 0)]
    missing = daemon.run("image", "inspect", "--platform", "linux/riscv64", made["name"])
    assert missing.returncode == 1
    assert b"linux/riscv64" in missing.stderr
    out = daemon.docker(
        "run", "--rm", "--network", "none", "--platform", f"linux/{GOARCH}", made["name"], "cat", "/text"
    )
    assert out == GOARCH
    failed = daemon.run("create", "--pull", "never", "--platform", "linux/riscv64", made["name"])
    assert b"does not provide the specified platform" in failed.stderr


def test_a_container_names_its_manifest(daemon: Daemon, publish) -> None:
    made = publish("named")
    daemon.docker("pull", "-q", made["name"])
    container = daemon.docker("create", "--network", "none", made["name"]).strip()
    _, inspected = daemon.api("GET", f"/v1.51/containers/{container}/json")
    assert inspected["ImageManifestDescriptor"]["digest"] == made[GOARCH]["digest"]
    assert inspected["ImageManifestDescriptor"]["platform"]["architecture"] == GOARCH
    assert inspected["Image"] == made["index"]["digest"]
    (row,) = listed(daemon)
    used = {m["Descriptor"]["digest"]: m["ImageData"]["Containers"] for m in row["Manifests"] if m["Kind"] == "image"}  # fmt: skip
    assert used[made[GOARCH]["digest"]] == [container]
    assert row["Containers"] == 1
    daemon.docker("rm", container)


def test_one_platform_is_pushed_alone(daemon: Daemon, registry: str, publish) -> None:
    made = publish("alone")
    daemon.docker("pull", "-q", "--platform", "all", made["name"])
    copy = f"{registry}/alone/copy:{OTHERS[0]}"
    daemon.docker("tag", made["name"], copy)
    said = daemon.docker("push", "--platform", f"linux/{OTHERS[0]}", copy)
    assert f"digest: {made[OTHERS[0]]['digest']}" in said
    _, far = daemon.api("GET", f"/v1.51/distribution/{copy}/json")
    assert far["Descriptor"]["digest"] == made[OTHERS[0]]["digest"]
    assert [each["architecture"] for each in far["Platforms"]] == [OTHERS[0]]
    assert "multiplatform-content" not in said  # it is what was asked for
    daemon.docker("push", copy)
    _, far = daemon.api("GET", f"/v1.51/distribution/{copy}/json")
    assert far["Descriptor"]["digest"] == made["index"]["digest"]


def test_several_platforms_are_saved_and_loaded(daemon: Daemon, publish, tmp_path: Path) -> None:
    made = publish("archived")
    daemon.docker("pull", "-q", "--platform", "all", made["name"])
    one = members(body_of(daemon, f"/v1.48/images/{made['name']}/get?{platform_query(OTHERS[0])}"))
    assert json.loads(one["index.json"])["manifests"][0]["digest"] == made[OTHERS[0]]["digest"]
    status, refused = daemon.api(
        "GET", f"/v1.51/images/{made['name']}/get?{platform_query(GOARCH, OTHERS[0])}"
    )
    assert status == 400
    assert "API version 1.52" in refused["message"]
    both = body_of(daemon, f"/v1.52/images/{made['name']}/get?{platform_query(GOARCH, OTHERS[0])}")
    found = members(both)
    kept = {
        d["digest"]
        for entry in json.loads(found["index.json"])["manifests"]
        for d in json.loads(found["blobs/" + entry["digest"].replace(":", "/")])["manifests"]
    }
    assert kept == {made[GOARCH]["digest"], made[OTHERS[0]]["digest"], made["attestation"]["digest"]}
    assert made[OTHERS[1]]["digest"].replace(":", "/") not in {n.removeprefix("blobs/") for n in found}
    archive = tmp_path / "both.tar"
    archive.write_bytes(both)
    with running_daemon() as empty:
        empty.docker("load", "-i", str(archive))
        assert available(empty) == {GOARCH, OTHERS[0]}
        assert listed(empty)[0]["Id"] == made["index"]["digest"]
    with running_daemon() as empty:
        empty.docker("load", "-i", str(archive), "--platform", f"linux/{GOARCH}")
        wait_collected(empty)
        assert available(empty) == {GOARCH}
        attestations = [m for m in listed(empty)[0]["Manifests"] if m["Kind"] == "attestation"]
        assert [m["Available"] for m in attestations] == [True]


def wait_collected(daemon: Daemon) -> None:
    daemon.raw(b"POST /lading/gc HTTP/1.0\r\nHost: x\r\nConnection: close\r\n\r\n")


def test_what_is_saved_names_nothing_that_is_not_there(daemon: Daemon, publish, tmp_path: Path) -> None:
    made = publish("partial")
    daemon.docker("pull", "-q", made["name"])
    archive = tmp_path / "partial.tar"
    daemon.docker("save", "-o", str(archive), made["name"])
    found = members(archive.read_bytes())
    blobs = {name.removeprefix("blobs/").replace("/", ":") for name in found if name.startswith("blobs/")}
    pending = [entry["digest"] for entry in json.loads(found["index.json"])["manifests"]]
    while pending:
        digest = pending.pop()
        assert digest in blobs
        document = json.loads(found["blobs/" + digest.replace(":", "/")])
        for child in [*document.get("manifests", ()), *document.get("layers", ()), *([document["config"]] if "config" in document else [])]:  # fmt: skip
            assert child["digest"] in blobs
            if "manifest" in child["mediaType"]:
                pending.append(child["digest"])
    (legacy,) = json.loads(found["manifest.json"])
    assert legacy["RepoTags"] == [f"{made['name']}:latest"]
    with running_daemon() as empty:
        assert f"Loaded image: {made['name']}:latest" in empty.docker("load", "-i", str(archive))
        assert listed(empty)[0]["Id"] == made["index"]["digest"]


def test_removing_a_platform_leaves_what_others_share(daemon: Daemon, publish) -> None:
    made = publish("shared")
    daemon.docker("pull", "-q", "--platform", "all", made["name"])
    refused = daemon.run("rmi", "--platform", f"linux/{OTHERS[0]}", made["name"])
    assert refused.returncode == 1
    before = listed(daemon)[0]["Size"]
    said = daemon.docker(
        "rmi", "--force", *(x for a in OTHERS for x in ("--platform", f"linux/{a}")), made["name"]
    )
    assert {f"Deleted: {made[a]['digest']}" for a in OTHERS} == set(said.split("\n")[:-1])
    assert available(daemon) == {GOARCH}
    assert listed(daemon)[0]["Size"] < before
    assert daemon.docker("run", "--rm", "--network", "none", made["name"], "cat", "/text") == GOARCH
    # Gone already: force asks for nothing else. What the image is not for is an error all the same.
    assert daemon.docker("rmi", "--force", "--platform", f"linux/{OTHERS[0]}", made["name"]) == ""
    absent = daemon.run("rmi", "--force", "--platform", "linux/riscv64", made["name"])
    assert b"does not provide the specified platform (linux/riscv64)" in absent.stderr
    daemon.docker("pull", "-q", "--platform", f"linux/{OTHERS[0]}", made["name"])
    assert available(daemon) == {GOARCH, OTHERS[0]}


def test_a_platform_in_use_is_not_removed(daemon: Daemon, publish) -> None:
    made = publish("used")
    daemon.docker("pull", "-q", made["name"])
    container = daemon.docker("create", "--network", "none", made["name"]).strip()
    refused = daemon.run("rmi", "--force", "--platform", f"linux/{GOARCH}", made["name"])
    assert refused.returncode == 1
    assert b"is being used by container" in refused.stderr
    daemon.docker("rm", container)


def test_a_tag_that_moved_is_not_moved_silently(daemon: Daemon, publish) -> None:
    first = publish("moving", text="first")
    daemon.docker("pull", "-q", first["name"])
    second = publish("moving", text="second")
    said = daemon.docker("pull", "--platform", f"linux/{OTHERS[0]}", first["name"])
    assert f"was {first['index']['digest']} before and means another image now" in said
    rows = {row["Id"]: row for row in listed(daemon)}
    assert rows[first["index"]["digest"]]["RepoTags"] == []
    assert rows[second["index"]["digest"]]["RepoTags"] == [f"{first['name']}:latest"]


def test_the_same_content_in_another_blob_stays_complete(
    daemon: Daemon, registry: str, tmp_path: Path
) -> None:
    names = push_in_two_compressions(tmp_path, f"{registry}/twice/")
    for name in names:
        daemon.docker("pull", "-q", name)
    assert len({row["Id"] for row in listed(daemon)}) == 2
    for name in names:
        (document,) = json.loads(daemon.docker("image", "inspect", name))
        assert document["Config"]["Cmd"] == ["/bin/sh"]
        assert len(document["RootFS"]["Layers"]) == 2
        daemon.docker("tag", name, f"{name}-again")
        assert f"digest: {document['Id']}" in daemon.docker("push", f"{name}-again")
    archive = tmp_path / "twice.tar"
    daemon.docker("save", "-o", str(archive), *names)
    saved = members(archive.read_bytes())
    manifests = [
        json.loads(body) for path, body in saved.items() if b'"layers":' in body and "blobs/" in path
    ]
    layers = {each["digest"] for manifest in manifests for each in manifest["layers"]}
    assert len(layers) == 4  # both packings of both layers
    assert {f"blobs/{digest.replace(':', '/')}" for digest in layers} <= saved.keys()
    with running_daemon() as empty:
        empty.docker("load", "-i", str(archive))
        assert {row["Id"] for row in listed(empty)} == {row["Id"] for row in listed(daemon)}


def test_push_of_what_is_partly_here_tells_and_mounts(daemon: Daemon, registry: str, publish) -> None:
    made = publish("partly")
    daemon.docker("pull", "-q", made["name"])
    near = f"{registry}/partly/copy"
    daemon.docker("tag", made["name"], near)
    # The same registry has what is missing here: it is mounted, and the whole index goes.
    said = daemon.docker("push", near)
    assert f"digest: {made['index']['digest']}" in said
    with docker_registry() as other:
        far = f"{other}/elsewhere"
        daemon.docker("tag", made["name"], far)
        said = daemon.docker("push", far)
        assert f"digest: {made[GOARCH]['digest']}" in said
        assert made["index"]["digest"] in said  # the note about what was pushed instead of what
        assert "try again" not in said  # it was pushed
        _, _, body = daemon.raw(
            f"POST /v1.51/images/{far}/push?tag=latest HTTP/1.0\r\nHost: x\r\nX-Registry-Auth: e30=\r\nConnection: close\r\n\r\n".encode()
        ).partition(b"\r\n\r\n")
        notes = [json.loads(line)["aux"] for line in body.split(b"\r\n") if b'"aux"' in line]
        assert {"Tag": "latest", "Digest": made[GOARCH]["digest"], "Size": made[GOARCH]["size"]} in notes
        instead = next(n for n in notes if n.get("manifestPushedInsteadOfIndex"))
        assert instead["originalIndex"]["digest"] == made["index"]["digest"]
        assert instead["selectedManifest"]["digest"] == made[GOARCH]["digest"]
        assert not any(n.get("contentMissing") for n in notes)


def test_attestations_are_served(daemon: Daemon, publish) -> None:
    made = publish("attested")
    daemon.docker("pull", "-q", made["name"])
    base = f"/v1.55/images/{made['name']}/attestations"
    status, found = daemon.api("GET", base)
    assert status == 200
    assert [each["PredicateType"] for each in found] == [SPDX, PROVENANCE]
    assert all("Statement" not in each for each in found)
    _, (one,) = daemon.api("GET", f"{base}?statement=1&type={urllib.parse.quote(SPDX)}")
    assert one["Statement"]["predicateType"] == SPDX
    assert one["Descriptor"]["mediaType"] == "application/vnd.in-toto+json"
    assert daemon.api("GET", f"{base}?{platform_query('riscv64')}")[0] == 404
    assert daemon.api("GET", base.replace("1.55", "1.54"))[0] == 404


def test_identity_says_where_an_image_came_from(daemon: Daemon, registry: str, publish) -> None:
    made = publish("origin")
    daemon.docker("pull", "-q", made["name"])
    _, older = daemon.api("GET", f"/v1.52/images/{made['name']}/json")
    assert "Identity" not in older
    _, newer = daemon.api("GET", f"/v1.53/images/{made['name']}/json")
    assert newer["Identity"] == {"Pull": [{"Repository": made["name"]}]}
    status, refused = daemon.api("GET", "/v1.54/images/json?identity=1")
    assert (status, "identity requires manifests=1" in refused["message"]) == (400, True)
    _, (row,) = daemon.api("GET", "/v1.54/images/json?identity=1&manifests=1")
    host = next(m for m in row["Manifests"] if m["Descriptor"]["digest"] == made[GOARCH]["digest"])
    assert host["ImageData"]["Identity"] == {"Pull": [{"Repository": made["name"]}]}


def test_every_version_has_its_shape(daemon: Daemon, publish) -> None:
    made = publish("shapes")
    daemon.docker("pull", "-q", made["name"])
    for minor in range(40, 56):
        _, (row,) = daemon.api("GET", f"/v1.{minor}/images/json?manifests=1")
        assert ("Descriptor" in row) is (minor >= 48)
        assert ("Manifests" in row) is (minor >= 47)
        assert ("VirtualSize" in row) is (minor < 44)
        assert row["Containers"] == (0 if minor >= 51 else -1)
        _, one = daemon.api("GET", f"/v1.{minor}/images/{made['name']}/json")
        assert ("GraphDriver" in one) is (minor < 52)
        assert ("ContainerConfig" in one) is (minor < 45)
        assert ("Parent" in one) is (minor < 52)
        assert ("Hostname" in one["Config"]) is (minor < 50)
        _, usage = daemon.api("GET", f"/v1.{minor}/system/df")
        assert ("LayersSize" in usage, "ImageUsage" in usage) == (True, minor >= 52)
    _, usage = daemon.api("GET", "/v1.52/system/df?verbose=1&type=image")
    assert usage.keys() == {"ImageUsage"}
    assert usage["ImageUsage"]["Items"][0]["Id"] == made["index"]["digest"]


def test_list_usage_and_prune_tell_the_same_sizes(daemon: Daemon, publish) -> None:
    first, second = publish("sizes/a", text="a", attested=False), publish("sizes/b", text="b", attested=False)
    for made in (first, second):
        daemon.docker("pull", "-q", made["name"])
    _, rows = daemon.api("GET", "/v1.51/images/json?shared-size=1")
    _, usage = daemon.api("GET", "/v1.51/system/df?type=image")
    assert [row["Size"] for row in rows] == [item["Size"] for item in usage["Images"]]
    shared = {row["SharedSize"] for row in rows}
    assert len(shared) == 1
    unique = [row["Size"] - row["SharedSize"] for row in rows]
    assert usage["LayersSize"] == sum(unique) + shared.pop()
    container = daemon.docker("create", "--network", "none", first["name"]).strip()
    said = daemon.api("POST", "/v1.51/images/prune?filters=" + urllib.parse.quote('{"dangling":["false"]}'))[
        1
    ]
    gone = next(row for row in rows if row["Id"] == second["index"]["digest"])
    assert said["SpaceReclaimed"] == gone["Size"] - gone["SharedSize"]
    assert {"Untagged": f"{second['name']}:latest"} in said["ImagesDeleted"]
    assert {"Deleted": second["index"]["digest"]} in said["ImagesDeleted"]
    _, after = daemon.api("GET", "/v1.51/system/df?type=image")
    assert after["LayersSize"] == usage["LayersSize"] - said["SpaceReclaimed"]
    daemon.docker("rm", container)


def test_prune_goes_by_name_and_by_filter(daemon: Daemon, publish) -> None:
    made = publish("pruned")
    daemon.docker("pull", "-q", made["name"])
    daemon.docker("tag", made["name"], "kept:1")
    daemon.docker("tag", made["name"], "other:1")
    container = daemon.docker("create", "--network", "none", "kept:1").strip()
    for narrow in ("until=2020-01-01", "label=made=elsewhere", "label!=made"):
        assert "Total reclaimed space: 0B" in daemon.docker("image", "prune", "-a", "-f", "--filter", narrow)
    assert len(listed(daemon)[0]["RepoTags"]) == 3
    daemon.docker("image", "prune", "-a", "-f", "--filter", "label=made=for-tests")
    assert listed(daemon)[0]["RepoTags"] == ["kept:1"]
    bad = daemon.run("image", "prune", "-f", "--filter", "reference=x")
    assert b"reference" in bad.stderr
    daemon.docker("rm", container)


def test_events_come_in_dockers_order(daemon: Daemon, publish) -> None:
    made = publish("events")
    since = time.time()
    daemon.docker("pull", "-q", made["name"])
    daemon.docker("tag", made["name"], "seen:1")
    archive = daemon.directory / "events.tar"
    daemon.docker("save", "-o", str(archive), "seen:1")
    daemon.docker("rmi", "seen:1")
    daemon.docker("rmi", made["name"])
    daemon.docker("load", "-i", str(archive))
    daemon.docker("image", "prune", "-a", "-f")
    seen = daemon.events(since, "type=image")
    actions = [each["Action"] for each in seen]
    assert actions == ["pull", "tag", "save", "untag", "untag", "delete", "load", "untag", "delete", "prune"]
    digest = made["index"]["digest"]
    actors = [each["Actor"]["ID"] for each in seen]
    assert actors == [f"{made['name']}:latest", *[digest] * 8, ""]
    assert [seen[i]["Actor"]["Attributes"].get("made") for i in (0, 1, 2, 6)] == ["for-tests"] * 4
    assert seen[1]["Actor"]["Attributes"]["name"] == "seen:1"
    _, _, raw = daemon.raw(
        f"GET /v1.52/events?since={since:.6f}&until={time.time():.6f} HTTP/1.0\r\nHost: x\r\nAccept: application/json-seq\r\n\r\n".encode()
    ).partition(b"\r\n\r\n")
    assert raw.startswith(b"\x1e{")
    assert b'"status"' not in raw


def test_search_asks_the_registry(daemon: Daemon, registry: str, publish) -> None:
    publish("findable/thing")
    names = daemon.docker("search", "--format", "{{.Name}}", f"{registry}/findable").split()
    assert names == ["findable/thing"]
    failed = daemon.run("search", "--limit", "101", f"{registry}/x")
    assert b"outside the range" in failed.stderr
    refused = daemon.run("search", "--filter", "nonsense=1", f"{registry}/x")
    assert b"nonsense" in refused.stderr
