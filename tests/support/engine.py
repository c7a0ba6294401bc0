"""The unmodified ``docker`` command, talking in text to one daemon that has the image ``box``."""

import os
import subprocess
import time

from support.daemon import Daemon
from support.images import File, busybox_layer, layer_tar

APPLETS = ("grep", "hostname", "mkdir", "mount", "pwd", "touch")


class Engine:
    """docker, talking in text to one daemon that has the image ``box``."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.env = {**os.environ, "DOCKER_HOST": daemon.host, "HOME": str(daemon.directory)}

    def restart(self) -> None:
        """As after a crash."""
        self.daemon.kill()
        self.daemon.start()

    def docker(self, *words: str, input: str | None = None, code: int = 0) -> str:
        result = self.run(*words, input=input)
        assert result.returncode == code, (words, result)
        return result.stdout

    def run(self, *words: str, input: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["docker", *words],
            env=self.env,
            text=True,
            capture_output=True,
            input=input,
            timeout=40,
            check=False,
        )

    def events(self, container: str, since: float = 0) -> list[str]:
        """The actions of a container so far, in their order; by its present ID, since names are used again."""
        id_ = self.docker("inspect", "--format", "{{.Id}}", container).strip()
        words = (
            "--since",
            f"{since or 1:.9f}",
            "--until",
            f"{time.time():.9f}",
            "--filter",
            f"container={id_}",
        )
        return self.docker("events", *words, "--format", "{{.Action}}").splitlines()

    def background(self, name: str, script: str, *options: str) -> str:
        return self.docker(
            "run", "-d", "--network", "none", "--name", name, *options, "box", "sh", "-c", script
        )


def box() -> dict[str, File]:
    """A root file system of busybox, with some users and a file that cannot be executed."""
    users = b"root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1001::/home/alice:/bin/sh\n1234:x:7:7::/:/bin/sh\n"
    return busybox_layer() | {
        **{f"bin/{applet}": File(link="busybox") for applet in APPLETS},
        "etc/passwd": File(users),
        "etc/group": File(b"root:x:0:\nstaff:x:50:alice\nusers:x:1001:\n"),
        "etc/not-executable": File(b"words\n"),
    }


def boxed(daemon: Daemon) -> Engine:
    """An engine whose daemon has the image ``box``."""
    daemon.docker("import", "--change", "CMD /bin/sh", "-", "box", input=layer_tar(box()))
    return Engine(daemon)
