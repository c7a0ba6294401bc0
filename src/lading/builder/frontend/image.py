"""The image config while instructions change it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, cast

import msgspec

from lading.builder.frontend.options import pair
from lading.kit.text import printable
from lading.oci import config as oci
from lading.oci import platform as platforms
from lading.oci.descriptor import Platform
from lading.oci.digest import DiffID
from lading.oci.document import encode

COMMENT: Final = "buildkit.dockerfile.v0"
"""Comment of every entry of the history that the frontend makes."""
DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(slots=True, kw_only=True)
class Draft:
    """A config. Tuples are replaced, so that a copy is shallow."""

    platform: Platform
    author: str = ""
    user: str = ""
    exposed_ports: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict[str, str])
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    working_dir: str = ""
    labels: dict[str, str] = field(default_factory=dict[str, str])
    stop_signal: str = ""
    args_escaped: bool = False
    healthcheck: oci.Healthcheck | None = None
    on_build: tuple[str, ...] = ()
    shell: tuple[str, ...] = ()
    diff_ids: tuple[DiffID, ...] = ()
    history: list[oci.History] = field(default_factory=list[oci.History])

    def copy(self) -> "Draft":
        """An independent draft."""
        return replace(self, env=dict(self.env), labels=dict(self.labels), history=list(self.history))

    @property
    def entries(self) -> int:
        """How much a copy has to copy."""
        return len(self.env) + len(self.labels) + len(self.history)

    def record(self, created_by: str, *, layer: bool, epoch: str | None = None) -> None:
        """Add to the history; ``epoch`` is RFC 3339 text."""
        entry = oci.History(created=epoch, created_by=created_by, comment=COMMENT, empty_layer=not layer)
        self.history.append(entry)

    def encoded(self) -> bytes:
        """The config's bytes. Layers that the build adds are not in it yet, nor is the time."""
        config = oci.ImageConfig(
            author=self.author,
            architecture=self.platform.architecture,
            os=self.platform.os,
            os_version=self.platform.os_version,
            os_features=self.platform.os_features or None,
            variant=self.platform.variant,
            rootfs=oci.RootFS(type="layers", diff_ids=self.diff_ids),
            history=tuple(self.history) or None,
            config=self._run(),
        )
        try:
            return encode(config)
        except UnicodeEncodeError:  # the Dockerfile has bytes that are no text
            tree = msgspec.to_builtins(config, enc_hook=str)
            return msgspec.json.encode(_printable(tree))

    def _run(self) -> oci.RunConfig:
        return oci.RunConfig(
            user=self.user,
            exposed_ports=_set(self.exposed_ports),
            env=tuple(f"{key}={value}" for key, value in self.env.items()) or None,
            entrypoint=self.entrypoint or None,
            cmd=self.cmd or None,
            volumes=_set(self.volumes),
            working_dir=self.working_dir,
            labels=dict(sorted(self.labels.items())) or None,
            stop_signal=self.stop_signal,
            args_escaped=self.args_escaped,
            healthcheck=self.healthcheck,
            on_build=self.on_build or None,
            shell=self.shell or None,
        )


def _printable(tree: object) -> object:
    match tree:
        case str():
            return printable(tree)
        case dict():
            items = cast("dict[str, object]", tree).items()
            return {printable(key): _printable(value) for key, value in items}
        case list() | tuple():
            return [_printable(value) for value in cast("Sequence[object]", tree)]
        case _:
            return tree


def _set(names: Sequence[str]) -> dict[str, dict[str, str]] | None:
    return {name: {} for name in sorted(set(names))} or None


def empty(platform: Platform) -> Draft:
    """The config of ``scratch``."""
    env = {} if platform.os == "windows" else {"PATH": DEFAULT_PATH}
    return Draft(platform=platform, working_dir="/", env=env)


def parse(data: bytes, *, what: str) -> Draft:
    """The config of a base image. Its time is not taken over. Raises `InvalidArgumentError`."""
    image = oci.parse(data, what=what)
    run = image.run
    return Draft(
        platform=image.platform,
        author=image.author,
        user=run.user,
        exposed_ports=tuple(run.exposed_ports or ()),
        env=dict(pair(entry) for entry in run.env or ()),
        entrypoint=run.entrypoint or (),
        cmd=run.cmd or (),
        volumes=tuple(run.volumes or ()),
        working_dir=run.working_dir,
        labels=run.labels or {},
        stop_signal=run.stop_signal,
        args_escaped=run.args_escaped,
        healthcheck=run.healthcheck,
        on_build=run.on_build or (),
        shell=run.shell or (),
        diff_ids=image.rootfs.diff_ids,
        history=list(image.history or ()),
    )


def is_empty(draft: Draft) -> bool:
    """Whether an image has no layer at all."""
    return not draft.diff_ids and all(entry.empty_layer for entry in draft.history)


def with_target(draft: Draft, target: Platform, *, implicit: bool) -> Draft:
    """The draft for the platform that was asked for; without one (``implicit``) it keeps that of its base."""
    have = draft.platform
    if not implicit:
        same = (target.os, target.architecture) == (have.os, have.architecture)
        have = Platform(
            os=target.os,
            architecture=target.architecture,
            variant=target.variant if target.variant or not same else have.variant,
            os_version=target.os_version if target.os_version or not same else have.os_version,
            os_features=target.os_features or have.os_features,
        )
    return replace(draft, platform=platforms.normalize(have))
