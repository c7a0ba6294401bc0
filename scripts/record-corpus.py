#!/usr/bin/env python3
"""Records what the real BuildKit makes of the corpus: configs, histories, trees, graphs and remarks, in tests/corpus.

usage: scripts/record-corpus.py [CASE ...]

DOCKER_HOST names a Docker Engine 28 with the containerd image store (nothing else of it is used); PLUGINS a directory with
docker-buildx; BUSYBOX a static busybox.
"""

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from support import corpus  # noqa: E402


class Recorder:
    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        plugins = os.environ.get("PLUGINS", "/usr/libexec/docker/cli-plugins")
        (scratch / "config.json").write_text(json.dumps({"cliPluginsExtraDirs": [plugins]}))
        self.base: dict[str, object] = {}
        self.env = {
            **os.environ,
            "DOCKER_CONFIG": str(scratch),
            "BUILDX_METADATA_WARNINGS": "1",
            "BUILDX_NO_DEFAULT_ATTESTATIONS": "1",
        }

    def docker(self, *args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["docker", *args], check=False, env=self.env, capture_output=True, text=True)

    def bases(self) -> None:
        images = {}
        for name in corpus.BASE_NAMES:
            context = self.scratch / f"base-{name}"
            shutil.copytree(corpus.BASES / name, context)
            if name == "base":
                shutil.copy(os.environ.get("BUSYBOX", "/bin/busybox"), context / "busybox")
            tag = f"corpus/{name}:1"
            built = self.docker("buildx", "build", "--load", "-t", tag, str(context))
            assert built.returncode == 0, built.stderr
            out = self.scratch / "base.tar"
            assert self.docker("image", "save", "-o", str(out), tag).returncode == 0
            config, tree, _ = corpus.read_oci(out.read_bytes())
            if name == "base":
                self.base = tree
            digest = self.docker("image", "inspect", "--format", "{{.Id}}", tag).stdout.strip()
            images[f"docker.io/{tag}"] = {"digest": digest, "config": config}
        (corpus.BASES / "images.json").write_text(json.dumps(images, indent=1) + "\n")

    def case(self, case: corpus.Case) -> None:
        out, told = self.scratch / "out.tar", self.scratch / "metadata.json"
        for path in (out, told):
            path.unlink(missing_ok=True)
        options = ["--provenance=mode=max", "--metadata-file", str(told), "-o", f"type=oci,dest={out}"]
        built = self.docker(
            "buildx", "build", "--progress=rawjson", *options, *case.command(self.scratch, built_in=False)
        )
        expected: dict[str, object] = {}
        if case.fails:
            assert built.returncode != 0, case.name
            errors = [line for line in built.stderr.splitlines() if line.startswith("ERROR:")]
            expected["error"] = errors[-1].removeprefix("ERROR: failed to build: failed to solve: ")
            expected["exit_code"] = built.returncode
        else:
            assert built.returncode == 0, (case.name, built.stderr[-3000:])
            config, tree, predicates = corpus.read_oci(out.read_bytes())
            expected["config"] = corpus.shown_config(config)
            expected["tree"] = corpus.shown_tree(tree, self.base)
            steps = [
                step for one in predicates for step in one.get("buildConfig", {}).get("llbDefinition", [])
            ]
            expected["steps"] = corpus.shown_steps(steps, pinned=case.pinned)
            warnings = json.loads(told.read_text()).get("buildx.build.warnings", [])
            expected["names"] = _names(built.stderr)
            expected["warnings"] = sorted(_text(one["short"]) for one in warnings)
        path = case.directory / "expected.json"
        path.write_text(json.dumps(expected, indent=1, ensure_ascii=False) + "\n")
        print("recorded", case.name, flush=True)


def _names(log: str) -> list[str]:
    """The names of the vertices that a build reported, but those of its exporter."""
    told = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    names = {vertex["name"] for one in told for vertex in one.get("vertexes", [])}
    return sorted(
        name for name in names if not name.startswith(("exporting", "sending", "resolving provenance"))
    )


def _text(short: object) -> str:
    return base64.b64decode(str(short)).decode()


def main() -> None:
    wanted = set(sys.argv[1:])
    with tempfile.TemporaryDirectory() as scratch:
        recorder = Recorder(Path(scratch))
        recorder.bases()
        for case in corpus.cases():
            if not case.labs and (not wanted or case.name in wanted):
                try:
                    recorder.case(case)
                except AssertionError as exc:
                    print(exc, file=sys.stderr)


if __name__ == "__main__":
    main()
