"""``/etc/subuid`` and ``/etc/subgid``."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lading.errors import InvalidArgumentError
from lading.formats import subid
from lading.formats.subid import Entry

IDS = "a:100000:65536"


def test_lines_are_read_and_comments_are_not() -> None:
    found = subid.parse(f"# words\n\n {IDS} \n1000:5:6\n", "file")
    assert found == [Entry("a", 100000, 65536), Entry("1000", 5, 6)]


@pytest.mark.parametrize(
    "line",
    ["a", "a:1", "a:1:2:3", ":1:2", "a:x:2", "a:1:-2", "a:1:0x10", "a:\u0661:2", "a:1:" + "9" * 11, "a: 1:2"],
)
def test_a_malformed_line_is_named(line: str) -> None:
    with pytest.raises(InvalidArgumentError, match="file, line 2"):
        subid.parse(f"{IDS}\n{line}\n", "file")


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        subid.parse(text, "file")
    except InvalidArgumentError:
        return


def ranges(*texts: str) -> list[tuple[int, int]]:
    return subid.ranges(subid.parse("\n".join(texts), "file"), ("a", "7"), "file")


def test_ranges_of_a_name_and_of_its_number_in_order() -> None:
    assert ranges("7:300000:40000", "b:1:2", "a:100000:40000") == [(300000, 40000), (100000, 40000)]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ((), "no subordinate IDs of 'a'"),
        (("b:100000:65536",), "no subordinate IDs"),
        (("a:100000:65535",), "65535 subordinate IDs of 'a' are too few"),
        (("a:0:65536",), "cannot be mapped"),
        (("a:100000:0", IDS), "cannot be mapped"),
        (("a:4294967000:65536",), "cannot be mapped"),
        (("a:4294901760:65536",), "cannot be mapped"),
        ((IDS, "7:165535:10"), "overlap at 165535"),
        ((IDS, IDS), "overlap"),
        (tuple(f"a:{number * 1000 + 1}:500" for number in range(341)), "the kernel takes 340"),
    ],
)
def test_what_cannot_be_used_is_refused(lines: tuple[str, ...], words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=words):
        ranges(*lines)


def test_the_last_ids_can_be_used() -> None:
    assert ranges("a:4294901759:65536") == [(4294901759, 65536)]


@given(st.lists(st.tuples(st.integers(1, 10**6), st.integers(1, 200_000)), max_size=8))
def test_free_ids_meet_nobody_s(taken: list[tuple[int, int]]) -> None:
    start = subid.free([Entry("x", *each) for each in taken])
    assert start >= 100_000
    for first, count in taken:
        assert first + count <= start or start + subid.SMALLEST <= first
