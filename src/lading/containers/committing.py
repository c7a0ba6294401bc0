"""``docker commit``: a container's changes become an image, whose configuration is that of the container as it was asked for."""

import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import anyio
import msgspec

from lading.containers.environment import Environment
from lading.containers.lifecycle import Lifecycle
from lading.containers.model import Container
from lading.containers.mountpoints import MADE
from lading.errors import ConflictError, InvalidArgumentError, LadingError
from lading.oci.config import Healthcheck, RunConfig
from lading.oci.digest import Digest
from lading.oci.reference import Reference
from lading.transfer.commit import CommitOptions

V = TypeVar("V")


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitRequest:
    """What is asked for. ``config`` is a container configuration in Docker's form, empty for the container's own; ``changes``
    are Dockerfile instructions; ``pause`` freezes the container meanwhile.
    """

    reference: Reference | None = None
    comment: str = ""
    author: str = ""
    pause: bool = True
    changes: Sequence[str] = ()
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])


async def commit(
    environment: Environment, life: Lifecycle, container: Container, asked: CommitRequest
) -> str:
    """Make the image; its ID.

    Raises:
        InvalidArgumentError: A change is no instruction that may stand here.
        ConflictError: The container is being removed.

    """
    if container.removed.is_set() or container.state.removing:
        raise ConflictError(f"cannot commit container {container.id} which is being removed")
    own = _run_config(container.document.config)
    given = _run_config(asked.config) if asked.config else own
    from lading.transfer import changes  # noqa: PLC0415 - reads Dockerfiles, which most daemons never do

    config = merged(changes.apply(given, asked.changes), own)
    options = CommitOptions(
        config=config,
        created_by=" ".join(own.cmd or ()),
        comment=asked.comment,
        author=asked.author,
    )
    async with _still(life, container) if asked.pause else contextlib.nullcontext():
        difference = environment.differ.open_diff(container.record.snapshot_key, without=MADE)
        made = await environment.images.commit(
            container.document.manifest,
            difference,
            options,
            reference=asked.reference,
            parent=Digest(container.record.target),
        )
    image = str(made.digest)
    attributes = container.attributes(
        comment=asked.comment,
        imageID=image,
        imageRef=asked.reference.with_default_tag().familiar if asked.reference else "",
    )
    environment.bus.publish("container", "commit", container.id, attributes)
    return image


@contextlib.asynccontextmanager
async def _still(life: Lifecycle, container: Container) -> AsyncGenerator[None]:
    """Frozen meanwhile, if it runs."""
    if not container.state.running or container.state.paused:
        yield
        return
    await life.pause(container, held=True)
    try:
        yield
    finally:
        with anyio.CancelScope(shield=True), contextlib.suppress(LadingError):
            await life.unpause(container)


def _run_config(raw: Mapping[str, Any]) -> RunConfig:
    try:
        return msgspec.convert({key: value for key, value in raw.items() if value is not None}, RunConfig)
    except msgspec.ValidationError as exc:
        raise InvalidArgumentError(f"invalid container configuration: {exc}") from exc


def merged(asked: RunConfig, own: RunConfig) -> RunConfig:
    """``asked``, and what it leaves open from the container's own (moby, ``daemon/commit.go``, ``merge``)."""
    cmd, entrypoint = asked.cmd, asked.entrypoint
    if not entrypoint:
        cmd = cmd or own.cmd
        entrypoint = own.entrypoint if entrypoint is None else entrypoint
    names = {entry.partition("=")[0] for entry in asked.env or ()}
    env = (
        *(asked.env or ()),
        *(entry for entry in own.env or () if entry.partition("=")[0] not in names),
    )
    return msgspec.structs.replace(
        asked,
        user=asked.user or own.user,
        exposed_ports=_both(own.exposed_ports, asked.exposed_ports),
        env=env or None,
        entrypoint=entrypoint,
        cmd=cmd,
        volumes=_both(own.volumes, asked.volumes),
        working_dir=asked.working_dir or own.working_dir,
        labels=_both(own.labels, asked.labels),
        stop_signal=asked.stop_signal or own.stop_signal,
        healthcheck=_health(asked.healthcheck, own.healthcheck),
        shell=asked.shell or own.shell,
    )


def _both(own: dict[str, V] | None, asked: dict[str, V] | None) -> dict[str, V] | None:
    return {**(own or {}), **(asked or {})} or None


def _health(asked: Healthcheck | None, own: Healthcheck | None) -> Healthcheck | None:
    if asked is None or own is None:
        return asked or own
    values = {name: getattr(asked, name) or getattr(own, name) for name in Healthcheck.__struct_fields__}
    return Healthcheck(**values)
