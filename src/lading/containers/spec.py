"""The OCI runtime spec of a container, from what was asked for (OCI runtime-spec 1.0.2; defaults are Docker's).

`build` is a pure function of a `Plan`; what must be looked up in the root file system or on the host was looked up before.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from lading.containers import binds, capabilities, seccomp
from lading.containers.binds import Bind, Tmpfs
from lading.containers.request import Config, HostConfig
from lading.containers.users import User
from lading.errors import InvalidArgumentError, UnsupportedError

DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_SHM_SIZE: Final = 64 * 1024 * 1024
MASKED_PATHS: Final = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
"""Docker's list; `masked_paths` adds what depends on the machine."""
READONLY_PATHS: Final = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
DEFAULT_DEVICES: Final = ((1, 5), (1, 3), (1, 9), (1, 8), (5, 0), (5, 1))
"""zero, null, urandom, random, tty, console: the character devices that every container may use."""
_NAMESPACED_SYSCTLS: Final = frozenset(
    {"kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax"}
    | {"kernel.shmmni", "kernel.shm_rmid_forced"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that the spec depends on. ``files`` are host paths of the files bound over ``/etc/…``."""

    id: str
    config: Config
    host: HostConfig
    args: Sequence[str]
    env: Sequence[str]
    cwd: str
    user: User
    hostname: str
    binds: Sequence[Bind] = ()
    tmpfs: Sequence[Tmpfs] = ()
    files: Mapping[str, str] = field(default_factory=dict[str, str])
    netns: str = ""
    """Path of the network namespace to join; empty for one of its own, or the host's."""
    cgroup_v2: bool = True
    cgroup_parent: str = "/lading"


def arguments(
    config: Config, entrypoint: Sequence[str] | None, cmd: Sequence[str] | None
) -> tuple[list[str], list[str]]:
    """Entry point and command of a container; those of the image count where none was given.

    A given entry point drops the image's command. A single empty string resets it. Raises `InvalidArgumentError` if
    nothing is left to run.
    """
    given = _words(config.entrypoint)
    command = _words(config.cmd)
    if given is None:
        given = list(entrypoint or ())
        command = command or list(cmd or ())
    elif given == [""]:
        given = []
    if not given and not command:
        raise InvalidArgumentError("no command specified")
    return given, list(command or ())


def _words(value: list[str] | str | None) -> list[str] | None:
    if value is None:
        return None
    return [value] if isinstance(value, str) else (value or None)


def merge_env(image: Sequence[str] | None, given: Sequence[str] | None) -> list[str]:
    """The environment: the image's variables, then the given ones, which replace those of the same name.

    A given name without ``=`` removes the variable.
    """
    merged: dict[str, str] = {}
    for entry in (*(image or ()), *(given or ())):
        name, equals, _ = entry.partition("=")
        if equals:
            merged[name] = entry
        else:
            merged.pop(name, None)
    return list(merged.values())


def process_env(env: Sequence[str], *, tty: bool, hostname: str, home: str) -> list[str]:
    """The environment of a process: Docker's own variables come first, and yield to given ones."""
    base = [f"PATH={DEFAULT_PATH}", f"HOSTNAME={hostname}"]
    if tty:
        base.append("TERM=xterm")
    merged = merge_env(base, env)
    if not any(entry.startswith("HOME=") for entry in merged):
        merged.append(f"HOME={home}")
    return merged


def masked_paths() -> list[str]:
    """`MASKED_PATHS`, and the thermal counters of every processor that has them; blocking."""
    cpus = Path("/sys/devices/system/cpu")
    return [*MASKED_PATHS, *sorted(str(path) for path in cpus.glob("cpu[0-9]*/thermal_throttle"))]


def build(plan: Plan) -> dict[str, Any]:
    """The runtime spec. Blocking (it looks at devices of the host).

    Raises `InvalidArgumentError` or `UnsupportedError` for a field that cannot be honoured.
    """
    host = plan.host
    caps = capabilities.effective(
        add=host.cap_add or (), drop=host.cap_drop or (), privileged=host.privileged
    )
    security = _security(host, caps)
    hidden = hidden_paths(host)
    linux: dict[str, Any] = {
        "namespaces": _namespaces(plan),
        "resources": _resources(plan),
        "devices": _devices(host),
        "cgroupsPath": _cgroup(plan),
        "maskedPaths": hidden[0] if not security.unmasked else [],
        "readonlyPaths": hidden[1] if not security.unmasked else [],
        "sysctl": _sysctls(host),
    }
    if security.filter is not None:
        linux["seccomp"] = security.filter
    return {
        "ociVersion": "1.0.2",
        "process": process(plan, caps, no_new_privileges=security.no_new_privileges),
        "root": {"path": "rootfs", "readonly": host.readonly_rootfs},
        "hostname": "" if host.uts_mode == "host" else plan.hostname,
        "mounts": _mounts(plan),
        "annotations": dict(host.annotations or {}),
        "linux": linux,
    }


def process(plan: Plan, caps: Sequence[str], *, no_new_privileges: bool) -> dict[str, Any]:
    """The runtime-spec process object of the container's first process."""
    made: dict[str, Any] = {
        "terminal": plan.config.tty,
        "user": {
            "uid": plan.user.uid,
            "gid": plan.user.gid,
            "additionalGids": list(plan.user.groups),
            "umask": 0o022,
        },
        "args": list(plan.args),
        "env": process_env(plan.env, tty=plan.config.tty, hostname=plan.hostname, home=plan.user.home),
        "cwd": plan.cwd,
        "capabilities": capability_sets(caps, plan.user.uid),
        "noNewPrivileges": no_new_privileges,
        "rlimits": _rlimits(plan.host),
        "apparmorProfile": "",
    }
    size = plan.host.console_size or []
    if plan.config.tty and len(size) == 2 and all(size):
        made["consoleSize"] = {"height": size[0], "width": size[1]}
    if plan.host.oom_score_adj is not None:
        made["oomScoreAdj"] = plan.host.oom_score_adj
    return made


def capability_sets(caps: Sequence[str], uid: int) -> dict[str, list[str]]:
    """Bounding, permitted and effective; never inheritable. A user that is not root gets only the first."""
    held = list(caps) if uid == 0 else []
    return {"bounding": list(caps), "permitted": held, "effective": held}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Security:
    filter: dict[str, Any] | None
    no_new_privileges: bool
    unmasked: bool


def _security(host: HostConfig, caps: Sequence[str]) -> _Security:
    profile, no_new_privileges, unmasked = "", False, False
    for option in host.security_opt or ():
        name, _, value = (
            option.replace(":", "=", 1).partition("=") if "=" not in option else option.partition("=")
        )
        if name == "no-new-privileges":
            if value not in ("", "true", "false"):
                raise InvalidArgumentError(f'invalid --security-opt 2: "{option}"')
            no_new_privileges = value != "false"
        elif name == "seccomp":
            profile = value
        elif (name, value) in (("apparmor", "unconfined"), ("label", "disable")):
            continue  # neither is in force here
        elif name == "systempaths" and value == "unconfined":
            unmasked = True
        else:
            raise UnsupportedError(f"HostConfig.SecurityOpt {option[:80]!r} is not supported")
    if profile == "unconfined" or (host.privileged and not profile):
        filter_ = None
    elif profile in ("", "builtin"):
        filter_ = seccomp.default_filter(caps)
    else:
        filter_ = seccomp.custom_filter(profile, caps)
    return _Security(filter=filter_, no_new_privileges=no_new_privileges, unmasked=unmasked)


def _paths(host: HostConfig, given: Sequence[str] | None, default: Sequence[str]) -> list[str]:
    if given is not None:
        return list(given)
    return [] if host.privileged else list(default)


def hidden_paths(host: HostConfig) -> tuple[list[str], list[str]]:
    """Masked and read-only paths, as far as the host configuration decides. Blocking."""
    return _paths(host, host.masked_paths, masked_paths()), _paths(host, host.readonly_paths, READONLY_PATHS)


def cgroup_namespace(host: HostConfig, *, cgroup_v2: bool) -> str:
    """``private`` or ``host``; without a wish a cgroup namespace of its own on cgroup v2, unless privileged."""
    return host.cgroupns_mode or ("private" if cgroup_v2 and not host.privileged else "host")


def _namespaces(plan: Plan) -> list[dict[str, str]]:
    host = plan.host
    wanted = {
        "mount": True,
        "network": host.network_mode != "host",
        "uts": host.uts_mode != "host",
        "pid": host.pid_mode != "host",
        "ipc": host.ipc_mode != "host",
        "cgroup": cgroup_namespace(host, cgroup_v2=plan.cgroup_v2) == "private",
    }
    paths = {"network": plan.netns} if plan.netns else {}
    return [
        {"type": name, "path": paths[name]} if name in paths else {"type": name}
        for name, has in wanted.items()
        if has
    ]


def _mount(destination: str, kind: str, source: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": source, "options": list(options)}


def _mounts(plan: Plan) -> list[dict[str, Any]]:
    host = plan.host
    write = "rw" if host.privileged else "ro"
    shm = host.shm_size or DEFAULT_SHM_SIZE
    system = [
        _mount("/proc", "proc", "proc", "nosuid", "noexec", "nodev"),
        _mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        _mount(
            "/dev/pts",
            "devpts",
            "devpts",
            "nosuid",
            "noexec",
            "newinstance",
            "ptmxmode=0666",
            "mode=0620",
            "gid=5",
        ),
        _mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", write),
        _mount("/sys/fs/cgroup", "cgroup", "cgroup", write, "nosuid", "noexec", "nodev"),
    ]
    if (
        host.network_mode == "host"
    ):  # sysfs belongs to the network namespace; only its owner may mount it afresh
        system[3] = _mount("/sys", "bind", "/sys", "rbind", "nosuid", "noexec", "nodev", write)
        if write == "ro":
            system[3]["options"].append("rslave")
    if host.ipc_mode == "host":
        system.append(_mount("/dev/shm", "bind", "/dev/shm", "rbind", "rw"))  # noqa: S108 (the host's own)
    elif host.ipc_mode != "none":
        system.append(
            _mount("/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev", "mode=1777", f"size={shm}")  # noqa: S108
        )
    # The queues of its IPC namespace, also if that is the host's, where they need not be mounted at all.
    system.append(_mount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"))
    asked = [*(bind.spec() for bind in plan.binds), *(tmpfs.spec() for tmpfs in plan.tmpfs)]
    taken = {mount["destination"] for mount in asked}
    files = [
        _mount(target, "bind", source, "rbind", "rprivate", "ro" if host.readonly_rootfs else "rw")
        for target, source in plan.files.items()
        if target not in taken
    ]
    kept = [mount for mount in system if mount["destination"] not in taken]
    ordered = sorted((*files, *asked), key=lambda mount: mount["destination"].count("/"))
    return [*kept, *ordered]


def _devices(host: HostConfig) -> list[dict[str, Any]]:
    if host.privileged:
        return [binds.device(path) for path in host_devices()]
    return [
        binds.device(mapping.path_on_host) | {"path": mapping.path_in_container or mapping.path_on_host}
        for mapping in host.devices or ()
    ]


def host_devices() -> list[str]:
    """Device files of the host that a privileged container gets; blocking."""
    found: list[str] = []
    for top, directories, files in os.walk("/dev"):
        directories[:] = [name for name in directories if name not in ("pts", "shm", "fd", "mqueue", ".lxc")]
        for name in files:
            path = os.path.join(top, name)
            if (
                name != "console"
                and not os.path.islink(path)
                and (Path(path).is_char_device() or Path(path).is_block_device())
            ):
                found.append(path)
    return sorted(found)


_RULE: Final = re.compile(r"([acb]) ([0-9]+|\*):([0-9]+|\*) ([rwm]{1,3})")


def _device_rules(host: HostConfig) -> list[dict[str, Any]]:
    if host.privileged:
        return [{"allow": True, "access": "rwm"}]
    rules: list[dict[str, Any]] = [{"allow": False, "access": "rwm"}]
    rules += [
        {"allow": True, "type": "c", "major": major, "minor": minor, "access": "rwm"}
        for major, minor in DEFAULT_DEVICES
    ]
    rules.append({"allow": False, "type": "c", "major": 10, "minor": 229, "access": "rwm"})
    for mapping in host.devices or ():
        found = binds.device(mapping.path_on_host)
        if not re.fullmatch("[rwm]{1,3}", mapping.cgroup_permissions or "rwm"):
            raise InvalidArgumentError(f"invalid device mode: {mapping.cgroup_permissions}")
        rules.append(
            {key: found[key] for key in ("type", "major", "minor")}
            | {"allow": True, "access": mapping.cgroup_permissions or "rwm"}
        )
    for text in host.device_cgroup_rules or ():
        match = _RULE.fullmatch(text)
        if not match:
            raise InvalidArgumentError(f"invalid device cgroup rule format: '{text}'")
        rule: dict[str, Any] = {"allow": True, "type": match[1], "access": match[4]}
        rule |= {name: int(n) for name, n in (("major", match[2]), ("minor", match[3])) if n != "*"}
        rules.append(rule)
    return rules


def _resources(plan: Plan) -> dict[str, Any]:
    host = plan.host
    return {"devices": _device_rules(host)} | limits(host)


def limits(host: HostConfig) -> dict[str, Any]:
    """The runtime-spec resources that a host configuration limits."""
    memory: dict[str, Any] = {}
    if host.memory:
        memory["limit"] = host.memory
        memory["swap"] = host.memory_swap or host.memory * 2
    if host.memory_reservation:
        memory["reservation"] = host.memory_reservation
    if host.memory_swappiness is not None and host.memory_swappiness >= 0:
        memory["swappiness"] = host.memory_swappiness
    if host.oom_kill_disable:
        memory["disableOOMKiller"] = True
    cpu: dict[str, Any] = {}
    if host.nano_cpus:
        cpu |= {"period": 100_000, "quota": host.nano_cpus // 10_000}
    for name, value in (
        ("shares", host.cpu_shares),
        ("period", host.cpu_period),
        ("quota", host.cpu_quota),
        ("cpus", host.cpuset_cpus),
        ("mems", host.cpuset_mems),
    ):
        if value:
            cpu[name] = value
    made: dict[str, Any] = {}
    if memory:
        made["memory"] = memory
    if cpu:
        made["cpu"] = cpu
    if host.pids_limit:
        made["pids"] = {"limit": host.pids_limit if host.pids_limit > 0 else -1}
    return made


_RLIMITS: Final = frozenset(
    {"as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss"}
    | {"rtprio", "rttime", "sigpending", "stack"}
)


def _rlimits(host: HostConfig) -> list[dict[str, Any]]:
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


def _sysctls(host: HostConfig) -> dict[str, str]:
    made: dict[str, str] = {}
    if not host.privileged and host.network_mode != "host":  # as Docker: low ports and ping for every user
        made |= {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}
    for name, value in (host.sysctls or {}).items():
        if name.startswith("net."):
            if host.network_mode == "host":
                raise InvalidArgumentError(f"sysctl '{name}' not allowed in host network namespace")
        elif name.startswith("fs.mqueue.") or name in _NAMESPACED_SYSCTLS:
            if host.ipc_mode == "host":
                raise InvalidArgumentError(f"sysctl '{name}' not allowed in host IPC namespace")
        else:
            raise InvalidArgumentError(f"sysctl '{name}' is not allowed: it is not namespaced")
        made[name] = value
    return made


def _cgroup(plan: Plan) -> str:
    parent = plan.host.cgroup_parent or plan.cgroup_parent
    if ".." in parent.split("/") or parent.endswith(".slice"):
        raise UnsupportedError(
            f"HostConfig.CgroupParent {parent!r} is not supported", hint="give a plain path"
        )
    return f"/{parent.strip('/')}/{plan.id}"
