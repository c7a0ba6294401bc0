"""References: how people name images, and what they mean by it.

Grammar: github.com/distribution/reference, reference.go. Docker's normalisation: a name whose first component neither
holds a dot or colon, nor is ``localhost``, nor has an upper-case letter belongs to ``docker.io``; a name of one
component there belongs to ``library/``; a name with neither tag nor digest means ``:latest``.
"""

import re
from typing import Final

import msgspec

from lading.errors import InvalidArgumentError
from lading.oci.digest import Digest

DEFAULT_DOMAIN: Final = "docker.io"
LEGACY_DEFAULT_DOMAIN: Final = "index.docker.io"
OFFICIAL_PREFIX: Final = "library/"
DEFAULT_TAG: Final = "latest"
DANGLING_PREFIX: Final = "moby-dangling@"
"""Name of an image record whose target lost its last name (moby's containerd store)."""

_NAME_LIMIT: Final = 255
_COMPONENT: Final = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH: Final = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_LABEL: Final = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN: Final = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[(?:[a-fA-F0-9:]+)\])(?::[0-9]+)?")
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_HEX_ID: Final = re.compile(r"[0-9a-f]{64}")


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """A normalised reference ``domain/path[:tag][@digest]``. Make one with `parse`; ``str()`` gives the full form."""

    domain: str
    path: str
    tag: str = ""
    digest: Digest | None = None

    def __str__(self) -> str:
        text = f"{self.domain}/{self.path}"
        if self.tag:
            text += f":{self.tag}"
        return f"{text}@{self.digest}" if self.digest else text

    @property
    def name(self) -> str:
        """Domain and path: the repository, without tag and digest."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar_name(self) -> str:
        """The repository as Docker shows it: ``alpine``, ``user/image``, ``registry.example/image``."""
        if self.domain != DEFAULT_DOMAIN:
            return self.name
        rest = self.path.removeprefix(OFFICIAL_PREFIX)
        return self.path if "/" in rest else rest

    @property
    def familiar(self) -> str:
        """The whole reference as Docker shows it."""
        text = self.familiar_name
        if self.tag:
            text += f":{self.tag}"
        return f"{text}@{self.digest}" if self.digest else text

    def with_tag(self, tag: str) -> "Reference":
        """The same repository with this tag and no digest. Raises `InvalidArgumentError`."""
        return Reference(domain=self.domain, path=self.path, tag=validate_tag(tag))

    def with_digest(self, digest: Digest) -> "Reference":
        """The same repository with this digest and no tag."""
        return Reference(domain=self.domain, path=self.path, digest=digest)

    def without_tag(self) -> "Reference":
        """The repository alone."""
        return Reference(domain=self.domain, path=self.path)

    def with_default_tag(self) -> "Reference":
        """Itself, or with ``:latest`` if it names neither a tag nor a digest."""
        return self if self.tag or self.digest else self.with_tag(DEFAULT_TAG)


def parse(text: str) -> Reference:
    """Read a reference as a user types it; no tag is added (see `Reference.with_default_tag`).

    Raises:
        InvalidArgumentError: The text breaks the grammar, or is a 64-digit hexadecimal ID.

    """
    if not text:
        raise _invalid(text, "a reference must not be empty")
    if _HEX_ID.fullmatch(text):
        raise _invalid(text, "64 hexadecimal digits are an ID, not a name")
    rest, at, digest_text = text.partition("@")
    domain, path = _split_domain(rest)
    path, colon, tag = path.partition(":")
    if any(c.isupper() for c in path):
        raise _invalid(text, f"repository name ({path[:160]}) must be lowercase")
    if colon:
        validate_tag(tag)
    if domain == DEFAULT_DOMAIN and "/" not in path:
        path = OFFICIAL_PREFIX + path
    if not _PATH.fullmatch(path) or not _DOMAIN.fullmatch(domain):
        raise _invalid(text, "use [host[:port]/]name[:tag][@digest] in lower case")
    if len(path) > _NAME_LIMIT:
        raise _invalid(text, f"repository name must not be more than {_NAME_LIMIT} characters")
    return Reference(domain=domain, path=path, tag=tag, digest=Digest(digest_text) if at else None)


def validate_tag(tag: str) -> str:
    """The tag itself, or `InvalidArgumentError`."""
    if not _TAG.fullmatch(tag):
        raise _invalid(
            tag,
            "a tag has 1 to 128 letters, digits, '_', '.' and '-', and starts with a letter, digit or '_'",
        )
    return tag


def dangling_name(digest: Digest) -> str:
    """Name of the image record that keeps a target which lost its last name."""
    return DANGLING_PREFIX + digest


def is_dangling(name: str) -> bool:
    """Whether an image record's name stands for no name."""
    return name.startswith(DANGLING_PREFIX)


def _split_domain(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    is_domain = slash and (any(c in first for c in ".:") or first == "localhost" or first.lower() != first)
    domain, path = (first, rest) if is_domain else (DEFAULT_DOMAIN, name)
    return (DEFAULT_DOMAIN if domain == LEGACY_DEFAULT_DOMAIN else domain), path


def _invalid(text: str, hint: str) -> InvalidArgumentError:
    shown = text if len(text) <= 160 else text[:160] + "…"
    return InvalidArgumentError(f"invalid reference format {shown!r}", hint=hint, subject=shown)
