"""Listing what is in a result: a scanner image that runs on it, by BuildKit's protocol."""

from collections.abc import Mapping
from dataclasses import dataclass

from lading.builder.frontend.contexts import image_source, named, pinned
from lading.builder.frontend.options import Options, Sbom
from lading.builder.model import Gateway
from lading.builder.results import Attestation
from lading.errors import InvalidArgumentError
from lading.formats.llb import make, ops
from lading.formats.llb.make import Edge, MountWish, Style
from lading.oci import config as oci
from lading.oci import reference
from lading.oci.descriptor import Platform

SPDX = "https://spdx.dev/Document"
_SOURCES = "/run/src"
_OUT = "/run/out/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scanner:
    """A scanner image that was looked up."""

    name: str
    args: tuple[str, ...]
    env: tuple[str, ...]
    directory: str

    def scan(
        self, id: str, platform: Platform, core: Edge | None, extras: Mapping[str, Edge | None], *, anew: bool
    ) -> Edge:
        """The tree of statements about ``core``, and ``extras`` by name, for the platform called ``id``."""
        style = Style(
            platform=platform, metadata=named(f"[{id}] generating sbom using {self.name}", ignore_cache=anew)
        )
        env = [*self.env, f"BUILDKIT_SCAN_DESTINATION={_OUT}", f"BUILDKIT_SCAN_SOURCE={_SOURCES}/core/sbom"]
        if extras:
            env.append(f"BUILDKIT_SCAN_SOURCE_EXTRAS={_SOURCES}/extras")
        meta = ops.Meta(
            args=self.args, env=tuple(env), cwd=self.directory or "/", remove_mount_stubs_recursive=True
        )
        mounts = [
            MountWish(mount=ops.Mount(dest="/"), source=image_source(self.name, "default", style), keep=True),
            MountWish(mount=ops.Mount(dest="/tmp", type=ops.MountType.TMPFS, tmpfs_size=0)),  # noqa: S108
            MountWish(mount=ops.Mount(dest=f"{_SOURCES}/core/sbom", readonly=True), source=core),
            MountWish(mount=ops.Mount(dest=_OUT), keep=True),
        ]
        for name, tree in extras.items():
            mount = ops.Mount(dest=f"{_SOURCES}/extras/sbom-{name}", readonly=True)
            mounts.append(MountWish(mount=mount, source=tree))
        return make.execute(ops.ExecOp(meta=meta, mounts=()), mounts, style, "exec.meta.base")[1][_OUT]


async def find_scanner(gateway: Gateway, options: Options, wish: Sbom) -> Scanner:
    """Look up the scanner. Raises `InvalidArgumentError` if it has no command."""
    found = await gateway.resolve_image(wish.generator, mode=options.resolve_mode)
    run = oci.parse(found.config, what=f"config of {wish.generator}").run
    args = (*(run.entrypoint or ()), *(run.cmd or ()))
    if not args:
        raise InvalidArgumentError(f"scanner {wish.generator} does not have cmd", subject=wish.generator)
    parameters = [f"BUILDKIT_SCAN_{key}={value}" for key, value in wish.parameters.items()]
    return Scanner(
        name=str(pinned(reference.parse(wish.generator).with_default_tag(), found.digest)),
        args=args,
        env=(*(run.env or ()), *parameters),
        directory=run.working_dir,
    )


async def attestation(gateway: Gateway, tree: Edge) -> Attestation:
    """Every file of the scan's output is a statement (a bundle); the exporter unpacks it."""
    ref = await gateway.solve(make.definition(tree))
    return Attestation(predicate_type=SPDX, ref=ref, path="/")
