"""Facts of this machine for ``/info`` and ``/version``, read once at start."""

import os
import platform
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from lading.api.engine.system import Host
from lading.daemon.config import Config
from lading.oci import platform as platforms

RUNTIMES: Final = ("crun", "runc")


def version() -> str:
    """Version of the installed package."""
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - costs 20 ms, needed once

    try:
        return version("lading")
    except PackageNotFoundError:
        return "0.0.0"


def _os_release() -> dict[str, str]:
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}


def cgroup_version() -> str:
    """``2`` where the unified hierarchy is mounted, else ``1``."""
    return "2" if Path("/sys/fs/cgroup/cgroup.controllers").exists() else "1"


def runtimes(config: Config) -> dict[str, Mapping[str, Any]]:
    """Runtimes by name: those of the configuration, and the ones that are installed."""
    found: dict[str, Mapping[str, Any]] = {
        name: {"path": path} for name in RUNTIMES if (path := shutil.which(name)) is not None
    }
    return found | dict(config.runtimes)


def facts(config: Config, *, id: str, driver: str) -> Host:
    """The facts for one daemon."""
    uname = os.uname()
    release = _os_release()
    available = runtimes(config)
    default = config.default_runtime
    if default not in available and not config.runtimes:
        default = next(iter(available), default)
    return Host(
        id=id,
        name=socket.gethostname(),
        version=version(),
        python=platform.python_version(),
        kernel=uname.release,
        operating_system=release.get("PRETTY_NAME", "Linux"),
        os_version=release.get("VERSION_ID", ""),
        architecture=uname.machine,
        goarch=platforms.host().architecture,
        cpus=len(os.sched_getaffinity(0)),
        memory=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        cgroup_version=cgroup_version(),
        data_root=str(config.data_root),
        driver=driver,
        namespace=config.containerd_namespace,
        runtimes=available,
        default_runtime=default,
        labels=config.labels,
        security_options=["name=seccomp,profile=builtin", "name=cgroupns"],
        insecure_registries=config.insecure_registries,
        registry_mirrors=config.registry_mirrors,
        debug=config.debug,
        warnings=config.warnings,
    )
