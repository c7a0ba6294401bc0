#!/usr/bin/env python3
"""Records a build cache that the real BuildKit made, with its context and the result, in tests/data.

DOCKER_HOST names a Docker Engine 28 with the containerd image store; its buildx is the one that ``docker`` finds.
"""

import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support import caches


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        context = caches.recorded_context(place / "context")
        words = ["docker", "buildx", "build", "--no-cache", "--provenance=false"]
        cache = ["--cache-to", f"type=local,mode=max,dest={place / 'cache'}"]
        subprocess.run([*words, *cache, "-o", str(place / "out"), str(context)], check=True)
        with tarfile.open(caches.RECORDED, "w:gz") as archive:
            for name in ("cache", "context", "out"):
                archive.add(place / name, name, filter=_anonymous)


if __name__ == "__main__":
    main()
