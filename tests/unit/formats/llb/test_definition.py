"""A definition keeps what it was given."""

from lading.formats.llb.definition import Definition


def test_an_empty_definition_is_scratch() -> None:
    assert Definition() == Definition(ops=(), metadata={}, source=b"")
