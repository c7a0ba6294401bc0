"""Volumes with options: a file system of somewhere else, mounted where the volume's files are looked for. Blocking."""

import socket
import subprocess
from collections.abc import Mapping
from typing import Final

from lading.errors import FailedPreconditionError, InvalidArgumentError
from lading.kit import linux

_OPTIONS: Final = frozenset({"type", "o", "device"})
_NO_DEVICE: Final = frozenset({"tmpfs"})
_REMOTE: Final = frozenset({"nfs", "nfs4", "cifs"})
"""Mounted by the kernel itself, as Docker has it: their helpers want the server in the device, not in ``addr``."""
_SECONDS: Final = 60.0


def check(options: Mapping[str, str]) -> None:
    """Judge the options of the local driver. Raises `InvalidArgumentError`."""
    for name, value in options.items():
        if name not in _OPTIONS:
            raise InvalidArgumentError(
                f"invalid option: {name!r}", hint="the local driver knows type, o and device"
            )
        if "\0" in value or value.startswith("-"):
            raise InvalidArgumentError(f"invalid value of option {name!r}")
    if options and not options.get("type"):
        raise InvalidArgumentError('missing required option: "type"')
    if options and not options.get("device") and options["type"] not in _NO_DEVICE:
        raise InvalidArgumentError('missing required option: "device"')


def mount(options: Mapping[str, str], target: str) -> None:
    """Mount what the options name; nothing happens if something is mounted there. Raises `FailedPreconditionError`."""
    if target in linux.mount_points(target):
        return
    if options["type"] in _REMOTE:
        _mount_remote(options["device"], target, options["type"], options.get("o", ""))
        return
    words = ["mount", "-t", options["type"]]
    if options.get("o"):
        words += ["-o", options["o"]]
    words += ["--", options.get("device") or options["type"], target]
    try:
        done = subprocess.run(
            words, capture_output=True, check=False, timeout=_SECONDS, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired as exc:
        raise FailedPreconditionError(
            f"mounting {options.get('device')} took over {_SECONDS:g} seconds"
        ) from exc
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().removeprefix(f"mount: {target}: ")[:500]
        raise FailedPreconditionError(
            f"error while mounting volume '{target}': failed to mount local volume: {reason}", subject=target
        )


def _mount_remote(device: str, target: str, kind: str, text: str) -> None:
    shown = (
        f"mount {device}:{target}, data: {text}" if kind != "cifs" else f"mount {device}:{target}"
    )  # no password
    try:
        linux.mount_with(device, target, kind, [_resolved(each) for each in text.split(",") if each])
    except OSError as exc:
        raise FailedPreconditionError(
            f"error while mounting volume '{target}': failed to mount local volume: {shown}: {exc.strerror}",
            hint=f"{device} is reached by the kernel's {kind}",
            subject=target,
        ) from exc


def _resolved(option: str) -> str:
    """``addr=host`` with the host's address, which is all that the kernel understands. Raises `OSError`."""
    name, _, value = option.partition("=")
    if name != "addr" or not value:
        return option
    return f"addr={socket.getaddrinfo(value, None, type=socket.SOCK_STREAM)[0][4][0]}"


def unmount(target: str) -> None:
    """Take away every mount at and below ``target``; processes that use one keep it."""
    for point in linux.mount_points(target):
        linux.unmount(point)
