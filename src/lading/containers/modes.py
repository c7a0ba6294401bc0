"""The words that ``PidMode``, ``IpcMode`` and their like may have."""

from collections.abc import Mapping
from typing import Final

from lading.errors import InvalidArgumentError, UnsupportedError

PREFIX: Final = "container:"
_MODES: Final = {
    "PidMode": ("", "private", "host"),
    "IpcMode": ("", "private", "shareable", "host", "none"),
    "UTSMode": ("", "host"),
    "UsernsMode": ("", "host"),
    "CgroupnsMode": ("", "private", "host"),
    "Isolation": ("", "default"),
}
_OTHERS: Final = ("PidMode", "IpcMode")


def check(values: Mapping[str, str]) -> None:
    """Refuse modes that there are not, by the name of their field. Raises `InvalidArgumentError`, `UnsupportedError`."""
    for name, value in values.items():
        if name in _OTHERS and value.startswith(PREFIX):
            if not value.removeprefix(PREFIX):
                raise InvalidArgumentError(f"invalid HostConfig.{name}: {value!r} names no container")
        elif value not in _MODES[name]:
            offered = ", ".join(repr(mode) for mode in _MODES[name] if mode)
            raise UnsupportedError(f"HostConfig.{name} {value!r} is not supported", hint=f"use {offered}")
