"""The OCI runtime spec of a container, from what was asked for (OCI runtime-spec 1.0.2; defaults are Docker's).

`build` is a pure function of a `Plan`; what must be looked up in the root file system or on the host was looked up before.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from lading.containers import capabilities, cgroupless, confinement, namespaces, resources
from lading.containers.binds import Bind, Tmpfs
from lading.containers.namespaces import Joined
from lading.containers.request import Config, HostConfig
from lading.containers.users import User
from lading.core import idmap
from lading.core.idmap import IdMap
from lading.errors import InvalidArgumentError, UnsupportedError
from lading.kit import linux as kernel

DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_SHM_SIZE: Final = 64 * 1024 * 1024
CGROUP_PARENT: Final = "/lading"
INIT: Final = "/sbin/docker-init"
"""Where ``--init`` puts its program, as Docker does."""
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
    joined: Joined = field(default_factory=Joined)
    init: str = ""
    """The host's path of the init program that is to be process 1."""
    ids: IdMap | None = None
    """Of the user namespace that is joined."""
    cgroup_v2: bool = True
    cgroup_parent: str = CGROUP_PARENT
    """Empty: there are no cgroups to be had."""


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


@functools.cache
def masked_paths() -> tuple[str, ...]:
    """`MASKED_PATHS`, and the thermal counters of every processor that has them; looked for once, as moby does. Blocking."""
    cpus = Path("/sys/devices/system/cpu")
    return (*MASKED_PATHS, *sorted(str(path) for path in cpus.glob("cpu[0-9]*/thermal_throttle")))


def build(plan: Plan) -> dict[str, Any]:
    """The runtime spec. Blocking (it looks at devices of the host).

    Raises `InvalidArgumentError` or `UnsupportedError` for a field that cannot be honoured.
    """
    host = plan.host
    if not plan.cgroup_parent:
        cgroupless.check(host)
    caps = capabilities.effective(
        add=host.cap_add or (), drop=host.cap_drop or (), privileged=host.privileged
    )
    security = confinement.of(host, caps)
    hidden = hidden_paths(host)
    linux: dict[str, Any] = {
        "namespaces": namespaces.spec(host, plan.joined, cgroup_v2=plan.cgroup_v2),
        "resources": {"devices": resources.device_rules(host)} | resources.limits(host),
        "devices": resources.devices(host),
        "maskedPaths": hidden[0] if not security.unmasked else [],
        "readonlyPaths": hidden[1] if not security.unmasked else [],
        "sysctl": _sysctls(plan),
    }
    if propagation := _root_propagation(plan.binds):
        linux["rootfsPropagation"] = propagation
    if plan.ids is not None:
        linux |= {
            "uidMappings": idmap.document(plan.ids.uids),
            "gidMappings": idmap.document(plan.ids.gids),
        }
    if plan.cgroup_parent:  # without a path runc goes on where it may make none
        linux["cgroupsPath"] = _cgroup(plan)
    if security.filter is not None:
        linux["seccomp"] = security.filter
    return {
        "ociVersion": "1.0.2",
        "process": process(
            plan, caps, no_new_privileges=security.no_new_privileges, apparmor=security.apparmor
        ),
        "root": {"path": "rootfs", "readonly": host.readonly_rootfs},
        "hostname": "" if host.uts_mode == "host" else plan.hostname,
        "mounts": _mounts(plan),
        "annotations": dict(host.annotations or {}),
        "linux": linux,
    }


def process(
    plan: Plan, caps: Sequence[str], *, no_new_privileges: bool, apparmor: str = ""
) -> dict[str, Any]:
    """The runtime-spec process object of the container's first process."""
    made: dict[str, Any] = {
        "terminal": plan.config.tty,
        "user": {
            "uid": plan.user.uid,
            "gid": plan.user.gid,
            "additionalGids": list(plan.user.groups),
            "umask": 0o022,
        },
        "args": [*((INIT, "--") if plan.init else ()), *plan.args],
        "env": process_env(plan.env, tty=plan.config.tty, hostname=plan.hostname, home=plan.user.home),
        "cwd": plan.cwd,
        "capabilities": capability_sets(caps, plan.user.uid),
        "noNewPrivileges": no_new_privileges,
        "rlimits": resources.rlimits(plan.host),
        "apparmorProfile": apparmor,
    }
    size = plan.host.console_size or []
    if plan.config.tty and len(size) == 2 and all(size):
        made["consoleSize"] = {"height": size[0], "width": size[1]}
    if plan.host.oom_score_adj is not None:
        made["oomScoreAdj"] = _oom_score(plan.host.oom_score_adj)
    return made


def _oom_score(wanted: int) -> int:
    """Raises `UnsupportedError` for a score that root of a user namespace may not have. Blocking. proc_pid_oom_score_adj(5)."""
    if kernel.in_user_namespace():
        least = int(Path("/proc/self/oom_score_adj").read_text("ascii"))
        if wanted < least:
            raise UnsupportedError(
                f"HostConfig.OomScoreAdj {wanted} is not supported: only root of the machine may go below {least}"
            )
    return wanted


def capability_sets(caps: Sequence[str], uid: int) -> dict[str, list[str]]:
    """Bounding, permitted and effective; never inheritable. A user that is not root gets only the first."""
    held = list(caps) if uid == 0 else []
    return {"bounding": list(caps), "permitted": held, "effective": held}


def _paths(host: HostConfig, given: Sequence[str] | None, default: Sequence[str]) -> list[str]:
    if given is not None:
        return list(given)
    return [] if host.privileged else list(default)


def hidden_paths(host: HostConfig) -> tuple[list[str], list[str]]:
    """Masked and read-only paths, as far as the host configuration decides. Blocking."""
    return _paths(host, host.masked_paths, masked_paths()), _paths(host, host.readonly_paths, READONLY_PATHS)


def _mount(destination: str, kind: str, source: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": source, "options": list(options)}


def _mounts(plan: Plan) -> list[dict[str, Any]]:
    host = plan.host
    write = "rw" if host.privileged else "ro"
    cgroups = "rw" if host.privileged or confinement.writable_cgroups(host) else "ro"
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
        _mount("/sys/fs/cgroup", "cgroup", "cgroup", cgroups, "nosuid", "noexec", "nodev"),
    ]
    if (
        host.network_mode == "host"
    ):  # sysfs belongs to the network namespace; only its owner may mount it afresh
        system[3] = _mount("/sys", "bind", "/sys", "rbind", "nosuid", "noexec", "nodev", write)
        if write == "ro":
            system[3]["options"].append("rslave")
    if host.ipc_mode == "host":
        system.append(_mount("/dev/shm", "bind", "/dev/shm", "rbind", "rw"))  # noqa: S108 (the host's own)
    elif plan.joined.shm:
        system.append(_mount("/dev/shm", "bind", plan.joined.shm, "rbind", "rprivate"))  # noqa: S108
    elif host.ipc_mode != "none":
        system.append(
            _mount("/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev", "mode=1777", f"size={shm}")  # noqa: S108
        )
    # The queues of its IPC namespace, also if that is the host's, where they need not be mounted at all, and root of a user
    # namespace may not mount them.
    if host.ipc_mode != "host" or not kernel.in_user_namespace():
        system.append(_mount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"))
    if plan.init:
        system.append(_mount(INIT, "bind", plan.init, "bind", "ro"))
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


def _root_propagation(asked: Sequence[Bind]) -> str:
    """A mount can only be shared or a slave in a root that is as much; without any the runtime decides."""
    modes = {bind.propagation.removeprefix("r") for bind in asked}
    return next((mode for mode in ("shared", "slave") if mode in modes), "")


def _sysctls(plan: Plan) -> dict[str, str]:
    host = plan.host
    made: dict[str, str] = {}
    if plan.config.domainname and host.uts_mode != "host":
        made["kernel.domainname"] = plan.config.domainname
    if not host.privileged and host.network_mode != "host":  # as Docker: low ports and ping for every user
        last = _last_group() if plan.ids is None else sum(each.size for each in plan.ids.gids) - 1
        made |= {
            "net.ipv4.ip_unprivileged_port_start": "0",
            "net.ipv4.ping_group_range": f"0 {last}",  # the kernel takes groups that there are
        }
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


def _last_group() -> int:
    """The last group ID that there is here, in the form of ``net.ipv4.ping_group_range``. Blocking."""
    mapped = idmap.parse(Path("/proc/self/gid_map").read_text("ascii"))
    return min(max(each.inside + each.size for each in mapped) - 1, 2147483647)


def _cgroup(plan: Plan) -> str:
    parent = plan.host.cgroup_parent or plan.cgroup_parent
    if ".." in parent.split("/") or parent.endswith(".slice"):
        raise UnsupportedError(
            f"HostConfig.CgroupParent {parent!r} is not supported", hint="give a plain path"
        )
    return f"/{parent.strip('/')}/{plan.id}"
