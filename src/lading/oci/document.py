"""Strict JSON for untrusted documents: one text has one meaning, or none (hostile-input.md D2 to D5).

Go matches keys without regard to case and takes the last of two; Python does neither. A document that readers could
understand differently is refused. The caller keeps the original bytes: nothing is ever re-encoded to compute a digest.
"""

import json
import re
from typing import Final, NoReturn, TypeVar

import msgspec
from typing_extensions import Buffer

from lading.errors import InvalidArgumentError, ResourceExhaustedError
from lading.oci.digest import Digest

T = TypeVar("T")

MANIFEST_LIMIT: Final = 4 * 1024 * 1024
"""Bytes of a manifest or index; registries must accept this much (distribution-spec, "Pushing Manifests")."""
CONFIG_LIMIT: Final = 8 * 1024 * 1024
"""Bytes of an image config."""
DEPTH_LIMIT: Final = 64
_DIGITS: Final = 20
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_STRUCTURE: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)


def decode(data: Buffer, kind: type[T], *, what: str, limit: int) -> T:
    """Decode a JSON object into ``kind`` (a `msgspec.Struct` type); unknown fields are dropped from the view.

    Args:
        data: The document's bytes.
        kind: What to read it as.
        what: Name of the document for error messages, e.g. ``manifest sha256:…``.
        limit: Largest size in bytes.

    Raises:
        ResourceExhaustedError: It is over ``limit``.
        InvalidArgumentError: It is not strict JSON, is ambiguous, or lacks or misstates a field.

    """
    return convert(read(data, what=what, limit=limit), kind, what=what)


def read(data: Buffer, *, what: str, limit: int) -> object:
    """The plain JSON value of a document, strictly read; raises as `decode`."""
    raw = bytes(data)
    if len(raw) > limit:
        raise ResourceExhaustedError(f"{what} is over {limit} bytes")
    _check_depth(raw, what)

    def pairs(items: list[tuple[str, object]]) -> dict[str, object]:
        folded = {key.casefold() for key, _ in items}
        if len(folded) != len(items):
            raise InvalidArgumentError(f"{what} has a key twice, or twice but for case")
        return dict(items)

    def integer(text: str) -> int:
        if len(text) > _DIGITS:
            raise InvalidArgumentError(f"{what} has a number of {len(text)} digits")
        return int(text)

    def constant(name: str) -> NoReturn:
        raise InvalidArgumentError(f"{what} has the number {name}")

    try:
        text = raw.decode("utf-8")
        tree = json.loads(text, object_pairs_hook=pairs, parse_int=integer, parse_constant=constant)
    except ValueError as exc:
        raise InvalidArgumentError(f"{what} is malformed: {exc}") from exc
    if "\\u" in text:  # a surrogate has no UTF-8 form, so only an escape can bring one
        _check_text(tree, what)
    return tree


def convert(tree: object, kind: type[T], *, what: str) -> T:
    """What `read` gave, as ``kind``. Raises `InvalidArgumentError`: it lacks or misstates a field."""
    try:
        return msgspec.convert(tree, kind, dec_hook=_decode_hook)
    except (ValueError, msgspec.ValidationError) as exc:
        raise InvalidArgumentError(f"{what} is malformed: {exc}") from exc


def encode(document: msgspec.Struct) -> bytes:
    """The bytes of a *new* document. Received documents keep their own bytes and never pass through here."""
    return msgspec.json.encode(document, enc_hook=str)


def _decode_hook(kind: type[object], value: object) -> object:
    """Build the only custom type of our documents, which is a digest of some kind; `Digest` itself checks the text."""
    if not (issubclass(kind, Digest) and isinstance(value, str)):
        raise TypeError(f"expected text, got {type(value).__name__}")
    return kind(value)


def _check_depth(raw: bytes, what: str) -> None:
    """Bound the nesting before the recursive parser sees it."""
    if raw.count(b"{") + raw.count(b"[") <= DEPTH_LIMIT:
        return
    depth = 0
    for match in _STRUCTURE.finditer(raw):
        token = match[0]
        if token in (b"{", b"["):
            depth += 1
            if depth > DEPTH_LIMIT:
                raise InvalidArgumentError(f"{what} is nested deeper than {DEPTH_LIMIT} levels")
        elif token in (b"}", b"]"):
            depth -= 1


def _check_text(tree: object, what: str) -> None:
    """Refuse lone surrogates, which have no UTF-8 form; a key is text too."""
    stack = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, str):
            if _SURROGATE.search(node):
                raise InvalidArgumentError(f"{what} has a lone surrogate")
        elif isinstance(node, dict):
            stack.extend(node.keys())  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
            stack.extend(node.values())  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
        elif isinstance(node, list):
            stack.extend(node)  # pyright: ignore[reportUnknownArgumentType]
