"""No line is lost, none is written twice: the journal is killed again and again while a program writes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lading.containers.journal import Journal
from lading.containers.jsonlog import JsonCodec
from lading.containers.keeper import Keeper
from lading.containers.locallog import LocalCodec
from lading.containers.logfile import Codec, LogFiles

pytestmark = pytest.mark.crash

PUMP = """
import select, sys
from pathlib import Path
from lading.containers.journal import Journal
from lading.containers.jsonlog import JsonCodec
from lading.containers.locallog import LocalCodec
from lading.containers.logfile import Limits, LogFiles
base = Path(sys.argv[1])
journal = Journal(base, {"stdout": base / "out", "stderr": base / "err"},
                  log=LogFiles(base / "log", {"json": JsonCodec, "local": LocalCodec}[sys.argv[3]](),
                               Limits(max_size=int(sys.argv[2]), max_file=1000, compress=sys.argv[3] == "local")))
print("ready", flush=True)
while not journal.ended:
    select.select(journal.fds, [], [], 1)
    while journal.step():
        pass
print("done", flush=True)
"""
WRITER = """
import os, sys
out = os.open(sys.argv[1], os.O_WRONLY); err = os.open(sys.argv[2], os.O_WRONLY)
for n in range(int(sys.argv[3])):
    # Periodic text is the hard case: content alone cannot tell what was consumed.
    os.write(out, b"y\\n" * 50)
    os.write(out, f"{n}\\n".encode())
    os.write(err, b"partial " + str(n).encode() + b"\\n" * (n % 3))
"""


def expected(count: int) -> tuple[bytes, bytes]:
    out = b"".join(b"y\n" * 50 + f"{n}\n".encode() for n in range(count))
    err = b"".join(b"partial " + str(n).encode() + b"\n" * (n % 3) for n in range(count))
    return out, err


def logged(path: Path, codec: Codec) -> tuple[bytes, bytes]:
    streams = {"stdout": b"", "stderr": b""}
    reader = LogFiles(path, codec).reader()
    while messages := reader.poll():
        for message in messages:
            streams[message.stream] += message.log.encode()
    reader.close()
    return streams["stdout"], streams["stderr"]


@pytest.mark.parametrize(("max_size", "format"), [(0, "json"), (20_000, "json"), (20_000, "local")])
def test_kill_9_loses_and_repeats_nothing(tmp_path: Path, max_size: int, format: str):
    count = 4000
    for name in ("out", "err"):
        os.mkfifo(tmp_path / name)
    keeper = Keeper(tmp_path / "keeper.sock")
    held = [os.open(tmp_path / name, os.O_RDONLY | os.O_NONBLOCK) for name in ("out", "err")]
    for name, fd in zip(("out", "err"), held, strict=True):
        keeper.hold(name, fd)
        os.close(fd)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    writer = subprocess.Popen([sys.executable, "-c", WRITER, tmp_path / "out", tmp_path / "err", str(count)])
    kills = 0
    try:
        while True:
            pump = subprocess.Popen(
                [sys.executable, "-c", PUMP, tmp_path, str(max_size), format], stdout=subprocess.PIPE, env=env
            )
            assert pump.stdout is not None
            with pump.stdout as output:
                assert output.readline() == b"ready\n"
                if kills < 12:
                    try:
                        pump.wait(0.002 * (kills % 5))
                    except subprocess.TimeoutExpired:
                        pump.send_signal(signal.SIGKILL)
                        kills += 1
                if pump.wait() == 0:
                    break
        assert writer.wait() == 0
    finally:
        writer.kill()
        writer.wait()
        for name in ("out", "err"):
            keeper.release(name)
        keeper.close()
    assert kills >= 5
    codec = JsonCodec() if format == "json" else LocalCodec()
    assert logged(tmp_path / "log", codec) == expected(count)


def test_last_words_of_a_container_that_ended_while_no_daemon_ran(tmp_path: Path):
    os.mkfifo(tmp_path / "out")
    keeper = Keeper(tmp_path / "keeper.sock")
    fd = os.open(tmp_path / "out", os.O_RDONLY | os.O_NONBLOCK)
    keeper.hold(str(tmp_path / "out"), fd)
    os.close(fd)
    keeper.close()  # the daemon dies
    subprocess.run(["sh", "-c", f"printf 'last words' > {tmp_path}/out"], check=True)
    again = Keeper(tmp_path / "keeper.sock")
    journal = Journal(tmp_path, {"stdout": tmp_path / "out"}, log=LogFiles(tmp_path / "log", JsonCodec()))
    while not journal.ended:
        journal.step()
    journal.close()
    again.release(str(tmp_path / "out"))
    again.close()
    assert logged(tmp_path / "log", JsonCodec())[0] == b"last words"


def test_a_keeper_ends_although_a_killed_daemon_forgot_a_fifo(tmp_path: Path):
    os.mkfifo(tmp_path / "out")
    keeper = Keeper(tmp_path / "keeper.sock")
    fd = os.open(tmp_path / "out", os.O_RDONLY | os.O_NONBLOCK)
    keeper.hold(str(tmp_path / "out"), fd)
    os.close(fd)
    keeper.close()  # the daemon dies
    (tmp_path / "out").unlink()  # the next one removes the container, and knows of no run
    again = Keeper(tmp_path / "keeper.sock")
    again.connect()
    again.close()
    deadline = time.monotonic() + 10
    while (tmp_path / "keeper.sock").exists():
        assert time.monotonic() < deadline, "the keeper stays"
        time.sleep(0.01)
