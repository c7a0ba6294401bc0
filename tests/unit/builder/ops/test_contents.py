"""Which parts of a tree count."""

import itertools
import time

import pytest

from lading.builder.ops import contents
from lading.formats.llb import ops


def selected(paths: list[str]) -> list[str]:
    """The mount points' sources that a process is known by."""
    mounts = tuple(ops.Mount(dest=f"/{number}", selector=path, input=0) for number, path in enumerate(paths))
    use = contents._uses(ops.ExecOp(meta=ops.Meta(args=()), mounts=mounts))[0]
    return contents._outermost(use.selectors)


PATHS = ["/", "/a", "/b", "/ab", "/a/b", "/a/ab", "/ab/a", "/a/b/a"]


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_a_path_in_another_one_is_left_out(count: int) -> None:
    for paths in itertools.combinations(PATHS, count):
        expected = [
            one
            for one in paths
            if not any(one != other and f"{one}/".startswith(f"{other.rstrip('/')}/") for other in paths)
        ]
        assert selected(list(paths)) == sorted(expected)


def test_many_paths_take_no_time_by_their_square() -> None:
    started = time.process_time()
    assert len(selected([f"{number}/x" for number in range(30_000)])) == 30_000
    assert time.process_time() - started < 5
