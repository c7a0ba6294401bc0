"""From a result to an image's documents in the store: configs, manifests, attestation manifests, and the index over them."""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from lading.builder.exporters import configs
from lading.builder.exporters.attributes import ImageOptions
from lading.builder.progress import Step
from lading.builder.results import Attestation, Compression, Layer, Ref, Result
from lading.core.leases import LeaseID
from lading.errors import InvalidArgumentError
from lading.kit.tasks import task_group
from lading.oci import mediatypes
from lading.oci import platform as platforms
from lading.oci.descriptor import Descriptor, Platform
from lading.oci.digest import Digest
from lading.oci.document import encode
from lading.oci.manifest import (
    ANNOTATION_REFERENCE_DIGEST,
    ANNOTATION_REFERENCE_TYPE,
    ATTESTATION_TYPE,
    Index,
    Manifest,
    descriptor_of,
)
from lading.oci.reference import Reference
from lading.transfer.documents import Documents, Pending

CONFIG_KEY: Final = "containerimage.config"
INLINE_CACHE_KEY: Final = "containerimage.inlinecache"
PREDICATE_KEY: Final = "in-toto.io/predicate-type"
_STATEMENT: Final = "https://in-toto.io/Statement/v0.1"
_ARTIFACT: Final = "application/vnd.docker.attestation.manifest.v1+json"
_EMPTY: Final = b"{}"
_UNKNOWN: Final = Platform(architecture="unknown", os="unknown")
_OCI_LAYERS: Final = {
    "": mediatypes.OCI_LAYER,
    "gzip": mediatypes.OCI_LAYER_GZIP,
    "zstd": mediatypes.OCI_LAYER_ZSTD,
}
_DOCKER_LAYERS: Final = {
    "": mediatypes.DOCKER_LAYER,
    "gzip": mediatypes.DOCKER_LAYER_GZIP,
    "zstd": mediatypes.DOCKER_LAYER_ZSTD,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """One platform of an image."""

    id: str
    """The platform's ID in the result; empty if it is the only one."""
    platform: Platform
    manifest: Descriptor
    config: Descriptor
    layers: Sequence[Layer]
    attestations: Descriptor | None = None
    statements: Sequence[Descriptor] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembled:
    """An image in the store, held by the export's lease."""

    target: Descriptor
    platforms: Sequence[Built]

    @property
    def is_index(self) -> bool:
        """Whether the target is an index."""
        return mediatypes.is_index(self.target.media_type)


def config_of(result: Result, id: str) -> bytes | None:
    """The frontend's config for a platform of the result."""
    if id and (found := result.metadata.get(f"{CONFIG_KEY}/{id}")):
        return found
    return result.metadata.get(CONFIG_KEY)


class _Statement(msgspec.Struct, frozen=True):
    """What a scanner writes."""

    predicate: msgspec.Raw
    predicate_type: str = msgspec.field(name="predicateType", default="")


class Assembler:
    """Makes the documents of one export."""

    def __init__(
        self,
        documents: Documents,
        *,
        options: ImageOptions,
        lease: LeaseID,
        host: Platform,
        inline_only: bool,
        step: Step,
        inline_cache: Callable[[Ref, Sequence[str]], Awaitable[bytes | None]] | None = None,
    ) -> None:
        self._documents = documents
        self._options = options
        self._lease = lease
        self._host = host
        self._inline_only = inline_only
        self._step = step
        self._inline_cache = inline_cache
        self._oci = False
        self._pending = Pending()

    async def assemble(self, result: Result) -> Assembled:
        """Run.

        Raises what solving the refs raises; `InvalidArgumentError` for a config that is none and annotations that go nowhere.
        """
        wanted = {key: self._attestations(result, key) for key in result.refs}
        several = set(result.refs) != {""}
        attested = any(wanted.values())
        self._check_annotations(result, indexed=several or attested)
        self._oci = self._wants_oci(attested=attested)
        made = dict[str, Built]()
        with self._step.part("exporting layers"):
            layers = await self._all_layers(result)
        for key in result.refs:
            made[key] = await self._image(result, key, layers[key], wanted[key])
        if not several and not attested:
            assembled = Assembled(target=made[""].manifest, platforms=[made[""]])
        else:
            built = list(made.values())
            assembled = Assembled(target=self._index(built), platforms=built)
        await self._documents.put_all(self._pending, lease=self._lease)
        return assembled

    def _check_annotations(self, result: Result, *, indexed: bool) -> None:
        """That none is lost."""
        annotations = self._options.annotations
        if not indexed and any(annotations.of_index(place) for place in ("index", "index-descriptor")):
            raise InvalidArgumentError(
                "index annotations not supported for single platform export",
                hint="build for several platforms or with attestations, or annotate the manifest",
            )
        if len(result.refs) > 1 and (missing := annotations.platforms - result.refs.keys()):
            raise InvalidArgumentError(f"invalid annotation: no platform {min(missing)} found in source")

    def _wants_oci(self, *, attested: bool) -> bool:
        options = self._options
        needed = (
            attested
            or options.annotations.needs_oci
            or options.form.compression in (Compression.ZSTD, Compression.ESTARGZ)
        )
        if options.oci is False and needed:
            self._step.warn("OCI media types are used: Docker's cannot hold what this image has")
        return needed or bool(options.oci)

    def _attestations(self, result: Result, id: str) -> Sequence[Attestation]:
        return [
            each
            for each in result.attestations.get(id, ())
            if self._options.inline_attestations and (self._inline_only or not each.inline_only)
        ]

    async def _all_layers(self, result: Result) -> Mapping[str, Sequence[Layer]]:
        found: dict[str, Sequence[Layer]] = {}

        async def one(id: str, ref: Ref | None) -> None:
            found[id] = [] if ref is None else await ref.layers(self._options.form, lease=self._lease)

        async with task_group() as tasks:
            for key, ref in result.refs.items():
                tasks.start_soon(one, key, ref)
        return found

    async def _image(
        self, result: Result, id: str, layers: Sequence[Layer], attestations: Sequence[Attestation]
    ) -> Built:
        cache = result.metadata.get(f"{INLINE_CACHE_KEY}/{id}" if id else INLINE_CACHE_KEY)
        ref = result.refs[id]
        if self._inline_cache is not None and ref is not None:
            cache = await self._inline_cache(ref, [layer.descriptor.digest for layer in layers])
        wanted = platforms.parse(id) if id else self._host
        config = configs.make(
            config_of(result, id), layers, wanted, epoch=self._options.epoch, inline_cache=cache
        )
        described = descriptor_of(
            config.body, mediatypes.OCI_CONFIG if self._oci else mediatypes.DOCKER_CONFIG
        )
        place = platforms.formatted(config.platform)
        manifest = Manifest(
            schema_version=2,
            media_type=mediatypes.OCI_MANIFEST if self._oci else mediatypes.DOCKER_MANIFEST,
            config=described,
            layers=tuple(self._layer(layer) for layer in layers),
            annotations=self._options.annotations.of("manifest", place),
        )
        body = encode(manifest)
        target = descriptor_of(body, manifest.media_type)
        with self._step.part(f"exporting manifest {target.digest}"):
            pass
        with self._step.part(f"exporting config {described.digest}"):
            self._pending.add(described, config.body)
        self._pending.add(target, body)
        extra = self._options.annotations.of("manifest-descriptor", place)
        target = msgspec.structs.replace(target, platform=config.platform, annotations=extra)
        built = Built(id=id, platform=config.platform, manifest=target, config=described, layers=layers)
        return await self._attested(built, attestations) if attestations else built

    def _layer(self, layer: Layer) -> Descriptor:
        descriptor = layer.descriptor
        if descriptor.media_type in mediatypes.FOREIGN_LAYERS:
            return descriptor
        compression = mediatypes.LAYER_COMPRESSION[descriptor.media_type]
        kinds = _OCI_LAYERS if self._oci else _DOCKER_LAYERS
        return Descriptor(
            media_type=kinds[compression],
            digest=descriptor.digest,
            size=descriptor.size,
            annotations=descriptor.annotations if self._oci else {},
        )

    async def _attested(self, built: Built, attestations: Sequence[Attestation]) -> Built:
        statements: list[Descriptor] = []
        for attestation in await unbundled(attestations):
            body = await statement(attestation, built, self._options.names)
            described = msgspec.structs.replace(
                descriptor_of(body, mediatypes.IN_TOTO),
                annotations={PREDICATE_KEY: attestation.predicate_type},
            )
            self._pending.add(described, body)
            statements.append(described)
        manifest = self._attestation_manifest(built, statements)
        body = encode(manifest)
        target = descriptor_of(body, manifest.media_type)
        with self._step.part(f"exporting attestation manifest {target.digest}"):
            self._pending.add(target, body)
        return Built(
            id=built.id,
            platform=built.platform,
            manifest=built.manifest,
            config=built.config,
            layers=built.layers,
            attestations=msgspec.structs.replace(
                target,
                platform=_UNKNOWN,
                annotations={
                    ANNOTATION_REFERENCE_TYPE: ATTESTATION_TYPE,
                    ANNOTATION_REFERENCE_DIGEST: built.manifest.digest,
                },
            ),
            statements=statements,
        )

    def _attestation_manifest(self, built: Built, statements: Sequence[Descriptor]) -> Manifest:
        if self._options.oci_artifact:
            config = descriptor_of(_EMPTY, mediatypes.OCI_EMPTY)
            body, artifact = _EMPTY, _ARTIFACT
            subject = msgspec.structs.replace(built.manifest, platform=None, annotations={})
        else:
            document = {
                "architecture": "unknown",
                "os": "unknown",
                "config": {},
                "rootfs": {"type": "layers", "diff_ids": [str(each.digest) for each in statements]},
            }
            body, artifact, subject = json.dumps(document, separators=(",", ":")).encode(), "", None
            config = descriptor_of(body, mediatypes.OCI_CONFIG)
        self._pending.add(config, body)
        return Manifest(
            schema_version=2,
            media_type=mediatypes.OCI_MANIFEST,
            artifact_type=artifact,
            config=config,
            layers=tuple(statements),
            subject=subject,
        )

    def _index(self, made: Sequence[Built]) -> Descriptor:
        attestations = [each.attestations for each in made if each.attestations is not None]
        index = Index(
            schema_version=2,
            media_type=mediatypes.OCI_INDEX if self._oci else mediatypes.DOCKER_INDEX,
            manifests=(*(each.manifest for each in made), *attestations),
            annotations=self._options.annotations.of_index("index"),
        )
        body = encode(index)
        target = descriptor_of(body, index.media_type)
        with self._step.part(f"exporting manifest list {target.digest}"):
            self._pending.add(target, body)
        extra = self._options.annotations.of_index("index-descriptor")
        return msgspec.structs.replace(target, annotations=extra) if extra else target


async def unbundled(attestations: Sequence[Attestation]) -> list[Attestation]:
    """The same, with each statement of a bundle on its own. Raises `InvalidArgumentError` for one that is none."""
    found: list[Attestation] = []
    for attestation in attestations:
        if attestation.ref is None or attestation.path != "/":
            found.append(attestation)
            continue
        for entry in await attestation.ref.read_dir("/", pattern="*.json"):
            raw = await attestation.ref.read_file(entry.path)
            try:
                document = msgspec.json.decode(raw, type=_Statement)
            except (msgspec.MsgspecError, RecursionError) as exc:
                raise InvalidArgumentError(f"the scanner's {entry.path} is no in-toto statement") from exc
            found.append(
                Attestation(
                    predicate_type=document.predicate_type or attestation.predicate_type,
                    body=bytes(document.predicate),
                    inline_only=attestation.inline_only,
                )
            )
    return found


async def statement(attestation: Attestation, built: Built, names: Sequence[Reference]) -> bytes:
    """The in-toto statement about an image: its subjects are the image's names, and its digest.

    Raises `InvalidArgumentError` if the predicate is not JSON.
    """
    raw = attestation.body(built.layers) if callable(attestation.body) else attestation.body
    if raw is None:
        if attestation.ref is None:
            raise InvalidArgumentError(f"the attestation {attestation.predicate_type} has no content")
        raw = await attestation.ref.read_file(attestation.path)
    try:
        predicate: object = json.loads(raw)
    except (ValueError, RecursionError) as exc:
        raise InvalidArgumentError(f"the attestation {attestation.predicate_type} is not JSON") from exc
    digest = {built.manifest.digest.algorithm: built.manifest.digest.hex}
    document = {
        "_type": _STATEMENT,
        "predicateType": attestation.predicate_type,
        "subject": [{"name": purl(name, built.platform), "digest": digest} for name in names],
        "predicate": predicate,
    }
    return json.dumps(document, ensure_ascii=False, indent=2).encode(errors="replace")


def purl(name: Reference, platform: Platform | None, digest: Digest | None = None) -> str:
    """An image as a package URL: ``pkg:docker/name@tag?platform=linux%2Famd64``."""
    version = f"@{digest or name.tag}" if digest or name.tag else ""
    place = f"?platform={platforms.formatted(platform).replace('/', '%2F')}" if platform else ""
    return f"pkg:docker/{name.familiar_name}{version}{place}"
