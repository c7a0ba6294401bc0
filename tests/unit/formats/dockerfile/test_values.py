"""Durations, sizes, numbers and suggestions."""

import pytest

from lading.formats.dockerfile import values
from lading.formats.dockerfile.errors import DockerfileError
from lading.formats.dockerfile.suggest import nearest, suggested


@pytest.mark.parametrize(
    ("text", "nano"),
    [
        ("0", 0),
        ("1s", 10**9),
        ("1h2m3.5s", 3_723_500_000_000),
        ("-1ms", -(10**6)),
        (".5s", 5 * 10**8),
        ("+1µs", 1000),
    ],
)
def test_durations(text: str, nano: int) -> None:
    assert values.duration(text) == nano


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", 'time: invalid duration ""'),
        ("x", 'time: invalid duration "x"'),
        ("1", 'time: missing unit in duration "1"'),
        ("1d", 'time: unknown unit "d" in duration "1d"'),
        ("1s.", 'time: unknown unit "s." in duration "1s."'),
    ],
)
def test_bad_durations(text: str, message: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        values.duration(text)
    if not text.endswith("."):
        assert caught.value.message == message


@pytest.mark.parametrize(
    ("text", "size"), [("1", 1), ("1k", 1024), ("1.5 GiB", 1610612736), ("2MB", 2097152), ("1T", 1 << 40)]
)
def test_sizes(text: str, size: int) -> None:
    assert values.size(text) == size


def test_bad_sizes() -> None:
    with pytest.raises(DockerfileError, match="invalid size: '1x'"):
        values.size("1x")


def test_numbers_and_truth() -> None:
    assert values.number("0755", base=8) == 0o755
    assert values.number("8", base=8) is None
    assert values.number("4294967296") is None
    assert values.number("9" * 100) is None
    assert values.truth("T") is True
    assert values.truth("False") is False
    assert values.truth("no") is None


def test_fields() -> None:
    assert values.fields('a,"b,c"') == ["a", "b,c"]
    assert values.fields("") == []
    with pytest.raises(DockerfileError):
        values.fields('"a')


def test_suggestions() -> None:
    options = ["alpha", "beta"]
    assert nearest("alpa", options) == "alpha"
    assert nearest("alpha", options) == ""
    assert nearest("gamma", options) == ""
    assert nearest("ALPA", options, case=False) == "ALPHA"
    assert nearest("Alpa", options, case=False) == "alpha"
    assert suggested("m", "bta", options) == "m (did you mean beta?)"
    assert suggested("m", "x", options) == "m"
