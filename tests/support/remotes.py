"""Registry clients for tests: short time-outs, no waiting, names that lead to loopback."""

import contextlib
import socket
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import anyio.lowlevel

from lading.core.remotes import Credentials, Resolver
from lading.oci import reference
from lading.oci.reference import Reference
from lading.remotes.config import Config, Limits
from lading.remotes.dial import Address, resolve
from lading.remotes.errors import UnknownHostError
from lading.remotes.registries import HttpRegistries
from lading.testing.registry import FakeRegistry

FAST = {"idle": 0.4, "connect": 5.0, "backoff": 0.01}


class World:
    """A client and what it waited for."""

    def __init__(
        self, *, limits: Mapping[str, Any] | None = None, keychain: Any = None, **config: Any
    ) -> None:
        self.waits: list[float] = []
        self.names: dict[str, str] = {}
        """Addresses of names; empty for one that nobody knows."""
        config.setdefault("host_directories", ())
        self.registries = HttpRegistries(
            Config(limits=Limits(**{**FAST, **(limits or {})}), **config),
            resolver=self._resolve,
            sleep=self._sleep,
            jitter=lambda: 0.5,
            keychain=keychain,
        )

    def resolver(self, credentials: Credentials | None = None, **kwargs: Any) -> Resolver:
        return self.registries.resolver(credentials, **kwargs)

    def _resolve(self, host: str, port: int) -> list[Address]:
        if self.names.get(host) == "":
            raise UnknownHostError(f"cannot find the address of {host}")
        if host in self.names:
            return [(socket.AF_INET, (self.names[host], port))]
        return resolve(host, port)

    async def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        await anyio.lowlevel.checkpoint()


@contextlib.asynccontextmanager
async def world(**config: Any) -> AsyncGenerator[World]:
    made = World(**config)
    try:
        yield made
    finally:
        await made.registries.close()


def at(registry: FakeRegistry, path: str = "app", tag: str = "v1") -> Reference:
    return reference.parse(f"{registry.host}/{path}:{tag}")
