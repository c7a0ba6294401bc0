"""``docker update``: other limits, or another restart policy, for a container that is there, running or not."""

from collections.abc import Mapping
from typing import Any, Final

import anyio
import msgspec

from lading.containers import cgroupless, model, request, resources
from lading.containers.environment import Environment
from lading.containers.model import Container
from lading.containers.request import HostConfig
from lading.errors import ConflictError, InvalidArgumentError, UnsupportedError
from lading.kit import aio

CHANGEABLE: Final = (
    "BlkioWeight",
    "CpuShares",
    "CpuPeriod",
    "CpuQuota",
    "CpusetCpus",
    "CpusetMems",
    "Memory",
    "MemoryReservation",
    "MemorySwap",
    "NanoCpus",
    "PidsLimit",
    "RestartPolicy",
)
_ZERO_COUNTS: Final = frozenset({"PidsLimit"})
"""Fields whose zero is a wish; zero elsewhere is Go's way to say nothing."""
_GONE: Final = ("KernelMemory", "KernelMemoryTCP")


async def update(environment: Environment, container: Container, body: Mapping[str, Any]) -> list[str]:
    """Change what ``body``, in the form of ``HostConfig``, names; warnings.

    Raises:
        InvalidArgumentError: A value is wrong or contradicts another.
        UnsupportedError: A field that cannot be changed is named.
        ConflictError: The container is being removed, or the running one refuses.

    """
    wanted = _wanted(body)
    async with container.lock:
        if container.removed.is_set() or container.state.removing:
            raise ConflictError(f"container {container.id} is marked for removal and cannot be updated")
        raw = {**container.document.host_config, **wanted}
        host = model.convert(raw, HostConfig)
        request.check_host(host)
        _check_against(container, wanted, host)
        if not environment.cgroup_parent:
            cgroupless.check(host)
        changed = await aio.run(aio.DISK, resources.limits, host)
        if container.task is not None and container.state.running and set(wanted) - {"RestartPolicy"}:
            await container.task.update(changed)
        with anyio.CancelScope(shield=True):
            container.document.host_config, container.host = raw, host
            await environment.store.update(container.snapshot())
    environment.bus.publish("container", "update", container.id, container.attributes())
    return []


def _wanted(body: Mapping[str, Any]) -> dict[str, Any]:
    wanted: dict[str, Any] = {}
    for name, value in body.items():
        if name in CHANGEABLE:
            if (value or (name in _ZERO_COUNTS and value is not None)) and not _empty_policy(name, value):
                wanted[name] = value
        elif value and name not in _GONE:
            raise UnsupportedError(
                f"{name} of a container cannot be changed", hint="create the container anew", subject=name
            )
    try:
        msgspec.convert(wanted, HostConfig)
    except msgspec.ValidationError as exc:
        raise InvalidArgumentError(f"invalid update: {exc}") from exc
    return wanted


def _empty_policy(name: str, value: object) -> bool:
    return name == "RestartPolicy" and isinstance(value, dict) and not value.get("Name")  # pyright: ignore[reportUnknownMemberType]


def _check_against(container: Container, wanted: Mapping[str, Any], host: HostConfig) -> None:
    old = container.host
    if container.host.auto_remove and "RestartPolicy" in wanted:
        policy = (host.restart_policy and host.restart_policy.name) or "no"
        if policy != "no":
            raise InvalidArgumentError(
                "Restart policy cannot be updated because AutoRemove is enabled for the container"
            )
    if wanted.get("Memory") and "MemorySwap" not in wanted and 0 < (old.memory_swap or 0) < wanted["Memory"]:
        raise InvalidArgumentError(
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time"
        )
