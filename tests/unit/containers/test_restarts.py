"""Restart policies, of containers that were not started."""

from typing import Any

import pytest

from lading.containers import model, restarts
from lading.containers.model import Container, Document, State
from lading.core.containers import ContainerRecord
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest

SECOND = 10**9


def container(policy: str, *, most: int = 0, **document: Any) -> Container:
    record = ContainerRecord(
        id="1" * 64, name="some", snapshotter="native", snapshot_key="1", image="", target="", document={}
    )
    manifest = Descriptor(media_type="application/json", digest=Digest.of(b"{}"), size=2)
    made = Document(
        created=1,
        path="true",
        args=[],
        env=[],
        working_dir="",
        user="",
        hostname="some",
        stop_signal="SIGTERM",
        config={},
        host_config={"RestartPolicy": {"Name": policy, "MaximumRetryCount": most}},
        manifest=manifest,
        **document,
    )
    return model.make(record, made)


@pytest.mark.parametrize(
    ("policy", "status", "again"),
    [
        ("", 1, False),
        ("no", 1, False),
        ("always", 0, True),
        ("unless-stopped", 0, True),
        ("on-failure", 0, False),
        ("on-failure", 1, True),
    ],
)
def test_after_an_exit(policy: str, status: int, again: bool):
    assert restarts.after_exit(container(policy), status) is again


def test_not_after_somebody_stopped_or_removes_it():
    stopped = container("always")
    stopped.stop_requested = True
    assert not restarts.after_exit(stopped, 0)
    assert not restarts.after_exit(container("always", state=State(removing=True)), 0)


def test_a_failure_is_tried_again_as_often_as_was_said():
    assert restarts.after_exit(container("on-failure", most=3, restart_count=2), 1)
    assert not restarts.after_exit(container("on-failure", most=3, restart_count=3), 1)


@pytest.mark.parametrize(
    ("policy", "stopped", "starts"),
    [
        ("always", False, True),
        ("always", True, True),
        ("unless-stopped", False, True),
        ("unless-stopped", True, False),
        ("on-failure", False, False),
    ],
)
def test_with_the_daemon(policy: str, stopped: bool, starts: bool):
    ran = State(started_at=1)
    assert restarts.with_daemon(container(policy, manually_stopped=stopped, state=ran)) is starts
    assert not restarts.with_daemon(container(policy, manually_stopped=stopped)), "it never ran"


def test_the_pause_grows_until_a_run_lasts():
    some = container("always", state=State(started_at=1, finished_at=1 + SECOND))
    assert [restarts.next_pause(some) for _ in range(4)] == [0.1, 0.2, 0.4, 0.8]
    for _ in range(20):
        assert restarts.next_pause(some) <= 60
    assert restarts.next_pause(some) == 60
    some.document.state = State(started_at=1, finished_at=1 + 10 * SECOND)
    assert restarts.next_pause(some) == 0.1
