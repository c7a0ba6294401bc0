"""Images to measure with, made from Debian's linux-source package; the same every time.

one-file      500 MB in one file, one layer
small-files   35,000 files, one layer
eight-layers  1 GB in 8 layers
torch-like    709 MB in one layer: shared libraries, headers and Python code of PyTorch and its like
python        one layer of Python with PyTorch, SciPy, pandas and SymPy, all that they need, and their modules compiled
ninety        eight-layers with its top layer changed
fleet-0 to 7  5,000 files in common, and a layer of 10 MB of its own on top
tiny          two small layers, for what is not about bytes
sixteen       16 layers of 500 MB (only with --memory)
"""

import gzip
import io
import json
import pathlib
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from functools import partial

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "scripts"))
from debian_image import EPOCH, Layout

from lading.oci import mediatypes
from lading.oci.config import ImageConfig, RootFS, RunConfig
from lading.oci.descriptor import Descriptor, Platform
from lading.oci.digest import DiffID, Digest
from lading.oci.document import encode
from lading.oci.manifest import Index, Manifest

SOURCE = "linux-source-6.1"
TORCH = [
    "python3-torch",
    "libtorch1.13",
    "libtorch-dev",
    "libllvm16",
    "libllvm15",
    "libllvm14",
    "libllvm13",
    "python3-numpy",
    "python3-scipy",
    "python3-pandas-lib",
    "python3-pandas",
    "python3-matplotlib",
    "python3-sympy",
    "libopenblas0-pthread",
    "libopencv-imgproc406",
    "libopencv-core406",
    "libopencv-dnn406",
    "libstdc++6",
    "libprotobuf32",
    "libprotobuf-lite32",
    "libonnx1",
    "libmkldnn-dev",
    "libdnnl2",
    "libclang-cpp14",
    "libclang1-14",
    "libclang-cpp16",
    "libclang1-16",
    "libwebkit2gtk-4.1-0",
    "libjavascriptcoregtk-4.1-0",
]
"""Packages of Debian whose files are what a machine-learning image is made of."""
PYTHON = [
    "python3",
    "python3-torch",
    "python3-scipy",
    "python3-pandas",
    "python3-sympy",
    "libopenblas0-pthread",
]
_NOT_RUN = re.compile(r".*-dev|(gcc|g\+\+|cpp|binutils|perl|libllvm|libgl1-mesa-dri|libz3|lib[altu]+san).*")
"""Packages that `PYTHON` needs by its packages, and none of its programs when they run: compilers, headers, drivers of displays."""
MB = 1_000_000
AMD64 = Platform(os="linux", architecture="amd64")
PLATFORMS = (
    AMD64,
    Platform(os="linux", architecture="arm64", variant="v8"),
    Platform(os="linux", architecture="s390x"),
)


class ArchivedLayout:
    """An OCI layout in an open tar."""

    def __init__(self, archive: tarfile.TarFile) -> None:
        self._archive = archive

    def add(self, name: str, data: bytes) -> None:
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.mtime = len(data), 0o644, EPOCH
        self._archive.addfile(info, io.BytesIO(data))

    def put(self, data: bytes, media_type: str, **fields: object) -> Descriptor:
        digest = Digest.of(data)
        self.add(f"blobs/sha256/{digest.hex}", data)
        return Descriptor(media_type=media_type, digest=digest, size=len(data), **fields)  # pyright: ignore[reportArgumentType]


class Corpus:
    """OCI layouts in a directory that survives runs."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    def layout(self, name: str) -> pathlib.Path:
        """The layout of an image, made on first use; its tag is the image's name."""
        path = self.root / name
        if not (path / "index.json").exists():
            subprocess.run(["rm", "-rf", str(path)], check=True)
            layout = Layout(path)
            makers: dict[str, Callable[[], list[bytes]]] = {
                "one-file": self._one_file,
                "small-files": self._small_files,
                "eight-layers": self._eight_layers,
                "tiny": self._tiny,
                "torch-like": self._torch_like,
                "python": self._python,
                "ninety": self._ninety,
                **{f"fleet-{number}": partial(self._fleet, number) for number in range(8)},
            }
            manifest = layout.image(
                AMD64,
                [self._with_shell(n, t) for n, t in enumerate(makers[name]())],
                RunConfig(cmd=("/true",)),
            )
            layout.index([manifest], name)
        return path

    def archive(self, name: str) -> pathlib.Path:
        """The layout of an image in a tar that ``docker load`` of every engine takes; its tag is ``<name>:latest``."""
        layout = self.layout(name)
        path = self.root / f"{name}.tar"
        if not path.exists():
            index = json.loads((layout / "index.json").read_text())
            for entry in index["manifests"]:
                entry["annotations"] = {
                    "io.containerd.image.name": f"docker.io/library/{name}:latest",
                    "org.opencontainers.image.ref.name": "latest",
                }
            part = path.with_suffix(".part")
            with tarfile.open(part, "w", format=tarfile.PAX_FORMAT) as archive:
                archived = ArchivedLayout(archive)
                for blob in sorted((layout / "blobs/sha256").iterdir()):
                    archived.add(f"blobs/sha256/{blob.name}", blob.read_bytes())
                archived.add("index.json", json.dumps(index).encode())
                archived.add("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
            part.rename(path)
        return path

    def sixteen(self) -> pathlib.Path:
        """16 layers of 500 MB, written layer by layer so that making them needs no more memory than one."""
        path = self.root / "sixteen"
        if not (path / "index.json").exists():
            subprocess.run(["rm", "-rf", str(path)], check=True)
            layout = Layout(path)
            block = self._bytes(0, 500 * MB)
            layers: list[Descriptor] = []
            diff_ids: list[DiffID] = []
            for number in range(16):
                tar = _tar([(f"layer-{number}", bytes([number]) + block)])
                diff_ids.append(DiffID.of(tar))
                layers.append(layout.put(gzip.compress(tar, 1, mtime=0), mediatypes.OCI_LAYER_GZIP))
            config = ImageConfig(
                architecture="amd64",
                os="linux",
                config=RunConfig(cmd=("/true",)),
                rootfs=RootFS(type="layers", diff_ids=tuple(diff_ids)),
            )
            manifest = Manifest(
                schema_version=2,
                media_type=mediatypes.OCI_MANIFEST,
                config=layout.put(encode(config), mediatypes.OCI_CONFIG),
                layers=tuple(layers),
            )
            layout.index([layout.put(encode(manifest), mediatypes.OCI_MANIFEST, platform=AMD64)], "sixteen")
        return path

    def many(self, count: int) -> pathlib.Path:
        """An archive of ``count`` images for three platforms each; every manifest has a config of its own, layers are shared.

        ``docker load`` of every engine takes it. It is written straight into the tar: so many files would take longer to make.
        """
        path = self.root / f"many-{count}-by-{len(PLATFORMS)}.tar"
        if not path.exists():
            part = path.with_suffix(".part")
            with tarfile.open(part, "w", format=tarfile.PAX_FORMAT) as archive:
                self._write_many(ArchivedLayout(archive), count)
            part.rename(path)
        return path

    def _write_many(self, layout: "ArchivedLayout", count: int) -> None:
        stacks: list[tuple[Platform, tuple[Descriptor, ...], RootFS]] = []
        for platform in PLATFORMS:
            name = platform.architecture.encode()
            tars = [
                _append(_tar([("etc/machine", name)]), [("true", _static_true())], 0o755),
                _tar([("etc/motd", name)]),
            ]
            layers = tuple(layout.put(gzip.compress(t, 6, mtime=0), mediatypes.OCI_LAYER_GZIP) for t in tars)
            stacks.append(
                (platform, layers, RootFS(type="layers", diff_ids=tuple(DiffID.of(t) for t in tars)))
            )
        entries: list[Descriptor] = []
        legacy: list[dict[str, object]] = []
        for number in range(count):
            manifests: list[Descriptor] = []
            for platform, layers, rootfs in stacks:
                config = ImageConfig(
                    architecture=platform.architecture,
                    os=platform.os,
                    created=f"2024-01-{1 + number % 28:02}T00:00:00Z",
                    config=RunConfig(cmd=("/true", str(number)), labels={"number": str(number)}),
                    rootfs=rootfs,
                )
                manifest = Manifest(
                    schema_version=2,
                    media_type=mediatypes.OCI_MANIFEST,
                    config=layout.put(encode(config), mediatypes.OCI_CONFIG),
                    layers=layers,
                )
                manifests.append(layout.put(encode(manifest), mediatypes.OCI_MANIFEST, platform=platform))
                if platform == AMD64:
                    blobs = [f"blobs/sha256/{d.digest.hex}" for d in (manifest.config, *layers)]
                    legacy.append(
                        {"Config": blobs[0], "RepoTags": [f"many-{number}:latest"], "Layers": blobs[1:]}
                    )
            index = Index(schema_version=2, media_type=mediatypes.OCI_INDEX, manifests=tuple(manifests))
            names = {
                "io.containerd.image.name": f"docker.io/library/many-{number}:latest",
                "org.opencontainers.image.ref.name": "latest",
            }
            entries.append(layout.put(encode(index), mediatypes.OCI_INDEX, annotations=names))
        whole = Index(schema_version=2, media_type=mediatypes.OCI_INDEX, manifests=tuple(entries))
        layout.add("index.json", encode(whole))
        layout.add("manifest.json", json.dumps(legacy).encode())
        layout.add("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')

    def _with_shell(self, number: int, data: bytes) -> bytes:
        programs = [("true", _static_true()), ("busybox", _static_true())]
        return data if number else _append(data, programs, mode=0o755)

    def _one_file(self) -> list[bytes]:
        return [_tar([("data", self._bytes(0, 500 * MB))])]

    def _small_files(self, count: int = 35_000) -> list[bytes]:
        files = []
        for info, data in self._members():
            files.append((info.name, data))
            if len(files) == count:
                break
        return [_tar(files)]

    def _eight_layers(self) -> list[bytes]:
        layers: list[bytes] = []
        files: list[tuple[str, bytes]] = []
        size = 0
        for info, data in self._members():
            files.append((f"{len(layers)}/{info.name}", data))
            size += len(data)
            if size >= 125 * MB:
                layers.append(_tar(files))
                files, size = [], 0
                if len(layers) == 8:
                    return layers
        return [*layers, _tar(files)]

    def _tiny(self) -> list[bytes]:
        return [_tar([("etc/hostname", b"tiny\n")]), _tar([("etc/motd", b"tiny\n")])]

    def _torch_like(self) -> list[bytes]:
        files: list[tuple[str, bytes]] = []
        size = 0
        for package in self._packages(TORCH):
            done = subprocess.run(
                ["dpkg-deb", "--fsys-tarfile", str(package)], check=True, capture_output=True
            )
            with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
                for info in tar:
                    stream = tar.extractfile(info) if info.isreg() else None
                    if stream is not None and size < 709 * MB:
                        files.append((info.name.removeprefix("./"), stream.read()))
                        size += info.size
        return [_tar(files)]

    def _python(self) -> list[bytes]:
        with tempfile.TemporaryDirectory(dir=self.root) as directory:
            for package in self._closure(PYTHON):
                subprocess.run(["dpkg-deb", "-x", str(package), directory], check=True)
            # As after an installation; a hash, since Debian's own compilation would go by times that the layer does not keep.
            subprocess.run(
                [sys.executable, "-m", "compileall", "-q", "-j", "0", "-s", directory, "--invalidation-mode", "unchecked-hash",
                 f"{directory}/usr/lib/python3", f"{directory}/usr/lib/python3.11"],
                check=False, capture_output=True,  # a few files are for other versions of Python
            )  # fmt: skip
            done = subprocess.run(
                ["tar", "--sort=name", "--owner=0", "--group=0", "--numeric-owner", f"--mtime=@{EPOCH}", "-C", directory, "-cf", "-", "."],
                check=True, capture_output=True,
            )  # fmt: skip
        return [done.stdout]

    def _ninety(self) -> list[bytes]:
        return [*self._eight_layers()[:-1], _tar([("changed", self._bytes(0, 100 * MB))])]

    def _fleet(self, number: int) -> list[bytes]:
        return [*self._small_files(5_000), _tar([("fleet", self._bytes(number * 10 * MB, 10 * MB))])]

    def _packages(self, names: list[str]) -> list[pathlib.Path]:
        """Debian's packages of these names, downloaded on first use; those that this release lacks are left out."""
        place = self.root / "packages"
        place.mkdir(exist_ok=True)
        for name in names:
            if not any(place.glob(f"{name}_*.deb")):
                subprocess.run(
                    ["apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", name],
                    cwd=place,
                    check=False,
                    capture_output=True,
                )
        return [found for name in names for found in sorted(place.glob(f"{name}_*.deb"))]

    def _closure(self, names: list[str]) -> list[pathlib.Path]:
        """Debian's packages of these names, and those that they need, as on a machine that has nothing."""
        place, nothing = self.root / "closure", self.root / "nothing"
        place.mkdir(exist_ok=True)
        nothing.mkdir(exist_ok=True)
        planned = subprocess.run(
            ["apt-get", "install", "-y", "-qq", "--print-uris", "--no-install-recommends", "-o", "Dir::State::status=/dev/null",
             "-o", f"Dir::Cache::archives={nothing}", *names],
            check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        needed = re.findall(r"^'\S+' ([^_\s]+)_\S+\.deb ", planned, re.MULTILINE)
        wanted = [name for name in needed if not _NOT_RUN.fullmatch(name)]
        missing = [name for name in wanted if not any(place.glob(f"{name}_*.deb"))]
        if missing:
            subprocess.run(
                ["apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", *missing],
                cwd=place,
                check=True,
                capture_output=True,
            )
        return [found for name in sorted(wanted) for found in sorted(place.glob(f"{name}_*.deb"))]

    def _bytes(self, start: int, length: int) -> bytes:
        out = io.BytesIO()
        for _, data in self._members():
            out.write(data)
            if out.tell() >= start + length:
                break
        return out.getvalue()[start : start + length]

    def _members(self) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
        archive = self.root / "source.tar"
        if not archive.exists():
            subprocess.run(
                ["apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", SOURCE],
                cwd=self.root,
                check=True,
            )
            package = next(self.root.glob(f"{SOURCE}_*.deb"))
            fsys = subprocess.run(
                ["dpkg-deb", "--fsys-tarfile", str(package)], check=True, capture_output=True
            ).stdout
            with tarfile.open(fileobj=io.BytesIO(fsys)) as tar:
                inner = next(m for m in tar if m.name.endswith(".tar.xz"))
                stream = tar.extractfile(inner)
                assert stream is not None
                with open(archive.with_suffix(".part"), "wb") as out:
                    subprocess.run(["xz", "-dc"], input=stream.read(), stdout=out, check=True)
            archive.with_suffix(".part").rename(archive)
        with tarfile.open(archive) as tar:
            for info in tar:
                if info.isreg():
                    stream = tar.extractfile(info)
                    assert stream is not None
                    yield info, stream.read()


def _tar(files: list[tuple[str, bytes]]) -> bytes:
    out = io.BytesIO()
    with tarfile.TarFile(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        _add(tar, files, 0o644)
    return out.getvalue()


def _append(data: bytes, files: list[tuple[str, bytes]], mode: int) -> bytes:
    out = io.BytesIO(data)
    with tarfile.TarFile(fileobj=out, mode="a", format=tarfile.PAX_FORMAT) as tar:
        _add(tar, files, mode)
    return out.getvalue()


def _add(tar: tarfile.TarFile, files: list[tuple[str, bytes]], mode: int) -> None:
    for name, data in files:
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.mtime = len(data), mode, EPOCH
        tar.addfile(info, io.BytesIO(data))


def _static_true() -> bytes:
    """A program that exits with 0 and needs nothing: busybox, which does so when it is called ``true``."""
    return pathlib.Path("/bin/busybox").read_bytes()


def compressed_size(layout: pathlib.Path) -> int:
    """Bytes of all blobs of a layout."""
    return sum(p.stat().st_size for p in (layout / "blobs/sha256").iterdir())
