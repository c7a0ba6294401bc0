"""Logs on disk: both formats, written, rotated, packed, read from the end, followed."""

import json
import os
import struct
from pathlib import Path

import pytest

from lading.containers import logdriver
from lading.containers.jsonlog import JsonCodec
from lading.containers.locallog import LocalCodec
from lading.containers.logdriver import Subject
from lading.containers.logfile import MESSAGE_LIMIT, Codec, Limits, LogFiles, Message, Reader
from lading.errors import InvalidArgumentError, UnsupportedError

SUBJECT = Subject(
    id="ab" * 32,
    name="web",
    image="box",
    image_id="sha256:" + "cd" * 32,
    command="sh -c x",
    labels={"app": "shop", "tier": "x"},
    env={"MODE": "live", "SECRET": "s"},
)


@pytest.fixture(params=["json-file", "local"])
def codec(request: pytest.FixtureRequest) -> Codec:
    return JsonCodec() if request.param == "json-file" else LocalCodec()


def files(path: Path, codec: Codec, *, keep: int = 3, compress: bool = False) -> LogFiles:
    return LogFiles(path / "x.log", codec, Limits(max_size=1000, max_file=keep, compress=compress))


def fill(log: LogFiles, start: int, end: int) -> None:
    fd = log.open()
    for n in range(start, end):
        os.write(fd, log.codec.encode(f"line {n}\n".encode(), "stdout", 10**18 + n))
    os.close(fd)


def rotate(log: LogFiles) -> None:
    os.close(log.rotate())
    log.compress()


def drain(reader: Reader) -> list[Message]:
    found: list[Message] = []
    while messages := reader.poll():
        found += messages
    return found


def texts(messages: list[Message]) -> list[str]:
    return [message.log.strip() for message in messages]


def lines(start: int, end: int) -> list[str]:
    return [f"line {n}" for n in range(start, end)]


def test_json_is_docker_s():
    line = json.loads(JsonCodec().encode(b"a\xff\n", "stderr", 1_715_000_000_120_000_000))
    assert line == {"log": "a\ufffd\n", "stream": "stderr", "time": "2024-05-06T12:53:20.12Z"}
    line = JsonCodec({"b": "1"}).encode(b"a\n", "stdout", 10**18)
    assert line.startswith(b'{"log":"a\\n","stream":"stdout","attrs":{"b":"1"},"time":')


def test_local_is_docker_s():
    """The bytes that Docker's own writer makes for this entry: gogo-proto in order of field number."""
    record = LocalCodec().encode(b"hi\n", "stdout", 300)
    entry = b"\x0a\x06stdout" + b"\x10\xac\x02" + b"\x1a\x02hi"
    assert record == struct.pack(">I", len(entry)) + entry + struct.pack(">I", len(entry))


def test_a_long_line_is_one_line_again(codec: Codec):
    parts = [b"x" * MESSAGE_LIMIT, b"y" * MESSAGE_LIMIT, b"end\n", b"next\n"]
    data = b"".join(codec.encode(part, "stdout", 1) for part in parts)
    messages, used = codec.decode(data)
    assert used == len(data)
    assert [message.log.encode() for message in messages] == parts


@pytest.mark.parametrize("compress", [False, True])
def test_tail_across_rotated_files(tmp_path: Path, codec: Codec, compress: bool):
    log = files(tmp_path, codec, compress=compress)
    for start in range(0, 3000, 1000):
        if start:
            rotate(log)
        fill(log, start, start + 1000)
    packed = ".gz" if compress else ""
    assert [name.name for name in log.names()] == [f"x.log.2{packed}", f"x.log.1{packed}", "x.log"]
    for count in (0, 1, 999, 1000, 1001, 1500, 3000, 9999):
        reader = log.reader(count)
        assert texts(drain(reader)) == lines(max(0, 3000 - count), 3000)
        reader.close()
    reader = log.reader()
    assert texts(drain(reader)) == lines(0, 3000)
    reader.close()
    rotate(log)
    assert [name.name for name in log.names()] == [f"x.log.2{packed}", f"x.log.1{packed}", "x.log"]


def test_a_reader_that_lags_misses_nothing(tmp_path: Path, codec: Codec):
    log = files(tmp_path, codec, keep=2, compress=True)
    fill(log, 0, 5)
    reader = log.reader(2)
    for start in range(5, 45, 10):  # more rotations than files are kept
        fill(log, start, start + 10)
        rotate(log)
    fill(log, 45, 46)
    assert texts(drain(reader)) == lines(3, 46)
    assert reader.poll() == []
    fill(log, 46, 47)
    assert texts(reader.poll()) == ["line 46"]
    reader.close()
    reader.close()


def test_damaged_and_unfinished_lines_are_skipped(tmp_path: Path):
    log = files(tmp_path, JsonCodec())
    fill(log, 0, 2)
    with log.path.open("ab") as file:
        file.write(b'{"log": broken\n{"log":"half')
    reader = log.reader()
    assert texts(drain(reader)) == ["line 0", "line 1"]
    reader.close()


def test_an_unfinished_local_record_is_left_out_and_finished_later(tmp_path: Path):
    log = files(tmp_path, LocalCodec())
    fill(log, 0, 3)
    record = log.codec.encode(b"line 3\n", "stdout", 1)
    with log.path.open("ab") as file:
        file.write(record[:9])
    reader = log.reader(2)
    assert texts(drain(reader)) == ["line 1", "line 2"]
    with log.path.open("ab") as file:
        file.write(record[9:])
    assert texts(drain(reader)) == ["line 3"]
    reader.close()


@pytest.mark.parametrize("junk", [b"\xff" * 64, bytes(64), os.urandom(4096)])
def test_junk_does_no_harm(tmp_path: Path, codec: Codec, junk: bytes):
    log = files(tmp_path, codec)
    log.path.write_bytes(junk)
    for tail in (-1, 5):
        reader = log.reader(tail)
        drain(reader)
        reader.close()


def test_a_damaged_packed_file_gives_what_it_can(tmp_path: Path, codec: Codec):
    log = files(tmp_path, codec, compress=True)
    fill(log, 0, 2000)
    rotate(log)
    packed = tmp_path / "x.log.1.gz"
    packed.write_bytes(packed.read_bytes()[:-100])
    fill(log, 2000, 2001)
    reader = log.reader()
    found = texts(drain(reader))
    reader.close()
    assert found[-1] == "line 2000"
    assert found[: len(found) - 1] == lines(0, len(found) - 1)


def test_a_log_that_is_not_there_yet(tmp_path: Path, codec: Codec):
    log = files(tmp_path, codec)
    reader = log.reader()
    assert reader.poll() == []
    fill(log, 0, 1)
    assert texts(reader.poll()) == ["line 0"]
    reader.close()


def test_attributes():
    options = {"labels": "app,none", "env-regex": "^MO", "tag": "{{.Name}}/{{ .ID }}"}
    found = logdriver.attributes(options, SUBJECT)
    assert found == {"app": "shop", "MODE": "live", "tag": f"web/{'ab' * 6}"}
    assert logdriver.attributes({}, SUBJECT) == {}


def test_limits():
    assert logdriver.limits("json-file", {}) == Limits()
    assert logdriver.limits("json-file", {"max-size": "1.5m", "max-file": "3", "compress": "true"}) == Limits(
        max_size=3 << 19, max_file=3, compress=True
    )
    assert logdriver.limits("local", {}) == Limits(max_size=20 << 20, max_file=5, compress=True)
    assert logdriver.limits("local", {"max-file": "1"}) == Limits(max_size=20 << 20, max_file=1)


@pytest.mark.parametrize(
    ("driver", "options", "words"),
    [
        ("json-file", {"max-size": "lots"}, "max-size"),
        ("json-file", {"max-file": "0"}, "max-file"),
        ("json-file", {"max-file": "3"}, "needs max-size"),
        ("json-file", {"compress": "true"}, "compress cannot be true"),
        ("json-file", {"compress": "maybe"}, "compress"),
        ("json-file", {"what": "x"}, "unknown log opt 'what' for json-file"),
        ("local", {"labels": "x"}, "unknown log opt 'labels' for local"),
        ("json-file", {"mode": "lossy"}, "mode"),
        ("json-file", {"max-buffer-size": "1m"}, "non-blocking"),
        ("json-file", {"tag": "{{.What}}"}, "What"),
        ("json-file", {"tag": "{{if .Name}}"}, "not understood"),
        ("json-file", {"labels-regex": "(a+)+$"}, "too complicated"),
        ("json-file", {"env-regex": "("}, "env-regex"),
        ("journald", {}, "journald"),
    ],
)
def test_bad_configurations(driver: str, options: dict[str, str], words: str):
    with pytest.raises((InvalidArgumentError, UnsupportedError), match=words.replace("(", r"\(")):
        logdriver.check(driver, options)
