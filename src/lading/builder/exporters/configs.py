"""Image configs of built images: what a frontend says of the container, and what the layers say of the file system."""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn, cast

import msgspec

from lading.builder.results import Layer
from lading.errors import InvalidArgumentError
from lading.kit import times
from lading.oci.descriptor import Platform

EXPORTER_COMMENT: Final = "buildkit.exporter.image.v0"
INLINE_CACHE: Final = "moby.buildkit.cache.v0"
_SECOND: Final = 10**9
Document = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A config's bytes, and the platform that it names."""

    body: bytes
    platform: Platform


class _Entry(msgspec.Struct):
    """What is looked at in an entry of the history."""

    created: str | None = None
    empty_layer: bool | None = None


class _Shape(msgspec.Struct):
    """What is looked at in a config."""

    os: str | None = None
    architecture: str | None = None
    created: str | None = None
    config: dict[str, object] | None = None
    history: list[_Entry] | None = None


def make(
    raw: bytes | None,
    layers: Sequence[Layer],
    platform: Platform,
    *,
    epoch: int | None,
    inline_cache: bytes | None = None,
) -> Config:
    """The config of an image of these layers; unknown fields of ``raw`` stay.

    Raises `InvalidArgumentError` if ``raw`` is no config.
    """
    document = _parse(raw, platform)
    history = _history(cast("list[Document]", document.get("history") or []), layers)
    _date(history, layers, epoch)
    document["rootfs"] = {"type": "layers", "diff_ids": [str(layer.diff_id) for layer in layers]}
    document["history"] = history
    if epoch is not None:
        document["created"] = times.format_moment(epoch * _SECOND)
    elif not document.get("created"):
        made = next((entry["created"] for entry in reversed(history) if entry.get("created")), None)
        document["created"] = made or times.format_nano(times.now_nano())
    document.pop(INLINE_CACHE, None)
    if inline_cache is not None:
        document[INLINE_CACHE] = base64.b64encode(inline_cache).decode()
    body = json.dumps(document, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode(
        errors="replace"
    )
    return Config(
        body=body,
        platform=Platform(
            architecture=str(document["architecture"]),
            os=str(document["os"]),
            variant=str(document.get("variant") or ""),
            os_version=str(document.get("os.version") or ""),
        ),
    )


def _parse(raw: bytes | None, platform: Platform) -> Document:
    try:
        document: object = json.loads(raw, parse_constant=_no_number) if raw else {}
    except (ValueError, RecursionError) as exc:
        raise InvalidArgumentError("the frontend's image config is not JSON") from exc
    try:
        msgspec.convert(document, _Shape)
    except msgspec.ValidationError as exc:
        raise InvalidArgumentError(f"the frontend's image config is malformed: {exc}") from exc
    found = cast("Document", document)
    if not found.get("os"):
        found |= {"os": platform.os, "architecture": platform.architecture}
        if platform.variant:
            found["variant"] = platform.variant
    if not found.get("architecture"):
        found["architecture"] = platform.architecture
    found.setdefault("config", {})
    return found


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON's")


def _history(history: list[Document], layers: Sequence[Layer]) -> list[Document]:
    """As many entries with a layer as there are layers."""
    history = [dict(entry) for entry in history]
    missing = len(layers) - sum(not entry.get("empty_layer") for entry in history)
    for entry in reversed(history):
        if missing >= 0:
            break
        if not entry.get("empty_layer"):
            entry["empty_layer"] = True
            missing += 1
    history += [{"created_by": "", "comment": EXPORTER_COMMENT} for _ in range(max(missing, 0))]
    return history


def _date(history: list[Document], layers: Sequence[Layer], epoch: int | None) -> None:
    """Give every entry a time: its layer's, or that of the entry before it."""
    times_of_layers = iter([layer.created_at for layer in layers])
    for entry in history:
        made = 0 if entry.get("empty_layer") else next(times_of_layers, 0)
        if made and not entry.get("created"):
            entry["created"] = times.format_nano(made)
    dated = [entry["created"] for entry in history if entry.get("created")]
    undated = next((i for i, entry in enumerate(history) if not entry.get("created")), len(history))
    later = [entry["created"] for entry in history[undated:] if entry.get("created")]
    last = later[0] if later else dated[-1] if dated else times.format_nano(times.now_nano())
    for entry in history[undated:]:
        last = entry.setdefault("created", last) or last
    if epoch is not None:
        for entry in history:
            if times.parse_nano(str(entry["created"])) > epoch * _SECOND:
                entry["created"] = times.format_moment(epoch * _SECOND)
