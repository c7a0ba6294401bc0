"""Capabilities of files, inside and outside of a user namespace."""

import struct

import pytest

from lading.containers import filecaps

SECOND = struct.pack("<5I", 0x02000001, 1 << 10, 7, 1, 2)
THIRD = struct.pack("<6I", 0x03000001, 1 << 10, 7, 1, 2, 100000)


def test_they_count_where_they_should():
    assert filecaps.bound(SECOND, 100000) == THIRD
    assert filecaps.bound(THIRD, 200000) == THIRD[:-4] + struct.pack("<I", 200000)
    assert filecaps.portable(THIRD) == SECOND


@pytest.mark.parametrize("value", [b"", b"x" * 20, b"x" * 24, struct.pack("<3I", 0x01000001, 1, 2)])
def test_what_is_none_stays(value: bytes):
    assert filecaps.bound(value, 5) == filecaps.portable(value) == value


def test_the_machine_s_own_stay():
    assert filecaps.portable(SECOND) == SECOND
