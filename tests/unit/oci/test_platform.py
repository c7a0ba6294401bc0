"""Platforms: containerd's normalising, matching and ordering."""

import pytest

from lading.errors import InvalidArgumentError
from lading.oci import platform
from lading.oci.descriptor import Platform


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("linux/amd64", "linux/amd64"),
        ("linux/x86_64", "linux/amd64"),
        ("linux/amd64/v1", "linux/amd64"),
        ("linux/amd64/v2", "linux/amd64/v2"),
        ("linux/aarch64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/arm64/8", "linux/arm64"),
        ("linux/arm", "linux/arm/v7"),
        ("linux/arm/6", "linux/arm/v6"),
        ("linux/armhf", "linux/arm/v7"),
        ("linux/armel", "linux/arm/v6"),
        ("linux/i386", "linux/386"),
        ("macos/arm64", "darwin/arm64"),
        ("arm64", "linux/arm64"),
        ("wasi/wasm", "wasi/wasm"),
        ("LINUX/AMD64", "linux/amd64"),
    ],
)
def test_parse(text: str, shown: str) -> None:
    assert platform.formatted(platform.parse(text)) == shown


def test_a_bare_system_takes_the_hosts_architecture() -> None:
    assert platform.parse("linux") == Platform(os="linux", architecture=platform.host().architecture)


@pytest.mark.parametrize(
    "text", ["", "a/b/c/d", "linux/", "/amd64", "linux/am d", "nonsense", "linux/amd64\n"]
)
def test_parse_rejects(text: str) -> None:
    with pytest.raises(InvalidArgumentError):
        platform.parse(text)


@pytest.mark.parametrize(
    ("wanted", "runs"),
    [
        ("linux/amd64", ["linux/amd64", "linux/386"]),
        ("linux/amd64/v3", ["linux/amd64/v3", "linux/amd64/v2", "linux/amd64", "linux/386"]),
        ("linux/arm64", ["linux/arm64", "linux/arm/v8", "linux/arm/v7", "linux/arm/v6", "linux/arm/v5"]),
        ("linux/arm/v7", ["linux/arm/v7", "linux/arm/v6", "linux/arm/v5"]),
        ("linux/arm/v5", ["linux/arm/v5"]),
        ("linux/riscv64", ["linux/riscv64"]),
    ],
)
def test_candidates(wanted: str, runs: list[str]) -> None:
    assert [platform.formatted(c) for c in platform.candidates(platform.parse(wanted))] == runs


def test_newer_arm_runs_what_it_contains() -> None:
    shown = [platform.formatted(c) for c in platform.candidates(platform.parse("linux/arm64/v9.1"))]
    assert shown[:3] == ["linux/arm64/v9.1", "linux/arm64/v9", "linux/arm64/v8.6"]
    assert "linux/arm64" in shown
    assert "linux/arm64/v8.7" not in shown
    shown = [platform.formatted(c) for c in platform.candidates(platform.parse("linux/arm64/v8.2"))]
    assert shown[:3] == ["linux/arm64/v8.2", "linux/arm64/v8.1", "linux/arm64"]


def _key(p: Platform | None) -> Platform | None:
    return p


def test_best_prefers_the_nearest_and_the_first_of_equals() -> None:
    offers = [platform.parse(p) for p in ("linux/arm/v6", "linux/arm/v7", "linux/arm64")]
    arm64 = platform.parse("linux/arm64")
    assert platform.best(arm64, offers, key=_key) is offers[2]
    assert platform.best(arm64, offers[:2], key=_key) is offers[1]
    assert platform.best(arm64, offers[:2], key=_key, strict=True) is None
    assert platform.best(arm64, [None], key=_key) is None
    twins = [
        Platform(os="linux", architecture="arm64"),
        Platform(os="linux", architecture="arm64", variant="v8"),
    ]
    assert platform.order(arm64, twins, key=_key) == twins


def test_attestations_run_nowhere() -> None:
    assert platform.rank(platform.host(), platform.UNKNOWN) is None


def test_os_versions_must_agree_where_both_are_given() -> None:
    one = Platform(os="windows", architecture="amd64", os_version="10.0.1")
    assert platform.same(one, Platform(os="windows", architecture="amd64"))
    assert not platform.same(one, Platform(os="windows", architecture="amd64", os_version="10.0.2"))
