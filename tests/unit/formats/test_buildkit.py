"""BuildKit's formats: Go's file modes, and containerd's filters."""

import stat

import pytest

from lading.errors import InvalidArgumentError
from lading.formats import filters
from lading.formats.buildkit import filemode

MODES = {
    1 << 31 | 0o755: stat.S_IFDIR | 0o755,
    1 << 31 | 1 << 20 | 0o777: stat.S_IFDIR | 0o1777,
    1 << 27 | 0o777: stat.S_IFLNK | 0o777,
    1 << 26 | 0o660: stat.S_IFBLK | 0o660,
    1 << 26 | 1 << 21 | 0o666: stat.S_IFCHR | 0o666,
    1 << 25 | 0o600: stat.S_IFIFO | 0o600,
    1 << 24 | 0o600: stat.S_IFSOCK | 0o600,
    1 << 23 | 1 << 22 | 0o755: stat.S_IFREG | 0o6755,
}


@pytest.mark.parametrize(("go", "unix"), MODES.items())
def test_modes_in_both_directions(go: int, unix: int) -> None:
    assert filemode.to_unix(go) == unix
    assert filemode.from_unix(unix) == go


def test_a_mode_without_a_type_is_a_file_and_two_types_are_none() -> None:
    assert filemode.from_unix(0o644) == 0o644
    assert filemode.to_unix(1 << 31 | 1 << 27) is None


def matches(expression: str, **values: str) -> bool:
    return filters.parse(expression)(lambda path: values.get("_".join(path)))


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("", True),
        ("type==regular", True),
        ("type=regular", True),
        ("type==internal", False),
        ("type!=internal", True),
        ("missing!=x", True),
        ("type~=^reg", True),
        ("missing~=x", False),
        ("shared", True),
        ("missing", False),
        ("type==regular,shared", True),
        ("type==regular,missing", False),
        ('labels."a"==b c', True),
        ('labels.a=="b c"', True),
        (r'labels.a=="b\"c"', False),
        ("type==", False),
    ],
)
def test_filters(expression: str, expected: bool) -> None:
    assert matches(expression, type="regular", shared="", labels_a="b c") is expected


@pytest.mark.parametrize("expression", ["==x", "a==b,,c", "a b", 'a=="b', "a~=(", "x" * 70_000])
def test_bad_filters_are_refused(expression: str) -> None:
    with pytest.raises(InvalidArgumentError):
        filters.parse(expression)


def test_one_of_several_filters_is_enough_and_none_lets_everything_through() -> None:
    assert filters.parse_all([])(lambda _: None)
    assert filters.parse_all(["a", "b"])(lambda path: "" if path == ("b",) else None)
    assert not filters.parse_all(["a", "b"])(lambda _: None)
