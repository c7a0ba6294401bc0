"""What an OCI runtime's executable is, whether it works on this machine, and what is known against its version."""

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lading.errors import FailedPreconditionError

_TIMEOUT: Final = 10
_VERSION: Final = re.compile(r"^(runc|crun)\b.*?version (\d+)\.(\d+)(?:\.(\d+))?(\S*)", re.MULTILINE)
HYBRID_CONTROLLERS: Final = Path("/sys/fs/cgroup/unified/cgroup.controllers")
"""On a machine with cgroup v1 hierarchies, the v2 one beside them; crun refuses if controllers are left to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeProbe:
    """Findings about one executable.

    ``version`` is as it prints it, empty if it does not run. ``warnings`` are known holes. ``unusable`` says why it
    cannot run containers here, or is empty.
    """

    binary: str
    version: str = ""
    warnings: tuple[str, ...] = ()
    unusable: str = ""


def probe_runtime(binary: str) -> RuntimeProbe:
    """Run ``<binary> --version`` and judge it. Blocks; never raises for what the executable does."""
    try:
        result = subprocess.run(
            [binary, "--version"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        return RuntimeProbe(binary=binary, unusable=f"{binary} does not run: {exc}")
    if result.returncode:
        return RuntimeProbe(
            binary=binary, unusable=f"{binary} --version failed: {result.stderr.strip()[:300]}"
        )
    match = _VERSION.search(result.stdout)
    if match is None:
        return RuntimeProbe(binary=binary, version=result.stdout.partition("\n")[0][:100])
    kind, numbers = match[1], (int(match[2]), int(match[3]), int(match[4] or 0))
    version = ".".join(str(number) for number in numbers) + match[5]
    warnings = runc_warnings(numbers) if kind == "runc" else crun_warnings(numbers)
    return RuntimeProbe(
        binary=binary,
        version=version,
        warnings=tuple(f"{kind} {version}: {warning}" for warning in warnings),
        unusable=_refused_here() if kind == "crun" else "",
    )


def choose_runtime(binaries: Sequence[str] = ("runc", "crun")) -> RuntimeProbe:
    """The first executable that works here.

    Raises:
        FailedPreconditionError: None does; the message says why of each.

    """
    reasons: list[str] = []
    for binary in binaries:
        probe = probe_runtime(binary)
        if not probe.unusable:
            return probe
        reasons.append(probe.unusable)
    raise FailedPreconditionError(f"no OCI runtime works: {'; '.join(reasons)}", hint="install runc or crun")


def runc_warnings(version: tuple[int, int, int]) -> list[str]:
    """Known holes of a runc version. Distributions patch older ones, which a version number does not show."""
    fixed = {(1, 2): (1, 2, 8), (1, 3): (1, 3, 3)}.get(version[:2], (1, 4, 0))
    warnings: list[str] = []
    if version < fixed:
        warnings.append(
            "containers can escape through masked paths and mounts "
            "(CVE-2025-31133, CVE-2025-52565, CVE-2025-52881; fixed in 1.2.8, 1.3.3 and 1.4.0)"
        )
    if version < {(1, 3): (1, 3, 6)}.get(version[:2], (1, 4, 3)):
        warnings.append("CVE-2026-41579 (fixed in 1.3.6 and 1.4.3)")
    return warnings


def crun_warnings(version: tuple[int, int, int]) -> list[str]:
    """Known holes of a crun version."""
    if (1, 19, 0) <= version < (1, 27, 0):
        return ["`exec --user 1` runs as root (CVE-2026-30892; fixed in 1.27)"]
    return []


def _refused_here() -> str:
    try:
        controllers = HYBRID_CONTROLLERS.read_text("ascii").strip()
    except FileNotFoundError:
        return ""
    return f"crun refuses hybrid cgroups, and {HYBRID_CONTROLLERS} names {controllers}" if controllers else ""
