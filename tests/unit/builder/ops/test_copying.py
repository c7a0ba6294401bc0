"""What copies of files and directories look like; all as BuildKit 0.25 in Docker 28 made them of the same."""

import os
import stat
from pathlib import Path

import pytest

from lading.builder.ops.files import actions
from lading.builder.ops.files.copying import symbolic
from lading.formats.llb import ops

OLD = 1_000_000_000


@pytest.fixture
def source(tmp_path: Path) -> Path:
    place = tmp_path / "source"
    (place / "d" / "s").mkdir(parents=True)
    (place / "d" / "e").mkdir()
    for name, mode in (("d/a", 0o640), ("d/s/b", 0o755)):
        (place / name).write_text(name)
        (place / name).chmod(mode)
    for name, mode in (("d/s", 0o711), ("d/e", 0o1777), ("d", 0o700)):
        (place / name).chmod(mode)
        os.utime(place / name, (OLD, OLD))
    return place


def perform(source: Path, target: Path, action: ops.Copy) -> dict[str, int]:
    """The modes of what there is then."""
    target.mkdir(exist_ok=True)
    root, tree = (os.open(place, os.O_RDONLY | os.O_DIRECTORY) for place in (target, source))
    try:
        actions.perform(action, root, tree, lambda _: None, lambda: False)
    finally:
        os.close(root)
        os.close(tree)
    return {str(path.relative_to(target)): stat.S_IMODE(path.lstat().st_mode) for path in target.rglob("*")}


def copy(src: str, dest: str, mode: int | str | None = None) -> ops.Copy:
    """As ``COPY --chmod=mode src dest`` asks for it."""
    return ops.Copy(
        src=src,
        dest=dest,
        mode=mode,
        allow_wildcard=True,
        follow_symlink=True,
        create_dest_path=True,
        dir_copy_contents=True,
    )


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        (copy("/d/a", "/x/y/a"), {"x": 0o755, "x/y": 0o755, "x/y/a": 0o640}),
        (copy("/d/a", "/x/y/a", 0o700), {"x": 0o700, "x/y": 0o700, "x/y/a": 0o700}),
        (copy("/d/a", "/x/", 0o751), {"x": 0o751, "x/a": 0o751}),
        (copy("/d/a", "/x/", 0), {"x": 0, "x/a": 0}),
        (copy("/d/a", "/x/y", 0o4777), {"x": 0o755, "x/y": 0o4777}),
        (copy("/d/a", "/x/y", "go+w"), {"x": 0o755, "x/y": 0o662}),
        (copy("/d", "/x"), {"x": 0o755, "x/a": 0o640, "x/e": 0o1777, "x/s": 0o711, "x/s/b": 0o755}),
        (copy("/d/", "/x/"), {"x": 0o755, "x/a": 0o640, "x/e": 0o1777, "x/s": 0o711, "x/s/b": 0o755}),
        (
            copy("/d", "/x/y", 0o740),
            {"x": 0o740, "x/y": 0o740, "x/y/a": 0o740, "x/y/e": 0o740, "x/y/s": 0o740, "x/y/s/b": 0o740},
        ),
        (
            copy("/d", "/x", 0o7777),
            {"x": 0o755, "x/a": 0o7777, "x/e": 0o7777, "x/s": 0o7777, "x/s/b": 0o7777},
        ),
        (copy("/d", "/x", "a-x"), {"x": 0o755, "x/a": 0o640, "x/e": 0o1666, "x/s": 0o600, "x/s/b": 0o644}),
    ],
)
def test_modes_of_what_is_made(
    source: Path, tmp_path: Path, action: ops.Copy, expected: dict[str, int]
) -> None:
    assert perform(source, tmp_path / "target", action) == expected


def test_a_directory_that_takes_the_content_of_another_gets_its_time(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    perform(source, target, copy("/d", "/x"))
    assert (target / "x").stat().st_mtime == OLD
    (target / "there").mkdir(mode=0o750)
    perform(source, target, copy("/d/s", "/there", 0o700))
    assert stat.S_IMODE((target / "there").stat().st_mode) == 0o750
    assert (target / "there").stat().st_mtime == OLD


FILE, DIRECTORY = stat.S_IFREG, stat.S_IFDIR


@pytest.mark.parametrize(
    ("text", "before", "after"),
    [
        ("u=rwx,go=rX", FILE | 0o640, 0o744),
        ("u=rwx,go=rX", DIRECTORY | 0o1777, 0o1755),
        ("u=rwX,go=r", DIRECTORY | 0o1777, 0o1744),
        ("a-x", FILE | 0o755, 0o644),
        ("g+s", DIRECTORY | 0o700, 0o2700),
        ("o+s", FILE | 0o700, 0o700),
        ("u+s,+t", DIRECTORY | 0o711, 0o5711),
        ("go=u-w", FILE | 0o640, 0o644),
        ("+rt", FILE | 0o111, 0o1111),
        ("=", FILE | 0o7777, 0o1000),
        ("g=uw", FILE | 0o640, 0o620),
        ("o-u", FILE | 0o707, 0o700),
        ("-X", FILE | 0o755, 0o644),
        ("4755", FILE | 0o600, 0o4755),
    ],
)
def test_symbolic_modes(text: str, before: int, after: int) -> None:
    assert symbolic(text, before) == after
