"""Errors of a build carry what the client shows."""

from lading.builder.errors import SourceError, VertexError
from lading.formats.llb.metadata import SourceFile, SourceRange
from lading.oci.digest import Digest

VERTEX = Digest("sha256:" + "0" * 64)


def test_a_source_error_names_the_file_and_keeps_the_lines() -> None:
    source = SourceFile(filename="Dockerfile", data=b"FORM x\n")
    error = SourceError("unknown instruction: FORM", source=source, ranges=[SourceRange(start=1, end=1)])
    assert error.subject == "Dockerfile"
    assert error.ranges == (SourceRange(start=1, end=1),)


def test_a_vertex_error_names_the_vertex_and_keeps_the_exit_code() -> None:
    error = VertexError("process did not complete successfully", vertex=VERTEX, exit_code=7)
    assert (error.subject, error.exit_code) == (VERTEX, 7)
