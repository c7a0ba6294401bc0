"""Record the data-root of a real dockerd with its classic store, small enough to keep: ``tests/data/classic-dockerd.tar.gz``.

    python scripts/record_classic.py        needs root, and dockerd in a chroot (PEERS_ROOT)

Four images from tars of a few files: one of three layers with whiteouts, an opaque directory and links; a child that was
committed from it; one that lost its name; one that was pulled from a registry, so that blobs of its layers are known.
"""

import io
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "src")]

from support.dockerd import Dockerd, classic_dockerd  # noqa: E402 - from the tests' own support
from support.images import File, Layout, push  # noqa: E402
from support.registry import docker_registry  # noqa: E402

TARGET = ROOT / "tests" / "data" / "classic-dockerd.tar.gz"
BASE = {
    "etc": File(directory=True, mode=0o755),
    "etc/name": File(b"base\n"),
    "etc/gone": File(b"gone\n"),
    "bin": File(directory=True, mode=0o755),
    "bin/tool": File(b"#!tool\n" * 40, mode=0o4755),
    "bin/link": File(link="tool"),
    "var": File(directory=True, mode=0o700),
    "var/old": File(b"old"),
    "\u00e9": File(b"not ASCII"),
}
SECOND = {
    "etc/.wh.gone": File(),
    "var": File(directory=True, mode=0o700),
    "var/.wh..wh..opq": File(),
    "var/new": File(b"new"),
}
THIRD = {
    "empty": File(),
    "deep": File(directory=True),
    "deep/er": File(directory=True),
    "deep/er/file": File(b"x" * 3000),
}


def main() -> int:
    """Record."""
    with classic_dockerd() as docker, docker_registry() as registry, tempfile.TemporaryDirectory() as name:
        layout = Layout(Path(name))
        layout.name(layout.manifest([BASE, SECOND, THIRD], config={"Labels": {"made": "by hand"}}), "image")
        push(Path(name), "image", f"{registry}/pulled:1")
        docker.start()
        docker.docker("pull", f"{registry}/pulled:1")
        docker.docker("tag", f"{registry}/pulled:1", "library:1")
        docker.docker("create", "--name", "changed", "library:1", "none")
        docker.run("cp", "-", "changed:/", data=packed({"added": b"by cp"}))
        docker.docker("commit", "-m", "a child", "changed", "child:1")
        docker.docker("rm", "changed")
        for text in (b"first", b"second"):
            docker.run("import", "-", "import:1", data=packed({"which": text}))
        docker.docker("create", "--name", "kept", "child:1", "none")
        docker.stop()
        record(docker)
    return 0


def packed(files: dict[str, bytes]) -> bytes:
    """A tar of plain files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def record(docker: Dockerd) -> None:
    """Pack what an image store consists of."""
    TARGET.parent.mkdir(exist_ok=True)
    command = [
        "tar",
        "--create",
        "--gzip",
        "--xattrs",
        "--xattrs-include=*",
        "--numeric-owner",
        "--sort=name",
    ]
    subprocess.run(
        [*command, f"--file={TARGET}", f"--directory={docker.data_root}", "image", "overlay2", "containers"],
        check=True,
    )
    sys.stdout.write(f"{TARGET}: {TARGET.stat().st_size} bytes\n")


if __name__ == "__main__":
    sys.exit(main())
