"""The unmodified client that builds."""

import os
import subprocess
from pathlib import Path
from typing import IO

from support.daemon import Daemon
from support.newer import CLI_PLUGINS


def give_plugins(daemon: Daemon) -> None:
    config = daemon.directory / "docker-config"
    config.mkdir(exist_ok=True)
    (config / "cli-plugins").symlink_to(CLI_PLUGINS)


def build(
    daemon: Daemon,
    context: Path,
    *arguments: str,
    check: bool = True,
    timeout: float = 100,
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    shown = () if "-q" in arguments else ("--progress=plain",)
    done = docker(daemon, "build", *shown, *arguments, str(context), timeout=timeout, **environment)
    if check:
        assert done.returncode == 0, f"{done.stderr}\n{daemon.tail()}"
    return done


def docker(
    daemon: Daemon,
    *arguments: str,
    cwd: Path | None = None,
    stdin: int | IO[bytes] = subprocess.DEVNULL,
    timeout: float = 100,
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["docker", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
        stdin=stdin,
        cwd=cwd,
        env={
            **os.environ,
            "DOCKER_HOST": daemon.host,
            "DOCKER_CONFIG": str(daemon.directory / "docker-config"),
            **environment,
        },
    )
