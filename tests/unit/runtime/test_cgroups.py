"""What a runtime that was killed leaves of a container's cgroups is found by the bundle, and nothing else is touched."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.bundles import cgroup_directories, cgroup_parent, remove_cgroups

from lading.runtime.cgroups import hierarchies, remove_left


@pytest.fixture
def parent() -> Iterator[str]:
    made = cgroup_parent()
    points = {point for _, point in hierarchies(Path("/proc/self/mountinfo").read_text("utf-8")).values()}
    for point in points:
        for name in ("one", "other"):
            Path(f"{point}{made}/{name}").mkdir(parents=True)
    try:
        yield made
    finally:
        remove_cgroups(made)


def bundle(directory: Path, path: str) -> Path:
    made = directory / "one"
    made.mkdir()
    (made / "config.json").write_text(json.dumps({"linux": {"cgroupsPath": path}}), "utf-8")
    return made


def names(parent: str) -> set[str]:
    return {child.name for path in cgroup_directories(parent) for child in os.scandir(path) if child.is_dir()}


def test_they_go_with_what_is_below_and_in_them(tmp_path: Path, parent: str):
    for path in cgroup_directories(parent):
        (path / "one/inner").mkdir()
    place = next(path for path in cgroup_directories(parent) if not (path / "one/cpuset.cpus").exists())
    with subprocess.Popen(["sleep", "1000"]) as process:
        (place / "one/inner/cgroup.procs").write_text(str(process.pid), "ascii")
        remove_left(bundle(tmp_path, f"{parent}/one"))
        assert process.wait(10) == -signal.SIGKILL
    assert names(parent) == {"other"}
    remove_left(tmp_path / "one")


@pytest.mark.parametrize(
    "path", ["{parent}/other", "{parent}", "{parent}/x/../one", "one", "a.slice:b:one", ""]
)
def test_what_is_not_the_containers_alone_stays(tmp_path: Path, parent: str, path: str):
    remove_left(bundle(tmp_path, path.format(parent=parent)))
    assert names(parent) == {"one", "other"}


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"linux": null}'])
def test_an_unfinished_bundle_names_none(tmp_path: Path, text: str):
    remove_left(tmp_path)
    (tmp_path / "config.json").write_text(text, "utf-8")
    remove_left(tmp_path)
