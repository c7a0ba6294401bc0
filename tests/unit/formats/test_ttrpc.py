"""ttrpc framing, byte by byte."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lading.errors import ResourceExhaustedError
from lading.formats.ttrpc import HEADER_SIZE, MAX_PAYLOAD, Frame, FrameDecoder, FrameError, Kind, encode

FRAMES = st.builds(
    Frame,
    stream=st.integers(1, 2**32 - 1),
    kind=st.sampled_from(Kind),
    payload=st.binary(max_size=300),
    flags=st.integers(0, 255),
)


def test_the_header_is_the_specifications() -> None:
    data = encode(Frame(stream=3, kind=Kind.REQUEST, payload=b"ab", flags=1))
    assert data == bytes.fromhex("00000002 00000003 01 01") + b"ab"


@given(st.lists(FRAMES, max_size=5), st.integers(1, 40))
def test_frames_survive_any_cut(frames: list[Frame], step: int) -> None:
    data = b"".join(encode(frame) for frame in frames)
    decoder = FrameDecoder()
    found = [
        frame for start in range(0, len(data), step) for frame in decoder.feed(data[start : start + step])
    ]
    decoder.close()
    assert found == frames


@pytest.mark.parametrize(
    "header",
    [
        "00400001 00000001 01 00",
        "ffffffff 00000001 02 00",
        "00000000 00000000 01 00",
        "00000000 00000001 00 00",
        "00000000 00000001 04 00",
    ],
)
def test_what_no_peer_sends_is_rejected_at_the_header(header: str) -> None:
    with pytest.raises(FrameError):
        list(FrameDecoder().feed(bytes.fromhex(header)))


def test_the_largest_frame_passes_and_one_byte_more_is_refused() -> None:
    frame = Frame(stream=1, kind=Kind.RESPONSE, payload=bytes(MAX_PAYLOAD))
    assert list(FrameDecoder().feed(encode(frame))) == [frame]
    with pytest.raises(ResourceExhaustedError, match=str(MAX_PAYLOAD + 1)):
        encode(Frame(stream=1, kind=Kind.RESPONSE, payload=bytes(MAX_PAYLOAD + 1)))


def test_an_end_within_a_frame_is_told() -> None:
    decoder = FrameDecoder()
    assert not list(decoder.feed(bytes(HEADER_SIZE - 1)))
    with pytest.raises(FrameError):
        decoder.close()
