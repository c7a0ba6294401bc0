"""Adds the attestations that a client asked for to a result."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from typing_extensions import override

from lading.builder.attest import provenance
from lading.builder.attest.captured import Captured, capture
from lading.builder.attest.provenance import Subject, Wish
from lading.builder.control import Build, Finisher
from lading.builder.results import Attestation, Layer, Ref, Result

_PROVENANCE: Final = "attest:provenance"
_LOCALS: Final = {"dockerfile.v0": ("context", "dockerfile")}


class ProvenanceFinisher(Finisher):
    """Provenance for every platform of a result."""

    @override
    async def finish(self, result: Result, build: Build) -> Result:
        wish = (
            provenance.parse(build.wish.options[_PROVENANCE]) if _PROVENANCE in build.wish.options else None
        )
        if wish is None:
            return result
        attestations: dict[str, Sequence[Attestation]] = dict(result.attestations)
        for key, ref in result.refs.items():
            subject = subject_of(build, ref)
            # SBOMs come first, as BuildKit orders them.
            attestations[key] = [*attestations.get(key, ()), _attestation(subject, wish)]
        return replace(result, attestations=attestations)


def _attestation(subject: Subject, wish: Wish) -> Attestation:
    def body(layers: Sequence[Layer]) -> bytes:
        return provenance.predicate(subject, wish, layers, finished=time.time_ns())

    return Attestation(predicate_type=wish.version, body=body, inline_only=wish.inline_only)


def subject_of(build: Build, ref: Ref | None) -> Subject:
    """What provenance tells of one ref of a build."""
    return Subject(
        ref=build.wish.ref,
        frontend=build.frontend,
        options=build.options,
        captured=Captured() if ref is None else capture(ref.definition),
        started=build.started,
        native=provenance.native_platform(),
        locals=_locals(build.frontend, build.options),
    )


def _locals(frontend: str, options: Mapping[str, str]) -> Sequence[str]:
    """Directories that a frontend reads without a trace in the result."""
    return () if "context" in options else _LOCALS.get(frontend, ())


def record_of(build: Build, ref: Ref | None) -> tuple[str, bytes]:
    """Provenance as the history keeps it: in full, and without layers."""
    wish = Wish(full=True)
    return wish.version, provenance.predicate(subject_of(build, ref), wish, (), finished=time.time_ns())
