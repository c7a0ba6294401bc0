"""The closed set of errors."""

from lading import errors


def test_every_class_has_its_own_code() -> None:
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.LadingError)]
    codes = [c.code for c in classes]
    assert len(classes) == 15
    assert len(set(codes)) == len(codes)


def test_the_hint_is_part_of_the_text() -> None:
    error = errors.NotFoundError("no such image: x", hint="pull it first", subject="x")
    assert str(error) == "no such image: x: pull it first"
    assert error.subject == "x"
