"""A classic data-root goes from dockerd to Lading and back: the same images, usable on both sides, whoever changed them."""

import hashlib
import io
import json
import tarfile
from collections.abc import Generator
from pathlib import Path

import pytest
from e2e.conftest import MakeImage
from support import dockerd
from support.daemon import Daemon
from support.dockerd import Dockerd

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.stores("classic"),
    pytest.mark.skipif(bool(dockerd.missing()), reason=dockerd.missing() or "there is a dockerd"),
]


@pytest.fixture
def docker() -> Generator[Dockerd]:
    with dockerd.classic_dockerd() as made:
        yield made


@pytest.fixture
def lading(docker: Dockerd, tmp_path: Path) -> Generator[Daemon]:
    daemon = Daemon(docker.place)
    try:
        yield daemon
    finally:
        daemon.end()


def archive_layers(data: bytes) -> list[str]:
    """The digests of the layers of a saved image, out of their bytes."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        listed = archive.extractfile("manifest.json")
        assert listed is not None
        (row,) = json.load(listed)
        found: list[str] = []
        for name in row["Layers"]:
            layer = archive.extractfile(name)
            assert layer is not None
            found.append("sha256:" + hashlib.file_digest(layer, "sha256").hexdigest())
        return found


def diff_ids(image: str, daemon: Daemon | Dockerd) -> list[str]:
    return json.loads(daemon.docker("image", "inspect", "--format", "{{json .RootFS.Layers}}", image))


@pytest.mark.timeout(300)
def test_there_and_back(docker: Dockerd, lading: Daemon, images: MakeImage, registry: str) -> None:
    three, two, foreign = images("there:three", layers=3), images("back:two", layers=2), images("foreign:one")

    # dockerd makes a data-root.
    docker.start()
    docker.docker("pull", three)
    docker.docker("tag", three, "mine:a")
    docker.docker("create", "--name", "kept", three, "cat", "/layer-1")
    docker.docker(
        "run",
        "--name",
        "changed",
        "--network",
        "none",
        "mine:a",
        "sh",
        "-c",
        "echo new > /new; rm -r /layer-0",
    )
    docker.docker("commit", "changed", "child:1")
    docker.docker("rm", "changed")
    docker.docker("push", three)
    before = dockerd.images(docker.host)
    history = docker.docker("history", "--no-trunc", "-q", "child:1")
    saved = archive_layers(docker.run("save", "child:1").stdout)
    refusals = commands(three, image_id(before, "there:three"))
    refused = {" ".join(each): refusal(docker, each) for each in refusals}
    assert all(status for status, _ in refused.values())
    docker.stop()

    # Lading opens it: the same images, and they run.
    lading.start()
    assert dockerd.images(lading.host) == before
    assert lading.docker("history", "--no-trunc", "-q", "child:1") == history
    assert lading.docker("run", "--rm", "--network", "none", "child:1", "cat", "/new") == "new\n"
    assert "layer-0" not in lading.docker("run", "--rm", "--network", "none", "child:1", "ls", "/")
    assert "1 container of dockerd" in lading.run("info").stderr.decode()
    assert archive_layers(lading.run("save", "child:1").stdout) == saved == diff_ids("child:1", lading)
    assert {" ".join(each): refusal(lading, each) for each in refusals} == refused

    # Lading changes it.
    lading.docker("pull", two)
    lading.docker("tag", two, "mine:b")
    lading.docker("pull", "--platform", "linux/s390x", foreign)
    lading.docker("rmi", "child:1")
    lading.docker("create", "--name", "ours", "mine:b", "true")
    lading.docker(
        "run", "--name", "wrote", "--network", "none", "mine:b", "sh", "-c", "echo lading > /by; rm /layer-0"
    )
    lading.docker("commit", "wrote", "grown:1")
    lading.docker("rm", "wrote")
    pushed = f"{registry}/pushed:1"
    lading.docker("tag", two, pushed)
    lading.docker("push", pushed)
    after = dockerd.images(lading.host)
    assert lading.stop() == 0

    # dockerd opens it again.
    docker.start()
    now = dockerd.images(docker.host)
    for row in [*after, *now]:
        del row["Containers"]
    assert now == after
    assert docker.docker("run", "--rm", "--network", "none", "mine:b", "cat", "/layer-0").strip("0\n") == ""
    assert archive_layers(docker.run("save", "mine:b").stdout) == diff_ids("mine:b", docker)
    assert docker.docker("start", "-a", "kept").strip("0\n") == "1"
    assert docker.docker("run", "--rm", "--network", "none", "grown:1", "cat", "/by") == "lading\n"
    assert docker.run(
        "run", "--rm", "--network", "none", "grown:1", "cat", "/layer-0", check=False
    ).returncode
    assert archive_layers(docker.run("save", "grown:1").stdout) == diff_ids("grown:1", docker)
    docker.docker("pull", pushed)
    docker.docker("push", pushed)
    docker.docker("rmi", "mine:b")
    docker.docker("run", "--name", "later", "--network", "none", two, "true")
    docker.docker("commit", "later", "later:1")
    last = dockerd.images(docker.host)
    docker.stop()

    # And Lading after that.
    lading.start()
    found = dockerd.images(lading.host)
    for row in [*last, *found]:
        del row["Containers"]
    assert found == last
    lading.docker("rm", "ours")
    # What dockerd pulled moves over under the digest that the registry knows it by.
    digests = {
        name: lading.docker("image", "inspect", "-f", "{{.RepoDigests}}", name) for name in (three, two)
    }
    assert lading.lading("store", "use", "containerd").returncode == 0
    done = lading.lading("store", "migrate", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["DigestsKept"] >= 2
    for name, known in digests.items():
        assert lading.docker("images", "--no-trunc", "-q", name).strip() in known
    assert lading.docker("run", "--rm", "--network", "none", three, "cat", "/layer-1").strip("0\n") == "1"
    assert lading.lading("store", "use", "classic").returncode == 0
    assert lading.docker("run", "--rm", "--network", "none", "later:1", "ls", "/layer-0") == "/layer-0\n"


def commands(name: str, image: str) -> list[list[str]]:
    """What a classic store refuses: names and platforms that it does not have, images that are needed."""
    amd, arm = ("--platform", "linux/amd64"), ("--platform", "linux/arm64")
    return [
        ["rmi", image],
        ["rmi", "-f", image],
        ["rmi", "nothing:here"],
        ["rmi", *arm, name],
        ["rmi", "-f", *amd, *arm, name],
        ["image", "inspect", *arm, name],
        ["history", *arm, name],
        ["push", "-q", *arm, name],
        ["push", "-q", "nothing:here"],
        ["save", *arm, name],
        ["save", *amd, *arm, name],
        ["create", "--pull", "never", *arm, name],
        ["tag", "nothing:here", "there:1"],
        ["history", "nothing:here"],
        ["image", "inspect", "nothing:here"],
        ["run", "--pull", "never", "nothing:here"],
        ["image", "prune", "--filter", "nonsense=1", "-f"],
        ["images", "--filter", "nonsense=1"],
        ["images", "--filter", "since=nothing:here"],
    ]


def refusal(daemon: Daemon | Dockerd, command: list[str]) -> tuple[int, str]:
    done = daemon.run(*command) if isinstance(daemon, Daemon) else daemon.run(*command, check=False)
    # Whether a refusal comes before or within the stream of a push is not what counts.
    return done.returncode, done.stderr.decode().removeprefix("Error response from daemon: ")


def image_id(rows: list[dict[str, object]], tag: str) -> str:
    """The ID of the image that has a tag ending so."""
    return next(str(row["Id"]) for row in rows if any(str(t).endswith(tag) for t in row["RepoTags"]))  # type: ignore[union-attr]
