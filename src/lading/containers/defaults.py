"""What inspect shows of a container's configuration where the client gave nothing.

Clients other than ``docker`` read these documents as maps and count on every key that Docker always sends
(``attrs["HostConfig"]["Binds"]``), so a missing one is an error of theirs.
"""

from collections.abc import Mapping
from typing import Any, Final

from lading.containers import namespaces, spec
from lading.containers.request import HostConfig

CONFIG: Final[Mapping[str, Any]] = {
    "Hostname": "",
    "Domainname": "",
    "User": "",
    "AttachStdin": False,
    "AttachStdout": False,
    "AttachStderr": False,
    "Tty": False,
    "OpenStdin": False,
    "StdinOnce": False,
    "Env": None,
    "Cmd": None,
    "Image": "",
    "Volumes": None,
    "WorkingDir": "",
    "Entrypoint": None,
    "OnBuild": None,
    "Labels": None,
}
HOST: Final[Mapping[str, Any]] = {
    "Binds": None,
    "ContainerIDFile": "",
    "PortBindings": None,
    "AutoRemove": False,
    "VolumeDriver": "",
    "VolumesFrom": None,
    "ConsoleSize": [0, 0],
    "CapAdd": None,
    "CapDrop": None,
    "Dns": None,
    "DnsOptions": None,
    "DnsSearch": None,
    "ExtraHosts": None,
    "GroupAdd": None,
    "Cgroup": "",
    "Links": None,
    "OomScoreAdj": 0,
    "PidMode": "",
    "Privileged": False,
    "PublishAllPorts": False,
    "ReadonlyRootfs": False,
    "SecurityOpt": None,
    "UTSMode": "",
    "UsernsMode": "",
    "Isolation": "",
    "CpuShares": 0,
    "Memory": 0,
    "NanoCpus": 0,
    "CgroupParent": "",
    "BlkioWeight": 0,
    "BlkioWeightDevice": None,
    "BlkioDeviceReadBps": None,
    "BlkioDeviceWriteBps": None,
    "BlkioDeviceReadIOps": None,
    "BlkioDeviceWriteIOps": None,
    "CpuPeriod": 0,
    "CpuQuota": 0,
    "CpuRealtimePeriod": 0,
    "CpuRealtimeRuntime": 0,
    "CpusetCpus": "",
    "CpusetMems": "",
    "Devices": None,
    "DeviceCgroupRules": None,
    "DeviceRequests": None,
    "MemoryReservation": 0,
    "MemorySwap": 0,
    "MemorySwappiness": None,
    "OomKillDisable": None,
    "PidsLimit": None,
    "Ulimits": None,
    "CpuCount": 0,
    "CpuPercent": 0,
    "IOMaximumIOps": 0,
    "IOMaximumBandwidth": 0,
    "MaskedPaths": None,
    "ReadonlyPaths": None,
}
_ONLY_WHEN_GIVEN: Final = frozenset({"Annotations", "Init", "Mounts", "StorageOpt", "Sysctls", "Tmpfs"})


def config(given: Mapping[str, Any]) -> dict[str, Any]:
    """``Config``: what was given, over `CONFIG`."""
    return _filled(CONFIG, given)


def host_config(given: Mapping[str, Any], host: HostConfig, *, cgroup_v2: bool) -> dict[str, Any]:
    """``HostConfig``: what was given, over `HOST` and what then took effect."""
    shown = _filled(
        HOST, {key: value for key, value in given.items() if value or key not in _ONLY_WHEN_GIVEN}
    )
    shown["IpcMode"] = host.ipc_mode or "private"
    shown["CgroupnsMode"] = namespaces.cgroup_namespace(host, cgroup_v2=cgroup_v2)
    shown["ShmSize"] = host.shm_size or spec.DEFAULT_SHM_SIZE
    masked, read_only = spec.hidden_paths(host)
    shown["MaskedPaths"], shown["ReadonlyPaths"] = masked or None, read_only or None
    return shown


def _filled(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    return {**defaults, **{key: value for key, value in given.items() if value is not None}}
