"""What a client may ask for when it creates a container: Docker's create body, read and judged.

A field that Lading honours is an attribute here. A field of Docker's API that it does not honour is refused by name as soon as
it says anything but its zero value; nothing is ignored silently. Fields that
Docker itself does not know are ignored, as Docker does.
"""

import ipaddress
import os
from collections.abc import Mapping
from typing import Any, Final, TypeVar

import msgspec

from lading.containers import health, limits, logdriver, modes
from lading.containers.health import Healthcheck
from lading.errors import InvalidArgumentError, UnsupportedError

T = TypeVar("T", bound=msgspec.Struct)

Strings = list[str] | None
HOST_GATEWAY: Final = "host-gateway"
"""In ``ExtraHosts``: the machine, as a container reaches it."""


class Config(msgspec.Struct, rename="pascal"):
    """The portable part: what to run."""

    hostname: str = ""
    domainname: str = ""
    user: str = ""
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    tty: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    env: Strings = None
    cmd: list[str] | str | None = None
    entrypoint: list[str] | str | None = None
    image: str = ""
    working_dir: str = ""
    labels: dict[str, str] | None = None
    stop_signal: str | None = None
    stop_timeout: int | None = None
    exposed_ports: dict[str, Any] | None = None
    volumes: dict[str, Any] | None = None
    network_disabled: bool | None = None
    mac_address: str | None = None
    healthcheck: Healthcheck | None = None
    shell: Strings = None


class LogConfig(msgspec.Struct, rename="pascal"):
    """``HostConfig.LogConfig``."""

    type: str = ""
    config: dict[str, str] | None = None


class RestartPolicy(msgspec.Struct, rename="pascal"):
    """``HostConfig.RestartPolicy``."""

    name: str = ""
    maximum_retry_count: int = 0


class DeviceMapping(msgspec.Struct, rename="pascal"):
    """``--device``."""

    path_on_host: str
    path_in_container: str = ""
    cgroup_permissions: str = "rwm"


class WeightDevice(msgspec.Struct, rename="pascal"):
    """``--blkio-weight-device``."""

    path: str
    weight: int = 0


class ThrottleDevice(msgspec.Struct, rename="pascal"):
    """``--device-read-bps`` and its like: bytes or operations per second."""

    path: str
    rate: int = 0


class Ulimit(msgspec.Struct, rename="pascal"):
    """``--ulimit``; -1 is no limit."""

    name: str
    soft: int = 0
    hard: int = 0


class BindOptions(msgspec.Struct, rename="pascal"):
    """``--mount type=bind,…``."""

    propagation: str = ""
    non_recursive: bool = False
    create_mountpoint: bool = False
    read_only_non_recursive: bool = False
    read_only_force_recursive: bool = False


class TmpfsOptions(msgspec.Struct, rename="pascal"):
    """``--mount type=tmpfs,…``; size in bytes."""

    size_bytes: int = 0
    mode: int = 0
    options: list[list[str]] | None = None


class DriverConfig(msgspec.Struct, rename="pascal"):
    """``--mount type=volume,volume-driver=…,volume-opt=…``."""

    name: str = ""
    options: dict[str, str] | None = None


class VolumeOptions(msgspec.Struct, rename="pascal"):
    """``--mount type=volume,…``."""

    no_copy: bool = False
    subpath: str = ""
    labels: dict[str, str] | None = None
    driver_config: DriverConfig | None = None


class ImageOptions(msgspec.Struct, rename="pascal"):
    """``--mount type=image,…``."""

    subpath: str = ""


class MountRequest(msgspec.Struct, rename="pascal"):
    """``--mount``."""

    type: str = ""
    source: str = ""
    target: str = ""
    read_only: bool = False
    consistency: str = ""
    bind_options: BindOptions | None = None
    tmpfs_options: TmpfsOptions | None = None
    image_options: ImageOptions | None = None
    volume_options: VolumeOptions | None = None


class HostConfig(msgspec.Struct, rename="pascal"):
    """The part that depends on the host. Sizes in bytes, CPU times in microseconds, ``NanoCpus`` in 10⁻⁹ CPUs."""

    binds: Strings = None
    volume_driver: str = ""
    volumes_from: Strings = None
    container_id_file: str = msgspec.field(name="ContainerIDFile", default="")
    log_config: LogConfig | None = None
    network_mode: str = ""
    port_bindings: dict[str, Any] | None = None
    restart_policy: RestartPolicy | None = None
    auto_remove: bool = False
    console_size: list[int] | None = None
    annotations: dict[str, str] | None = None
    cap_add: Strings = None
    cap_drop: Strings = None
    cgroupns_mode: str = ""
    dns: Strings = None
    dns_options: Strings = None
    dns_search: Strings = None
    extra_hosts: Strings = None
    group_add: Strings = None
    ipc_mode: str = ""
    oom_score_adj: int | None = None
    pid_mode: str = ""
    privileged: bool = False
    publish_all_ports: bool = False
    readonly_rootfs: bool = False
    security_opt: Strings = None
    tmpfs: dict[str, str] | None = None
    uts_mode: str = msgspec.field(name="UTSMode", default="")
    userns_mode: str = ""
    shm_size: int | None = None
    sysctls: dict[str, str] | None = None
    runtime: str = ""
    isolation: str = ""
    cpu_shares: int | None = None
    memory: int | None = None
    nano_cpus: int | None = None
    cgroup_parent: str = ""
    cpu_period: int | None = None
    cpu_quota: int | None = None
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    devices: list[DeviceMapping] | None = None
    device_cgroup_rules: Strings = None
    memory_reservation: int | None = None
    memory_swap: int | None = None
    memory_swappiness: int | None = None
    oom_kill_disable: bool | None = None
    pids_limit: int | None = None
    ulimits: list[Ulimit] | None = None
    mounts: list[MountRequest] | None = None
    init: bool | None = None
    blkio_weight: int | None = None
    blkio_weight_device: list[WeightDevice] | None = None
    blkio_device_read_bps: list[ThrottleDevice] | None = None
    blkio_device_write_bps: list[ThrottleDevice] | None = None
    blkio_device_read_iops: list[ThrottleDevice] | None = msgspec.field(
        name="BlkioDeviceReadIOps", default=None
    )
    blkio_device_write_iops: list[ThrottleDevice] | None = msgspec.field(
        name="BlkioDeviceWriteIOps", default=None
    )
    cpu_realtime_period: int | None = None
    cpu_realtime_runtime: int | None = None
    masked_paths: Strings = None
    readonly_paths: Strings = None
    storage_opt: dict[str, str] | None = None
    links: Strings = None


UNSUPPORTED: Final = {
    "Cgroup": "",
    "DeviceRequests": "name the device files with --device",
    "KernelMemory": "",
    "KernelMemoryTCP": "",
    "CpuCount": "it is for Windows",
    "CpuPercent": "it is for Windows",
    "IOMaximumIOps": "it is for Windows",
    "IOMaximumBandwidth": "it is for Windows",
}
"""Fields of ``HostConfig`` that are refused unless zero, and what to do instead."""


class NetworkingConfig(msgspec.Struct, rename="pascal"):
    """``NetworkingConfig`` of the body."""

    endpoints_config: dict[str, dict[str, Any] | None] | None = None


_UNBOUNDED: Final = (
    "OOM killer is disabled for the container, but no memory limit is set, "
    "this can result in the system running out of resources."
)


class CreateRequest(msgspec.Struct, frozen=True):
    """A create body, read and found good. ``raw_config`` and ``raw_host`` are what inspect shows."""

    config: Config
    host: HostConfig
    networking: NetworkingConfig
    raw_config: dict[str, Any]
    raw_host: dict[str, Any]
    warnings: list[str]


def _read(raw: Mapping[str, Any], kind: type[T], what: str) -> T:
    present = {key: value for key, value in raw.items() if value is not None}
    try:
        return msgspec.convert(present, kind)
    except msgspec.ValidationError as exc:
        raise InvalidArgumentError(f"invalid {what}: {exc}") from exc


def parse(body: Mapping[str, Any]) -> CreateRequest:
    """Read and judge a create body.

    Raises:
        InvalidArgumentError: A field is malformed or contradicts another.
        UnsupportedError: A field asks for what Lading does not offer; the message names it.

    """
    host_body: object = body.get("HostConfig") or {}
    network_body: object = body.get("NetworkingConfig") or {}
    if not isinstance(host_body, dict) or not isinstance(network_body, dict):
        raise InvalidArgumentError("HostConfig and NetworkingConfig must be objects")
    raw_host: dict[str, Any] = dict(host_body)  # pyright: ignore[reportUnknownArgumentType]
    raw_config = {
        key: value for key, value in body.items() if key not in ("HostConfig", "NetworkingConfig", "Platform")
    }
    config = _read(raw_config, Config, "container configuration")
    host = _read(raw_host, HostConfig, "HostConfig")
    network = _read(network_body, NetworkingConfig, "NetworkingConfig")  # pyright: ignore[reportUnknownArgumentType]
    for name, hint in UNSUPPORTED.items():
        if raw_host.get(name):
            raise UnsupportedError(f"HostConfig.{name} is not supported", hint=hint, subject=name)
    _check_config(config)
    modes.check(
        {
            "PidMode": host.pid_mode,
            "IpcMode": host.ipc_mode,
            "UTSMode": host.uts_mode,
            "UsernsMode": host.userns_mode,
            "CgroupnsMode": host.cgroupns_mode,
            "Isolation": host.isolation,
        }
    )
    log = host.log_config or LogConfig()
    logdriver.check(log.type, log.config or {})
    check_host(host)
    _check_names(host)
    warnings = [_UNBOUNDED] if host.oom_kill_disable and not host.memory else []
    return CreateRequest(config, host, network, raw_config, raw_host, warnings)


def _check_config(config: Config) -> None:
    if not config.image:
        raise InvalidArgumentError("Config.Image is missing")
    health.check(config.healthcheck)
    for entry in config.env or ():
        if not entry or entry.startswith("="):
            raise InvalidArgumentError(f"invalid environment variable: {entry!r}")
    if config.working_dir and not config.working_dir.startswith("/"):
        raise InvalidArgumentError(
            f"the working directory '{config.working_dir}' is invalid, it needs to be an absolute path"
        )


def check_host(host: HostConfig) -> None:
    """Judge what may also be changed later: limits and restart policy. Raises `InvalidArgumentError`."""
    _check_restart(host)
    _check_limits(host)


def _check_restart(host: HostConfig) -> None:
    policy = (host.restart_policy and host.restart_policy.name) or "no"
    if policy not in ("no", "always", "on-failure", "unless-stopped"):
        raise InvalidArgumentError(
            f"invalid restart policy: unknown policy '{policy}'",
            hint="use one of 'no', 'always', 'on-failure', or 'unless-stopped'",
        )
    if policy != "on-failure" and host.restart_policy and host.restart_policy.maximum_retry_count > 0:
        raise InvalidArgumentError(
            "invalid restart policy: maximum retry count can only be used with 'on-failure'"
        )
    if host.restart_policy and host.restart_policy.maximum_retry_count < 0:
        raise InvalidArgumentError("invalid restart policy: maximum retry count cannot be negative")
    if host.auto_remove and policy != "no":
        raise InvalidArgumentError("can't create 'AutoRemove' container with restart policy")


_MEMORY_MINIMUM: Final = 6 * 1024 * 1024


def _check_limits(host: HostConfig) -> None:
    memory, swap = host.memory or 0, host.memory_swap or 0
    if memory and memory < _MEMORY_MINIMUM:
        raise InvalidArgumentError("Minimum memory limit allowed is 6MB")
    reservation = host.memory_reservation or 0
    if reservation and reservation < _MEMORY_MINIMUM:
        raise InvalidArgumentError("Minimum memory reservation allowed is 6MB")
    if 0 < memory < reservation:
        raise InvalidArgumentError(
            "Minimum memory limit can not be less than memory reservation limit, see usage"
        )
    if swap > 0 and not memory:
        raise InvalidArgumentError("You should always set the Memory limit when using Memoryswap limit")
    if swap > 0 and swap < memory:
        raise InvalidArgumentError("Minimum memoryswap limit should be larger than memory limit, see usage")
    if host.nano_cpus and (host.cpu_quota or host.cpu_period):
        raise InvalidArgumentError(
            "Conflicting options: Nano CPUs cannot be combined with CPU Period or Quota"
        )
    _check_cpus(host)
    limits.check_sets(host.cpuset_cpus, host.cpuset_mems)
    _check_block_io(host)
    if (host.shm_size or 0) < 0:
        raise InvalidArgumentError("SHM size can not be less than 0")
    if not -1000 <= (host.oom_score_adj or 0) <= 1000:
        raise InvalidArgumentError(
            f"Invalid value {host.oom_score_adj}, range for oom score adj is [-1000, 1000]"
        )
    if host.memory_swappiness is not None and not -1 <= host.memory_swappiness <= 100:
        raise InvalidArgumentError(
            f"Invalid value: {host.memory_swappiness}, valid memory swappiness range is 0-100"
        )


def _check_cpus(host: HostConfig) -> None:
    cpus = os.cpu_count() or 1
    if host.nano_cpus and not 10**7 <= host.nano_cpus <= cpus * 10**9:
        raise InvalidArgumentError(
            f"range of CPUs is from 0.01 to {cpus:.2f}, as there are only {cpus} CPUs available"
        )
    if (host.cpu_shares or 0) < 0:
        raise InvalidArgumentError(
            f"invalid CPU shares ({host.cpu_shares}): value must be a positive integer"
        )
    if host.cpu_period and not 1000 <= host.cpu_period <= 1_000_000:
        raise InvalidArgumentError(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)"
        )
    if 0 < (host.cpu_quota or 0) < 1000:
        raise InvalidArgumentError("CPU cfs quota can not be less than 1ms (i.e. 1000)")
    period, runtime = host.cpu_realtime_period or 0, host.cpu_realtime_runtime or 0
    if period and runtime > period:
        raise InvalidArgumentError("cpu real-time runtime cannot be higher than cpu real-time period")
    if (period or runtime) and not os.path.exists("/sys/fs/cgroup/cpu/cpu.rt_runtime_us"):
        raise UnsupportedError(
            "HostConfig.CpuRealtimePeriod, CpuRealtimeRuntime: this kernel schedules no groups in real time"
        )


def _check_block_io(host: HostConfig) -> None:
    if host.blkio_weight and not 10 <= host.blkio_weight <= 1000:
        raise InvalidArgumentError("Range of blkio weight is from 10 to 1000")
    for each in host.blkio_weight_device or ():
        if each.weight and not 10 <= each.weight <= 1000:
            raise InvalidArgumentError(f"Range of blkio weight is from 10 to 1000: {each.path}")
    for name, asked in (("BlkioWeight", host.blkio_weight), ("BlkioWeightDevice", host.blkio_weight_device)):
        if asked and not limits.has_weights(limits.HIERARCHIES):
            raise UnsupportedError(
                f"HostConfig.{name} is not supported: this kernel gives groups no weights for block devices",
                hint="leave it out, or use a kernel with CONFIG_BFQ_GROUP_IOSCHED or CONFIG_BLK_CGROUP_IOCOST",
                subject=name,
            )


def _check_names(host: HostConfig) -> None:
    for entry in host.extra_hosts or ():
        name, _, address = entry.partition(":")
        if not name or not address or any(char.isspace() for char in entry):
            raise InvalidArgumentError(f'bad format for add-host: "{entry}"')
        if address != HOST_GATEWAY and not _is_address(address.strip("[]")):
            raise InvalidArgumentError(f'invalid IP address in add-host: "{address}"')
    for address in host.dns or ():
        if not _is_address(address):
            raise InvalidArgumentError(f"bad nameserver address {address}: it is no IP address")
    if "" in (host.annotations or {}):
        raise InvalidArgumentError(
            "invalid Annotations: the empty string is not permitted as an annotation key"
        )


def _is_address(text: str) -> bool:
    """Whether it is an IP address, without a zone."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text
