"""Makes OCI images of any number of layers, in any compression, from busybox-static or from nothing."""

import gzip
import hashlib
import io
import json
import platform
import shutil
import subprocess
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BUSYBOX = shutil.which("busybox")
APPLETS = (
    "sh",
    "cat",
    "echo",
    "ls",
    "sleep",
    "true",
    "false",
    "stat",
    "id",
    "env",
    "wc",
    "head",
    "seq",
    "kill",
    "stty",
)
GOARCH = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
_SUFFIX = {"": "", "gzip": "+gzip", "zstd": "+zstd"}


@dataclass(frozen=True)
class File:
    """A member of a layer. ``link`` makes it a symbolic link, ``directory`` a directory."""

    data: bytes = b""
    mode: int = 0o644
    link: str = ""
    directory: bool = False
    uid: int = 0
    gid: int = 0


def layer_tar(files: Mapping[str, File]) -> bytes:
    """A tar archive, the same bytes for the same files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, each in files.items():
            member = tarfile.TarInfo(name)
            member.mode, member.mtime = each.mode, 1_700_000_000
            member.uid, member.gid = each.uid, each.gid
            if each.link:
                member.type, member.linkname = tarfile.SYMTYPE, each.link
                archive.addfile(member)
            elif each.directory:
                member.type = tarfile.DIRTYPE
                archive.addfile(member)
            else:
                member.size = len(each.data)
                archive.addfile(member, io.BytesIO(each.data))
    return buffer.getvalue()


def busybox_layer() -> dict[str, File]:
    """A root file system in which a shell runs."""
    assert BUSYBOX is not None, "busybox-static is not installed"
    files = {
        "bin": File(directory=True, mode=0o755),
        "bin/busybox": File(Path(BUSYBOX).read_bytes(), mode=0o755),
        **{f"bin/{applet}": File(link="busybox") for applet in APPLETS},
        "etc": File(directory=True, mode=0o755),
        "etc/passwd": File(b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n"),
        "etc/group": File(b"root:x:0:\nuser:x:1000:\n"),
        "root": File(directory=True, mode=0o700),
        "tmp": File(directory=True, mode=0o1777),
    }
    return files | {name: File(directory=True, mode=0o755) for name in ("proc", "sys", "dev")}


def small_layers(count: int, size: int = 64) -> list[dict[str, File]]:
    """``count`` layers with one file each, every one different."""
    return [{f"layer-{n}": File(f"{n:0{size}d}".encode())} for n in range(count)]


@dataclass
class Layout:
    """An OCI image layout under construction."""

    path: Path
    manifests: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        (self.path / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
        (self.path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')

    def blob(self, data: bytes, media_type: str) -> dict[str, Any]:
        """Add a blob; its descriptor."""
        name = hashlib.sha256(data).hexdigest()
        (self.path / "blobs" / "sha256" / name).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{name}", "size": len(data)}

    def manifest(
        self,
        layers: Iterable[Mapping[str, File]],
        *,
        compression: str = "gzip",
        architecture: str = GOARCH,
        config: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Add an image; the descriptor of its manifest, with its platform."""
        descriptors: list[dict[str, Any]] = []
        diff_ids: list[str] = []
        for files in layers:
            tar = layer_tar(files)
            diff_ids.append(f"sha256:{hashlib.sha256(tar).hexdigest()}")
            kind = f"application/vnd.oci.image.layer.v1.tar{_SUFFIX[compression]}"
            descriptors.append(self.blob(compressed(tar, compression), kind))
        document = {
            "architecture": architecture,
            "os": "linux",
            "created": "2024-01-02T03:04:05Z",
            "config": {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"], **(config or {})},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": [
                {"created": "2024-01-02T03:04:05Z", "created_by": f"layer {n} for {architecture}"}
                for n in range(len(diff_ids))
            ],
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": self.blob(json.dumps(document).encode(), "application/vnd.oci.image.config.v1+json"),
            "layers": descriptors,
        }
        descriptor = self.blob(json.dumps(manifest).encode(), manifest["mediaType"])
        return descriptor | {"platform": {"architecture": architecture, "os": "linux"}}

    def index(self, manifests: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Add an index of several platforms; its descriptor."""
        document = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": list(manifests),
        }
        return self.blob(json.dumps(document).encode(), document["mediaType"])

    def name(self, descriptor: dict[str, Any], tag: str) -> None:
        """Write ``index.json`` so that tools find ``descriptor`` under ``tag``."""
        kept = {key: descriptor[key] for key in ("mediaType", "digest", "size")}
        self.manifests.append(kept | {"annotations": {"org.opencontainers.image.ref.name": tag}})
        document = {"schemaVersion": 2, "manifests": self.manifests}
        (self.path / "index.json").write_text(json.dumps(document))


def compressed(data: bytes, compression: str) -> bytes:
    """``data`` in gzip, in zstd, or as it is for ``""``."""
    if compression == "gzip":
        return gzip.compress(data, compresslevel=1, mtime=0)
    if compression == "zstd":
        from backports import zstd

        return zstd.compress(data)
    return data


def layer_type(compression: str) -> str:
    """The media type of a layer so packed."""
    return f"application/vnd.oci.image.layer.v1.tar{_SUFFIX[compression]}"


def push(layout: Path, tag: str, reference: str) -> None:
    """Push ``tag`` of a layout, whole, to a loopback registry."""
    done = subprocess.run(
        [
            *("skopeo", "copy", "--all", "--quiet", "--dest-tls-verify=false", "--preserve-digests"),
            *(f"oci:{layout}:{tag}", f"docker://{reference}"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def push_in_two_compressions(directory: Path, prefix: str) -> list[str]:
    """Push one content twice, so that each layer has the same diff ID and another blob; the two names. ``/same`` has 20,000 bytes."""
    stack = [busybox_layer(), {"same": File(b"same" * 5000)}]
    names: list[str] = []
    for compression in ("gzip", "zstd"):
        layout = Layout(directory / compression)
        layout.name(layout.manifest(stack, compression=compression), "image")
        names.append(f"{prefix}{compression}")
        push(layout.path, "image", names[-1])
    return names


def busybox_image(
    directory: Path, reference: str, *, layers: int = 1, compression: str = "gzip", foreign: bool = True
) -> str:
    """Make and push an image with a shell and ``layers`` layers; the digest of its index.

    With ``foreign`` the index has a second platform, which no pull fetches unless asked: pushed again, the image is another.
    """
    layout = Layout(directory)
    stack = [busybox_layer(), *small_layers(layers - 1)]
    manifests = [layout.manifest(stack, compression=compression)]
    if foreign:
        other = [{"foreign": File(b"foreign")}]
        manifests.append(layout.manifest(other, compression=compression, architecture="s390x"))
    index = layout.index(manifests)
    layout.name(index, "image")
    push(directory, "image", reference)
    return index["digest"]
