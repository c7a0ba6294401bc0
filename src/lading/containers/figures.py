"""What a container uses, in the form of ``docker stats``; from the figures of cgroups v1 and v2. Sans-I/O but for `Machine`.

Fields are those of moby's ``daemon/stats_unix.go``, and what clients compute from them: CPU per cent is the change of
``cpu_usage.total_usage`` over that of ``system_cpu_usage``, memory is ``usage`` less ``inactive_file``.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from lading.kit import times

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_NANO: Final = 10**9
Figures = Mapping[str, Any]
"""As `lading.core.runtime.Task.metrics` gives them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Figures of one moment, nanoseconds since the epoch. CPU time of the whole machine in nanoseconds, memory in bytes."""

    time: int
    figures: Figures
    interfaces: Mapping[str, Mapping[str, int]]
    system_cpu: int
    cpus: int
    memory: int


def read_sample(figures: Figures, pid: int, *, own_network: bool) -> Sample:
    """Add what the host knows to a container's figures; blocking."""
    return Sample(
        time=times.now_nano(),
        figures=figures,
        interfaces=read_interfaces(pid) if own_network else {},
        system_cpu=_system_cpu(),
        cpus=len(os.sched_getaffinity(0)),
        memory=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
    )


def _system_cpu() -> int:
    """proc_stat(5): user, nice, system, idle, iowait, irq, softirq, steal."""
    with Path("/proc/stat").open("rb") as file:
        fields = file.readline().split()
    return sum(int(field) for field in fields[1:9]) * _NANO // _TICKS


def read_interfaces(pid: int) -> dict[str, dict[str, int]]:
    """Counters of a process's network interfaces but the loopback; blocking. proc_pid_net(5)."""
    try:
        lines = Path(f"/proc/{pid}/net/dev").read_text("ascii", "replace").splitlines()[2:]
    except OSError:
        return {}
    found: dict[str, dict[str, int]] = {}
    for line in lines:
        name, _, rest = line.partition(":")
        counts = [int(count) for count in rest.split()]
        if name.strip() != "lo" and len(counts) >= 12:
            found[name.strip()] = {
                "rx_bytes": counts[0],
                "rx_packets": counts[1],
                "rx_errors": counts[2],
                "rx_dropped": counts[3],
                "tx_bytes": counts[8],
                "tx_packets": counts[9],
                "tx_errors": counts[10],
                "tx_dropped": counts[11],
            }
    return found


def document(id: str, name: str, now: Sample | None, before: Sample | None) -> dict[str, Any]:
    """Docker's stats object. Without a sample, of a container that does not run, it is empty."""
    made: dict[str, Any] = {
        "name": f"/{name}",
        "id": id,
        "read": times.format_nano(now.time if now else 0),
        "preread": times.format_nano(before.time if before else 0),
        "pids_stats": _pids(now.figures) if now else {},
        "blkio_stats": _block_io(now.figures if now else {}),
        "num_procs": 0,
        "storage_stats": {},
        "cpu_stats": _cpu(now),
        "precpu_stats": _cpu(before),
        "memory_stats": _memory(now) if now else {},
    }
    if now and now.interfaces:
        made["networks"] = {name: dict(counts) for name, counts in now.interfaces.items()}
    return made


def _part(figures: Figures, name: str) -> Figures:
    """A part of the figures; empty if the runtime did not give it."""
    return cast("Figures", figures.get(name) or {})


def _parts(figures: Figures, name: str) -> list[Figures]:
    return cast("list[Figures]", figures.get(name) or [])


def _is_v2(figures: Figures) -> bool:
    return ".v2." in str(figures.get("@type", ""))


def _pids(figures: Figures) -> dict[str, int]:
    pids = _part(figures, "pids")
    made = {"current": int(pids.get("current", 0))}
    return made | ({"limit": int(pids["limit"])} if pids.get("limit") else {})


def _cpu(sample: Sample | None) -> dict[str, Any]:
    if sample is None:
        return {
            "cpu_usage": {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0},
            "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0},
        }
    cpu = _part(sample.figures, "cpu")
    made = _cpu_v2(cpu) if _is_v2(sample.figures) else _cpu_v1(cpu)
    return made | {"system_cpu_usage": sample.system_cpu, "online_cpus": sample.cpus}


def _cpu_v1(cpu: Figures) -> dict[str, Any]:
    usage, throttling = _part(cpu, "usage"), _part(cpu, "throttling")
    return {
        "cpu_usage": {
            "total_usage": usage.get("total", 0),
            "percpu_usage": _parts(usage, "per_cpu"),
            "usage_in_kernelmode": usage.get("kernel", 0),
            "usage_in_usermode": usage.get("user", 0),
        },
        "throttling_data": {
            "periods": throttling.get("periods", 0),
            "throttled_periods": throttling.get("throttled_periods", 0),
            "throttled_time": throttling.get("throttled_time", 0),
        },
    }


def _cpu_v2(cpu: Figures) -> dict[str, Any]:
    return {
        "cpu_usage": {
            "total_usage": cpu.get("usage_usec", 0) * 1000,
            "usage_in_kernelmode": cpu.get("system_usec", 0) * 1000,
            "usage_in_usermode": cpu.get("user_usec", 0) * 1000,
        },
        "throttling_data": {
            "periods": cpu.get("nr_periods", 0),
            "throttled_periods": cpu.get("nr_throttled", 0),
            "throttled_time": cpu.get("throttled_usec", 0) * 1000,
        },
    }


def _memory(sample: Sample) -> dict[str, Any]:
    memory = _part(sample.figures, "memory")
    if _is_v2(sample.figures):
        usage, limit = memory.get("usage", 0), memory.get("usage_limit", 0)
        made: dict[str, Any] = {"usage": usage}
        skipped = {"usage", "usage_limit", "swap_usage", "swap_limit"}
    else:
        counts = _part(memory, "usage")
        usage, limit = counts.get("usage", 0), counts.get("limit", 0)
        made = {"usage": usage, "max_usage": counts.get("max", 0)}
        if counts.get("failcnt"):
            made["failcnt"] = counts["failcnt"]
        skipped = set[str]()
    made["stats"] = {
        name: value for name, value in memory.items() if isinstance(value, int) and name not in skipped
    }
    made["limit"] = limit if 0 < limit < sample.memory else sample.memory
    return made


_BLOCK_LISTS: Final = (
    "io_service_bytes_recursive",
    "io_serviced_recursive",
    "io_queue_recursive",
    "io_service_time_recursive",
    "io_wait_time_recursive",
    "io_merged_recursive",
    "io_time_recursive",
    "sectors_recursive",
)


def _block_io(figures: Figures) -> dict[str, Any]:
    made: dict[str, Any] = dict.fromkeys(_BLOCK_LISTS)
    if _is_v2(figures):
        for name, kinds in (
            ("io_service_bytes_recursive", (("read", "rbytes"), ("write", "wbytes"))),
            ("io_serviced_recursive", (("read", "rios"), ("write", "wios"))),
        ):
            made[name] = [
                {"major": each["major"], "minor": each["minor"], "op": op, "value": each.get(field, 0)}
                for each in _parts(_part(figures, "io"), "usage")
                for op, field in kinds
            ]
        return made
    block = _part(figures, "blkio")
    for name in _BLOCK_LISTS:
        if entries := _parts(block, name):
            made[name] = [{key: each[key] for key in ("major", "minor", "op", "value")} for each in entries]
    return made
