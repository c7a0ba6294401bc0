"""eStargz layers: what a build makes can be read file by file, is plain gzip to everybody else, and is the same each time."""

import json
import shutil
import tarfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from support.daemon import Daemon, running_daemon

from lading.formats import estargz
from lading.oci.digest import Digest

from .test_build import EPOCH, build, give_plugins

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def builder() -> Generator[Daemon]:
    with running_daemon() as daemon:
        give_plugins(daemon)
        yield daemon


@pytest.fixture
def context(tmp_path: Path) -> Path:
    place = tmp_path / "context"
    place.mkdir()
    shutil.copy("/bin/busybox", place / "busybox")
    (place / "large").write_bytes(bytes(range(256)) * (20 << 10))  # 5 MiB: two chunks
    return place


DOCKERFILE = """\
FROM {base}
COPY busybox large /bin/
RUN ["/bin/busybox", "sh", "-c", "echo made > /made; ln -s made /link"]
CMD ["/bin/busybox", "cat", "/link"]
"""


def layout(daemon: Daemon, context: Path, name: str) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The manifest of a build as an OCI archive, and the archive's blobs by digest."""
    path = context.parent / name
    output = f"type=oci,compression=estargz,force-compression=true,rewrite-timestamp=true,dest={path}"
    build(daemon, context, "--no-cache", "--provenance=false", "-o", output, SOURCE_DATE_EPOCH=EPOCH)
    files: dict[str, bytes] = {}
    with tarfile.open(path) as archive:
        for member in archive:
            if (file := archive.extractfile(member)) is not None:
                files[member.name] = file.read()
    blobs = {f"sha256:{name.rpartition('/')[2]}": data for name, data in files.items()}
    index = json.loads(files["index.json"])
    return json.loads(blobs[index["manifests"][0]["digest"]]), blobs


def test_every_file_can_be_read_alone(builder: Daemon, context: Path) -> None:
    (context / "Dockerfile").write_text(DOCKERFILE.format(base="scratch"))
    manifest, blobs = layout(builder, context, "first.tar")
    config = json.loads(blobs[manifest["config"]["digest"]])
    assert manifest["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    found: dict[str, bytes] = {}
    for layer, diff_id in zip(manifest["layers"], config["rootfs"]["diff_ids"], strict=True):
        assert layer["mediaType"] == "application/vnd.oci.image.layer.v1.tar+gzip"
        data = blobs[layer["digest"]]
        place = estargz.parse_footer(data[-estargz.FOOTER_SIZE :])
        toc = estargz.parse_toc(
            data[place : -estargz.FOOTER_SIZE], expected=Digest(layer["annotations"][estargz.TOC_DIGEST])
        )
        for name, parts in estargz.chunks(toc, end=place).items():
            found[name] = b"".join(estargz.inflated(part, data[part.start : part.end]) for part in parts)
        assert layer["annotations"][estargz.UNCOMPRESSED_SIZE].isdecimal()
        assert diff_id != layer["annotations"][estargz.TOC_DIGEST]
    assert found["made"] == b"made\n"
    assert found["bin/large"] == (context / "large").read_bytes()
    assert found["bin/busybox"] == (context / "busybox").read_bytes()
    again, _ = layout(builder, context, "again.tar")
    assert again == manifest


def test_it_is_pulled_and_run_like_any_layer(builder: Daemon, context: Path, registry: str) -> None:
    base = f"{registry}/gzip"
    (context / "Dockerfile").write_text("FROM scratch\nCOPY busybox /base\n")
    build(builder, context, "--push", "--provenance=false", "-t", base)
    (context / "Dockerfile").write_text(DOCKERFILE.format(base=base))
    name = f"{registry}/estargz"
    for force, marked in (("true", [True, True, True]), ("false", [False, True, True])):
        output = f"type=image,push=true,name={name}:{force},compression=estargz,force-compression={force}"
        build(builder, context, "--provenance=false", "-o", output)
        shown = json.loads(builder.docker("buildx", "imagetools", "inspect", "--raw", f"{name}:{force}"))
        assert [estargz.TOC_DIGEST in layer.get("annotations", {}) for layer in shown["layers"]] == marked
        builder.docker("image", "rm", "-f", f"{name}:{force}")
        builder.docker("pull", f"{name}:{force}")
        assert builder.docker("run", "--rm", "--network", "none", f"{name}:{force}") == "made\n"
    # Over again, out of the cache: the annotations are remembered with the blobs.
    build(
        builder,
        context,
        "--provenance=false",
        "-o",
        f"type=image,push=true,name={name}:2,compression=estargz",
    )
    shown = json.loads(builder.docker("buildx", "imagetools", "inspect", "--raw", f"{name}:2"))
    assert estargz.TOC_DIGEST in shown["layers"][2]["annotations"]
