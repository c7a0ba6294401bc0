"""Which exporter a client means."""

from collections.abc import Callable

from lading.builder.control import ExportWish, SolveWish
from lading.builder.exporters.archive import ArchiveExporter
from lading.builder.exporters.attributes import Attributes, parse_image
from lading.builder.exporters.classic import ClassicImageExporter, parse_classic
from lading.builder.exporters.files import FilesExporter, FilesOptions
from lading.builder.exporters.image import ImageExporter
from lading.builder.model import Exporter
from lading.core import content
from lading.core.classic import ClassicStore
from lading.errors import InvalidArgumentError
from lading.oci.descriptor import Descriptor, Platform
from lading.oci.reference import Reference
from lading.transfer.service import TransferService

_EPOCH_ARGUMENT = "build-arg:SOURCE_DATE_EPOCH"


class ExporterFactory:
    """Makes the exporters of one store. ``exported`` is told of each image once it is durable."""

    def __init__(
        self,
        transfer: TransferService,
        blobs: content.Store,
        *,
        host: Platform,
        exported: Callable[[Descriptor, Reference | None], None],
        classic: ClassicStore | None = None,
    ) -> None:
        """``classic`` is the store in use, if that is the classic one: it has no indexes, and so no archives of them."""
        self._classic = classic
        self._transfer = transfer
        self._blobs = blobs
        self._host = host
        self._exported = exported

    def __call__(self, wish: ExportWish, build: SolveWish) -> Exporter:
        """The exporter for a wish. Raises `InvalidArgumentError` for a type or an attribute that is not known."""
        wanted = dict(wish.attributes)
        epoch = build.options.get(_EPOCH_ARGUMENT)
        if epoch and "source-date-epoch" not in wanted:
            wanted["source-date-epoch"] = epoch
        attributes = Attributes(wish.type, wanted)
        exporter = self._make(wish.type, attributes)
        attributes.finish()
        return exporter

    def _make(self, kind: str, attributes: Attributes) -> Exporter:
        if kind in ("local", "tar"):
            attributes.annotations()  # Clients send them to every exporter; files have none.
            options = FilesOptions(
                split=attributes.flag("platform-split"),
                attestation_prefix=attributes.text("attestation-prefix"),
                epoch=attributes.number("source-date-epoch"),
            )
            return FilesExporter(options, tar=kind == "tar")
        if self._classic is not None and kind == "moby":
            return ClassicImageExporter(
                parse_classic(attributes),
                self._transfer,
                self._classic,
                self._blobs,
                host=self._host,
                exported=self._exported,
            )
        if self._classic is not None:
            raise InvalidArgumentError(
                f'exporter "{kind[:64]}" could not be found',
                hint="the classic image store has moby, local and tar: lading store use containerd has the others",
            )
        if kind in ("image", "moby"):
            options = parse_image(attributes, moby=kind == "moby")
            return ImageExporter(options, self._transfer, host=self._host, exported=self._exported)
        if kind in ("oci", "docker"):
            tar = bool(attributes.flag("tar", default=True))
            options = parse_image(attributes, moby=False)
            return ArchiveExporter(
                options, self._transfer, host=self._host, docker=kind == "docker", tar=tar, blobs=self._blobs
            )
        raise InvalidArgumentError(
            f'exporter "{kind[:64]}" could not be found',
            hint="there is image, moby, oci, docker, local and tar",
        )
