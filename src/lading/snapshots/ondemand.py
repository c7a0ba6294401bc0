"""Layers whose contents are decoded when somebody reads them: mounted at once, on a device (`lading.core.devices`).

That takes a seek index (rebuild.py), a layer large enough for it to pay, and a machine that can serve devices. What is not for
this is decoded whole, as it is where anything goes wrong here. A device that has all its segments becomes an ordinary file before
the next mount.
"""

import contextlib
import errno
import os
from collections.abc import Callable
from typing import Final

import structlog

from lading.core.devices import Device, Devices, is_complete
from lading.errors import DataLossError
from lading.kit.failpoints import failpoint
from lading.snapshots.rebuild import Layer

_KILLED: Final = {
    errno.ENOTCONN,
    errno.ECONNRESET,
    errno.ECONNREFUSED,
    errno.EPIPE,
    errno.EIO,
    errno.ETIMEDOUT,
}
_SHORT: Final = {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN}
"""What passes, unlike what a machine says that has no FUSE, does not let us use it, or cannot mount what is on it."""
_log: Final = structlog.get_logger(__name__)


class OnDemand:
    """Devices of layers. Blocking; one thread at a time attaches.

    Args:
        devices: What serves them, if anything does.
        open_layer: Opens the blob of a layer.
        large: Bytes from which on a layer gets one.

    """

    def __init__(self, devices: Devices | None, open_layer: Callable[[Layer], int], large: int) -> None:
        self._devices = devices
        self._open_layer = open_layer
        self._large = large
        self._given_up = devices is None

    def serving(self, layer: Layer) -> str | None:
        """The device of a layer that is mounted on one, or ``None`` if nobody can read it any more."""
        if self._devices is None or not self._devices.serves(layer.id):
            return None
        return self._devices.path(layer.id)

    def attach(self, layer: Layer) -> str | None:
        """A device for a layer that is not mounted, or ``None`` if its contents are to be had in `Layer.data`.

        Raises:
            RebuildError: Its blob is missing.

        """
        if self._devices is None or _finished(layer) or not self._wanted(layer):
            return None
        blob = self._open_layer(layer)
        device = Device(
            number=layer.id,
            length=layer.length,
            blob=blob,
            index=str(layer.seek),
            data=str(layer.segments),
            filled=str(layer.filled),
        )
        try:
            path = self._devices.attach(device)
            os.utime(layer.segments)
        except DataLossError as exc:
            # The blob may be damaged, or the index: decoding in one piece tells.
            _log.warning("seek_index_dropped", path=str(layer.seek), reason=exc.message)
            layer.seek.unlink(missing_ok=True)
            return None
        except OSError as exc:
            self.failed(layer, exc)
            return None
        finally:
            os.close(blob)
        failpoint("layer.attached")
        return path

    def _wanted(self, layer: Layer) -> bool:
        if self._given_up or layer.length < self._large:
            return False
        with contextlib.suppress(FileNotFoundError):
            return layer.seek.stat().st_size > 0
        return False

    def failed(self, layer: Layer, exc: OSError) -> None:
        """A device cannot be had or mounted. Where none ever can, no more are tried; those that are served go on."""
        if exc.errno in _KILLED | _SHORT:
            _log.warning("layer_decoded_whole", path=str(layer.data), reason=str(exc))
        else:
            _log.warning("layers_are_decoded_whole", reason=str(exc))
            self._given_up = True

    def close(self) -> None:
        """Let go. Idempotent."""
        if self._devices is not None:
            self._devices.close()


def _finished(layer: Layer) -> bool:
    """Whether a layer has all its segments; then they are its contents from now on."""
    try:
        if not is_complete(layer.filled.read_bytes()):
            return False
    except FileNotFoundError:
        return False
    layer.filled.unlink()
    layer.segments.rename(layer.data)
    return True
