"""What goes wrong in a build, with what the client needs to show it."""

from collections.abc import Sequence

from lading.errors import FailedPreconditionError, InvalidArgumentError, UnsupportedError
from lading.formats.llb.metadata import SourceFile, SourceRange
from lading.oci.digest import Digest


class SourceError(InvalidArgumentError):
    """A Dockerfile (or another source) is wrong at these lines."""

    code = "source"

    def __init__(
        self, message: str, *, source: SourceFile, ranges: Sequence[SourceRange] = (), hint: str = ""
    ) -> None:
        super().__init__(message, hint=hint, subject=source.filename)
        self.source = source
        self.ranges = tuple(ranges)


class VertexError(FailedPreconditionError):
    """An operation failed. ``exit_code`` is that of its process, if it had one."""

    code = "vertex-failed"

    def __init__(
        self,
        message: str,
        *,
        vertex: Digest,
        exit_code: int | None = None,
        source: SourceFile | None = None,
        ranges: Sequence[SourceRange] = (),
    ) -> None:
        super().__init__(message, subject=str(vertex))
        self.vertex = vertex
        self.exit_code = exit_code
        self.source = source
        self.ranges = tuple(ranges)


class FrontendCapError(UnsupportedError):
    """A frontend cannot do what the client asks of it."""

    code = "frontend-cap"

    def __init__(self, name: str) -> None:
        super().__init__(f"unsupported frontend capability {name}", subject=name)
        self.name = name


class SubrequestError(UnsupportedError):
    """A frontend does not know the question that it is asked instead of a build."""

    code = "subrequest"

    def __init__(self, name: str) -> None:
        super().__init__(f"unsupported request {name}", subject=name)
        self.name = name


class ClientError(FailedPreconditionError):
    """The client's own frontend gave the build up, with a gRPC status that goes back to it as it is."""

    code = "client-gave-up"

    def __init__(self, message: str, *, status: bytes) -> None:
        super().__init__(message)
        self.status = status
        """A marshalled ``google.rpc.Status``."""
