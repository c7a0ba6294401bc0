"""The default system-call filter, which is Docker's: what is allowed always, and what only under a condition.

The facts are in ``data/seccomp.json``; this module decides which of them hold for one container.
"""

import functools
import importlib.resources
import platform
import re
from collections.abc import Collection, Iterable
from typing import Any, Final

import msgspec

from lading.errors import InvalidArgumentError
from lading.kit import linux

ARCHITECTURES: Final = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "riscv64": "riscv64",
    "s390x": "s390x",
    "ppc64le": "ppc64le",
    "loongarch64": "loong64",
}
"""Machine name as of uname(2) to the architecture name of images."""
_X32: Final = "SCMP_ARCH_X32"
_OPERATORS: Final = frozenset(
    f"SCMP_CMP_{name}" for name in ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ")
)


class Argument(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A comparison of one system-call argument (OCI runtime-spec, config-linux.md, "seccomp")."""

    index: int
    value: int
    op: str
    value_two: int = 0


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """System calls that are allowed, or refused with ``errno``, if every stated condition holds."""

    names: tuple[str, ...]
    with_capability: str = ""
    without_capability: str = ""
    only_on: tuple[str, ...] = ()
    not_on: tuple[str, ...] = ()
    kernel: tuple[int, int] = (0, 0)
    argument: Argument | None = None
    errno: int | None = None

    def holds(self, capabilities: Collection[str], architecture: str, kernel: tuple[int, int]) -> bool:
        """Whether the rule applies to a process with these capabilities on this machine."""
        return not (
            (self.with_capability and self.with_capability not in capabilities)
            or (self.without_capability and self.without_capability in capabilities)
            or (self.only_on and architecture not in self.only_on)
            or architecture in self.not_on
            or kernel < self.kernel
        )


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """The whole filter."""

    architectures: dict[str, tuple[str, ...]]
    always: tuple[str, ...]
    conditional: tuple[Rule, ...]


@functools.cache
def default_profile() -> Profile:
    """The profile of this package."""
    text = importlib.resources.files("lading.containers").joinpath("data/seccomp.json").read_bytes()
    return msgspec.json.decode(text, type=Profile)


def kernel_version(release: str) -> tuple[int, int]:
    """Major and minor number of a kernel release text such as ``6.1.0-18-amd64``."""
    match = re.match(r"(\d+)\.(\d+)", release)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def default_filter(
    capabilities: Collection[str], *, architecture: str = "", kernel: tuple[int, int] | None = None
) -> dict[str, Any]:
    """The OCI runtime-spec ``linux.seccomp`` object for a process with these capabilities.

    Args:
        capabilities: Names such as ``CAP_SYS_ADMIN`` of the bounding set.
        architecture: As in image configs; that of this machine if empty.
        kernel: Major and minor number; those of this machine if absent.

    """
    profile = default_profile()
    architecture = architecture or ARCHITECTURES.get(platform.machine(), platform.machine())
    kernel = kernel or kernel_version(platform.release())
    calls: list[dict[str, Any]] = [{"names": list(profile.always), "action": "SCMP_ACT_ALLOW"}]
    for rule in profile.conditional:
        if not rule.holds(capabilities, architecture, kernel):
            continue
        call: dict[str, Any] = {"names": list(rule.names), "action": "SCMP_ACT_ALLOW"}
        if rule.errno is not None:
            call |= {"action": "SCMP_ACT_ERRNO", "errnoRet": rule.errno}
        if rule.argument:
            call["args"] = [msgspec.to_builtins(rule.argument)]
        calls.append(call)
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "architectures": _with_use(profile.architectures.get(architecture, ())),
        "syscalls": calls,
    }


def _with_use(architectures: Iterable[str]) -> list[str]:
    """Without x32 where the kernel has none: each architecture makes the filter larger, and its making longer.

    A process that calls x32's numbers all the same is killed, where such a kernel would have said ``ENOSYS``.
    """
    return [each for each in architectures if each != _X32 or linux.has_x32()]


class _CustomConditions(msgspec.Struct, frozen=True, rename="camel"):
    caps: tuple[str, ...] | None = None
    arches: tuple[str, ...] | None = None
    min_kernel: str = ""


class _CustomCall(msgspec.Struct, frozen=True, rename="camel"):
    action: str
    names: tuple[str, ...] | None = None
    name: str = ""
    errno_ret: int | None = None
    args: tuple[Argument, ...] | None = None
    includes: _CustomConditions | None = None
    excludes: _CustomConditions | None = None

    def holds(self, capabilities: Collection[str], architecture: str, kernel: tuple[int, int]) -> bool:
        """Docker's rule: every ``includes`` capability, any ``includes`` architecture; no ``excludes`` of either."""
        wanted, unwanted = self.includes or _CustomConditions(), self.excludes or _CustomConditions()
        return not (
            any(cap not in capabilities for cap in wanted.caps or ())
            or any(cap in capabilities for cap in unwanted.caps or ())
            or (wanted.arches and architecture not in wanted.arches)
            or architecture in (unwanted.arches or ())
            or (wanted.min_kernel and kernel < kernel_version(wanted.min_kernel))
            or (unwanted.min_kernel and kernel >= kernel_version(unwanted.min_kernel))
        )


class _ArchMap(msgspec.Struct, frozen=True, rename="camel"):
    architecture: str
    sub_architectures: tuple[str, ...] | None = None


class _Custom(msgspec.Struct, frozen=True, rename="camel"):
    default_action: str
    default_errno_ret: int | None = None
    architectures: tuple[str, ...] | None = None
    arch_map: tuple[_ArchMap, ...] | None = None
    flags: tuple[str, ...] | None = None
    syscalls: tuple[_CustomCall, ...] | None = None


def custom_filter(text: str, capabilities: Collection[str]) -> dict[str, Any]:
    """The filter for a profile in Docker's JSON format, which the command line sends inline.

    Raises `InvalidArgumentError` if it is malformed.
    """
    try:
        profile = msgspec.json.decode(text, type=_Custom)
    except msgspec.MsgspecError as exc:
        raise InvalidArgumentError(f"Decoding seccomp profile failed: {exc}") from exc
    architecture = ARCHITECTURES.get(platform.machine(), platform.machine())
    kernel = kernel_version(platform.release())
    calls: list[dict[str, Any]] = []
    for call in profile.syscalls or ():
        if not call.holds(capabilities, architecture, kernel):
            continue
        if any(argument.op not in _OPERATORS for argument in call.args or ()):
            raise InvalidArgumentError("seccomp profile has an unknown comparison operator")
        made: dict[str, Any] = {"names": list(call.names or (call.name,)), "action": call.action}
        if call.errno_ret is not None:
            made["errnoRet"] = call.errno_ret
        if call.args:
            made["args"] = [msgspec.to_builtins(argument) for argument in call.args]
        calls.append(made)
    native = default_profile().architectures.get(architecture, ())
    mapped = [
        name
        for entry in profile.arch_map or ()
        if native and entry.architecture == native[0]
        for name in (entry.architecture, *(entry.sub_architectures or ()))
    ]
    result: dict[str, Any] = {
        "defaultAction": profile.default_action,
        "architectures": _with_use(mapped) or list(profile.architectures or ()),
        "syscalls": calls,
    }
    if profile.default_errno_ret is not None:
        result["defaultErrnoRet"] = profile.default_errno_ret
    if profile.flags:
        result["flags"] = list(profile.flags)
    return result
