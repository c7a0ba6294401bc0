"""WebAssembly: refused with its reason, at create, rather than failing somewhere on the way to a process."""

import re
from typing import Final

from lading.errors import UnsupportedError
from lading.oci.descriptor import Platform

_SHIMS: Final = re.compile(
    r"(?:io\.containerd\.|.*/containerd-shim-)(wasmedge|wasmtime|wasmer|wamr|spin|slight|wws|lunatic)[.-]v\d+"
)
"""Names of runwasi's shims and of those made with it."""
_SYSTEMS: Final = frozenset({"wasi", "wasip1", "wasip2"})
_WHY: Final = (
    "its shims ask containerd's own gRPC API for the container and its image, which is not served here"
)


def check(runtime: str, platform: Platform | None) -> None:
    """See that neither the runtime nor the image is for WebAssembly. Raises `UnsupportedError`."""
    if shim := _SHIMS.fullmatch(runtime):
        raise UnsupportedError(
            f"the runtime {runtime} is not supported: {shim[1]} runs WebAssembly, and {_WHY}",
            hint="run the module with a Wasm engine inside a Linux container",
            subject=runtime,
        )
    if platform is not None and (platform.os in _SYSTEMS or platform.architecture.startswith("wasm")):
        raise UnsupportedError(
            f"an image for {platform.os}/{platform.architecture} cannot run: no runtime here runs WebAssembly",
            hint="choose a Linux platform with --platform, or run the module with a Wasm engine inside a Linux container",
        )
