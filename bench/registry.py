"""Debian's docker-registry for the measurements, on loopback or behind a link of a given rate."""

import contextlib
import os
import pathlib
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from typing import Self

import engines


class Registry:
    """A registry whose storage is on the disk that the engines do not use."""

    def __init__(
        self, scratch: pathlib.Path, *, address: str = "127.0.0.1", prefix: tuple[str, ...] = ()
    ) -> None:
        self._scratch = scratch
        self._address = address
        self._prefix = prefix
        self.host = ""
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        port = 5000
        if not self._prefix:
            with socket.socket() as probe:
                probe.bind((self._address, 0))
                port = probe.getsockname()[1]
        self.host = f"{self._address}:{port}"
        config = self._scratch / f"registry-{port}.yml"
        config.write_text(
            f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {self._scratch}/registry}}}}\n"
            f'http: {{addr: "{self.host}"}}\nlog: {{level: error, accesslog: {{disabled: true}}}}\n'
        )
        with open(self._scratch / "registry.log", "ab") as log:
            self._process = subprocess.Popen(
                [*self._prefix, "docker-registry", "serve", str(config)], stdout=log, stderr=log
            )
        for _ in range(200):
            try:
                urllib.request.urlopen(f"http://{self.host}/v2/").close()
            except OSError:
                time.sleep(0.05)
            else:
                return self
        self.__exit__()
        raise RuntimeError("the registry did not come up")

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait()

    def fill(self, layout: pathlib.Path, name: str) -> None:
        """Push an image of an OCI layout."""
        engines.run(
            "skopeo",
            "copy",
            "-q",
            "--all",
            "--dest-tls-verify=false",
            f"oci:{layout}:{name}",
            f"docker://{self.host}/{name}:latest",
        )


@contextlib.contextmanager
def shaped(scratch: pathlib.Path, rate: str) -> Iterator[Registry]:
    """The same storage behind a link: a network namespace whose side of a veth pair has a token bucket (tc-tbf(8))."""
    name = f"lading-bench-{os.getpid()}"
    here, there = f"lb{os.getpid() % 100000}a", f"lb{os.getpid() % 100000}b"
    engines.run("ip", "netns", "add", name)
    try:
        inside = ("ip", "netns", "exec", name)
        engines.run("ip", "link", "add", here, "type", "veth", "peer", "name", there, "netns", name)
        engines.run("ip", "address", "add", "10.231.77.1/30", "dev", here)
        engines.run("ip", "link", "set", here, "up")
        engines.run(*inside, "ip", "address", "add", "10.231.77.2/30", "dev", there)
        engines.run(*inside, "ip", "link", "set", there, "up")
        engines.run(*inside, "tc", "qdisc", "add", "dev", there, "root", "tbf", "rate", rate, "burst", "256k", "latency", "50ms")  # fmt: skip
        with Registry(scratch, address="10.231.77.2", prefix=inside) as registry:
            yield registry
    finally:
        engines.run("ip", "netns", "delete", name)
