"""Capabilities: Docker's default set, and ``--cap-add``/``--cap-drop``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from lading.errors import InvalidArgumentError

DEFAULT: Final = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
)
"""What an unprivileged container may do; Docker's list."""
ALL: Final = tuple(
    f"CAP_{name}"
    for name in (
        *(
            "CHOWN",
            "DAC_OVERRIDE",
            "DAC_READ_SEARCH",
            "FOWNER",
            "FSETID",
            "KILL",
            "SETGID",
            "SETUID",
            "SETPCAP",
        ),
        *(
            "LINUX_IMMUTABLE",
            "NET_BIND_SERVICE",
            "NET_BROADCAST",
            "NET_ADMIN",
            "NET_RAW",
            "IPC_LOCK",
            "IPC_OWNER",
        ),
        *(
            "SYS_MODULE",
            "SYS_RAWIO",
            "SYS_CHROOT",
            "SYS_PTRACE",
            "SYS_PACCT",
            "SYS_ADMIN",
            "SYS_BOOT",
            "SYS_NICE",
        ),
        *("SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL"),
        *("SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ"),
        *("PERFMON", "BPF", "CHECKPOINT_RESTORE"),
    )
)
"""Every capability, by its number (linux/capability.h)."""


def known(status: Path = Path("/proc/self/status")) -> tuple[str, ...]:
    """The capabilities that this process may hand on: those of its bounding set, which no child can exceed.

    So ``--privileged`` and ``ALL`` mean "all there are" in a container or a confined service too, as with Docker.
    """
    try:
        lines = dict(
            line.split(":\t", 1) for line in status.read_text(encoding="ascii").splitlines() if ":\t" in line
        )
        bounding = int(lines["CapBnd"], 16)
    except (OSError, ValueError, KeyError):
        return ALL
    return tuple(name for number, name in enumerate(ALL) if bounding >> number & 1)


def effective(*, add: Sequence[str], drop: Sequence[str], privileged: bool) -> list[str]:
    """The set of a container. Raises `InvalidArgumentError` for an unknown name."""
    if privileged:
        return list(known())
    added, dropped = [_name(cap) for cap in add], [_name(cap) for cap in drop]
    if "ALL" in added:
        return [cap for cap in known() if cap not in dropped]
    kept = () if "ALL" in dropped else tuple(cap for cap in DEFAULT if cap not in dropped)
    return list(dict.fromkeys((*kept, *added)))


def _name(text: str) -> str:
    name = text.strip().upper()
    if name == "ALL":
        return name
    name = name if name.startswith("CAP_") else f"CAP_{name}"
    if name not in ALL:
        raise InvalidArgumentError(f'invalid capability: unknown capability: "{name}"', subject=name)
    return name
