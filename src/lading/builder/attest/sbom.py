"""A bill of materials without a scanner image: what package managers say, as SPDX 2.3 (spdx.github.io/spdx-spec/v2.3)."""

import hashlib
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from typing_extensions import override

from lading.builder.attest.packages import Package, scan
from lading.builder.control import Build, Finisher
from lading.builder.progress import step
from lading.builder.results import Attestation, Ref, Result
from lading.kit import aio, times
from lading.kit.tasks import task_group

SPDX: Final = "https://spdx.dev/Document"
_OPTION: Final = "attest:sbom"
_EPOCH: Final = "build-arg:SOURCE_DATE_EPOCH"
_UNFIT: Final = re.compile(r"[^A-Za-z0-9.-]+")
_LICENSE: Final = re.compile(r"[A-Za-z0-9.+-]+(?: (?:AND|OR|WITH) [A-Za-z0-9.+-]+)*")
_NO: Final = "NOASSERTION"


class SbomFinisher(Finisher):
    """Lists what is in each platform of a result, if a client asks for that and names no scanner."""

    @override
    async def finish(self, result: Result, build: Build) -> Result:
        if not wanted(build.wish.options):
            return result
        attestations: dict[str, Sequence[Attestation]] = dict(result.attestations)

        async def one(key: str, ref: Ref | None) -> None:
            name = f"[{key}] generating sbom" if key else "generating sbom"
            with step(build.log, name, key=f"{build.wish.ref}/sbom"):
                body = await describe(ref, epoch=_epoch(build.wish.options))
            attestations[key] = [
                Attestation(predicate_type=SPDX, body=body),
                *attestations.get(key, ()),
            ]

        async with task_group() as tasks:
            for key, ref in result.refs.items():
                tasks.start_soon(one, key, ref)
        return replace(result, attestations=attestations)


def wanted(options: Mapping[str, str]) -> bool:
    """Whether the client wants a list and leaves to us how it is made."""
    if _OPTION not in options:
        return False
    parts = [part.partition("=") for part in options[_OPTION].split(",")]
    fields = {key: value for key, _, value in parts}
    return fields.get("disabled", "false") in ("false", "0", "") and "generator" not in fields


def _epoch(options: Mapping[str, str]) -> int | None:
    text = options.get(_EPOCH, "")
    return int(text) if text.isdecimal() else None


async def describe(ref: Ref | None, *, epoch: int | None) -> bytes:
    """The SPDX document of a tree, as JSON."""
    packages: list[Package] = []
    if ref is not None:
        async with ref.mount() as root:
            packages = await aio.run(aio.DISK, scan, root)
    created = epoch * 10**9 if epoch is not None else time.time_ns() // 10**9 * 10**9
    return json.dumps(document(packages, created=created), ensure_ascii=False, separators=(",", ":")).encode()


def document(packages: Sequence[Package], *, created: int) -> dict[str, Any]:
    """An SPDX document. ``created`` is nanoseconds since the epoch; the same packages have the same namespace."""
    elements = [_element(package) for package in packages]
    known = hashlib.sha256("\n".join(f"{each.purl} {each.source}" for each in packages).encode()).hexdigest()
    root = "SPDXRef-DocumentRoot-Directory-sbom"
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": "sbom",
        "documentNamespace": f"https://lading.invalid/spdx/{known}",
        "creationInfo": {
            "creators": ["Tool: lading", "Tool: buildkit-v0.25.2"],
            "created": times.format_nano(created),
        },
        "packages": [
            *elements,
            {
                "name": "sbom",
                "SPDXID": root,
                "downloadLocation": _NO,
                "filesAnalyzed": False,
                "primaryPackagePurpose": "FILE",
                "licenseConcluded": _NO,
                "licenseDeclared": _NO,
                "copyrightText": _NO,
            },
        ],
        "relationships": [
            {
                "spdxElementId": "SPDXRef-DOCUMENT",
                "relationshipType": "DESCRIBES",
                "relatedSpdxElement": root,
            },
            *(
                {
                    "spdxElementId": root,
                    "relationshipType": "CONTAINS",
                    "relatedSpdxElement": element["SPDXID"],
                }
                for element in elements
            ),
        ],
    }


def _element(package: Package) -> dict[str, Any]:
    mark = hashlib.sha256(f"{package.purl} {package.source}".encode()).hexdigest()[:16]
    terms = package.license if _LICENSE.fullmatch(package.license) else _NO
    return {
        "name": package.name,
        "SPDXID": f"SPDXRef-Package-{_UNFIT.sub('-', package.name)}-{mark}",
        "versionInfo": package.version,
        "supplier": _NO,
        "downloadLocation": _NO,
        "filesAnalyzed": False,
        "sourceInfo": f"installed according to /{package.source}",
        "licenseConcluded": _NO,
        "licenseDeclared": terms,
        "copyrightText": _NO,
        "externalRefs": [
            {
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": package.purl,
            }
        ],
    }
