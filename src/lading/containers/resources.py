"""What a container may use: devices, cgroup limits, resource limits of processes; as OCI runtime-spec objects."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from lading.containers import binds
from lading.containers.request import DeviceMapping, HostConfig, ThrottleDevice, WeightDevice
from lading.errors import InvalidArgumentError
from lading.kit import linux

DEFAULT_DEVICES: Final = ((1, 5), (1, 3), (1, 9), (1, 8), (5, 0), (5, 1))
"""zero, null, urandom, random, tty, console: the character devices that every container may use."""


def devices(host: HostConfig) -> list[dict[str, Any]]:
    """Device files that a container gets beside the usual ones; blocking. Raises `InvalidArgumentError`."""
    asked = [device for mapping in host.devices or () for device in _mapped(mapping)]
    if not host.privileged or linux.in_user_namespace():  # most could not be opened there
        return asked
    taken = {device["path"] for device in asked}
    return [*(binds.device(path) for path in host_devices() if path not in taken), *asked]


def _mapped(mapping: DeviceMapping) -> Iterator[dict[str, Any]]:
    """The device that a mapping names, or all devices of a directory, under their paths in the container."""
    source, target = os.path.realpath(mapping.path_on_host), mapping.path_in_container or mapping.path_on_host
    if not os.path.isdir(source):
        yield binds.device(source, shown=mapping.path_on_host) | {"path": target}
        return
    for path in sorted(_device_files(source)):
        yield binds.device(path) | {"path": target + path.removeprefix(source)}


def host_devices() -> list[str]:
    """Device files of the host that a privileged container gets; blocking."""
    return sorted(_device_files("/dev"))


def _device_files(directory: str) -> Iterator[str]:
    for top, directories, files in os.walk(directory):
        directories[:] = [name for name in directories if name not in ("pts", "shm", "fd", "mqueue", ".lxc")]
        for name in files:
            path = os.path.join(top, name)
            if (
                name != "console"
                and not os.path.islink(path)
                and (Path(path).is_char_device() or Path(path).is_block_device())
            ):
                yield path


_RULE: Final = re.compile(r"([acb]) ([0-9]+|\*):([0-9]+|\*) ([rwm]{1,3})")


def device_rules(host: HostConfig) -> list[dict[str, Any]]:
    """Which devices the container may use, whether it has a file for them or not; blocking.

    Raises `InvalidArgumentError`.
    """
    if host.privileged:
        return [{"allow": True, "access": "rwm"}]
    rules: list[dict[str, Any]] = [{"allow": False, "access": "rwm"}]
    rules += [
        {"allow": True, "type": "c", "major": major, "minor": minor, "access": "rwm"}
        for major, minor in DEFAULT_DEVICES
    ]
    rules.append({"allow": False, "type": "c", "major": 10, "minor": 229, "access": "rwm"})
    for mapping in host.devices or ():
        access = mapping.cgroup_permissions or "rwm"
        if not re.fullmatch("[rwm]{1,3}", access):
            raise InvalidArgumentError(f"invalid device mode: {access}")
        rules += [
            {key: found[key] for key in ("type", "major", "minor")} | {"allow": True, "access": access}
            for found in _mapped(mapping)
        ]
    return [*rules, *map(_rule, host.device_cgroup_rules or ())]


def _rule(text: str) -> dict[str, Any]:
    match = _RULE.fullmatch(text)
    if not match:
        raise InvalidArgumentError(f"invalid device cgroup rule format: '{text}'")
    rule: dict[str, Any] = {"allow": True, "type": match[1], "access": match[4]}
    return rule | {name: int(n) for name, n in (("major", match[2]), ("minor", match[3])) if n != "*"}


def limits(host: HostConfig) -> dict[str, Any]:
    """The runtime-spec resources that a host configuration limits; blocking, for it looks at block devices.

    Raises `InvalidArgumentError`.
    """
    parts = {"memory": _memory(host), "cpu": _cpu(host), "blockIO": _block_io(host)}
    made: dict[str, Any] = {name: part for name, part in parts.items() if part}
    if host.pids_limit:
        made["pids"] = {"limit": host.pids_limit if host.pids_limit > 0 else -1}
    return made


def _memory(host: HostConfig) -> dict[str, Any]:
    memory: dict[str, Any] = {}
    if host.memory:
        memory["limit"] = host.memory
        memory["swap"] = host.memory_swap or host.memory * 2
    elif host.memory_swap:
        memory["swap"] = host.memory_swap
    if host.memory_reservation:
        memory["reservation"] = host.memory_reservation
    if host.memory_swappiness is not None and host.memory_swappiness >= 0:
        memory["swappiness"] = host.memory_swappiness
    if host.oom_kill_disable:
        memory["disableOOMKiller"] = True
    return memory


def _cpu(host: HostConfig) -> dict[str, Any]:
    cpu: dict[str, Any] = {}
    if host.nano_cpus:
        cpu |= {"period": 100_000, "quota": host.nano_cpus // 10_000}
    for name, value in (
        ("shares", host.cpu_shares),
        ("period", host.cpu_period),
        ("quota", host.cpu_quota),
        ("realtimePeriod", host.cpu_realtime_period),
        ("realtimeRuntime", host.cpu_realtime_runtime),
        ("cpus", host.cpuset_cpus),
        ("mems", host.cpuset_mems),
    ):
        if value:
            cpu[name] = value
    return cpu


def _block_io(host: HostConfig) -> dict[str, Any]:
    made: dict[str, Any] = {}
    if host.blkio_weight:
        made["weight"] = host.blkio_weight
    if host.blkio_weight_device:
        made["weightDevice"] = [_numbers(each) | {"weight": each.weight} for each in host.blkio_weight_device]
    for name, asked in (
        ("throttleReadBpsDevice", host.blkio_device_read_bps),
        ("throttleWriteBpsDevice", host.blkio_device_write_bps),
        ("throttleReadIOPSDevice", host.blkio_device_read_iops),
        ("throttleWriteIOPSDevice", host.blkio_device_write_iops),
    ):
        if asked:
            made[name] = [_numbers(each) | {"rate": each.rate} for each in asked]
    return made


def _numbers(asked: WeightDevice | ThrottleDevice) -> dict[str, int]:
    found = binds.device(asked.path)
    return {"major": found["major"], "minor": found["minor"]}


_RLIMITS: Final = frozenset(
    {"as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss"}
    | {"rtprio", "rttime", "sigpending", "stack"}
)


def rlimits(host: HostConfig) -> list[dict[str, Any]]:
    """Resource limits of the first process, which its children inherit. Raises `InvalidArgumentError`."""
    made: list[dict[str, Any]] = []
    for limit in host.ulimits or ():
        if limit.name not in _RLIMITS:
            raise InvalidArgumentError(f"invalid ulimit type: {limit.name}")
        soft, hard = (2**64 - 1 if value < 0 else value for value in (limit.soft, limit.hard))
        if soft > hard:
            raise InvalidArgumentError(
                f"ulimit soft limit must be less than or equal to hard limit: {limit.name}"
            )
        made.append({"type": f"RLIMIT_{limit.name.upper()}", "soft": soft, "hard": hard})
    return made
