"""Devices served by FUSE, and what happens to their readers when those who serve them are killed."""

import contextlib
import os
import random
import select
import signal
import subprocess
import sys
import threading
import time

import pytest

from lading.devices.local import LocalDevices, probe
from lading.testing.devices import OnDemandDevicesSuite, Reader, Sample

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root"),
    pytest.mark.skipif(probe() is not None, reason=f"no FUSE here: {probe()}"),
    pytest.mark.timeout(120),
]


@pytest.fixture
def make():
    return LocalDevices


class TestLocalDevices(OnDemandDevicesSuite):
    pass


@pytest.fixture
def devices(tmp_path):
    made = LocalDevices(tmp_path)
    yield made
    made.close()
    assert not os.path.ismount(tmp_path / "devices")


@pytest.fixture
def sample(tmp_path):
    return Sample(tmp_path / "sample")


def read_all(reader, sample, seed, step=70_001):
    """Read everything in some order: how many reads failed. Wrong bytes fail the test."""
    offsets = list(range(0, len(sample.content), step))
    random.Random(seed).shuffle(offsets)
    failed = 0
    for offset in offsets:
        try:
            found = reader.read(step, offset)
        except OSError:
            failed += 1
            continue
        assert found == sample.content[offset : offset + step]
    return failed


def wait_for(pid):
    """Until a process is gone."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    assert poll.poll(20_000)
    os.close(fd)


def kill(*pids):
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    for pid in pids:
        wait_for(pid)


def lose(reader):
    """Close what nobody serves any more."""
    with contextlib.suppress(OSError):
        os.close(reader.fd)


def test_nothing_is_left(devices, sample, tmp_path):
    reader = Reader(sample.attach(devices))
    pids = devices.pids()
    os.close(reader.fd)
    devices.close()
    assert not os.path.ismount(tmp_path / "devices")
    for pid in pids:
        wait_for(pid)
    assert not (tmp_path / "devices.sock").exists()
    devices.close()
    assert devices.pids() == (0, 0)


def test_the_next_daemon_finds_them(devices, sample, tmp_path):
    reader = Reader(sample.attach(devices))
    pids = devices.pids()
    devices.close()
    assert read_all(reader, sample, 1) == 0
    second = LocalDevices(tmp_path)
    assert second.serves(sample.number)
    sample.attach(second)
    assert second.pids() == pids
    os.close(reader.fd)
    second.close()


@pytest.mark.parametrize("who", [0, 1], ids=["keeper", "worker"])
def test_readers_wait_while_one_of_the_two_is_killed(devices, sample, who):
    readers = [Reader(sample.attach(devices)) for _ in range(4)]
    stop = threading.Event()
    failed = []

    def work(seed):
        rounds = 0
        while not stop.is_set():
            failed.append(read_all(readers[seed], sample, seed + 10 * rounds))
            rounds += 1

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    seen = set()
    for _ in range(3):
        pids = devices.pids()
        seen.add(pids)
        kill(pids[who])
        assert devices.serves(sample.number)
    seen.add(devices.pids())
    stop.set()
    for thread in threads:
        thread.join()
    assert set(failed) == {0}
    assert len(seen) == 4
    for reader in readers:
        os.close(reader.fd)


def test_readers_get_errors_when_both_are_killed_at_once(devices, sample, tmp_path):
    """And never zeros; nothing hangs, and everything can be attached anew."""
    reader = Reader(sample.attach(devices))
    reader.read(100, 0)
    kill(*devices.pids())
    assert read_all(reader, sample, 1) > 10
    assert not devices.serves(sample.number)
    fresh = Reader(sample.attach(devices))
    assert read_all(fresh, sample, 2) == 0
    os.close(fresh.fd)
    lose(reader)


def test_a_reader_that_waits_gets_an_error_and_can_be_killed(devices, sample):
    """Those who serve stand still, and then die."""
    path = sample.attach(devices)
    pids = devices.pids()
    code = "import os, sys; print(flush=True); os.open(sys.argv[1], os.O_RDONLY)"
    command = [sys.executable, "-I", "-S", "-c", code, path]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        waiting = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
        for process in waiting:
            with process.stdout as output:
                output.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            waiting[0].wait(0.2)
        waiting[0].kill()
    finally:
        kill(*pids)
    assert [process.wait(20) for process in waiting] == [-signal.SIGKILL, 1]


def test_what_kills_every_worker_ends_in_errors(devices, sample):
    """Readers do not wait for ever for a worker that dies again and again."""
    reader = Reader(sample.attach(devices))
    keeper, _ = devices.pids()
    until = time.monotonic() + 60
    while time.monotonic() < until:
        pids = devices.pids()
        if pids[0] != keeper:
            break
        with contextlib.suppress(ProcessLookupError):  # the keeper has not noticed yet
            kill(pids[1])
    assert read_all(reader, sample, 1) > 10
    lose(reader)


def test_what_is_no_message_is_refused(devices, sample):
    sample.attach(devices)
    assert devices._say("what") == "no such message"
    assert "no file system" in devices._say("+8 100", [0])
    with pytest.raises(ConnectionError):
        devices._say("+")
