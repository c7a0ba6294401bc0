"""``docker compose`` on a daemon of a test, and an image of Debian's redis and busybox for its projects."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from support.daemon import Daemon
from support.engine import box
from support.images import File, layer_tar
from support.newer import CLI_PLUGINS

_LIBRARY = re.compile(r"(/\S+) \(0x")
PROGRAMS = ("redis-server", "redis-cli")
APPLETS = ("awk", "cp", "date", "httpd", "ip", "nc", "nslookup", "rm", "sed", "touch", "wget", "xargs")


def stack_image() -> dict[str, File]:
    """busybox, redis-server and redis-cli with the libraries that they name."""
    files = box() | {f"bin/{applet}": File(link="busybox") for applet in APPLETS}
    for program in PROGRAMS:
        path = shutil.which(program)
        assert path, f"make setup installs {program}"
        files[f"usr/bin/{program}"] = File(Path(path).read_bytes(), mode=0o755)
        linked = subprocess.run(["ldd", path], capture_output=True, text=True, check=True).stdout
        for library in _LIBRARY.findall(linked):
            files[library.lstrip("/")] = File(Path(library).read_bytes(), mode=0o755)
    return files


def load(daemon: Daemon, name: str, **extra: str) -> None:
    """Import the image under a name, with further files."""
    files = stack_image() | {path.replace("__", "/"): File(text.encode()) for path, text in extra.items()}
    change = ("--change", "CMD /bin/sh", "--change", "ENV PATH=/usr/bin:/bin")
    daemon.docker("import", *change, "-", name, input=layer_tar(files))


class Compose:
    """A project directory."""

    def __init__(self, daemon: Daemon, directory: Path, project: str) -> None:
        self.daemon = daemon
        self.directory = directory
        self.project = project
        config = daemon.directory / "compose-config"
        config.mkdir(exist_ok=True)
        (config / "config.json").write_text(json.dumps({"cliPluginsExtraDirs": [str(CLI_PLUGINS)]}))
        self.env = {
            **os.environ,
            "DOCKER_HOST": daemon.host,
            "DOCKER_CONFIG": str(config),
            "HOME": str(config),
        }

    def command(self, *words: str) -> list[str]:
        return ["docker", "compose", "--progress", "plain", "--project-name", self.project, *words]

    def run(self, *words: str, timeout: float = 120) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            self.command(*words),
            cwd=self.directory,
            env=self.env,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )

    def __call__(self, *words: str, timeout: float = 120) -> str:
        done = self.run(*words, timeout=timeout)
        if done.returncode:
            raise AssertionError(f"{words}:\n{done.stdout}{done.stderr}\n{self.daemon.tail()}")
        return done.stdout

    def ps(self, *words: str) -> dict[str, dict[str, Any]]:
        """Containers by name."""
        rows = [json.loads(line) for line in self("ps", "--format", "json", *words).splitlines()]
        return {row["Name"]: row for row in rows}
