"""Health: the rules without a container."""

import pytest

from lading.containers import health
from lading.containers.health import Health, Healthcheck, Result
from lading.errors import InvalidArgumentError

SECOND = 10**9


def result(code: int, start: int = 0) -> Result:
    return Result(start=start, end=start + 1, exit_code=code, output="")


def test_failures_in_a_row_make_it_unhealthy_and_one_success_heals():
    state = Health(config=Healthcheck(retries=2), started_at=0)
    assert [state.take(result(code)) for code in (1, 1, 1, 0, 1, 0)] == [
        False,
        True,
        False,
        True,
        False,
        False,
    ]
    assert state.failing_streak == 0
    assert len(state.log) == 5


def test_the_start_period_forgives_until_the_first_success():
    state = Health(config=Healthcheck(retries=1, start_period=10 * SECOND), started_at=0)
    assert not state.take(result(1, 9 * SECOND))
    assert (state.status, state.failing_streak) == ("starting", 0)
    assert state.take(result(0, 9 * SECOND))
    assert state.take(result(1, 9 * SECOND))
    assert state.status == "unhealthy"


def test_checks_are_closer_together_while_it_starts():
    config = Healthcheck(interval=60 * SECOND, start_period=10 * SECOND, start_interval=SECOND)
    state = Health(config=config, started_at=0)
    assert state.pause(SECOND) == 1
    assert state.pause(11 * SECOND) == 60
    state.take(result(0))
    assert state.pause(SECOND) == 60


def test_what_is_not_asked_for_comes_from_the_image():
    image = {"Test": ["CMD", "a"], "Interval": 5, "Retries": 7}
    assert health.merged({"Interval": 9, "Test": None}, image) == {
        "Test": ["CMD", "a"],
        "Interval": 9,
        "Retries": 7,
    }
    assert health.merged(None, image) == image
    assert health.merged(None, None) is None


@pytest.mark.parametrize(
    ("test", "words"),
    [
        (None, []),
        (["NONE"], []),
        (["CMD", "a", "b"], ["a", "b"]),
        (["CMD-SHELL", "a b"], ["/bin/sh", "-c", "a b"]),
    ],
)
def test_commands(test: list[str] | None, words: list[str]):
    assert health.command(Healthcheck(test=test), None) == words


def test_the_image_s_shell_runs_it():
    assert health.command(Healthcheck(test=["CMD-SHELL", "x"]), ["bash", "-ec"]) == ["bash", "-ec", "x"]


@pytest.mark.parametrize(
    "bad",
    [
        Healthcheck(interval=5),
        Healthcheck(retries=-1),
        Healthcheck(test=["WHAT"]),
        Healthcheck(start_interval=9),
    ],
)
def test_bad_ones(bad: Healthcheck):
    with pytest.raises(InvalidArgumentError):
        health.check(bad)
