"""Facts of this machine for ``/info`` and ``/version``, read once at start."""

import os
import platform
import shlex
import shutil
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import lading
from lading.api.engine.system import Host
from lading.daemon.config import Config
from lading.kit.fs import write_atomic
from lading.oci import platform as platforms

RUNTIMES: Final = ("crun", "runc")
NO_LIMITS: Final = "WARNING: Running in rootless-mode without cgroups: limits of containers are refused"


def version() -> str:
    """The package's own."""
    return lading.__version__


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


def default_runtime(config: Config) -> str:
    """The runtime of containers that name none: the configured one, or what is installed."""
    available = runtimes(config)
    return (
        config.default_runtime if config.default_runtime in available else next(iter(available), RUNTIMES[0])
    )


def init_program() -> str:
    """The program that ``--init`` makes process 1: Docker's name for it, or Debian's; empty if there is none."""
    found = (shutil.which(name) for name in ("docker-init", "tini-static"))
    return next((path for path in found if path), "")


def publish_binary(data_root: Path) -> Path:
    """An executable that shims run as ``publish``: the installed command, else a script in the data root that runs us."""
    installed = Path(sys.executable).with_name("lading")
    if os.access(installed, os.X_OK):
        return installed
    script = data_root / "publish"
    source = shlex.quote(
        os.pathsep.join(dict.fromkeys((str(Path(__file__).parents[2]), *filter(None, sys.path))))
    )
    text = f'#!/bin/sh\nPYTHONPATH={source} exec {shlex.quote(sys.executable)} -m lading "$@"\n'
    write_atomic(script, text.encode(), mode=0o755)
    return script


def facts(config: Config, *, id: str, driver: str, driver_status: Sequence[Sequence[str]]) -> Host:
    """The facts for one daemon."""
    uname = os.uname()
    release = _os_release()
    return Host(
        id=id,
        log_driver=config.log_driver,
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
        driver_status=driver_status,
        namespace=config.containerd_namespace,
        runtimes=runtimes(config),
        default_runtime=default_runtime(config),
        labels=config.labels,
        security_options=[
            "name=seccomp,profile=builtin",
            *(("name=rootless",) if config.rootless else ()),
            *(("name=userns",) if config.userns_remap else ()),
            "name=cgroupns",
        ],
        insecure_registries=config.insecure_registries,
        registry_mirrors=config.registry_mirrors,
        debug=config.debug,
        warnings=[*config.warnings, *((NO_LIMITS,) if config.rootless else ())],
        has_cgroups=not config.rootless,
        live_restore=not config.rootless,
    )
