"""The history that the old builder writes: commands as they ran, and the rest as ``#(nop)``."""

import json
import re
from typing import Any, Final

from lading.builder.frontend import image

_COMMIT: Final = re.compile(r"RUN (.*) # buildkit", re.DOTALL)


def as_legacy(config: bytes) -> bytes:
    """A config with the history that the old builder writes: commands as they ran, and the rest as ``#(nop)``."""
    document: dict[str, Any] = json.loads(config)
    for entry in document.get("history", []):
        if entry.get("comment") == image.COMMENT:
            del entry["comment"]
            text = str(entry["created_by"])
            entry["created_by"] = _legacy_words(text)
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def _legacy_words(created_by: str) -> str:
    """A step as the old builder writes it: two spaces before what changes the config only, one before the rest."""
    if ran := _COMMIT.fullmatch(created_by):
        return ran[1]
    if created_by.startswith(("COPY ", "ADD ", "WORKDIR ")):
        return f"/bin/sh -c #(nop) {created_by.removesuffix(' # buildkit')}"
    return f"/bin/sh -c #(nop)  {created_by}"
