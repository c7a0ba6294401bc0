"""References: which labels keep what. containerd's rules (docs/garbage-collection.md there), in one pure place.

A label ``containerd.io/gc.ref.<kind>`` on a thing keeps what its value names. A *back reference*
``containerd.io/gc.bref.<kind>`` on a thing says that what its value names keeps the thing.
"""

from collections.abc import Mapping
from typing import Final

from lading.core.metadata import Node

_FORWARD: Final = "containerd.io/gc.ref."
_BACKWARD: Final = "containerd.io/gc.bref."
_SIMPLE_KINDS: Final = ("content", "image", "container")


def forward(labels: Mapping[str, str]) -> list[Node]:
    """What a thing with these labels keeps, in order of the labels."""
    return _named(labels, _FORWARD) if labels else []


def backward(labels: Mapping[str, str]) -> list[Node]:
    """What keeps a thing with these labels."""
    return _named(labels, _BACKWARD) if labels else []


def meaning(key: str) -> tuple[bool, str, str] | None:
    """What a label with this key says: whether it is a back reference, and the kind and scope of what its value names."""
    for prefix in (_FORWARD, _BACKWARD):
        if key.startswith(prefix) and (node := _node(key[len(prefix) :], "")):
            return prefix == _BACKWARD, node.kind, node.scope
    return None


def _named(labels: Mapping[str, str], prefix: str) -> list[Node]:
    nodes: list[Node] = []
    for key, value in labels.items():
        if key.startswith(prefix) and (node := _node(key[len(prefix) :], value)):
            nodes.append(node)
    return nodes


def _node(rest: str, value: str) -> Node | None:
    """``content``, ``content.<suffix>`` and ``content/<suffix>`` alike; for snapshots ``snapshot.<name>[/<suffix>]``."""
    if rest.startswith("snapshot."):
        snapshotter = rest.removeprefix("snapshot.").partition("/")[0]
        return Node("snapshot", value, snapshotter) if snapshotter else None
    for kind in _SIMPLE_KINDS:
        if rest == kind or rest.startswith((f"{kind}.", f"{kind}/")):
            return Node(kind, value)
    return None
