"""Wire shapes of images, per API version. Pure: records in, JSON objects out."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from lading.core.facts import Kind
from lading.core.remotes import SearchResult
from lading.images.listing import ImageRow, ManifestRow
from lading.images.removal import Removed
from lading.images.service import HistoryRow, ImageDetail
from lading.images.statements import Identity, Statement
from lading.kit import times
from lading.oci import mediatypes
from lading.oci.config import ImageConfig, RunConfig
from lading.oci.descriptor import Descriptor, Platform

Json = dict[str, Any]
NO_IDENTITIES: Final[Mapping[str, Identity]] = {}
Version = tuple[int, int]


def descriptor(desc: Descriptor) -> Json:
    """An OCI descriptor."""
    shape: Json = {"mediaType": desc.media_type, "digest": str(desc.digest), "size": desc.size}
    if desc.urls:
        shape["urls"] = list(desc.urls)
    if desc.annotations:
        shape["annotations"] = dict(desc.annotations)
    if desc.platform is not None:
        shape["platform"] = platform(desc.platform)
    if desc.artifact_type:
        shape["artifactType"] = desc.artifact_type
    return shape


def platform(value: Platform) -> Json:
    """An OCI platform, empty fields left out as Go does."""
    shape: Json = {"architecture": value.architecture, "os": value.os}
    if value.os_version:
        shape["os.version"] = value.os_version
    if value.os_features:
        shape["os.features"] = list(value.os_features)
    if value.variant:
        shape["variant"] = value.variant
    return shape


def _as_it_is(desc: Descriptor) -> Descriptor | Json:
    """As `descriptor`, but for what has the same form on the wire as in a document: a list has very many."""
    plain = desc.data is None and (desc.platform is None or _complete(desc.platform))
    return desc if plain else descriptor(desc)


def _complete(value: Platform) -> bool:
    return bool(value.architecture and value.os)


def unix_seconds(created: str) -> int:
    """Seconds since the epoch of a config's creation time; 0 if it names none."""
    return times.parse_nano(created) // times.SECOND


def list_row(
    row: ImageRow,
    version: Version,
    *,
    manifests: bool = False,
    usage: bool = False,
    identities: Mapping[str, Identity] = NO_IDENTITIES,
) -> Json:
    """An item of ``GET /images/json``, or of ``usage``: that tells older clients too how many containers use an image."""
    tags, digests = row.tags, row.digests
    if version < (1, 43):
        tags = tags or ("<none>:<none>",)
        digests = digests or ("<none>@<none>",)
    shape: Json = {
        "Id": str(row.target.digest),
        "ParentId": row.parent,
        "RepoTags": tags,
        "RepoDigests": digests,
        "Created": row.created // times.SECOND,
        "Size": row.size,
        "SharedSize": row.shared,
        "Labels": row.labels or None,
        "Containers": row.containers if usage or version >= (1, 51) else -1,
    }
    if version < (1, 44):
        shape["VirtualSize"] = row.size
    if mediatypes.is_config(row.target.media_type):
        return shape  # the classic store knows neither
    if version >= (1, 48):
        shape["Descriptor"] = _as_it_is(row.target)
    if manifests and version >= (1, 47):
        shape["Manifests"] = [manifest_row(m, identities) for m in row.manifests]
    return shape


def manifest_row(row: ManifestRow, identities: Mapping[str, Identity] = NO_IDENTITIES) -> Json:
    """An item of ``Manifests``; what is not here is listed as unavailable."""
    facts = row.facts
    shape: Json = {
        "ID": facts.descriptor.digest,
        "Descriptor": _as_it_is(facts.descriptor),
        "Available": row.available,
        "Size": {"Content": row.content, "Total": row.content + row.unpacked},
        "Kind": facts.kind,
    }
    if facts.kind is Kind.IMAGE:
        shape["ImageData"] = {
            "Platform": facts.platform if _complete(facts.platform) else platform(facts.platform),
            "Containers": row.containers,
            "Size": {"Unpacked": row.unpacked},
        }
        if identities:
            shape["ImageData"] |= identity(identities.get(facts.descriptor.digest))
    elif facts.kind is Kind.ATTESTATION:
        shape["AttestationData"] = {"For": facts.attests}
    return shape


def identity(value: Identity | None) -> Json:
    """The ``Identity`` field; nothing where nothing is known. Signatures are not verified here, so that none is claimed."""
    if not value:
        return {}
    shape: Json = {}
    if value.pulled:
        shape["Pull"] = [{"Repository": name} for name in value.pulled]
    if value.built:
        shape["Build"] = [
            {"Ref": ref, "CreatedAt": created or times.ZERO} for ref, created in value.built.items()
        ]
    return {"Identity": shape}


def statement(value: Statement) -> Json:
    """An item of ``GET /images/{name}/attestations``."""
    shape: Json = {"Descriptor": descriptor(value.descriptor), "PredicateType": value.predicate}
    if value.body is not None:
        shape["Statement"] = msgspec.Raw(value.body)
    return shape


def search_result(value: SearchResult) -> Json:
    """An item of ``GET /images/search``."""
    return {
        "star_count": value.stars,
        "is_official": value.official,
        "name": value.name,
        "is_automated": False,
        "description": value.description,
    }


def inspect(detail: ImageDetail, version: Version, *, manifests: bool, chosen: bool, driver: str) -> Json:
    """``GET /images/{name}/json``. ``chosen`` tells that a platform was asked for, whose digest is then the ID."""
    manifest = detail.manifest
    config = detail.config
    subject = manifest.descriptor if chosen and manifest else detail.target
    shape: Json = {
        "Id": str(subject.digest),
        "RepoTags": list(detail.tags),
        "RepoDigests": list(detail.digests),
        "Created": (config.created if config else None) or times.ZERO,
        "Config": run_config(config.run, version) if config else None,
        "Architecture": config.architecture if config else "",
        "Os": config.os if config else "",
        "Size": detail.size,
        "RootFS": {"Type": "layers", "Layers": [str(d) for d in config.rootfs.diff_ids]}
        if config
        else {"Type": ""},
        "Metadata": {"LastTagTime": times.format_nano(detail.tagged_at)},
    }
    if config and config.variant:
        shape["Variant"] = config.variant
    if config and config.os_version:
        shape["OsVersion"] = config.os_version
    shape |= (
        _told_always(detail.parent, config)
        if version < (1, 52)
        else _present(_told_always(detail.parent, config))
    )
    if version < (1, 45):
        shape["Container"] = ""
        shape["ContainerConfig"] = None
    if version < (1, 44):
        shape["VirtualSize"] = detail.size
    if detail.trees is not None:
        shape["GraphDriver"] = {"Data": dict(detail.trees) or None, "Name": driver}
        made_by = config.docker_version if config else ""
        return shape | ({"DockerVersion": made_by} if made_by or version < (1, 52) else {})
    if version <= (1, 51):
        shape["GraphDriver"] = {"Data": None, "Name": driver}
        shape["DockerVersion"] = ""
    if version >= (1, 48):
        shape["Descriptor"] = descriptor(subject)
        if manifests:
            shape["Manifests"] = [manifest_row(m) for m in detail.rows]
    return shape


def _told_always(parent: str, config: ImageConfig | None) -> Json:
    """Fields that 1.52 leaves out where they are empty."""
    return {
        "Parent": parent,
        "Comment": (config.history[-1].comment if config and config.history else ""),
        "Author": config.author if config else "",
    }


def run_config(run: RunConfig, version: Version) -> Json:
    """An image's container defaults. Before 1.50 (moby: 1.52) Docker also sent the empty container-only fields."""
    shape: Json = {
        "ExposedPorts": run.exposed_ports,
        "Env": list(run.env) if run.env is not None else None,
        "Cmd": list(run.cmd) if run.cmd is not None else None,
        "Volumes": run.volumes,
        "WorkingDir": run.working_dir,
        "Entrypoint": list(run.entrypoint) if run.entrypoint is not None else None,
        "User": run.user,
        "Labels": run.labels,
        "OnBuild": list(run.on_build) if run.on_build is not None else None,
        "StopSignal": run.stop_signal,
        "ArgsEscaped": run.args_escaped,
        "Shell": list(run.shell) if run.shell is not None else None,
    }
    if run.healthcheck is not None:
        check = run.healthcheck
        shape["Healthcheck"] = _present(
            {
                "Test": list(check.test),
                "Interval": check.interval,
                "Timeout": check.timeout,
                "StartPeriod": check.start_period,
                "StartInterval": check.start_interval,
                "Retries": check.retries,
            }
        )
    if version >= (1, 52):
        return _present(shape)
    for key in ("ExposedPorts", "StopSignal", "ArgsEscaped", "Shell"):
        if not shape[key]:
            del shape[key]
    if version < (1, 50):
        shape |= {
            "Hostname": "",
            "Domainname": "",
            "AttachStdin": False,
            "AttachStdout": False,
            "AttachStderr": False,
            "Tty": False,
            "OpenStdin": False,
            "StdinOnce": False,
            "Image": "",
        }
    return shape


def _present(shape: Mapping[str, Any]) -> Json:
    return {key: value for key, value in shape.items() if value}


def history_row(row: HistoryRow) -> Json:
    """An item of ``GET /images/{name}/history``."""
    return {
        "Id": row.id,
        "Created": unix_seconds(row.history.created or ""),
        "CreatedBy": row.history.created_by,
        "Tags": list(row.tags) or None,
        "Size": row.size,
        "Comment": row.history.comment,
    }


def removed(lines: Sequence[Removed]) -> list[Json]:
    """The answer of a removal or a prune."""
    return [{line.change.value: line.subject} for line in lines]
