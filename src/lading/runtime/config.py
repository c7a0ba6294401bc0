"""Which shim serves a runtime name, and what it is told."""

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from google.protobuf.any_pb2 import Any as AnyMessage

from lading.errors import InvalidArgumentError, NotFoundError
from lading.runtime._pb import task_pb2
from lading.runtime.wire import RUNC_OPTIONS, RUNTIME_OPTIONS, any_message

RUNC_V2: Final = "io.containerd.runc.v2"
_NAME: Final = re.compile(r"io\.containerd\.([a-zA-Z0-9_-]+)\.(v[0-9]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeConfig:
    """How a runtime that the user can name is served.

    ``runtime`` is a shim's name (``io.containerd.<name>.<version>``) or its absolute path. ``options`` are fields of
    containerd's ``runc.v1.Options`` for the runc shim (``BinaryName`` or ``binary_name``), else of
    ``runtimeoptions.v1.Options``.
    """

    runtime: str = RUNC_V2
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])


def is_runc(runtime: str) -> bool:
    """Whether this shim takes runc's options."""
    return runtime == RUNC_V2 or Path(runtime).name.startswith("containerd-shim-runc-")


def find_shim(runtime: str, *, beside: Path) -> Path:
    """The shim's executable: in ``PATH``, then in the directory ``beside``.

    Raises:
        NotFoundError: There is none, or the name is of no known form.

    """
    if runtime.startswith("/"):
        if os.access(runtime, os.X_OK) and Path(runtime).is_file():
            return Path(runtime)
        raise NotFoundError(f"the shim {runtime} is not an executable file", subject=runtime)
    match = _NAME.fullmatch(runtime)
    if match is None:
        raise NotFoundError(
            f"no runtime is named {runtime!r}",
            hint="use a configured name, io.containerd.<name>.<version>, or an absolute path",
            subject=runtime,
        )
    binary = f"containerd-shim-{match[1]}-{match[2]}"
    found = shutil.which(binary) or shutil.which(binary, path=str(beside))
    if found is None:
        raise NotFoundError(
            f"the shim of runtime {runtime} is missing: no {binary} in PATH or {beside}",
            hint="install it (Debian: containerd for runc, the runtime's own package for others)",
            subject=runtime,
        )
    return Path(found)


def encode_options(runtime: str, options: Mapping[str, Any], *, runc_root: str) -> AnyMessage | None:
    """Runtime options for a Create call; None where the shim is to use its own defaults.

    Raises:
        InvalidArgumentError: An option that the shim's message has not, or a value of the wrong type.

    """
    fields = {field_name(key): value for key, value in options.items()}
    if is_runc(runtime):
        # Its own root: a container of the same name in containerd's must not be met.
        return any_message(RUNC_OPTIONS, _fill(task_pb2.RuncOptions(root=runc_root), fields))
    if not fields:
        return None
    body = fields.get("config_body")
    if isinstance(body, str):
        fields["config_body"] = body.encode()
    return any_message(RUNTIME_OPTIONS, _fill(task_pb2.RuntimeOptions(), fields))


def _fill(
    message: task_pb2.RuncOptions | task_pb2.RuntimeOptions, fields: Mapping[str, Any]
) -> task_pb2.RuncOptions | task_pb2.RuntimeOptions:
    known = message.DESCRIPTOR.fields_by_name
    for key, value in fields.items():
        if key not in known:
            raise InvalidArgumentError(
                f"unknown runtime option {key!r}", hint=f"known are: {', '.join(known)}"
            )
        try:
            setattr(message, key, value)
        except (TypeError, ValueError) as exc:
            raise InvalidArgumentError(f"runtime option {key!r} has a bad value: {exc}") from exc
    return message


def field_name(key: str) -> str:
    """The name of an option in shims' messages, which configurations write in camel case."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key).lower()
