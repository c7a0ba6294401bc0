#!/usr/bin/env python3
"""Records what the real BuildKit makes of the corpus: configs, histories, trees, graphs and remarks, in tests/corpus.

usage: scripts/record-corpus.py [CASE ...]

DOCKER_HOST names a Docker Engine 28 with the containerd image store (nothing else of it is used); PLUGINS a directory with
docker-buildx; BUSYBOX a static busybox.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support import corpus


def main() -> None:
    wanted = set(sys.argv[1:])
    with tempfile.TemporaryDirectory() as scratch:
        plugins = Path(os.environ.get("PLUGINS", "/usr/libexec/docker/cli-plugins"))
        buildx = corpus.Buildx(os.environ["DOCKER_HOST"], plugins, Path(scratch))
        images = json.dumps(buildx.bases(), indent=1)
        (corpus.BASES / "images.json").write_text(f"{images}\n")
        for case in corpus.cases():
            if not case.labs and (not wanted or case.name in wanted):
                made = json.dumps(buildx.build(case, built_in=False), indent=1, ensure_ascii=False)
                (case.directory / "expected.json").write_text(f"{made}\n")
                print("recorded", case.name, flush=True)


if __name__ == "__main__":
    main()
