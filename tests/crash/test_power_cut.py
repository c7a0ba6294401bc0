"""No power cut takes back what was acknowledged, or shows a wrong byte: see `support.power_cut`."""

import json
import os
import subprocess
import sys
from shutil import which

import pytest
from support import power_cut

pytestmark = [
    pytest.mark.crash,
    pytest.mark.skipif(os.geteuid() != 0 or not os.path.exists("/dev/fuse"), reason="needs root and FUSE"),
]

SAMPLE = [
    ("ext4", "erofs", "lazy"),
    ("ext4", "overlayfs", "strict"),
    ("xfs", "overlayfs", "lazy"),
    ("ext4", "overlay2", "strict"),
]
"""``overlay2`` is the classic store, which has nothing to make layers again of and flushes them before it acknowledges them."""
NIGHTLY = [
    (type, driver, durability)
    for type in ("ext4", "xfs")
    for driver in ("erofs", "overlayfs", "native")
    for durability in ("lazy", "strict")
] + [(type, "overlay2", "strict") for type in ("ext4", "xfs")]
STATES_PER_NIGHT = 100
"""Of each campaign: 2,000 together, with those below."""


def replay(
    type: str, driver: str, durability: str, states: int, seed: int, *options: str, keep: str = "both"
) -> list[list[str]]:
    """What was wrong with each state; states without a fault are printed nowhere."""
    if which(f"mkfs.{type}") is None:
        pytest.skip(f"mkfs.{type} is not installed")
    command = [
        sys.executable,
        power_cut.__file__,
        type,
        driver,
        durability,
        keep,
        str(states),
        str(seed),
        *options,
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    for line in lines:
        if line["problems"]:
            print(type, driver, durability, line["cut"], *line["problems"], sep="\n  ")
    assert len(lines) == states
    assert any(line["on-demand"] for line in lines) == (keep == "on-demand")
    return [line["problems"] for line in lines]


@pytest.mark.parametrize(("type", "driver", "durability"), SAMPLE)
def test_a_power_cut_takes_nothing_back(type, driver, durability):
    assert not any(replay(type, driver, durability, 6, 5))


@pytest.mark.nightly
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [1])
@pytest.mark.parametrize(("type", "driver", "durability"), NIGHTLY)
def test_no_power_cut_takes_anything_back(type, driver, durability, seed):
    assert not any(replay(type, driver, durability, STATES_PER_NIGHT, seed))


@pytest.mark.parametrize("keep", ["compressed", "on-demand", "unpacked"])
def test_what_is_only_a_cache_is_made_again_after_a_power_cut(keep):
    assert not any(replay("ext4", "erofs", "lazy", 4, 7, keep=keep))


@pytest.mark.nightly
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("type", ["ext4", "xfs"])
@pytest.mark.parametrize("keep", ["compressed", "on-demand", "unpacked"])
def test_what_is_only_a_cache_is_made_again_after_any_power_cut(type, keep):
    assert not any(replay(type, "erofs", "lazy", STATES_PER_NIGHT, 1, keep=keep))


def test_a_store_that_does_not_flush_is_found_out():
    """The replay itself: it must see what goes wrong, which about half of the states show."""
    found = [
        problem for state in replay("ext4", "overlayfs", "strict", 12, 1, "no-flush") for problem in state
    ]
    assert any("paths are wrong" in problem for problem in found)
