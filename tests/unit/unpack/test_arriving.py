"""The ingest is the queue: what a follower reads is what arrived, in order, and it wakes for every change."""

import threading
import time

import pytest

from lading.errors import DataLossError
from lading.kit.tasks import StoppedError
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest
from lading.unpack.arriving import Arriving

DATA = bytes(range(256)) * 40


class Bytes:
    """A pread over what has been written so far."""

    def __init__(self) -> None:
        self.held = bytearray()
        self.inside = threading.Event()
        self.go = threading.Event()
        self.go.set()

    def pread(self, length: int, offset: int) -> bytes:
        self.inside.set()
        assert self.go.wait(10)
        return bytes(self.held[offset : offset + length])


def arriving() -> Arriving:
    return Arriving(Descriptor(media_type="x", digest=Digest.of(DATA), size=len(DATA)))


def drain(cursor, into: bytearray) -> None:
    while data := cursor.read(1000):
        into += data


def test_a_follower_reads_prefix_and_growth():
    blob, source, got = arriving(), Bytes(), bytearray()
    source.held += DATA[:3000]
    blob.attach(source.pread, 3000)
    thread = threading.Thread(target=drain, args=(blob.follow(), got))
    thread.start()
    for end in range(4000, len(DATA) + 1000, 1000):
        source.held += DATA[len(source.held) : end]
        blob.advance(len(source.held))
    thread.join(10)
    assert not thread.is_alive()
    assert bytes(got) == DATA


def test_a_follower_goes_on_in_the_stored_blob_after_the_ingest_is_gone():
    blob, ingest, stored, got = arriving(), Bytes(), Bytes(), bytearray()
    ingest.held += DATA[:1500]
    stored.held += DATA
    blob.attach(ingest.pread, 1500)
    cursor = blob.follow()
    thread = threading.Thread(target=drain, args=(cursor, got))
    thread.start()
    while cursor.offset < 1500:
        time.sleep(0)
    blob.detach()
    ingest.held.clear()
    cursor.attach(stored.pread)
    thread.join(10)
    assert bytes(got) == DATA


@pytest.mark.parametrize("stored", [False, True])
def test_detach_waits_for_a_read_in_progress(stored: bool):
    blob, source, got = arriving(), Bytes(), bytearray()
    source.held += DATA
    source.go.clear()
    cursor = blob.follow()
    if stored:
        cursor.attach(source.pread)
    else:
        blob.attach(source.pread, len(DATA))
    reader = threading.Thread(target=lambda: got.extend(cursor.read(1000)))
    reader.start()
    assert source.inside.wait(10)
    detached = threading.Event()
    owner = threading.Thread(target=lambda: ((cursor if stored else blob).detach(), detached.set()))
    owner.start()
    assert not detached.wait(0.05)
    source.go.set()
    assert detached.wait(10)
    reader.join(10)
    owner.join(10)
    assert bytes(got) == DATA[:1000]


def stopped(cursor) -> tuple[threading.Thread, list[BaseException]]:
    errors: list[BaseException] = []

    def read() -> None:
        try:
            cursor.read(10)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    return thread, errors


def test_closing_wakes_a_waiting_follower():
    blob = arriving()
    cursor = blob.follow()
    thread, errors = stopped(cursor)
    cursor.close()
    thread.join(10)
    assert isinstance(errors[0], StoppedError)


@pytest.mark.anyio
async def test_discarding_wakes_a_waiting_follower_with_the_reason():
    blob = arriving()
    thread, errors = stopped(blob.follow())
    blob.discard()
    thread.join(10)
    assert isinstance(errors[0], DataLossError)
    assert blob.settled.is_set()


def test_an_ingest_that_gives_back_less_than_it_holds_is_data_loss():
    blob = arriving()
    blob.attach(lambda _length, _offset: b"", 10)
    with pytest.raises(DataLossError, match="ends at byte 0"):
        blob.follow().read(10)


def test_an_empty_blob_ends_at_once():
    blob = Arriving(Descriptor(media_type="x", digest=Digest.of(b""), size=0))
    assert blob.follow().read(10) == b""
