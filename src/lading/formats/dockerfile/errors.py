"""Errors that point at lines."""

from dataclasses import dataclass

from lading.errors import InvalidArgumentError


@dataclass(frozen=True, slots=True)
class Lines:
    """First and last line of something, counted from 1."""

    start: int
    end: int


class DockerfileError(InvalidArgumentError):
    """Something in a Dockerfile is wrong; ``lines`` says where, if known."""

    code = "dockerfile"

    def __init__(self, message: str, *, lines: Lines | None = None) -> None:
        super().__init__(message)
        self.lines = lines

    def at(self, lines: Lines) -> "DockerfileError":
        """The same error with a place, unless it has one already."""
        return self if self.lines is not None else DockerfileError(self.message, lines=lines)
