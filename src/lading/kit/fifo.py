"""FIFOs for the standard streams of processes."""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Fifos:
    """Paths of FIFOs; empty where a stream has none."""

    stdin: str = ""
    stdout: str = ""
    stderr: str = ""

    def remove(self) -> None:
        """Unlink them. Idempotent."""
        for path in (self.stdin, self.stdout, self.stderr):
            if path:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)


def make_fifos(directory: Path, name: str, *, stdin: bool, terminal: bool) -> Fifos:
    """Make ``<directory>/<name>-{stdin,stdout,stderr}``, mode 0600; all or none.

    A terminal has one output, so no stderr; otherwise both outputs are always made: a runc shim panics when it is given
    one of them only. Left-over FIFOs of that name are replaced. Blocks.
    """
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = str(directory / name)
    fifos = Fifos(
        stdin=f"{path}-stdin" if stdin else "",
        stdout=f"{path}-stdout",
        stderr="" if terminal else f"{path}-stderr",
    )
    fifos.remove()
    try:
        for fifo in (fifos.stdin, fifos.stdout, fifos.stderr):
            if fifo:
                os.mkfifo(fifo, 0o600)
    except BaseException:
        fifos.remove()
        raise
    return fifos
