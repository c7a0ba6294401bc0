"""What is decoded ahead: more and more of what is read in sequence, nothing of what is not, and never too much."""

import random
import threading

import pytest

from lading.devices.ahead import WINDOW, Ahead, Plan

COUNT = 200


def taken(plan):
    found = []
    while (number := plan.take()) is not None:
        found.append(number)
    return found


def test_who_jumps_about_gets_nothing_but_what_he_asks_for():
    plan = Plan(bytes(COUNT))
    for number in (0, 50, 20, 199, 100, 23, 26):
        plan.ask(number)
        assert taken(plan) == []


def test_the_window_of_who_reads_in_sequence_grows():
    plan = Plan(bytes(COUNT))
    sizes = []
    end = 70
    for number in range(70, 70 + COUNT // 2 - 1):
        plan.ask(number)
        found = taken(plan)
        assert found == list(range(max(end, number + 1), max(end, number + 1) + len(found)))
        end = max(end, number) + 1 if not found else found[-1] + 1
        sizes.append(end - number - 1)
    assert sizes[:6] == [0, 1, 2, 3, 4, 5]
    assert max(sizes) == WINDOW


def test_several_that_read_in_sequence():
    plan = Plan(bytes(COUNT))
    for step in range(8):
        for begin in (10, 60, 110):
            plan.ask(begin + step)
            found = taken(plan)
            assert all(begin <= number <= begin + 2 * step for number in found)
            assert step == 0 or found
    for begin in (10, 60, 110):
        assert not plan.is_new(begin + 7)


def test_what_is_there_from_the_beginning_counts():
    there = bytearray(COUNT)
    there[40:60] = b"\1" * 20
    plan = Plan(there)
    assert not plan.is_new(59)
    plan.ask(60)
    assert taken(plan) == list(range(61, 61 + WINDOW))


def test_the_rest_follows_once_half_has_been_asked_for():
    plan = Plan(bytes(COUNT))
    for number in range(1, COUNT - 2, 2):
        plan.ask(number)
        assert taken(plan) == []
    plan.ask(COUNT - 2)
    assert taken(plan) == [COUNT - 1, *range(0, COUNT - 2, 2)]


def test_a_failure_ends_it_until_somebody_asks_again():
    plan = Plan(bytes(COUNT))
    for number in range(10):
        plan.ask(number)
    assert plan.take() == 10
    plan.rest()
    assert plan.take() is None
    plan.ask(10)
    assert plan.take() == 11


@pytest.mark.parametrize("seed", range(20))
def test_never_more_than_was_asked_for(seed):
    chance = random.Random(seed)
    count = chance.randrange(1, 60)
    plan = Plan(bytes(count))
    asked, ahead = set(), set()
    at = 0
    for _ in range(200):
        at = (at + 1) % count if chance.random() < 0.7 else chance.randrange(count)
        plan.ask(at)
        asked.add(at)
        ahead.discard(at)
        for _ in range(chance.randrange(4)):
            number = plan.take()
            if number is not None:
                assert number not in asked | ahead
                ahead.add(number)
            assert len(ahead) <= len(asked)
    if len(asked) * 2 >= count:
        ahead.update(taken(plan))
        assert len(asked | ahead) == count or len(ahead) == len(asked)


def test_several_devices_take_turns():
    ahead = Ahead(1)
    order = []
    begin, done = threading.Event(), threading.Semaphore(0)

    def device(name, steps):
        left = iter(range(steps))

        def step():
            begin.wait(20)
            if next(left, None) is None:
                done.release()
                return
            ahead.wake(step)
            order.append(name)

        return step

    for name in "ab":
        ahead.wake(device(name, 3))
    begin.set()
    for _ in range(2):
        assert done.acquire(timeout=20)
    assert order == list("ababab")


def test_several_threads_decode_at_the_same_time():
    ahead = Ahead(3)
    together = threading.Barrier(3)
    ended = threading.Semaphore(0)
    left = iter(range(3))

    def step():
        if next(left, None) is None:
            return
        ahead.wake(step)
        together.wait(20)
        ended.release()

    ahead.wake(step)
    for _ in range(3):
        assert ended.acquire(timeout=20)
