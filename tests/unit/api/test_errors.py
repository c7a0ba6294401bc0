"""The table from errors to statuses is total, and its bodies are Docker's."""

import pytest

from lading import errors
from lading.api.engine.errors import STATUS, status_of, text_of

CLASSES = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.LadingError)]


def test_every_class_stands_in_the_table_and_nothing_else() -> None:
    assert set(STATUS) == set(CLASSES)


@pytest.mark.parametrize("kind", CLASSES)
def test_statuses_are_errors_that_docker_knows(kind: type[errors.LadingError]) -> None:
    assert status_of(kind("x")) in {304, 400, 401, 403, 404, 409, 499, 500, 501, 503, 507}


def test_a_subclass_takes_the_status_of_its_nearest_ancestor() -> None:
    class GoneError(errors.NotFoundError):
        pass

    assert status_of(GoneError("x")) == 404


def test_foreign_errors_are_500_and_keep_their_words_to_themselves() -> None:
    assert status_of(KeyError("token")) == 500
    assert "token" not in text_of(KeyError("token"))
    assert "No space left" in text_of(OSError(28, "No space left on device", "/x"))
