"""A small container for tests of runtimes: busybox in a directory, and an OCI spec for it."""

import os
import secrets
import shutil
from pathlib import Path
from typing import Any

BUSYBOX = "/bin/busybox"
APPLETS = ("sh", "cat", "echo", "false", "kill", "ls", "sleep", "stty", "true", "readlink")
CGROUPS = Path("/sys/fs/cgroup")
CAPABILITIES = ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_SETGID", "CAP_DAC_OVERRIDE"]


def make_rootfs(directory: Path) -> Path:
    """A root file system of one static binary."""
    for name in ("bin", "proc", "sys", "dev", "tmp", "etc"):
        (directory / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, directory / "bin/busybox")
    for applet in APPLETS:
        (directory / "bin" / applet).symlink_to("busybox")
    (directory / "etc/not-executable").write_text("words\n")
    return directory


def cgroup_parent() -> str:
    """A cgroup of its own for one test run."""
    return f"/lading-test-{secrets.token_hex(4)}"


def remove_cgroups(parent: str) -> None:
    for path in cgroup_directories(parent):
        for directory, _, _ in os.walk(path, topdown=False):
            os.rmdir(directory)


def cgroup_directories(parent: str) -> list[Path]:
    """Where a cgroup exists: in each v1 hierarchy, or once."""
    found = [CGROUPS / parent[1:], *(each / parent[1:] for each in CGROUPS.iterdir() if each.is_dir())]
    return [path for path in found if path.is_dir()]


def process(*args: str, terminal: bool = False) -> dict[str, Any]:
    """An OCI process object."""
    return {
        "terminal": terminal,
        "user": {"uid": 0, "gid": 0},
        "args": list(args),
        "env": ["PATH=/bin", "TERM=xterm"],
        "cwd": "/",
        "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), CAPABILITIES),
        "noNewPrivileges": True,
    }


def spec(cgroup: str, *args: str, terminal: bool = False) -> dict[str, Any]:
    """An OCI runtime spec with namespaces and the mounts that programs expect."""
    return {
        "ociVersion": "1.0.2",
        "process": process(*args, terminal=terminal),
        "root": {"path": "rootfs"},
        "hostname": "lading",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {
                "destination": "/dev/pts",
                "type": "devpts",
                "source": "devpts",
                "options": ["newinstance", "ptmxmode=0666"],
            },
        ],
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")],
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
        },
    }
