"""The ``local`` and ``tar`` exporters: the files of a result, at the client."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final

from typing_extensions import override

from lading.builder.exporters.assemble import Built, statement, unbundled
from lading.builder.exporters.tarball import archive
from lading.builder.model import ExportContext, Exporter
from lading.builder.progress import step
from lading.builder.results import Attestation, Result
from lading.core.session import TreePart
from lading.errors import FailedPreconditionError, InvalidArgumentError, UnsupportedError
from lading.formats.tar.writer import END
from lading.kit import aio
from lading.oci import mediatypes
from lading.oci import platform as platforms
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest

_FILE_NAMES: Final = {
    "https://slsa.dev/provenance/v0.2": "provenance.json",
    "https://slsa.dev/provenance/v1": "provenance.json",
    "https://spdx.dev/Document": "sbom.spdx.json",
}
_CHUNK: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class FilesOptions:
    """``split`` puts each platform into a directory of its own; ``None`` does so if there are several."""

    split: bool | None = None
    attestation_prefix: str = ""
    epoch: int | None = None


class FilesExporter(Exporter):
    """Sends the trees of a result, with attestations as files beside them."""

    def __init__(self, options: FilesOptions, *, tar: bool) -> None:
        self._options = options
        self._tar = tar

    @override
    async def export(self, result: Result, context: ExportContext) -> Mapping[str, str]:
        if context.session is None:
            raise FailedPreconditionError("files need a client that takes them", hint="build with a session")
        several = set(result.refs) != {""}
        split = several if self._options.split is None else self._options.split
        if len(result.refs) > 1 and not split:
            raise UnsupportedError(
                "files of several platforms in one directory are not offered", hint="leave platform-split out"
            )
        name = "sending tarball" if self._tar else "exporting to client directory"
        async with AsyncExitStack() as stack:
            parts: list[TreePart] = []
            for key, ref in sorted(result.refs.items()):
                prefix = key.replace("/", "_") if split else ""
                root = await stack.enter_async_context(ref.mount()) if ref is not None else None
                files = await self._attestation_files(result.attestations.get(key, ()))
                parts.append(TreePart(prefix=prefix, root=root, files=files))
            with step(context.progress, name, key=f"{context.ref}/{context.index}") as vertex:
                if self._tar:
                    await self._send_tar(parts, context)
                else:
                    with vertex.part("copying files"):
                        await context.session.send_tree(context.index, parts, epoch=self._options.epoch)
        return {}

    async def _attestation_files(self, attestations: Sequence[Attestation]) -> dict[str, bytes]:
        files: dict[str, bytes] = {}
        for attestation in await unbundled([each for each in attestations if not each.inline_only]):
            name = _FILE_NAMES.get(attestation.predicate_type, "attestation.json")
            name = f"{self._options.attestation_prefix}{name}"
            if name in files:
                raise InvalidArgumentError(f"two attestations would be the file {name!r}")
            files[name] = await statement(attestation, _NOTHING, ())
        return files

    async def _send_tar(self, parts: Sequence[TreePart], context: ExportContext) -> None:
        assert context.session is not None
        epoch = self._options.epoch
        async with context.session.open_output(context.index, {}) as stream:
            for part in parts:
                chunks = archive(part, epoch=epoch)
                while chunk := await aio.run(aio.DATA, _gather, chunks):
                    await stream.send(chunk)
            await stream.send(END)


_NOTHING: Final = Built(
    id="",
    platform=platforms.host(),
    manifest=Descriptor(media_type=mediatypes.OCI_MANIFEST, digest=Digest.of(b""), size=0),
    config=Descriptor(media_type=mediatypes.OCI_CONFIG, digest=Digest.of(b""), size=0),
    layers=(),
)


def _gather(chunks: Iterator[bytes]) -> bytes:
    gathered = bytearray()
    for chunk in chunks:
        gathered += chunk
        if len(gathered) >= _CHUNK:
            break
    return bytes(gathered)
