"""Where each container has its files on the machine: the durable ones with its log, and those of its present run."""

import os
import shutil
from collections.abc import Collection
from pathlib import Path

from lading.containers import logdriver, naming
from lading.containers.logfile import LogFiles
from lading.containers.model import Container
from lading.containers.request import LogConfig


class Directories:
    """The directories of all containers: durable ones below ``root``, those of runs below ``state``."""

    def __init__(self, root: Path, state: Path) -> None:
        self._root = root
        self._state = state
        self._logs: dict[str, LogFiles | None] = {}

    def durable(self, container: Container) -> Path:
        """Where its durable files are, or will be."""
        return self._root / container.id

    def make(self, container: Container) -> Path:
        """Have the directory of its durable files. Blocking."""
        directory = self.durable(container)
        directory.mkdir(parents=True, exist_ok=True, mode=0o710)
        return directory

    def of_run(self, container: Container) -> Path:
        """Where the files of its present run are."""
        return self._state / container.id

    def log(self, container: Container) -> LogFiles | None:
        """The files of its log, ``None`` if it keeps none; the same object for all who write and read."""
        if container.id not in self._logs:
            config = container.host.log_config or LogConfig()
            self._logs[container.id] = logdriver.files(
                config.type or logdriver.DEFAULT,
                config.config or {},
                self.durable(container),
                container.log_subject(),
            )
        return self._logs[container.id]

    def delete(self, container: Container) -> None:
        """Delete its files. Blocking."""
        for directory in (self.of_run(container), self.durable(container)):
            shutil.rmtree(directory, ignore_errors=True)

    def forget(self, container: Container) -> None:
        """It is removed: nobody reads its log any more."""
        self._logs.pop(container.id, None)

    def sweep(self, keep: Collection[str]) -> None:
        """Delete the files of containers that there are not any more; blocking.

        In a data-root of dockerd its containers have directories of the same form, which are not ours to delete.
        """
        for root in (self._root, self._state):
            for name in os.listdir(root):
                theirs = (root / name / "config.v2.json").exists()
                if naming.is_id(name) and name not in keep and not theirs:
                    shutil.rmtree(root / name, ignore_errors=True)
