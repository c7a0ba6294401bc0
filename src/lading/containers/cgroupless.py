"""What containers cannot have where there are no cgroups for them, as under a rootless daemon: refused by name, never ignored."""

from collections.abc import Iterator

from lading.containers.request import HostConfig
from lading.errors import UnsupportedError

REASON = "the daemon has no cgroups for containers, as it does not run as root"


def check(host: HostConfig) -> None:
    """Raise `UnsupportedError` for the first field that only cgroups could honour."""
    for name, value in _fields(host):
        if value:
            raise UnsupportedError(
                f"HostConfig.{name} is not supported: {REASON}", hint="leave it out, or use root's daemon"
            )


def _fields(host: HostConfig) -> Iterator[tuple[str, object]]:
    swappiness = host.memory_swappiness
    yield from (
        ("Memory", host.memory),
        ("MemorySwap", host.memory_swap),
        ("MemoryReservation", host.memory_reservation),
        ("MemorySwappiness", swappiness is not None and swappiness >= 0),
        ("OomKillDisable", host.oom_kill_disable),
        ("NanoCpus", host.nano_cpus),
        ("CpuShares", host.cpu_shares),
        ("CpuPeriod", host.cpu_period),
        ("CpuQuota", host.cpu_quota),
        ("CpuRealtimePeriod", host.cpu_realtime_period),
        ("CpuRealtimeRuntime", host.cpu_realtime_runtime),
        ("CpusetCpus", host.cpuset_cpus),
        ("CpusetMems", host.cpuset_mems),
        ("PidsLimit", (host.pids_limit or 0) > 0),
        ("BlkioWeight", host.blkio_weight),
        ("BlkioWeightDevice", host.blkio_weight_device),
        ("BlkioDeviceReadBps", host.blkio_device_read_bps),
        ("BlkioDeviceWriteBps", host.blkio_device_write_bps),
        ("BlkioDeviceReadIOps", host.blkio_device_read_iops),
        ("BlkioDeviceWriteIOps", host.blkio_device_write_iops),
        ("CgroupParent", host.cgroup_parent),
        ("DeviceCgroupRules", host.device_cgroup_rules),
        (
            "Devices[].CgroupPermissions",
            any(set(each.cgroup_permissions or "rwm") != set("rwm") for each in host.devices or ()),
        ),
    )
