"""Text that may hold bytes which are no UTF-8, as Python keeps them: as lone surrogates."""


def printable(text: str) -> str:
    """Text that a message or a document can hold: bytes that are no text become the replacement character."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
