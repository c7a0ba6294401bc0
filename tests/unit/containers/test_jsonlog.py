"""The log on disk: written, rotated, read backwards, followed."""

import json
from pathlib import Path

from lading.containers import jsonlog


def fill(path: Path, start: int, end: int) -> None:
    with path.open("ab") as file:
        for n in range(start, end):
            file.write(jsonlog.encode(f"line {n}\n".encode(), "stdout", 10**18 + n))


def texts(messages: list[jsonlog.Message]) -> list[str]:
    return [message.log.strip() for message in messages]


def test_format_is_docker_s():
    line = json.loads(jsonlog.encode(b"a\xff\n", "stderr", 1_715_000_000_120_000_000))
    assert line == {"log": "a\ufffd\n", "stream": "stderr", "time": "2024-05-06T12:53:20.12Z"}


def test_tail_across_rotated_files(tmp_path: Path):
    log = tmp_path / "x.log"
    for start in range(0, 3000, 1000):
        if start:
            jsonlog.rotate(log, 3)
        fill(log, start, start + 1000)
    assert [file.name for file in jsonlog.files(log)] == ["x.log.2", "x.log.1", "x.log"]
    assert texts(jsonlog.tail(log, 1500)[0]) == [f"line {n}" for n in range(1500, 3000)]
    assert len(jsonlog.tail(log, -1)[0]) == 3000
    assert jsonlog.tail(log, 0)[0] == []
    jsonlog.rotate(log, 3)
    assert [file.name for file in jsonlog.files(log)] == ["x.log.2", "x.log.1"]


def test_damaged_and_unfinished_lines_are_skipped(tmp_path: Path):
    log = tmp_path / "x.log"
    fill(log, 0, 2)
    with log.open("ab") as file:
        file.write(b'{"log": broken\n{"log":"half')
    messages, offset = jsonlog.tail(log, -1)
    assert texts(messages) == ["line 0", "line 1"]
    assert offset == log.stat().st_size - len(b'{"log":"half')


def test_follower_sees_growth_and_rotation(tmp_path: Path):
    log = tmp_path / "x.log"
    fill(log, 0, 5)
    follower = jsonlog.Follower(log, jsonlog.tail(log, -1)[1])
    fill(log, 5, 7)
    assert texts(follower.poll()) == ["line 5", "line 6"]
    fill(log, 7, 8)
    jsonlog.rotate(log, 2)
    fill(log, 8, 9)
    assert texts(follower.poll()) == ["line 7", "line 8"]
    assert follower.poll() == []
    follower.close()


def test_missing_log_is_empty(tmp_path: Path):
    assert jsonlog.tail(tmp_path / "none", -1) == ([], 0)
    follower = jsonlog.Follower(tmp_path / "none", 0)
    assert follower.poll() == []
    follower.close()
