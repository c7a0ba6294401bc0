"""Builds on the classic store: one platform, the image ID is the config's digest, and the old builder keeps every step's image."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Generator
from pathlib import Path

import pytest
from support.buildx import give_plugins
from support.daemon import Daemon, running_daemon

pytestmark = [pytest.mark.e2e, pytest.mark.stores("classic")]
SHELL = "FROM scratch\nCOPY busybox /bin/busybox\nCOPY busybox /bin/sh\n"
DOCKERFILE = f'{SHELL}RUN echo made > /made\nENV A=b\nCMD ["/bin/busybox", "cat", "/made"]\n'


@pytest.fixture(scope="module")
def classic(tmp_path_factory: pytest.TempPathFactory) -> Generator[Daemon]:
    config = tmp_path_factory.mktemp("config") / "daemon.json"
    config.write_text('{"features": {"containerd-snapshotter": false}}')
    with running_daemon(f"--config-file={config}") as daemon:
        give_plugins(daemon)
        yield daemon


@pytest.fixture
def context(tmp_path: Path) -> Path:
    place = tmp_path / "context"
    place.mkdir()
    shutil.copy("/bin/busybox", place / "busybox")
    return place


def build(
    daemon: Daemon, context: Path, dockerfile: str, *arguments: str, buildkit: bool = True
) -> subprocess.CompletedProcess[str]:
    (context / "Dockerfile").write_text(dockerfile)
    shown = ("--progress=plain",) if buildkit and "-q" not in arguments else ()
    return subprocess.run(
        ["docker", "build", *shown, *arguments, str(context)],
        env={
            **os.environ,
            "DOCKER_HOST": daemon.host,
            "DOCKER_CONFIG": str(daemon.directory / "docker-config"),
            "DOCKER_BUILDKIT": str(int(buildkit)),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


def inspect(daemon: Daemon, name: str) -> dict[str, object]:
    return json.loads(daemon.docker("image", "inspect", name))[0]


def test_an_image_is_its_config(classic: Daemon, context: Path, tmp_path: Path) -> None:
    told, since = tmp_path / "told.json", time.time()
    done = build(classic, context, DOCKERFILE, "-t", "one", "-t", "other:2", "--metadata-file", str(told))
    assert done.returncode == 0, f"{done.stderr}\n{classic.tail()}"
    image = str(inspect(classic, "one")["Id"])
    assert f"writing image {image}" in done.stderr
    created = classic.events(since, "event=create", "type=image")
    assert {each["Actor"]["ID"] for each in created} == {image}
    assert "one:latest" in {each["Actor"]["Attributes"]["name"] for each in created}
    metadata = json.loads(told.read_text())
    assert metadata["containerimage.digest"] == metadata["containerimage.config.digest"] == image
    assert "containerimage.descriptor" not in metadata
    assert sorted(inspect(classic, "one")["RepoTags"]) == ["one:latest", "other:2"]  # type: ignore[call-overload]
    assert classic.docker("run", "--rm", "--network", "none", "one") == "made\n"
    history = classic.docker("history", "--format", "{{.CreatedBy}}", "--no-trunc", "one").splitlines()
    assert history[-1] == "COPY busybox /bin/busybox # buildkit"
    assert build(classic, context, DOCKERFILE, "-q").stdout.strip() == image


def test_what_was_built_is_a_base(classic: Daemon, context: Path, registry: str) -> None:
    name = f"{registry}/classic-base"
    assert build(classic, context, DOCKERFILE, "-t", name).returncode == 0
    below = inspect(classic, name)["RootFS"]["Layers"]  # type: ignore[index]
    done = build(classic, context, f"FROM {name}\nRUN echo more > /more\n", "-t", "upon")
    assert done.returncode == 0, done.stderr
    assert inspect(classic, "upon")["RootFS"]["Layers"][:-1] == below  # type: ignore[index]
    assert (
        classic.docker("run", "--rm", "--network", "none", "upon", "/bin/busybox", "cat", "/more") == "more\n"
    )
    # The same out of the registry, and with --push, which the client turns into a push of its own.
    assert build(classic, context, f"FROM {name}\nENV X=y\n", "-t", f"{name}:2", "--push").returncode == 0
    classic.docker("image", "rm", name, f"{name}:2", "upon")
    pulled = build(classic, context, f"FROM {name}:2\nRUN echo $X > /x\n", "-t", "pulled", "--no-cache")
    assert pulled.returncode == 0, pulled.stderr
    assert inspect(classic, "pulled")["RootFS"]["Layers"][:-1] == below  # type: ignore[index]
    assert classic.docker("run", "--rm", "--network", "none", "pulled", "/bin/busybox", "cat", "/x") == "y\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--platform=linux/amd64,linux/arm64"],
            "Multi-platform build is not supported for the docker driver.",
        ),
        (["--provenance=mode=max"], "Attestation is not supported for the docker driver."),
        (["-o", "type=oci,dest=/dev/null"], "OCI exporter is not supported for the docker driver."),
        (["--cache-to", "type=local,dest=/dev/null"], "Cache export is not supported for the docker driver."),
    ],
)
def test_what_needs_the_other_store_is_said_by_the_client(
    arguments: list[str], said: str, classic: Daemon, context: Path
) -> None:
    refused = build(classic, context, DOCKERFILE, *arguments)
    assert refused.returncode == 1
    assert said in refused.stderr
    assert "turn on the containerd image store" in refused.stderr


def test_an_inline_cache_is_in_the_config(classic: Daemon, context: Path) -> None:
    done = build(classic, context, DOCKERFILE, "-t", "inline", "--cache-to", "type=inline")
    assert done.returncode == 0, done.stderr
    image = str(inspect(classic, "inline")["Id"]).removeprefix("sha256:")
    config = json.loads((classic.data_root / "image/overlay2/imagedb/content/sha256" / image).read_bytes())
    assert config["moby.buildkit.cache.v0"]
    assert classic.docker("run", "--rm", "--network", "none", "inline") == "made\n"


def test_the_old_builder_keeps_every_step(classic: Daemon, context: Path) -> None:
    dockerfile = f"{DOCKERFILE}ARG X\n"
    first = build(classic, context, dockerfile, "-t", "steps", buildkit=False)
    assert first.returncode == 0, first.stderr
    image = inspect(classic, "steps")
    assert f"Successfully built {str(image['Id'])[7:19]}" in first.stdout
    ids = classic.docker("history", "-q", "--no-trunc", "steps").split()
    assert len(ids) == 6
    assert "<missing>" not in ids
    assert image["Parent"] == ids[1]
    assert set(ids[1:]) <= set(classic.docker("images", "-aq", "--no-trunc").split())
    assert not set(ids[1:]) & set(classic.docker("images", "-q", "--no-trunc").split())

    again = build(classic, context, dockerfile, "-t", "again", buildkit=False)
    assert again.stdout.count(" ---> Using cache") == 6
    assert inspect(classic, "again")["Id"] == image["Id"]
    # The images of the steps are the cache, also after a restart; what begins alike shares them.
    classic.stop()
    classic.start()
    other = build(classic, context, f"{DOCKERFILE}LABEL x=y\n", "-t", "other", buildkit=False)
    assert other.stdout.count(" ---> Using cache") == 5
    assert inspect(classic, "other")["Parent"] == ids[1]
    # They go with the last image that stands on them.
    classic.docker("image", "rm", "steps", "again")
    assert ids[1] in classic.docker("images", "-aq", "--no-trunc").split()
    classic.docker("image", "rm", "other")
    assert not set(ids) & set(classic.docker("images", "-aq", "--no-trunc").split())


def test_a_step_upon_a_base_has_it_as_parent(classic: Daemon, context: Path) -> None:
    assert build(classic, context, DOCKERFILE, "-t", "base").returncode == 0
    done = build(
        classic, context, "FROM base AS a\nFROM a\nENV C=d\n", "-t", "child", "--label", "x=y", buildkit=False
    )
    assert done.returncode == 0, done.stderr
    ids = classic.docker("history", "-q", "--no-trunc", "child").split()
    assert ids[2] == inspect(classic, "base")["Id"]
    assert inspect(classic, "child")["Config"]["Labels"] == {"x": "y"}  # type: ignore[index]
    renamed = build(classic, context, "FROM base\n", "-t", "renamed", buildkit=False)
    assert renamed.returncode == 0, renamed.stderr
    assert inspect(classic, "renamed")["Id"] == inspect(classic, "base")["Id"]
