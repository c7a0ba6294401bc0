"""Frames that are joined mean what they meant, however they arrive."""

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lading.kit.grpc.merging import PREFACE, Merger

LIMIT = 100
DATA, HEADERS, PING = 0, 1, 6
Frame = tuple[int, int, int, bytes]
"""Type, flags, stream, payload."""


def packed(frames: list[Frame]) -> bytes:
    return b"".join(
        struct.pack(">HBBBL", len(body) >> 8, len(body) & 255, kind, flags, stream) + body
        for kind, flags, stream, body in frames
    )


def parsed(data: bytes) -> list[Frame]:
    found: list[Frame] = []
    while data:
        high, low, kind, flags, stream = struct.unpack_from(">HBBBL", data)
        end = 9 + (high << 8 | low)
        found.append((kind, flags, stream, data[9:end]))
        data = data[end:]
    return found


def meaning(frames: list[Frame]) -> list[Frame]:
    """The frames with what is joined as one: bytes of a stream, and its end."""
    found: list[Frame] = []
    for kind, flags, stream, body in frames:
        if found and kind == DATA and found[-1][:3] == (DATA, 0, stream) and flags in (0, 1):
            found[-1] = (DATA, flags, stream, found[-1][3] + body)
        else:
            found.append((kind, flags, stream, body))
    return found


frames = st.lists(
    st.tuples(
        st.sampled_from([DATA, DATA, DATA, HEADERS, PING]),
        st.sampled_from([0, 0, 0, 1, 8, 9]),
        st.sampled_from([1, 3]),
        st.binary(max_size=LIMIT),
    ),
    max_size=30,
)


@given(frames, st.lists(st.integers(0, 2000)), st.booleans())
def test_nothing_is_lost_or_moved(sent: list[Frame], cuts: list[int], server: bool) -> None:
    merger = Merger(LIMIT, preface=len(PREFACE) if server else 0)
    data = (PREFACE if server else b"") + packed(sent)
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    came = b"".join(merger.feed(data[a:b]) for a, b in itertools.pairwise(places))
    assert came.startswith(PREFACE) is server or not server
    received = parsed(came.removeprefix(PREFACE) if server else came)
    assert meaning(received) == meaning(sent)
    assert all(len(body) <= LIMIT for *_, body in received)


def test_frames_that_come_together_become_few() -> None:
    merger = Merger(LIMIT)
    sent: list[Frame] = [(DATA, 0, 1, b"0123456789")] * 25
    assert [len(body) for *_, body in parsed(merger.feed(packed(sent)))] == [100, 100, 50]


@pytest.mark.parametrize("rest", [b"", b"anything"])
def test_a_frame_over_the_limit_is_passed_on_for_h2_to_refuse(rest: bytes) -> None:
    merger = Merger(LIMIT)
    fine, large = packed([(DATA, 0, 1, b"x")]), packed([(DATA, 0, 1, bytes(LIMIT + 1))])[:50]
    assert merger.feed(fine + large) == fine + large
    assert merger.feed(rest) == rest
