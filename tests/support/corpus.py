"""The corpus of Dockerfiles: each a directory of ``tests/corpus`` with a ``context``, perhaps a ``build.json``, and what the real
BuildKit made of it in ``expected.json`` (written by ``scripts/record-corpus.py``).

``build.json``: ``args`` (for ``docker buildx build``), ``file``, ``contexts`` (named ones; a directory beside the context, or
``docker-image://…``), ``secrets`` (by ID), ``fails``, ``labs`` (only a labs frontend has it: the real daemon is not asked).
"""

import base64
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CORPUS = Path(__file__).parents[1] / "corpus"
BASES = CORPUS / "bases"
BASE_NAMES = ("base", "tools", "cmd", "onbuild", "onbuild-from")
"""In the order in which they must be built."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One Dockerfile with its context."""

    name: str
    args: Sequence[str] = ()
    file: str = "Dockerfile"
    contexts: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    fails: bool = False
    labs: bool = False

    @property
    def directory(self) -> Path:
        return CORPUS / self.name

    @property
    def context(self) -> Path:
        return self.directory / "context"

    @property
    def pinned(self) -> bool:
        return not any(where.startswith("docker-image:") for where in self.contexts.values())

    def expected(self) -> dict[str, Any]:
        path = self.directory / "expected.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def command(self, scratch: Path, *, built_in: bool = True) -> list[str]:
        """The arguments of ``docker buildx build``; without ``built_in`` frontends, the file asks for none."""
        context = self.context
        if not built_in:
            context = scratch / self.name
            shutil.copytree(self.context, context, symlinks=True)
            file = context / self.file
            file.write_text(file.read_text().replace("# syntax=", "# no syntax="))
        command = [*self.args, "--file", str(context / self.file)]
        for name, where in self.contexts.items():
            command += ["--build-context", f"{name}={where if ':' in where else self.directory / where}"]
        for name, value in self.secrets.items():
            path = scratch / f"secret-{name}"
            path.write_text(value)
            command += ["--secret", f"id={name},src={path}"]
        return [*command, str(context)]


def cases() -> list[Case]:
    """All of them, by name."""
    found: list[Case] = []
    for directory in sorted(path.parent for path in CORPUS.glob("*/context")):
        build = directory / "build.json"
        found.append(Case(name=directory.name, **(json.loads(build.read_text()) if build.exists() else {})))
    return found


def attributes(case: Case) -> dict[str, str]:
    """What buildx makes of a case's arguments for the frontend."""
    found = {"filename": case.file.rpartition("/")[2]}
    args = iter(case.args)
    for flag in args:
        value = next(args, "")
        key, _, rest = value.partition("=")
        match flag:
            case "--build-arg":
                found[f"build-arg:{key}"] = rest
            case "--label":
                found[f"label:{key}"] = rest
            case "--target":
                found["target"] = value
            case "--no-cache-filter":
                found["no-cache"] = value
            case "--add-host":
                found["add-hosts"] = value.replace(":", "=", 1)
            case "--ulimit":
                found["ulimit"] = value
            case "--allow":
                pass
            case "--shm-size":
                found["shm-size"] = str(int(value.removesuffix("m")) << 20)
            case _:
                raise ValueError(flag)
    for name, where in case.contexts.items():
        found[f"context:{name}"] = where if ":" in where else f"local:{name}"
    return found


class Buildx:
    """The real ``docker buildx build`` against a daemon with the containerd image store."""

    def __init__(self, host: str, plugins: Path, scratch: Path) -> None:
        self.scratch = scratch
        (scratch / "config.json").write_text(json.dumps({"cliPluginsExtraDirs": [str(plugins)]}))
        self.env = {
            **os.environ,
            "DOCKER_HOST": host,
            "DOCKER_CONFIG": str(scratch),
            "BUILDX_METADATA_WARNINGS": "1",
            "BUILDX_NO_DEFAULT_ATTESTATIONS": "1",
        }
        self.base: dict[str, Any] = {}

    def docker(self, *args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["docker", *args], check=False, env=self.env, capture_output=True, text=True)

    def bases(self) -> dict[str, Any]:
        """Build the base images; digest and config of each by its name."""
        images: dict[str, Any] = {}
        for name in BASE_NAMES:
            context = self.scratch / f"base-{name}"
            shutil.copytree(BASES / name, context)
            if name == "base":
                shutil.copy(os.environ.get("BUSYBOX", "/bin/busybox"), context / "busybox")
            tag = f"corpus/{name}:1"
            built = self.docker("buildx", "build", "--load", "-t", tag, str(context))
            assert built.returncode == 0, built.stderr
            out = self.scratch / "base.tar"
            saved = self.docker("image", "save", "-o", str(out), tag)
            assert saved.returncode == 0, saved.stderr
            config, tree, _ = read_oci(out.read_bytes())
            self.base = self.base or tree
            digest = self.docker("image", "inspect", "--format", "{{.Id}}", tag).stdout.strip()
            images[f"docker.io/{tag}"] = {"digest": digest, "config": config}
        return images

    def build(self, case: Case, *, built_in: bool = True) -> dict[str, Any]:
        """What a case becomes, as ``expected.json`` says it."""
        out, told = self.scratch / "out.tar", self.scratch / "metadata.json"
        for path in (out, told):
            path.unlink(missing_ok=True)
        options = ["--provenance=mode=max", "--metadata-file", str(told), "-o", f"type=oci,dest={out}"]
        command = case.command(self.scratch, built_in=built_in)
        built = self.docker("buildx", "build", "--progress=rawjson", *options, *command)
        if case.fails:
            assert built.returncode != 0, case.name
            errors = [line for line in built.stderr.splitlines() if line.startswith("ERROR:")]
            said = errors[-1].removeprefix("ERROR: failed to build: failed to solve: ")
            return {"error": said, "exit_code": built.returncode}
        assert built.returncode == 0, (case.name, built.stderr[-3000:])
        config, tree, predicates = read_oci(out.read_bytes())
        steps = [step for one in predicates for step in one.get("buildConfig", {}).get("llbDefinition", [])]
        warnings = json.loads(told.read_text()).get("buildx.build.warnings", [])
        return {
            "config": shown_config(config),
            "tree": shown_tree(tree, self.base),
            "steps": shown_steps(steps, pinned=case.pinned),
            "names": _names(built.stderr),
            "warnings": sorted(base64.b64decode(one["short"]).decode() for one in warnings),
        }


def _names(log: str) -> list[str]:
    """The names of the vertices that a build reported, but those of its exporter."""
    told = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    names = {vertex["name"] for one in told for vertex in one.get("vertexes", [])}
    return sorted(
        name for name in names if not name.startswith(("exporting", "sending", "resolving provenance"))
    )


# Images.


def read_oci(
    archive: bytes, architecture: str = "amd64"
) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
    """Config, file tree and provenance predicates of an OCI archive."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as layout:
        blobs = {member.name: member for member in layout.getmembers()}

        def blob(digest: str) -> bytes:
            reader = layout.extractfile(blobs[f"blobs/{digest.replace(':', '/')}"])
            assert reader is not None
            return reader.read()

        reader = layout.extractfile("index.json")
        assert reader is not None
        document = json.loads(reader.read())
        while "layers" not in document:
            attested = [
                one for one in document["manifests"] if one.get("platform", {}).get("os") == "unknown"
            ]
            wanted = [
                one
                for one in document["manifests"]
                if one.get("platform", {}).get("architecture", architecture) == architecture
            ]
            predicates = [
                json.loads(blob(layer["digest"]))["predicate"]
                for one in attested
                for layer in json.loads(blob(one["digest"]))["layers"]
            ]
            document = json.loads(blob(wanted[0]["digest"]))
        config = json.loads(blob(document["config"]["digest"]))
        tree: dict[str, Any] = {}
        for layer in document["layers"] or []:
            apply_layer(tree, blob(layer["digest"]))
    return config, dict(sorted(tree.items())), predicates


def apply_layer(tree: dict[str, Any], data: bytes) -> None:
    """Lay a layer over a tree: path to type, mode, owner, and content or target."""
    with tarfile.open(fileobj=io.BytesIO(data)) as layer:
        for member in layer:
            path = member.name.strip("/")
            path = path.removeprefix("./")
            parent, _, name = path.rpartition("/")
            prefix = f"{parent}/" if parent else ""
            if name == ".wh..wh..opq":
                remove(tree, prefix, below=True)
            elif name.startswith(".wh."):
                remove(tree, f"{prefix}{name[4:]}")
            elif path:
                if path in tree and not (member.isdir() and tree[path][0] == "dir"):
                    remove(tree, path)
                tree[path] = _entry(layer, member, tree)


def remove(tree: dict[str, Any], path: str, *, below: bool = False) -> None:
    for one in list(tree):
        if (one == path and not below) or one.startswith(path if below else f"{path}/"):
            del tree[one]


def _entry(layer: tarfile.TarFile, member: tarfile.TarInfo, tree: Mapping[str, Any]) -> list[Any]:
    owner = [f"{member.mode & 0o7777:o}", member.uid, member.gid]
    if member.islnk():
        return tree[member.linkname.strip("/").removeprefix("./")]
    if member.issym():
        return ["link", *owner, member.linkname]
    if member.isdir():
        return ["dir", *owner]
    if member.isfile():
        reader = layer.extractfile(member)
        assert reader is not None
        return ["file", *owner, hashlib.sha256(reader.read()).hexdigest()[:16]]
    return [
        {tarfile.FIFOTYPE: "fifo", tarfile.CHRTYPE: "char", tarfile.BLKTYPE: "block"}[member.type],
        *owner,
    ]


# What is compared.


def shown_tree(tree: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """A tree by what it has beyond that of ``corpus/base:1``, if it is built on that."""
    if not base or any(path not in tree for path in ("bin/busybox", "etc/passwd")):
        return {"on": "", "has": dict(tree)}
    has = {path: entry for path, entry in tree.items() if base.get(path) != entry}
    return {"on": "base", "has": has, "lacks": sorted(path for path in base if path not in tree)}


def shown_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config without what differs from run to run."""
    shown = {
        key: value
        for key, value in config.items()
        if key not in ("created", "rootfs", "moby.buildkit.buildinfo.v1")
    }
    shown["history"] = [
        {key: value for key, value in entry.items() if key != "created"}
        for entry in config.get("history", [])
    ]
    return shown


def shown_steps(steps: Sequence[Mapping[str, Any]], *, pinned: bool = True) -> list[Any]:
    """Operations as provenance lists them, without the terminal, each with those that it uses, and without sessions; in an order
    of their own. Without ``pinned`` images are told by name: a named context's is not pinned by BuildKit, and is by us.
    """
    shown: dict[str, Any] = {}
    for step in steps:
        op = json.loads(json.dumps(step["op"]))
        attrs = op.get("Op", {}).get("source", {}).get("attrs", {})
        for key in ("local.session", "local.unique", "oci.session"):
            attrs.pop(key, None)
        source = op.get("Op", {}).get("source", {})
        if not pinned and source.get("identifier", "").startswith("docker-image://"):
            source["identifier"] = source["identifier"].partition("@")[0]
            source.pop("attrs", None)
        op["inputs"] = [
            [fingerprint(shown[one.partition(":")[0]]), int(one.partition(":")[2])]
            for one in step.get("inputs") or []
        ]
        shown[step["id"]] = op
    return sorted((op for op in shown.values() if op["Op"]), key=fingerprint)


def fingerprint(op: Any) -> str:
    return hashlib.sha256(json.dumps(op, sort_keys=True).encode()).hexdigest()[:16]
