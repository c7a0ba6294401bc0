"""The client's attributes."""

from typing import Any

import pytest

from lading.builder.frontend import options, wording
from lading.builder.model import ResolveMode
from lading.errors import InvalidArgumentError, LadingError, UnsupportedError
from lading.formats.llb.ops import HostIP, NetMode, Ulimit
from lading.oci.descriptor import Platform


def test_nothing_asked_is_all_defaults() -> None:
    made = options.parse({})
    assert (made.filename, made.target, list(made.platforms), made.multi_platform) == (
        "Dockerfile",
        "",
        [],
        False,
    )
    assert made.resolve_mode is ResolveMode.DEFAULT
    assert made.network is NetMode.UNSET
    assert made.created is None
    assert not made.ignores_cache("x")


def test_everything_asked() -> None:
    made = options.parse(
        {
            "filename": "x.Dockerfile",
            "target": "t",
            "platform": "linux/amd64,linux/arm64/v8",
            "image-resolve-mode": "pull",
            "build-arg:A": "1",
            "build-arg:SOURCE_DATE_EPOCH": "1700000000",
            "build-arg:BUILDKIT_CACHE_MOUNT_NS": "ns",
            "build-arg:BUILDKIT_SANDBOX_HOSTNAME": "box",
            "build-arg:BUILDKIT_DOCKERFILE_CHECK": "skip=all",
            "label:l": "v",
            "no-cache": "One,two",
            "add-hosts": "H=1.2.3.4,i=::1",
            "shm-size": "1024",
            "ulimit": "nofile=1:2,core=-1",
            "force-network-mode": "none",
            "cgroup-parent": "c",
            "attest:sbom": "generator=x/scanner,PARAM=1",
            "frontend.caps": "moby.buildkit.frontend.inputs,moby.buildkit.frontend.subrequests+forward",
        }
    )
    assert made.platforms == [
        Platform(os="linux", architecture="amd64"),
        Platform(os="linux", architecture="arm64"),
    ]
    assert made.multi_platform
    assert made.build_args["A"] == "1"
    assert (made.cache_namespace, made.hostname, made.cgroup_parent) == ("ns", "box", "c")
    assert made.created == "2023-11-14T22:13:20Z"
    assert made.ignores_cache("ONE")
    assert not made.ignores_cache("three")
    assert made.extra_hosts == (HostIP(host="h", ip="1.2.3.4"), HostIP(host="i", ip="::1"))
    assert made.ulimits == (Ulimit(name="nofile", soft=1, hard=2), Ulimit(name="core", soft=-1, hard=-1))
    assert made.network is NetMode.NONE
    assert made.checks is not None
    assert made.checks.skip_all
    assert made.sbom == options.Sbom(generator="docker.io/x/scanner:latest", parameters={"PARAM": "1"})
    assert options.parse({"no-cache": ""}).ignores_cache("any")
    assert options.parse({"multi-platform": "true"}).multi_platform
    assert options.parse({"build-arg:BUILDKIT_ATTEST_SBOM": ""}).sbom is None


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"platform": "linux/amd64,nonsense!"}, "failed to parse target platform nonsense!"),
        ({"image-resolve-mode": "x"}, "invalid image-resolve-mode: x"),
        ({"multi-platform": "x"}, "invalid boolean value for multi-platform: x"),
        (
            {"multi-platform": "0", "platform": "linux/amd64,linux/arm64"},
            "conflicting config: returning multiple target platforms is not allowed",
        ),
        ({"add-hosts": "x"}, "failed to parse additional hosts: invalid key-value pair x"),
        ({"add-hosts": "x=y"}, "failed to parse additional hosts: failed to parse IP y"),
        ({"add-hosts": '"x'}, "failed to parse additional hosts"),
        ({"shm-size": "x"}, "invalid shm size: x"),
        ({"ulimit": "x"}, "failed to parse ulimit: invalid ulimit argument: x"),
        ({"force-network-mode": "x"}, "invalid netmode x"),
        ({"build-arg:SOURCE_DATE_EPOCH": "x"}, "invalid SOURCE_DATE_EPOCH: x"),
        ({"build-arg:BUILDKIT_DOCKERFILE_CHECK": "x"}, "failed to parse build-arg:BUILDKIT_DOCKERFILE_CHECK"),
        ({"attest:sbom": "generator="}, "sbom scanner cannot be empty"),
        ({"attest:sbom": "generator=X!"}, "failed to parse sbom scanner X!"),
    ],
)
def test_bad_attributes(attributes: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        options.parse(attributes)
    assert caught.value.message.startswith(message)


def test_a_demand_that_nobody_knows_is_named() -> None:
    with pytest.raises(UnsupportedError, match=r"moby\.x"):
        options.parse({"frontend.caps": "moby.buildkit.frontend.inputs,moby.x+forward"})


def test_metadata_of_inputs() -> None:
    assert options.parse_metadata('{"a": "Yg=="}', "m") == {"a": b"b"}
    with pytest.raises(LadingError):
        options.parse_metadata("[]", "m")


@pytest.mark.parametrize(
    ("nano", "text"),
    [
        (0, "0s"),
        (1, "1ns"),
        (1500, "1.5µs"),
        (5_000_000, "5ms"),
        (10**9, "1s"),
        (90 * 10**9, "1m30s"),
        (3_723_500_000_000, "1h2m3.5s"),
        (-(10**9), "-1s"),
        (3600 * 10**9, "1h0m0s"),
    ],
)
def test_durations_as_go_says_them(nano: int, text: str) -> None:
    assert wording.duration(nano) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", '"a"'),
        ('"\\', '"\\"\\\\"'),
        ("\n\t\x01", '"\\n\\t\\x01"'),
        ("é✓", '"é✓"'),
        ("\u200b", '"\\u200b"'),
        ("\U000e0001", '"\\U000e0001"'),
        ("\udcff", '"\\xff"'),
    ],
)
def test_texts_as_go_quotes_them(value: str, text: str) -> None:
    assert wording.quoted(value) == text


@pytest.mark.parametrize(
    ("number", "text"), [(0, "'\\x00'"), (3, "'\\x03'"), (39, "'\\''"), (65, "'A'"), (-1, "'�'")]
)
def test_numbers_as_go_quotes_them(number: Any, text: str) -> None:
    assert wording.quoted_number(number) == text
