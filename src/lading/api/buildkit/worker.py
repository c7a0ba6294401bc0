"""What this daemon tells of itself as a BuildKit worker."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from lading.formats.buildkit._pb import control_pb2 as pb
from lading.formats.buildkit._pb.common_pb2 import ApiCap
from lading.formats.llb.caps import SUPPORTED
from lading.formats.llb.encode import platform_message
from lading.oci.descriptor import Platform

VERSION: Final = pb.BuildkitVersion(package="github.com/moby/buildkit", version="v0.25.2", revision="lading")
"""The BuildKit whose protocol this is; clients compare it before they use what came later."""
SNAPSHOTTER_LABEL: Final = "org.mobyproject.buildkit.worker.snapshotter"
"""The label by which buildx knows a containerd store: several platforms, attestations, cache export, OCI output."""
_HOST_GATEWAY: Final = "org.mobyproject.buildkit.worker.moby.host-gateway-ip"
_FRONTEND_CAPS: Final = (
    "solve.base",
    "resolveimage",
    "resolveimage.resolvemode",
    "readfile",
    "return",
    "returnmap",
    "readdir",
    "statfile",
    "importcaches",
    "proto.refarray",
    "reference.output",
    "frontend.inputs",
    "gateway.solve.metadata",
    "frontend.caps",
    "gateway.solve.evaluate",
    "gateway.evaluate",
    "gateway.warnings",
    "reference.attestations",
    "source.metaresolver",
    "gateway.exec",
    "gateway.exec.extrahosts",
    "gateway.exec.secretenv",
    "gateway.exec.signals",
)
_DAEMON_CAPS: Final = (
    "annotations.images",
    "attestation",
    "exporter.image.attestations",
    "exporter.image.annotations",
    "exporter.sourcedatasepoch",
    "exporter.multiple",
    "remotecache.import",
    "cache.compression",
    "gc.freespacefilter",
)
"""What the daemon can do beside operations; clients ask for these in the same list."""
_LLB_CAPS: Final = (*sorted(SUPPORTED), *_DAEMON_CAPS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """The facts. ``snapshotter`` is empty on the classic store; ``gateway`` is the address that ``host-gateway`` means."""

    id: str
    hostname: str
    snapshotter: Callable[[], str]
    platforms: Callable[[], Awaitable[Sequence[Platform]]]
    gateway: Callable[[], str] = str
    network: str = "host"

    def labels(self) -> Mapping[str, str]:
        """The worker's labels, as they are now."""
        labels = {
            "org.mobyproject.buildkit.worker.executor": "oci",
            "org.mobyproject.buildkit.worker.hostname": self.hostname,
            "org.mobyproject.buildkit.worker.network": self.network,
            "org.mobyproject.buildkit.worker.containerd.uuid": self.id,
        }
        if snapshotter := self.snapshotter():
            labels[SNAPSHOTTER_LABEL] = snapshotter
        if gateway := self.gateway():
            labels[_HOST_GATEWAY] = gateway
        return labels

    async def record(self) -> pb.WorkerRecord:
        """The worker as a message."""
        return pb.WorkerRecord(
            id=self.id,
            labels=dict(self.labels()),
            platforms=[platform_message(each) for each in await self.platforms()],
            buildkit_version=VERSION,
        )


def frontend_caps() -> list[ApiCap]:
    """What the bridge can do."""
    return [ApiCap(id=each, enabled=True) for each in _FRONTEND_CAPS]


def llb_caps() -> list[ApiCap]:
    """What operations and exporters can do."""
    return [ApiCap(id=each, enabled=True) for each in _LLB_CAPS]
