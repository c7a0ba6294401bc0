"""Attributes of exporters, as clients write them (BuildKit, docs/build/exporters)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from lading.builder.results import Compression, LayerForm
from lading.errors import InvalidArgumentError, UnsupportedError
from lading.oci import reference
from lading.oci.reference import Reference

_FALSE: Final = frozenset({"0", "f", "F", "false", "FALSE", "False"})
_TRUE: Final = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_ANNOTATION: Final = re.compile(
    r"annotation(-index|-index-descriptor|-manifest|-manifest-descriptor)?(?:\[([A-Za-z0-9_/,.-]+)\])?\.(.+)"
)
_NUMBER: Final = re.compile(r"-?\d{1,12}")


class Attributes:
    """The attributes of one exporter; each is taken once, and what nobody took is refused."""

    def __init__(self, kind: str, attributes: Mapping[str, str]) -> None:
        self._kind = kind
        self._left = dict(attributes)

    def text(self, key: str, default: str = "") -> str:
        """A text."""
        return self._left.pop(key, default)

    def flag(self, key: str, *, default: bool | None = None) -> bool | None:
        """A boolean as Go reads it; empty is true. Raises `InvalidArgumentError`."""
        if key not in self._left:
            return default
        value = self._left.pop(key)
        if value in _TRUE or not value:
            return True
        if value in _FALSE:
            return False
        raise InvalidArgumentError(f"invalid value {value[:64]!r} for {key}", hint="use true or false")

    def number(self, key: str) -> int | None:
        """A whole number. Raises `InvalidArgumentError`."""
        value = self._left.pop(key, "")
        if not value:
            return None
        if not _NUMBER.fullmatch(value):
            raise InvalidArgumentError(f"invalid value {value[:64]!r} for {key}", hint="use a whole number")
        return int(value)

    def annotations(self) -> "Annotations":
        """Everything that begins with ``annotation``."""
        places: dict[tuple[str, str], dict[str, str]] = {}
        for key in list(self._left):
            if found := _ANNOTATION.fullmatch(key):
                place = ((found[1] or "-manifest").removeprefix("-"), found[2] or "")
                places.setdefault(place, {})[found[3]] = self._left.pop(key)
        return Annotations(places=places)

    def finish(self) -> None:
        """Refuse what nobody took."""
        if self._left:
            key = min(self._left)
            raise InvalidArgumentError(f"the {self._kind} exporter has no attribute {key[:128]!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotations:
    """Annotations by where they go and the platform that they are for (empty for all)."""

    places: Mapping[tuple[str, str], Mapping[str, str]] = field(
        default_factory=dict[tuple[str, str], Mapping[str, str]]
    )

    def of(self, place: str, platform: str = "") -> dict[str, str]:
        """Those of a place: ``manifest`` or ``manifest-descriptor``."""
        found = dict(self.places.get((place, ""), {}))
        return found | dict(self.places.get((place, platform), {})) if platform else found

    def of_index(self, place: str) -> dict[str, str]:
        """Those of ``index`` or ``index-descriptor``: there is one, whatever platform somebody wrote."""
        found: dict[str, str] = {}
        for (where, _), annotations in self.places.items():
            found |= annotations if where == place else {}
        return found

    @property
    def platforms(self) -> frozenset[str]:
        """The platforms that some are for."""
        return frozenset(platform for _, platform in self.places if platform)

    @property
    def needs_oci(self) -> bool:
        """Whether Docker's own document types cannot hold them."""
        return bool(self.places)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageOptions:
    """How an image is made and where it goes."""

    names: tuple[Reference, ...] = ()
    push: bool = False
    push_by_digest: bool = False
    unpack: bool = False
    store: bool = True
    canonical: bool = False
    dangling_prefix: str = ""
    oci: bool | None = None
    oci_artifact: bool = False
    inline_attestations: bool = True
    attestation_prefix: str = ""
    form: LayerForm = field(default_factory=LayerForm)
    epoch: int | None = None
    """Seconds since the epoch."""
    annotations: Annotations = field(default_factory=Annotations)


_REFUSED: Final = {
    "registry.insecure": "say it in the daemon's insecure-registries",
    "prefer-nondist-layers": "layers are always stored and pushed",
}


def parse_image(attributes: Attributes, *, moby: bool) -> ImageOptions:
    """The options of ``image`` and ``moby``, and what archives share with them. Raises `InvalidArgumentError`."""
    names = parse_names(attributes.text("name"))
    epoch, rewrite = parse_times(attributes)
    unpack = bool(attributes.flag("unpack", default=moby))
    for name, hint in _REFUSED.items():
        if attributes.flag(name):
            raise UnsupportedError(f"exporter option {name} is not supported", hint=hint, subject=name)
    for name in ("dangling-name-empty-only", "danging-name-empty-only"):  # buildx writes the latter
        if attributes.flag(name, default=True) is False:
            raise UnsupportedError(
                f"{name}=false is not supported", hint="only unnamed images become dangling"
            )
    return ImageOptions(
        names=names,
        push=bool(attributes.flag("push")),
        push_by_digest=bool(attributes.flag("push-by-digest")),
        unpack=unpack,
        store=bool(attributes.flag("store", default=True)),
        canonical=bool(attributes.flag("name-canonical")),
        dangling_prefix=attributes.text("dangling-name-prefix", "moby-dangling" if moby else ""),
        oci=attributes.flag("oci-mediatypes"),
        oci_artifact=bool(attributes.flag("oci-artifact")),
        inline_attestations=bool(attributes.flag("attestation-inline", default=True)),
        attestation_prefix=attributes.text("attestation-prefix"),
        form=_form(attributes, rewrite),
        epoch=epoch,
        annotations=attributes.annotations(),
    )


def parse_times(attributes: Attributes) -> tuple[int | None, int | None]:
    """The image's time, and the latest that files in its layers have (seconds since the epoch, ``None`` for their own)."""
    epoch = attributes.number("source-date-epoch")
    if not attributes.flag("rewrite-timestamp"):
        return epoch, None
    if epoch is None:
        raise InvalidArgumentError("rewrite-timestamp needs a time", hint="set SOURCE_DATE_EPOCH")
    return epoch, epoch


def _form(attributes: Attributes, epoch: int | None) -> LayerForm:
    text = attributes.text("compression", "gzip")
    try:
        compression = Compression(text)
    except ValueError as exc:
        known = ", ".join(each.value for each in Compression)
        raise InvalidArgumentError(
            f"unsupported layer compression {text[:64]!r}", hint=f"use {known}"
        ) from exc
    return LayerForm(
        compression=compression,
        level=attributes.number("compression-level"),
        force=bool(attributes.flag("force-compression")),
        epoch=epoch,
    )


def parse_names(text: str) -> tuple[Reference, ...]:
    """Names, separated by commas, complete and each once. Raises `InvalidArgumentError`."""
    names: dict[str, Reference] = {}
    for part in text.split(","):
        if not (name := part.strip().strip('"')):
            continue
        parsed = reference.parse(name)
        if parsed.digest is not None:
            raise InvalidArgumentError(f"cannot name an image {name[:256]!r}", hint="leave the digest out")
        parsed = parsed.with_default_tag()
        names[str(parsed)] = parsed
    return tuple(names.values())
