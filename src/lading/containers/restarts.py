"""Restart policies: whether a container starts again by itself, and after which pause."""

from typing import Final

from lading.containers.model import Container

_PAUSE_SECONDS: Final = 0.1
_PAUSE_MAXIMUM: Final = 60.0
_LASTING_SECONDS: Final = 10.0
"""A run of this length makes the next pause short again."""


def after_exit(container: Container, status: int) -> bool:
    """Whether it starts again, now that its run has ended with this exit code."""
    policy, document = container.restart_policy, container.document
    if container.stop_requested or document.state.removing:
        return False
    if policy.name in ("always", "unless-stopped"):
        return True
    limit = policy.maximum_retry_count
    return policy.name == "on-failure" and status != 0 and (not limit or document.restart_count < limit)


def with_daemon(container: Container) -> bool:
    """Whether it starts when the daemon does."""
    policy = container.restart_policy.name
    return bool(container.state.started_at) and (
        policy == "always" or (policy == "unless-stopped" and not container.document.manually_stopped)
    )


def next_pause(container: Container) -> float:
    """Seconds to wait before its next restart, more with every one of which none lasted; counts this one."""
    ran = (container.state.finished_at - container.state.started_at) / 10**9
    container.backoff = 0 if ran >= _LASTING_SECONDS else container.backoff + 1
    return min(_PAUSE_MAXIMUM, _PAUSE_SECONDS * 2 ** min(max(container.backoff - 1, 0), 16))
