"""The head start for moves between cgroups: which file it writes to, and that it changes nothing."""

from pathlib import Path

import pytest

from lading.runtime.moves import HeadStart, own_members

V1 = "33 25 0:29 {root} {point} rw,relatime shared:9 - cgroup cgroup rw,pids\n"
V2 = "34 25 0:30 {root} {point} rw,relatime - cgroup2 cgroup2 rw,nsdelegate\n"


def process(directory: Path, mounts: str, cgroups: str) -> Path:
    (directory / "mountinfo").write_text(
        "25 1 0:24 / /sys rw shared:7 - sysfs sysfs rw\n" + mounts, encoding="utf-8"
    )
    (directory / "cgroup").write_text(cgroups, encoding="utf-8")
    return directory


@pytest.mark.parametrize(("form", "line"), [(V1, "4:pids:{path}\n"), (V2, "0::{path}\n")])
@pytest.mark.parametrize(
    ("root", "path", "below"), [("/", "/", ""), ("/", "/a/b", "a/b"), ("/a", "/a/b", "b"), ("/a", "/a", "")]
)
def test_the_file_is_that_of_the_own_cgroup(
    tmp_path: Path, form: str, line: str, root: str, path: str, below: str
) -> None:
    point = tmp_path / "hierarchy"
    (point / below).mkdir(parents=True)
    members = point / below / "cgroup.procs"
    members.touch()
    shown = process(tmp_path, form.format(root=root, point=point), line.format(path=path))
    assert own_members(shown) == members


def test_what_is_mounted_elsewhere_is_not_taken(tmp_path: Path) -> None:
    point = tmp_path / "hierarchy"
    (point / "b").mkdir(parents=True)
    (point / "b/cgroup.procs").touch()
    assert own_members(process(tmp_path, V2.format(root="/a", point=point), "0::/ab\n")) is None
    assert own_members(process(tmp_path, V2.format(root="/", point=point), "0::/../b\n")) is None
    assert own_members(process(tmp_path, V1.format(root="/", point=point), "0::/b\n")) is None
    assert own_members(process(tmp_path, "", "0::/\n")) is None


@pytest.mark.anyio
async def test_it_leaves_this_process_where_it_is() -> None:
    before = Path("/proc/self/cgroup").read_text(encoding="ascii")
    start = HeadStart()
    await start.give()
    await start.give()
    assert Path("/proc/self/cgroup").read_text(encoding="ascii") == before
