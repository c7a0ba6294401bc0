"""Errors as BuildKit's clients are told them: what they quote is text, and not longer than a header may be."""

import base64
import json

import pytest

from lading.api.buildkit.errors import build_error, status_of
from lading.builder.errors import FrontendCapError, SourceError, SubrequestError
from lading.errors import InvalidArgumentError, LadingError, NotFoundError
from lading.formats.llb.metadata import SourceFile, SourceRange
from lading.kit.grpc.status import Code


def _source(data: bytes, start: int, end: int) -> list[str]:
    """The lines of the source in the details of an error at these lines."""
    source = SourceFile(filename="Dockerfile", data=data)
    status = status_of(SourceError("no", source=source, ranges=[SourceRange(start=start, end=end)]))
    document = json.loads(status.details[0].value)
    assert document["ranges"] == [{"start": {"line": start}, "end": {"line": end}}]
    return base64.b64decode(document["info"]["data"]).decode().split("\n")


def test_bytes_that_are_no_text_become_the_replacement_character() -> None:
    assert status_of(InvalidArgumentError("unknown instruction: \udcff")).message == "unknown instruction: �"


def test_a_short_source_is_told_whole() -> None:
    assert _source(b"FROM a\nRUN b\n", 2, 2) == ["FROM a", "RUN b", ""]


def test_of_a_long_source_only_the_lines_around_the_fault_are_told() -> None:
    data = b"".join(b"RUN %d\n" % number for number in range(1, 100_001))
    lines = _source(data, 90_000, 90_001)
    assert lines[89_999] == "RUN 90000"
    assert [number for number, line in enumerate(lines, start=1) if line] == list(range(89_990, 90_012))


def test_long_lines_and_long_ranges_are_cut() -> None:
    data = b"".join(b"x" * 60_000 + b"\n" for _ in range(100))
    assert sum(map(len, _source(data, 1, 100))) <= 71 * 1000


@pytest.mark.parametrize(
    ("error", "code", "detail"),
    [
        (NotFoundError("x: not found"), Code.UNKNOWN, ""),
        (InvalidArgumentError("x is wrong"), Code.UNKNOWN, ""),
        (FrontendCapError("x"), Code.UNIMPLEMENTED, "FrontendCap"),
        (SubrequestError("x"), Code.UNIMPLEMENTED, "Subrequest"),
    ],
)
def test_a_build_fails_without_a_code_but_where_clients_act_on_it(
    error: LadingError, code: Code, detail: str
) -> None:
    told = build_error(error)
    assert (told.code, told.message) == (code, str(error))
    assert detail.encode() in told.details
