"""Times: exact to the nanosecond, in every form that Docker's clients send."""

from datetime import UTC, datetime

import pytest

from lading.errors import InvalidArgumentError
from lading.kit import times


@pytest.mark.parametrize(
    "nano", [1, 10**9, 1_715_000_000_123_456_789, 1_715_000_000_100_000_000, -5, -(10**9)]
)
def test_text_and_back_loses_nothing(nano: int) -> None:
    assert times.parse_nano(times.format_nano(nano)) == nano


def test_zero_is_gos_zero() -> None:
    assert times.format_nano(0) == times.ZERO
    assert times.parse_nano(times.ZERO) == 0
    assert times.parse_nano("no time") == 0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (-62_135_596_799, "0001-01-01T00:00:01Z"),
        (-(10**12), "0001-01-01T00:00:00Z"),
        (10**12, "9999-12-31T23:59:59Z"),
    ],
)
def test_a_moment_is_any_that_a_file_can_have(seconds: int, text: str) -> None:
    assert times.format_moment(seconds * times.SECOND) == text


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-02", 86_400),
        ("1970-01-01T01", 3600),
        ("1970-01-01T01:01", 3660),
        ("1970-01-01T00:00:01Z", 1),
        ("1970-01-01T02:00:00+02:00", 0),
        ("1970-01-01T00:00:00.5Z", 0.5),
        ("1970-01-01T00:00:00.1234567891111Z", 0.123456789),
        ("12.5", 12.5),
        ("1700000000.000000001", None),
    ],
)
def test_queries(text: str, seconds: float | None) -> None:
    expected = 1_700_000_000_000_000_001 if seconds is None else round(seconds * 10**9)
    assert times.parse_query(text) == expected


def test_an_empty_query_is_its_default() -> None:
    assert times.parse_query("", 7) == 7
    assert times.parse_query("0", 7) == 7


@pytest.mark.parametrize(
    "text", ["yesterday", "2024-13-01", "2024-02-30T00:00:00Z", "2024-01-01T25:00", "1.2.3", "2024-01-01\n"]
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgumentError):
        times.parse_query(text)


@pytest.mark.parametrize(
    ("text", "nano"),
    [
        ("1h30m", 5400 * 10**9),
        ("10ms", 10**7),
        ("1.5s", 1_500_000_000),
        ("-2us", -2000),
        ("3ns", 3),
        (".5m", 30 * 10**9),
    ],
)
def test_durations(text: str, nano: int) -> None:
    assert times.parse_duration(text) == nano
    assert times.parse_moment(text, now=10**12) == 10**12 - nano


@pytest.mark.parametrize("text", ["", "1", "h", "1h x", "1day", "--1s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgumentError):
        times.parse_duration(text)


def test_a_moment_may_be_a_date() -> None:
    assert times.parse_moment("1970-01-02", now=0) == 86_400 * 10**9
    assert times.parse_moment("100", now=0) == 100 * 10**9


def test_datetimes() -> None:
    assert times.of_datetime(datetime(1970, 1, 1, 0, 0, 1, 5, tzinfo=UTC)) == 10**9 + 5000


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (600, "10 minutes"),
        (3600, "About an hour"),
        (7200, "2 hours"),
        (2 * 86400, "2 days"),
        (21 * 86400, "3 weeks"),
        (90 * 86400, "3 months"),
        (900 * 86400, "2 years"),
    ],
)
def test_ages(seconds: int, words: str) -> None:
    assert times.ago(1, now=1 + seconds * 10**9) == words
