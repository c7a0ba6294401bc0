"""References: Docker's normalisation, table by table."""

import pytest

from lading.errors import InvalidArgumentError
from lading.oci import reference
from lading.oci.digest import Digest

HEX = "0123456789abcdef" * 4
DIGEST = f"sha256:{HEX}"


@pytest.mark.parametrize(
    ("text", "full", "familiar"),
    [
        ("alpine", "docker.io/library/alpine", "alpine"),
        ("alpine:3.20", "docker.io/library/alpine:3.20", "alpine:3.20"),
        ("library/alpine", "docker.io/library/alpine", "alpine"),
        ("docker.io/alpine", "docker.io/library/alpine", "alpine"),
        ("index.docker.io/alpine", "docker.io/library/alpine", "alpine"),
        ("docker.io/library/a/b", "docker.io/library/a/b", "library/a/b"),
        ("user/image", "docker.io/user/image", "user/image"),
        ("localhost/image", "localhost/image", "localhost/image"),
        ("localhost:5000/image:tag", "localhost:5000/image:tag", "localhost:5000/image:tag"),
        ("127.0.0.1:5000/a/b:T_1.x-y", "127.0.0.1:5000/a/b:T_1.x-y", "127.0.0.1:5000/a/b:T_1.x-y"),
        ("[::1]:5000/a", "[::1]:5000/a", "[::1]:5000/a"),
        ("Registry/a", "Registry/a", "Registry/a"),
        ("example.com/a__b/c-d/e---f", "example.com/a__b/c-d/e---f", "example.com/a__b/c-d/e---f"),
        (f"alpine@{DIGEST}", f"docker.io/library/alpine@{DIGEST}", f"alpine@{DIGEST}"),
        (f"alpine:1@{DIGEST}", f"docker.io/library/alpine:1@{DIGEST}", f"alpine:1@{DIGEST}"),
    ],
)
def test_normalises(text: str, full: str, familiar: str) -> None:
    ref = reference.parse(text)
    assert str(ref) == full
    assert ref.familiar == familiar
    assert reference.parse(full) == ref


@pytest.mark.parametrize(
    "text",
    ["", HEX, "Alpine", "a/B", "-a", "a-", "a//b", "/a", "a/", "a:", "a:-x", "a:" + "t" * 129, "a@", "a@sha256:12", "a b",
     "a\n", "a:t\n", f"a@{DIGEST}\n", "a___b", "a..b", "x" * 256, "exa_mple.com/a", "example.com:port/a", "ä", f"a@md5:{'0' * 32}"],
)  # fmt: skip
def test_rejects(text: str) -> None:
    with pytest.raises(InvalidArgumentError):
        reference.parse(text)


def test_a_long_bad_reference_is_shown_shortened() -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        reference.parse("A" * 100_000)
    assert len(str(caught.value)) < 1000


def test_default_tag_is_added_only_where_nothing_else_is_named() -> None:
    assert reference.parse("a").with_default_tag().tag == "latest"
    assert reference.parse("a:b").with_default_tag().tag == "b"
    assert reference.parse(f"a@{DIGEST}").with_default_tag().tag == ""


def test_changing_tag_and_digest() -> None:
    ref = reference.parse("example.com/a:b")
    assert str(ref.with_digest(Digest(DIGEST))) == f"example.com/a@{DIGEST}"
    assert str(ref.with_tag("c")) == "example.com/a:c"
    with pytest.raises(InvalidArgumentError):
        ref.with_tag("bad tag")


def test_dangling_names() -> None:
    name = reference.dangling_name(Digest(DIGEST))
    assert reference.is_dangling(name)
    assert not reference.is_dangling("docker.io/library/a:b")
