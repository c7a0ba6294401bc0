"""What is cached twice is dropped when reading has stopped, and not before."""

import os
from pathlib import Path

import pytest

from lading.kit import linux
from lading.snapshots.doubles import FRESH, QUIET, SLOWEST, Doubles
from lading.snapshots.erofs_layer import Sample

PAGES = 512


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def data(tmp_path) -> Path:
    path = tmp_path / "layer.data"
    path.write_bytes(b"x" * PAGES * linux.PAGE)
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
    age(path)
    try:
        cached(path)
    except OSError as exc:
        pytest.skip(f"no cachestat here: {exc}")
    return path


def age(path, seconds=2 * FRESH):
    then = path.stat().st_mtime - seconds
    os.utime(path, (then, then))


def cached(path):
    with open(path, "rb") as file:
        return linux.cached_pages(file.fileno())


def read(path, pages):
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        return len(file.read(pages * linux.PAGE))


def look(doubles, clock):
    clock.now += doubles.wait()
    return doubles.drop()


def test_pages_stay_while_something_reads_and_go_when_it_stops(data):
    clock = Clock()
    doubles = Doubles(clock)
    fd = os.open(data, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)
    doubles.watch(1, [data])
    assert doubles.drop() == 0  # not yet due
    read(data, 100)
    assert look(doubles, clock) == 0
    read(data, 300)
    assert look(doubles, clock) == 0
    before = cached(data)
    assert before >= 300
    assert look(doubles, clock) == before * linux.PAGE
    assert cached(data) == 0


def test_what_was_read_goes_while_something_reads_elsewhere_in_the_same_file(data, monkeypatch):
    monkeypatch.setattr("lading.snapshots.doubles.PIECE", PAGES // 2 * linux.PAGE)
    clock = Clock()
    doubles = Doubles(clock)
    fd = os.open(data, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    doubles.watch(1, [data])
    os.pread(fd, 100 * linux.PAGE, 0)
    first = linux.cached_pages(fd, 0, PAGES // 2 * linux.PAGE)
    assert look(doubles, clock) == 0
    os.pread(fd, 100 * linux.PAGE, PAGES // 2 * linux.PAGE)
    assert look(doubles, clock) == first * linux.PAGE
    assert cached(data) >= 100  # what is being read stays
    os.pread(fd, PAGES // 2 * linux.PAGE, PAGES // 2 * linux.PAGE)
    assert look(doubles, clock) == 0
    assert look(doubles, clock) == PAGES // 2 * linux.PAGE
    os.close(fd)


def test_what_was_just_written_stays(data):
    os.utime(data)
    clock = Clock()
    doubles = Doubles(clock)
    doubles.watch(1, [data])
    assert [look(doubles, clock) for _ in range(3)] == [0, 0, 0]
    assert cached(data) == PAGES
    age(data)
    assert look(doubles, clock) == PAGES * linux.PAGE


def in_single_pages(path, pages=PAGES):
    """Cache as much of a file, without large folios, which go as a whole."""
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        for number in range(pages):
            os.pread(file.fileno(), 1, number * linux.PAGE)
        assert linux.cached_pages(file.fileno()) == pages


def shown(data, name, pages):
    """A file of the tree that shows the data, with as many pages of it cached."""
    path = data.with_name("mnt") / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(bytes(PAGES * linux.PAGE))
    with open(path, "rb") as file:
        os.fsync(file.fileno())
    in_single_pages(path, pages)
    in_single_pages(data)


def test_what_was_just_written_goes_where_all_of_it_is_shown_from_the_cache(data, monkeypatch):
    half = PAGES // 2 * linux.PAGE
    monkeypatch.setattr("lading.snapshots.doubles.PIECE", half)
    os.utime(data)
    shown(data, "f", PAGES // 4)
    clock = Clock()
    doubles = Doubles(clock)
    places = [0, half // 4, half // 2, half - linux.PAGE, half]
    doubles.written(1, [Sample(at, "./f", at) for at in places] + [Sample(half + 1, "gone", 0)])
    doubles.watch(1, [data], data.with_name("mnt"))
    assert look(doubles, clock) == 0  # of the first piece half is missing, of the second everything
    in_single_pages(data.with_name("mnt") / "f", PAGES // 2)
    assert look(doubles, clock) == half
    assert cached(data) == PAGES // 2
    clock.now += FRESH
    in_single_pages(data.with_name("mnt") / "f")
    assert look(doubles, clock) == 0  # nothing is known about it any more
    assert cached(data) == PAGES // 2


def test_where_bytes_are_shown_is_remembered_for_a_while_only():
    clock = Clock()
    doubles = Doubles(clock)
    for number in range(10):
        doubles.written(number, [Sample(0, "f", 0)])
        clock.now += FRESH / 2
    assert list(doubles._written) == [8, 9]


def test_what_was_just_written_and_is_not_all_there_is_no_longer_what_was_written(data):
    os.utime(data)
    clock = Clock()
    doubles = Doubles(clock)
    in_single_pages(data, PAGES - 1)
    doubles.watch(1, [data])
    assert look(doubles, clock) == 0
    assert look(doubles, clock) == (PAGES - 1) * linux.PAGE


def test_layers_that_nobody_reads_are_looked_at_less_often_until_they_are_used(data):
    clock = Clock()
    doubles = Doubles(clock)
    doubles.watch(1, [data])
    while look(doubles, clock) == 0:
        pass
    waits = []
    for _ in range(5):
        waits.append(sum(iter(lambda: waited(doubles, clock), 0)))
        doubles.drop()
    assert waits == [2 * QUIET, 4 * QUIET, 8 * QUIET, SLOWEST, SLOWEST]
    doubles.watch(1, [data])
    assert doubles.wait() == QUIET


def waited(doubles, clock):
    wait = doubles.wait()
    clock.now += wait
    return wait


def test_layers_that_are_gone_are_forgotten(data):
    clock = Clock()
    doubles = Doubles(clock)
    doubles.watch(1, [data])
    doubles.watch(2, [data.with_name("missing")])
    assert look(doubles, clock) == 0
    doubles.keep([2])
    assert 1 not in doubles
    assert 2 in doubles
