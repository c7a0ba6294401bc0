"""Programs of other machines: the kernel runs them through QEMU if binfmt_misc says so.

What is registered already is used. Where it is not, and Debian's ``qemu-user-static`` is there, we register it with the ``F``
flag: the interpreter is opened at once, so that it works in every root file system. (binfmt-misc.rst).
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from lading.errors import UnsupportedError
from lading.kit import aio, linux
from lading.oci import platform as platforms
from lading.oci.descriptor import Platform

_BINFMT: Final = Path("/proc/sys/fs/binfmt_misc")
_ELF64: Final = b"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00"
_ELF64_BIG: Final = b"\x7fELF\x02\x02\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02"
_ELF32: Final = b"\x7fELF\x01\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00"
_MASK: Final = b"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
_MASK_BIG: Final = b"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff"


@dataclass(frozen=True, slots=True)
class Machine:
    """How programs of an architecture are recognised, and what QEMU calls it."""

    qemu: str
    magic: bytes
    mask: bytes = _MASK


MACHINES: Final = {
    "amd64": Machine("x86_64", _ELF64 + b"\x3e\x00"),
    "arm64": Machine("aarch64", _ELF64 + b"\xb7\x00"),
    "arm": Machine("arm", _ELF32 + b"\x28\x00"),
    "386": Machine("i386", _ELF32 + b"\x03\x00"),
    "riscv64": Machine("riscv64", _ELF64 + b"\xf3\x00"),
    "ppc64le": Machine("ppc64le", _ELF64 + b"\x15\x00"),
    "s390x": Machine("s390x", _ELF64_BIG + b"\x00\x16", _MASK_BIG),
    "loong64": Machine("loongarch64", _ELF64 + b"\x02\x01"),
    "mips64le": Machine("mips64el", _ELF64 + b"\x08\x00"),
}
_ALIKE: Final = {("amd64", "386"), ("arm64", "arm")}
"""(host, guest): the processor itself may run these."""


@dataclass(slots=True)
class Emulation:
    """What this machine can run beside its own programs."""

    host: Platform = field(default_factory=platforms.host)
    directories: tuple[str, ...] = ("/usr/bin", "/usr/local/bin", "/usr/libexec/qemu-binfmt")
    _ready: set[str] = field(default_factory=set[str])

    async def ensure(self, wanted: Platform) -> None:
        """Have programs of this platform run.

        Raises:
            UnsupportedError: They cannot; the message names what to install.

        """
        architecture = wanted.architecture or self.host.architecture
        if architecture == self.host.architecture or architecture in self._ready:
            return
        await aio.run(aio.DISK, self._ensure, architecture)
        self._ready.add(architecture)

    def _ensure(self, architecture: str) -> None:
        machine = MACHINES.get(architecture)
        if machine is None:
            raise UnsupportedError(f"this machine cannot run programs for {architecture}")
        if machine.magic.hex() in _registered() or (self.host.architecture, architecture) in _ALIKE:
            return
        interpreter = self._interpreter(machine)
        if interpreter is None:
            raise UnsupportedError(
                f"this machine runs no programs for {architecture}",
                hint="install the package qemu-user-static",
                subject=architecture,
            )
        try:
            _register(machine, interpreter)
        except OSError as exc:
            raise UnsupportedError(
                f"cannot register QEMU for {architecture}: {exc.strerror}",
                hint="register it on the host: systemctl restart systemd-binfmt",
                subject=architecture,
            ) from exc

    def _interpreter(self, machine: Machine) -> str | None:
        for directory in self.directories:
            for name in (f"qemu-{machine.qemu}-static", f"{machine.qemu}-binfmt-P"):
                path = os.path.join(directory, name)
                if os.access(path, os.X_OK):
                    return path
        return None

    def platforms(self) -> list[Platform]:
        """What can be run, the machine's own first. Blocking; registers nothing."""
        found, registered = [self.host], _registered()
        for architecture, machine in MACHINES.items():
            if architecture == self.host.architecture:
                continue
            if machine.magic.hex() in registered or (_may_register() and self._interpreter(machine)):
                variant = "v7" if architecture == "arm" else ""
                found.append(Platform(os="linux", architecture=architecture, variant=variant))
        return found


def _may_register() -> bool:
    return os.access(_BINFMT / "register", os.W_OK) or os.path.isdir(_BINFMT)


def _registered() -> set[str]:
    """The magic numbers, in hexadecimal, of programs that an enabled entry with the ``F`` flag recognises."""
    found: set[str] = set()
    if not os.access(_BINFMT / "register", os.F_OK):
        return found
    for entry in _BINFMT.iterdir():
        if entry.name in ("register", "status"):
            continue
        try:
            lines = entry.read_text().splitlines()
        except OSError:
            continue
        facts = dict(line.split(" ", 1) for line in lines if " " in line)
        if lines[:1] == ["enabled"] and "F" in facts.get("flags:", "") and "magic" in facts:
            found.add(facts["magic"])
    return found


def _register(machine: Machine, interpreter: str) -> None:
    if not os.access(_BINFMT / "register", os.F_OK):
        linux.mount("binfmt_misc", str(_BINFMT), "binfmt_misc")
        if machine.magic.hex() in _registered():  # the kernel's table is one; it only was not to be seen here
            return
    magic, mask = ("".join(f"\\x{byte:02x}" for byte in data) for data in (machine.magic, machine.mask))
    rule = f":qemu-{machine.qemu}:M::{magic}:{mask}:{interpreter}:OCF"
    (_BINFMT / "register").write_text(rule)
