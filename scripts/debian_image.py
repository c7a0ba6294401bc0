"""Make a multi-platform image from Debian's busybox-static packages, as an OCI layout.

    debian_image.py LAYOUT TAG PACKAGE.deb:ARCHITECTURE...

Each platform gets two layers: busybox with its applets, and a few files of /etc. The result is the same for the same packages.
"""

import gzip
import io
import json
import pathlib
import subprocess
import sys
import tarfile

from lading.oci import mediatypes
from lading.oci.config import History, ImageConfig, RootFS, RunConfig
from lading.oci.descriptor import Descriptor, Platform
from lading.oci.digest import DiffID, Digest
from lading.oci.document import encode
from lading.oci.manifest import Index, Manifest

EPOCH = 1_700_000_000
CREATED = "2023-11-14T22:13:20Z"
DIRECTORIES = (
    "bin",
    "dev",
    "etc",
    "proc",
    "root",
    "sbin",
    "sys",
    "tmp",
    "usr",
    "usr/bin",
    "usr/sbin",
    "var",
    "var/tmp",
)
FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/motd": "Delivered by Lading.\n",
}


class Layer:
    """A reproducible tar archive."""

    def __init__(self) -> None:
        self._buffer = io.BytesIO()
        self._tar = tarfile.TarFile(fileobj=self._buffer, mode="w", format=tarfile.PAX_FORMAT)

    def add(
        self,
        name: str,
        *,
        type: bytes = tarfile.REGTYPE,
        mode: int = 0o644,
        data: bytes = b"",
        link: str = "",
    ) -> None:
        info = tarfile.TarInfo(name)
        info.type, info.mode, info.mtime, info.size, info.linkname = type, mode, EPOCH, len(data), link
        self._tar.addfile(info, io.BytesIO(data))

    def bytes(self) -> bytes:
        self._tar.close()
        return self._buffer.getvalue()


def busybox_layers(package: pathlib.Path, applets: list[str]) -> list[bytes]:
    """The two layers for one architecture's package."""
    archive = subprocess.run(
        ["dpkg-deb", "--fsys-tarfile", str(package)], check=True, capture_output=True
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        member = next(m for m in tar if m.name.endswith("/bin/busybox"))
        extracted = tar.extractfile(member)
        assert extracted is not None
        binary = extracted.read()
    base, etc = Layer(), Layer()
    for directory in DIRECTORIES:
        base.add(directory, type=tarfile.DIRTYPE, mode=0o1777 if directory.endswith("tmp") else 0o755)
    base.add("bin/busybox", mode=0o755, data=binary)
    for applet in sorted(applets):
        if applet != "bin/busybox" and str(pathlib.Path(applet).parent) in DIRECTORIES:
            base.add(applet, type=tarfile.SYMTYPE, mode=0o777, link="/bin/busybox")
    etc.add("etc", type=tarfile.DIRTYPE, mode=0o755)
    for name, text in FILES.items():
        etc.add(name, data=text.encode())
    return [base.bytes(), etc.bytes()]


class Layout:
    """An OCI image layout directory."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root = root
        (root / "blobs/sha256").mkdir(parents=True)
        (root / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')

    def put(self, data: bytes, media_type: str, **fields: object) -> Descriptor:
        digest = Digest.of(data)
        (self.root / "blobs/sha256" / digest.hex).write_bytes(data)
        return Descriptor(media_type=media_type, digest=digest, size=len(data), **fields)  # pyright: ignore[reportArgumentType]

    def image(self, platform: Platform, tars: list[bytes], run: RunConfig) -> Descriptor:
        config = ImageConfig(
            architecture=platform.architecture,
            os=platform.os,
            variant=platform.variant,
            created=CREATED,
            config=run,
            rootfs=RootFS(type="layers", diff_ids=tuple(DiffID.of(t) for t in tars)),
            history=tuple(
                History(created=CREATED, created_by=f"layer {n} of Debian's busybox-static")
                for n in range(len(tars))
            ),
        )
        layers = tuple(self.put(gzip.compress(t, 6, mtime=0), mediatypes.OCI_LAYER_GZIP) for t in tars)
        manifest = Manifest(
            schema_version=2,
            media_type=mediatypes.OCI_MANIFEST,
            config=self.put(encode(config), mediatypes.OCI_CONFIG),
            layers=layers,
        )
        return self.put(encode(manifest), mediatypes.OCI_MANIFEST, platform=platform)

    def index(self, manifests: list[Descriptor], tag: str) -> Descriptor:
        index = Index(schema_version=2, media_type=mediatypes.OCI_INDEX, manifests=tuple(manifests))
        target = self.put(encode(index), mediatypes.OCI_INDEX)
        entry = {
            "mediaType": target.media_type,
            "digest": target.digest,
            "size": target.size,
            "annotations": {"org.opencontainers.image.ref.name": tag},
        }
        (self.root / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
        return target


def main(arguments: list[str]) -> int:
    if len(arguments) < 3:
        sys.stderr.write(f"{__doc__}\n")
        return 2
    layout = Layout(pathlib.Path(arguments[0]))
    listed = subprocess.run(
        ["busybox", "--list-full"], check=True, capture_output=True, text=True
    ).stdout.split()
    run = RunConfig(
        env=("PATH=/usr/sbin:/usr/bin:/sbin:/bin",),
        cmd=("/bin/sh",),
        labels={"org.example.made-from": "busybox-static"},
    )
    manifests: list[Descriptor] = []
    for argument in arguments[2:]:
        package, _, architecture = argument.rpartition(":")
        platform = Platform(os="linux", architecture=architecture)
        manifests.append(layout.image(platform, busybox_layers(pathlib.Path(package), listed), run))
    sys.stdout.write(layout.index(manifests, arguments[1]).digest + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
