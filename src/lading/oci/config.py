"""Image configs (OCI image-spec config.md; Docker image spec v1.2 with its extra fields)."""

import msgspec
from typing_extensions import Buffer

from lading.errors import InvalidArgumentError
from lading.oci.descriptor import Platform
from lading.oci.digest import ChainID, DiffID, chain_ids
from lading.oci.document import CONFIG_LIMIT, decode


class Healthcheck(msgspec.Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """How to check that a container works; durations in nanoseconds."""

    test: tuple[str, ...] = ()
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class RunConfig(msgspec.Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """Defaults for containers. Go writes absent lists as null, hence the unions."""

    user: str = ""
    exposed_ports: dict[str, dict[str, str]] | None = None
    env: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    volumes: dict[str, dict[str, str]] | None = None
    working_dir: str = ""
    labels: dict[str, str] | None = None
    stop_signal: str = ""
    args_escaped: bool = False
    healthcheck: Healthcheck | None = None
    on_build: tuple[str, ...] | None = None
    shell: tuple[str, ...] | None = None


class RootFS(msgspec.Struct, frozen=True, kw_only=True):
    """The layers' diff IDs, bottom first."""

    type: str
    diff_ids: tuple[DiffID, ...] = ()


class History(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How one layer came about; ``empty_layer`` entries have no diff ID. ``created`` is RFC 3339 text."""

    created: str | None = None
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


class ImageConfig(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    rename={"os_version": "os.version", "os_features": "os.features"},
):
    """An image config. ``created`` is RFC 3339 text, as received."""

    architecture: str
    os: str
    rootfs: RootFS
    created: str | None = None
    author: str = ""
    docker_version: str = ""
    """Of the dockerd that made it, long ago (Docker image spec v1.2)."""
    variant: str = ""
    os_version: str = ""
    os_features: tuple[str, ...] | None = None
    config: RunConfig | None = None
    history: tuple[History, ...] | None = None

    @property
    def platform(self) -> Platform:
        """The platform that the config names, as written."""
        return Platform(
            architecture=self.architecture,
            os=self.os,
            variant=self.variant,
            os_version=self.os_version,
            os_features=self.os_features or (),
        )

    @property
    def run(self) -> RunConfig:
        """The container defaults; empty ones if the image has none."""
        return self.config or RunConfig()

    @property
    def chain(self) -> list[ChainID]:
        """The chain ID of every prefix of the layers, bottom first."""
        return chain_ids(self.rootfs.diff_ids)


def parse(data: Buffer, *, layers: int | None = None, what: str = "image config") -> ImageConfig:
    """Read an image config.

    Args:
        data: The config's bytes.
        layers: How many layers the manifest has; the config must have as many diff IDs (hostile-input.md D8).
        what: Name of the document for error messages.

    Raises:
        InvalidArgumentError: It is malformed or does not fit the manifest.
        ResourceExhaustedError: It is over 8 MiB.

    """
    config = decode(data, ImageConfig, what=what, limit=CONFIG_LIMIT)
    if config.rootfs.type != "layers":
        raise InvalidArgumentError(f"{what} has rootfs type {config.rootfs.type!r}, not 'layers'")
    if layers is not None and len(config.rootfs.diff_ids) != layers:
        raise InvalidArgumentError(f"{what} has {len(config.rootfs.diff_ids)} diff IDs for {layers} layers")
    return config
