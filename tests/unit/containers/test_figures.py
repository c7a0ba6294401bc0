"""Figures of both kinds of cgroups in Docker's form."""

import os
from typing import Any

import pytest

from lading.containers import figures, patterns
from lading.containers.figures import Sample
from lading.errors import InvalidArgumentError

V1 = {
    "@type": "io.containerd.cgroups.v1.Metrics",
    "pids": {"current": 3, "limit": 0},
    "cpu": {
        "usage": {"total": 900, "kernel": 300, "user": 600, "per_cpu": [400, 500]},
        "throttling": {"periods": 5, "throttled_periods": 2, "throttled_time": 7},
    },
    "memory": {
        "cache": 10,
        "total_inactive_file": 4,
        "usage": {"usage": 100, "max": 200, "limit": 2**63 - 4096, "failcnt": 1},
    },
    "blkio": {
        "io_service_bytes_recursive": [
            {"op": "Read", "device": "/dev/x", "major": 8, "minor": 0, "value": 42},
        ],
    },
}
V2 = {
    "@type": "io.containerd.cgroups.v2.Metrics",
    "pids": {"current": 3, "limit": 9},
    "cpu": {
        "usage_usec": 9,
        "user_usec": 6,
        "system_usec": 3,
        "nr_periods": 5,
        "nr_throttled": 2,
        "throttled_usec": 7,
    },
    "memory": {"anon": 10, "inactive_file": 4, "usage": 100, "usage_limit": 500, "swap_usage": 1},
    "io": {"usage": [{"major": 8, "minor": 0, "rbytes": 42, "wbytes": 43, "rios": 2, "wios": 3}]},
}


def document(found: dict[str, Any], before: Sample | None = None) -> dict[str, Any]:
    sample = Sample(time=10**18, figures=found, interfaces={}, system_cpu=5000, cpus=2, memory=1000)
    return figures.document("id", "web", sample, before)


def test_v1():
    made = document(V1)
    assert made["pids_stats"] == {"current": 3}
    assert made["cpu_stats"] == {
        "cpu_usage": {
            "total_usage": 900,
            "percpu_usage": [400, 500],
            "usage_in_kernelmode": 300,
            "usage_in_usermode": 600,
        },
        "throttling_data": {"periods": 5, "throttled_periods": 2, "throttled_time": 7},
        "system_cpu_usage": 5000,
        "online_cpus": 2,
    }
    assert made["memory_stats"] == {
        "usage": 100,
        "max_usage": 200,
        "failcnt": 1,
        "stats": {"cache": 10, "total_inactive_file": 4},
        "limit": 1000,
    }
    assert made["blkio_stats"]["io_service_bytes_recursive"] == [
        {"major": 8, "minor": 0, "op": "Read", "value": 42}
    ]
    assert made["blkio_stats"]["sectors_recursive"] is None


def test_v2():
    made = document(V2)
    assert made["pids_stats"] == {"current": 3, "limit": 9}
    assert made["cpu_stats"]["cpu_usage"] == {
        "total_usage": 9000,
        "usage_in_kernelmode": 3000,
        "usage_in_usermode": 6000,
    }
    assert made["cpu_stats"]["throttling_data"]["throttled_time"] == 7000
    assert made["memory_stats"] == {"usage": 100, "stats": {"anon": 10, "inactive_file": 4}, "limit": 500}
    assert [each["value"] for each in made["blkio_stats"]["io_service_bytes_recursive"]] == [42, 43]
    assert [each["value"] for each in made["blkio_stats"]["io_serviced_recursive"]] == [2, 3]


def test_of_a_container_that_does_not_run():
    made = figures.document("id", "web", None, None)
    assert made["read"] == made["preread"] == "0001-01-01T00:00:00Z"
    assert made["memory_stats"] == {}
    assert made["cpu_stats"]["cpu_usage"]["total_usage"] == 0


def test_the_machine():
    sample = figures.read_sample({}, os.getpid(), own_network=True)
    assert sample.system_cpu > 0
    assert sample.memory > 1 << 20
    assert "lo" not in sample.interfaces


@pytest.mark.parametrize(
    "text", ["(a+)+$", "(a|aa)+", "a*a*a*b", "x" * 300, "[", "a{999999999999}", "a{1,}b{2,}c{3,}"]
)
def test_expressions_that_could_take_for_ever(text: str):
    with pytest.raises(InvalidArgumentError, match="what"):
        patterns.compiled(text, "what")


@pytest.mark.parametrize(
    ("value", "found"),
    [("web-1", True), ("eb", True), ("^web", True), ("^eb", False), ("[", False), ("a[", True), ("W", False)],
)
def test_a_filter_s_value_is_a_name_or_an_expression(value: str, found: bool):
    assert patterns.finds(["nothing", value], "web-1", "a[") is found


@pytest.mark.parametrize("text", ["web", "^/?web-[0-9]+$", "a.*b", "(x|y)", r"a\\*b\\*c\\*d"])
def test_honest_expressions(text: str):
    patterns.compiled(text, "what")
