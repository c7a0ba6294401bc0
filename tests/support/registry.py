"""Starts Debian's docker-registry (the CNCF distribution, v2.8) on loopback."""

import contextlib
import functools
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator
from pathlib import Path

from support.netns import Netns

PROGRAM = shutil.which("docker-registry")

_CONFIG = """
version: 0.1
log: {{level: error}}
storage:
  filesystem: {{rootdirectory: {root}/data}}
  delete: {{enabled: true}}
http:
  addr: {address}:{port}
  draintimeout: 1s
{tls}
"""


def free_port() -> int:
    """A port that nobody uses at this moment."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextlib.contextmanager
def docker_registry(
    *, certificate: str = "", key: str = "", address: str = "127.0.0.1", machine: Netns | None = None
) -> Generator[str]:
    """A running, empty registry, in the network of ``machine``; yields ``127.0.0.1:port``, or what ``address`` says."""
    assert PROGRAM is not None, "docker-registry is not installed"
    root = Path(tempfile.mkdtemp(prefix="lading-registry-"))
    try:
        for _ in range(3):  # another process may take the port before the registry does
            port = free_port()
            tls = f"  tls: {{certificate: {certificate}, key: {key}}}" if certificate else ""
            text = _CONFIG.format(root=root, address=address, port=port, tls=tls)
            (root / "config.yml").write_text(text)
            process = subprocess.Popen(
                [
                    *(("nsenter", f"--net={machine.path}") if machine else ()),
                    *(PROGRAM, "serve", str(root / "config.yml")),
                ],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                stdin=subprocess.DEVNULL,
            )
            try:
                wait = functools.partial(_wait, address, port, process)
                if machine.call(wait) if machine else wait():
                    yield f"{address}:{port}"
                    return
            finally:
                if process.poll() is None:
                    process.send_signal(signal.SIGKILL)
                process.wait()
        raise RuntimeError("docker-registry did not start")
    finally:
        shutil.rmtree(root)


def _wait(address: str, port: int, process: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=1):
            return True
        time.sleep(0.02)
    return False
