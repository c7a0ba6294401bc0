"""Which parts of a tree count."""

import itertools
import time

import pytest

from lading.builder.ops import contents
from lading.builder.ops.trees import Tree
from lading.builder.solver.keys import output_key
from lading.builder.solver.operation import CacheMap
from lading.formats.llb import ops
from lading.oci.descriptor import Platform
from lading.oci.digest import Digest


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


def keys(found: CacheMap[Tree]) -> list[str]:
    """What a cache would have of a source, without the hash's name and in short."""
    return [output_key(digest, 0)[7:23] for digest in found.digests]


# The keys below are those of caches that BuildKit 0.25.2 exported ("mode=max") of builds with these sources.


@pytest.mark.parametrize(
    ("architecture", "chain", "expected"),
    [
        (
            "amd64",
            "b4ac795c9ab6dcf0fe76ed2505776b3ba8a3a670150394e3ddd61680d1c392a8",
            ["2f43d5e37c6af4c3", "c15180bec126dfe0"],
        ),
        (
            "s390x",
            "0b600c865ac0f76d8e1bada43f7334b8569003c58c1f89f1e3dcb6be40e05b5b",
            ["cdcb9a3276c441fe", "4f220748b8b74044"],
        ),
    ],
)
def test_an_image_has_buildkits_keys(architecture: str, chain: str, expected: list[str]) -> None:
    index = Digest("sha256:6f169edf45ab91330871b7d8ac4bae1bfa6ecf276516f2f92b744f585f8b1e98")
    platform = Platform(os="linux", architecture=architecture)
    assert keys(contents.of_image(index, platform, None, Digest(f"sha256:{chain}"))) == expected


@pytest.mark.parametrize(
    ("keep", "subdir", "expected"),
    [(False, "", "1076791ded0cc0bd"), (False, "dir", "c5c9864d760f45b7"), (True, "", "ddeab45bc038aba6")],
)
def test_a_checkout_has_buildkits_key(keep: bool, subdir: str, expected: str) -> None:
    commit = "d98f7274b957a555612936b63f96553609ab7556"
    found = contents.of_commit(commit, "refs/heads/main", keep=keep, subdir=subdir, submodules=True)
    assert keys(found) == [expected]


@pytest.mark.parametrize(
    ("modified", "expected"),
    [("Sun, 29 Nov 2026 15:38:12 GMT", "82d53fc6bfe4b359"), ("", "3332a72fe1dd6c66")],
)
def test_a_file_from_the_web_has_buildkits_key(modified: str, expected: str) -> None:
    digest = "sha256:8b911a8716b94442f9ca3dff20584048536e4c2f47b8b5bb9096cbd43c3432d5"
    found = contents.of_download("f.txt", digest, mode=0, uid=0, gid=0, modified=modified, headers={})
    assert keys(found) == [expected]


def test_what_is_asked_of_a_source_is_in_its_key() -> None:
    """Written out as BuildKit does (``shaToCacheKey``, ``formatCacheKey``)."""
    both = contents.of_commit("c0", "refs/heads/main", keep=True, subdir="a/b", submodules=False)
    text = "buildkit.source.v0:c0.git#refs/heads/main:a/b(skip-submodules)"
    assert both.digests == (Digest.of(text.encode()),)
    headers = {"user-agent": "<me>", "accept": "text/plain"}
    file = contents.of_download("f", "sha256:1", mode=0o640, uid=1, gid=2, modified="now", headers=headers)
    document = (
        b'{"Filename":"f","Perm":416,"UID":1,"GID":2,"Checksum":"sha256:1","LastModTime":"now","Header":['
        b'{"Name":"Accept","Value":"text/plain"},{"Name":"User-Agent","Value":"\\u003cme\\u003e"}]}'
    )
    assert file.digests == (Digest.of(f"buildkit.source.v0:{Digest.of(document)}".encode()),)
