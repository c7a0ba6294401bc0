"""``--security-opt``: seccomp, AppArmor, no-new-privileges, masked paths, and what of it this machine cannot do."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lading.containers import seccomp
from lading.containers.request import HostConfig
from lading.errors import InvalidArgumentError, UnsupportedError

_APPARMOR: Final = Path("/sys/kernel/security/apparmor/profiles")
_APPARMOR_DEFAULT: Final = "docker-default"
"""Used where it is loaded, as Docker does; Lading loads no profiles itself."""
_SWITCHES: Final = {"": True, "true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Confinement:
    """What confines a container. ``filter`` is the runtime-spec seccomp object; ``apparmor`` a profile's name or empty."""

    filter: dict[str, Any] | None
    no_new_privileges: bool
    unmasked: bool
    apparmor: str


@dataclass(slots=True)
class _Asked:
    profile: str = ""
    apparmor: str = ""
    no_new_privileges: bool = False
    unmasked: bool = False
    writable_cgroups: bool = False


def of(host: HostConfig, caps: Sequence[str]) -> Confinement:
    """What a host configuration asks for; blocking.

    Raises:
        InvalidArgumentError: An option is malformed, or names a profile that is not there.
        UnsupportedError: An option needs what this machine does not have.

    """
    asked = _read(host)
    if asked.profile == "unconfined" or (host.privileged and not asked.profile):
        filter_ = None
    elif asked.profile in ("", "builtin"):
        filter_ = seccomp.default_filter(caps)
    else:
        filter_ = seccomp.custom_filter(asked.profile, caps)
    return Confinement(
        filter=filter_,
        no_new_privileges=asked.no_new_privileges,
        unmasked=asked.unmasked,
        apparmor=_apparmor(asked.apparmor, privileged=host.privileged),
    )


def writable_cgroups(host: HostConfig) -> bool:
    """Whether the container may write to its cgroup file system."""
    return _read(host).writable_cgroups


def _read(host: HostConfig) -> _Asked:
    asked = _Asked()
    for option in host.security_opt or ():
        separator = "=" if "=" in option else ":"
        name, _, value = option.partition(separator)
        match name:
            case "no-new-privileges":
                asked.no_new_privileges = _switch(option, value)
            case "writable-cgroups":
                asked.writable_cgroups = _switch(option, value)
            case "seccomp":
                asked.profile = value
            case "apparmor":
                asked.apparmor = value
            case "systempaths" if value == "unconfined":
                asked.unmasked = True
            case "label" if value == "disable":
                continue  # SELinux is in force nowhere here
            case _:
                raise UnsupportedError(f"HostConfig.SecurityOpt {option[:80]!r} is not supported")
    return asked


def _switch(option: str, value: str) -> bool:
    if value not in _SWITCHES:
        raise InvalidArgumentError(f'invalid --security-opt 2: "{option}"')
    return _SWITCHES[value]


def _apparmor(wanted: str, *, privileged: bool) -> str:
    loaded = _loaded()
    if wanted == "unconfined":
        return "unconfined" if loaded is not None else ""
    if not wanted:
        return "" if privileged or not loaded or _APPARMOR_DEFAULT not in loaded else _APPARMOR_DEFAULT
    if loaded is None:
        raise UnsupportedError(
            f"HostConfig.SecurityOpt 'apparmor={wanted[:60]}': AppArmor is not enabled on this machine",
            hint="leave it out, or use apparmor=unconfined",
        )
    if wanted not in loaded:
        raise InvalidArgumentError(
            f"HostConfig.SecurityOpt: no AppArmor profile {wanted[:60]!r} is loaded",
            hint="load it with apparmor_parser",
        )
    return wanted


def _loaded() -> frozenset[str] | None:
    """Names of the loaded profiles; ``None`` without AppArmor."""
    try:
        lines = _APPARMOR.read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return None
    return frozenset(line.rpartition(" (")[0] for line in lines)
