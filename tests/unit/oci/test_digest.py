"""Digests and chain IDs."""

import hashlib

import pytest

from lading.errors import InvalidArgumentError
from lading.oci.digest import ChainID, DiffID, Digest, chain_ids, new_hasher


@pytest.mark.parametrize("name", ["sha256", "sha384", "sha512"])
def test_of_and_matches(name: str) -> None:
    digest = Digest.of(b"data", name)
    assert digest == f"{name}:{hashlib.new(name, b'data').hexdigest()}"
    assert (digest.algorithm, digest.hex) == tuple(digest.split(":"))
    assert digest.short == digest.hex[:12]
    assert digest.matches(b"data")
    assert not digest.matches(b"Data")


GOOD = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    "text",
    ["", "sha256:", GOOD + "\n", GOOD.upper(), "sha256:" + "A" * 64, GOOD[:-1], GOOD + "a", "md5:" + "a" * 32, "../" + GOOD, "a" * 64,
     "sha512:" + "a" * 64, GOOD.replace("a", "\N{FULLWIDTH LATIN SMALL LETTER A}"), "sha256:" + "x" * 10_000],
)  # fmt: skip
def test_rejects_what_is_not_a_digest(text: str) -> None:
    with pytest.raises(InvalidArgumentError):
        Digest(text)


def test_unknown_algorithm_is_named() -> None:
    with pytest.raises(InvalidArgumentError, match="md5"):
        new_hasher("md5")


def test_chain_ids_follow_the_specification() -> None:
    one, two = DiffID.of(b"1"), DiffID.of(b"2")
    first, second = chain_ids([one, two])
    assert first == one
    assert isinstance(first, ChainID)
    assert second == "sha256:" + hashlib.sha256(f"{one} {two}".encode()).hexdigest()
    assert chain_ids([]) == []
