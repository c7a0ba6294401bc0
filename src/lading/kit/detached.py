"""Small processes that a daemon starts and leaves behind: they outlive it, and the next one finds them."""

import errno
import select
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

_SECONDS: Final = 10.0
READY: Final = b"ready\n"


def start(program: str, *arguments: str, cwd: Path = Path("/"), fds: Sequence[int] = ()) -> None:
    """Run a Python file that uses the standard library only, until it has written `READY` and left a process behind. Blocking.

    It inherits the descriptors ``fds`` and nothing else: neither the environment nor the session.

    Raises:
        ConnectionRefusedError: It did not start.
        OSError: There is no room for a process.

    """
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", program, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=cwd,
        env={},
        pass_fds=fds,
        start_new_session=True,
    )
    assert process.stdout is not None
    with process.stdout as output:
        ready, _, _ = select.select([output], [], [], _SECONDS)
        answer = output.readline() if ready else b""
    if answer != READY:
        process.kill()
    process.wait()  # the program leaves another process behind, and ends at once
    if answer != READY:
        raise ConnectionRefusedError(errno.ECONNREFUSED, f"{Path(program).name} did not start")
