"""The unmodified ``docker build``, buildx, bake and compose against the daemon."""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Generator
from pathlib import Path

import pytest
from support import dockerd
from support.buildx import build, docker, give_plugins
from support.daemon import Daemon, running_daemon
from support.images import BUSYBOX
from support.newer import ARM64_BUSYBOX

pytestmark = pytest.mark.e2e
BOTH = "--platform=linux/amd64,linux/arm64"
EPOCH = "1700000000"
# In Debian 12's QEMU busybox cannot run its own applets by a bare name, hence the paths.
DOCKERFILE = """\
FROM scratch AS base
ARG TARGETARCH
COPY bin/$TARGETARCH/busybox /bin/busybox
COPY bin/$TARGETARCH/busybox /bin/sh
RUN ["/bin/busybox", "sh", "-c", "/bin/busybox --install /bin; /bin/uname -m > /machine"]
ENV PATH=/bin

FROM base AS final
COPY hello.txt other.txt /etc/
RUN echo "$(/bin/cat /machine) $(/bin/cat /etc/hello.txt)" > /said && /bin/cat /said
CMD ["/bin/cat", "/said"]
"""


@pytest.fixture(scope="module")
def builder() -> Generator[Daemon]:
    """A daemon, and a docker client with its plugins."""
    with running_daemon() as daemon:
        give_plugins(daemon)
        yield daemon


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """A build context with programs for two architectures; no two tests have the same files in it."""
    directory = tmp_path / "context"
    for architecture, program in (("amd64", BUSYBOX), ("arm64", ARM64_BUSYBOX)):
        (directory / "bin" / architecture).mkdir(parents=True)
        shutil.copy(str(program), directory / "bin" / architecture / "busybox")
    (directory / "hello.txt").write_text(f"hello from {tmp_path.name}\n")
    (directory / "other.txt").write_text("other\n")
    (directory / "Dockerfile").write_text(DOCKERFILE)
    return directory


def cached(done: subprocess.CompletedProcess[str]) -> int:
    return done.stderr.count(" CACHED\n")


def test_two_platforms_from_build_to_registry(builder: Daemon, registry: str, context: Path) -> None:
    name = f"{registry}/two"
    since = time.time()
    done = build(builder, context, BOTH, "--provenance=mode=max", "-t", name)
    assert "[linux/arm64 final 2/2] RUN" in done.stderr
    (created,) = builder.events(since, "event=create", "type=image")
    assert created["Actor"]["ID"] == builder.docker("image", "inspect", "-f", "{{.Id}}", name).strip()
    assert created["Actor"]["Attributes"]["name"] == f"{name}:latest"
    past = f"/v1.45/events?since={since:.6f}&until={time.time():.6f}"
    assert b'"create"' not in builder.raw(f"GET {past} HTTP/1.0\r\nHost: x\r\n\r\n".encode())
    tree = builder.docker("image", "ls", "--tree", name)
    assert "linux/amd64" in tree
    assert "linux/arm64" in tree
    said = (context / "hello.txt").read_text()
    for platform, machine in (("linux/arm64", "aarch64"), ("linux/amd64", "x86_64")):
        assert builder.docker("run", "--rm", "--platform", platform, name) == f"{machine} {said}"
    builder.docker("push", name)
    shown = builder.docker("buildx", "imagetools", "inspect", "--format", "{{json .Provenance}}", name)
    provenance = json.loads(shown)
    assert set(provenance) == {"linux/amd64", "linux/arm64"}
    slsa = provenance["linux/arm64"]["SLSA"]
    assert slsa["invocation"]["parameters"]["frontend"] == "dockerfile.v0"
    steps = slsa["buildConfig"]["llbDefinition"]
    assert any(step["op"]["Op"] and "exec" in step["op"]["Op"] for step in steps)
    assert "FROM scratch AS base" in json.dumps(slsa) or slsa["metadata"]


def test_push_by_the_build_itself(builder: Daemon, registry: str, context: Path) -> None:
    name = f"{registry}/direct"
    metadata = context.parent / "metadata.json"
    build(builder, context, BOTH, "--push", "-t", name, "--metadata-file", str(metadata))
    told = json.loads(metadata.read_text())
    shown = json.loads(
        builder.docker("buildx", "imagetools", "inspect", "--format", "{{json .Manifest}}", name)
    )
    assert shown["digest"] == told["containerimage.digest"]
    assert told["image.name"] == f"{name}:latest"
    assert told["buildx.build.provenance/linux/arm64"]["buildType"] == "https://mobyproject.org/buildkit@v1"


def test_only_what_changed_is_built_again(builder: Daemon, context: Path) -> None:
    build(builder, context, "-t", "again")
    same = build(builder, context, "-t", "again")
    assert cached(same) == 5
    for path in context.rglob("*"):
        os.utime(path, (0, 0))
    touched = build(builder, context, "-t", "again")
    assert cached(touched) == 5
    (context / "other.txt").write_text("changed\n")
    changed = build(builder, context, "-t", "again")
    assert cached(changed) == 3
    (context / "unused.txt").write_text("nobody copies this\n")
    assert cached(build(builder, context, "-t", "again")) == 5


def test_the_same_source_gives_the_same_image(builder: Daemon, context: Path, tmp_path: Path) -> None:
    found: list[str] = []
    for number in range(2):
        layout = tmp_path / f"{number}.tar"
        output = f"type=oci,rewrite-timestamp=true,dest={layout}"
        build(
            builder, context, BOTH, "--no-cache", "--provenance=false", "-o", output, SOURCE_DATE_EPOCH=EPOCH
        )
        with tarfile.open(layout) as archive:
            member = archive.extractfile("index.json")
            assert member is not None
            found.append(json.loads(member.read())["manifests"][0]["digest"])
    assert found[0] == found[1]


@pytest.mark.parametrize("compression", ["uncompressed", "gzip", "zstd"])
def test_layers_in_any_compression(builder: Daemon, registry: str, context: Path, compression: str) -> None:
    name = f"{registry}/{compression}"
    output = f"type=image,push=true,name={name},compression={compression},force-compression=true"
    build(builder, context, "--provenance=false", "-o", output)
    shown = json.loads(builder.docker("buildx", "imagetools", "inspect", "--raw", name))
    kinds = {layer["mediaType"].rpartition("tar")[2] for layer in shown["layers"]}
    expected = {"uncompressed": {""}, "gzip": {".gzip"}, "zstd": {"+zstd"}}
    assert kinds == expected[compression]
    builder.docker("image", "rm", "-f", name)
    builder.docker("pull", name)
    assert builder.docker("run", "--rm", name).startswith("x86_64 hello from")


def test_files_at_the_client(builder: Daemon, context: Path, tmp_path: Path) -> None:
    build(builder, context, BOTH, "-o", f"type=local,dest={tmp_path / 'out'}")
    assert sorted(os.listdir(tmp_path / "out")) == ["linux_amd64", "linux_arm64"]
    assert (tmp_path / "out/linux_arm64/said").read_text().startswith("aarch64 hello")
    assert (tmp_path / "out/linux_amd64/bin/cat").stat().st_ino == (
        tmp_path / "out/linux_amd64/bin/ls"
    ).stat().st_ino
    build(builder, context, "--target=base", "-o", f"type=tar,dest={tmp_path / 'out.tar'}")
    with tarfile.open(tmp_path / "out.tar") as archive:
        names = archive.getnames()
    assert "machine" in names
    assert names == sorted(names, key=lambda name: name.split("/"))


def test_archives(builder: Daemon, context: Path, tmp_path: Path) -> None:
    build(builder, context, BOTH, "-t", "arch:1", "-o", f"type=oci,dest={tmp_path / 'oci.tar'}")
    with tarfile.open(tmp_path / "oci.tar") as archive:
        member = archive.extractfile("index.json")
        assert member is not None
        (entry,) = json.loads(member.read())["manifests"]
        assert entry["mediaType"] == "application/vnd.docker.distribution.manifest.list.v2+json"
    refused = build(builder, context, BOTH, "-o", f"type=docker,dest={tmp_path / 'docker.tar'}", check=False)
    assert refused.returncode == 1
    assert "does not support exporting manifest lists" in refused.stderr
    build(builder, context, "-o", f"type=docker,name=loaded:1,dest={tmp_path / 'docker.tar'}")
    with (tmp_path / "docker.tar").open("rb") as archive_file:
        assert "Loaded image: loaded:1" in builder.docker("load", input=archive_file.read())
    build(builder, context, "-t", "dir:1", "-o", f"type=oci,tar=false,dest={tmp_path / 'layout'}")
    (entry,) = json.loads((tmp_path / "layout/index.json").read_text())["manifests"]
    blob = tmp_path / "layout/blobs/sha256" / entry["digest"].removeprefix("sha256:")
    assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name


def test_an_image_without_a_name_dangles_and_is_named_by_its_id(builder: Daemon, context: Path) -> None:
    done = build(builder, context, "-q", "--iidfile", str(context.parent / "iid"))
    identity = done.stdout.strip()
    assert (context.parent / "iid").read_text() == identity
    assert identity in builder.docker("image", "ls", "-q", "--no-trunc", "--filter", "dangling=true")
    assert builder.docker("run", "--rm", identity).startswith("x86_64 hello")


@pytest.mark.parametrize(
    ("dockerfile", "words"),
    [
        ("FORM scratch\n", ["unknown instruction: FORM", ">>> FORM scratch"]),
        ("FROM scratch\nCOPY missing /\n", ["missing", ">>> COPY missing /"]),
        ("FROM scratch\nCOPY ../../etc/passwd /\n", ["/etc/passwd", "not found"]),
        ("FROM base-that-is-no-stage:1\n", ["base-that-is-no-stage"]),
        ("FROM scratch\nCOPY --from=0 --nonsense x /\n", ["unknown flag"]),
        ("FROM scratch AS a\nFROM b AS c\nFROM c AS b\n", []),
    ],
)
def test_bad_dockerfiles(builder: Daemon, context: Path, dockerfile: str, words: list[str]) -> None:
    (context / "Dockerfile").write_text(dockerfile)
    done = build(builder, context, check=False)
    assert done.returncode == 1
    for word in words:
        assert word in done.stderr


def test_a_failed_step_shows_its_output_lines_and_exit_code(builder: Daemon, context: Path) -> None:
    (context / "Dockerfile").write_text(DOCKERFILE + "RUN echo 'last words' && exit 42\n")
    done = build(builder, context, check=False)
    assert done.returncode == 1
    assert "did not complete successfully: exit code: 42" in done.stderr
    assert "> [final 3/3] RUN echo 'last words' && exit 42:" in done.stderr
    assert ">>> RUN echo 'last words' && exit 42" in done.stderr


def test_a_symbolic_link_out_of_the_context_stays_inside(builder: Daemon, context: Path) -> None:
    (context / "escape").symlink_to("/etc/passwd")
    (context / "Dockerfile").write_text("FROM scratch\nCOPY escape /stolen\n")
    done = build(builder, context, check=False)
    assert done.returncode == 1
    assert "root:" not in done.stderr


def test_file_names_of_any_other_bytes(builder: Daemon, context: Path, tmp_path: Path) -> None:
    names = ["tab\tbed", "back\\slash", "star*[q]?", " blank ", "-dash", "a:b", "\x01", "ü"]
    (context / "odd").mkdir()
    for name in names:
        (context / "odd" / name).write_text(name)
    (context / "Dockerfile").write_text(
        "FROM scratch\nCOPY bin/amd64/busybox /bin/\nCOPY odd /odd\n"
        'RUN ["/bin/busybox", "sh", "-c", "/bin/busybox cp -a /odd /copied"]\n'
    )
    build(builder, context, "-t", "odd")
    script = "cd /copied; for each in *; do /bin/busybox cat \"./$each\"; printf '\\0'; done"
    said = builder.docker("run", "--rm", "odd", "/bin/busybox", "sh", "-c", script)
    assert sorted(said.split("\0")[:-1]) == sorted(names)
    out = tmp_path / "out"
    build(builder, context, "-o", f"type=local,dest={out}")
    assert sorted(os.listdir(out / "odd")) == sorted(names)


@pytest.mark.parametrize("compression", ["", "gz"])
def test_a_context_on_standard_input(
    builder: Daemon, context: Path, tmp_path: Path, compression: str
) -> None:
    archive = tmp_path / "context.tar"
    with tarfile.open(archive, f"w:{compression}", format=tarfile.GNU_FORMAT) as tar:
        tar.add(context, ".")
    with archive.open("rb") as source:
        done = docker(builder, "build", "-q", "-t", "piped", "-", stdin=source)
    assert done.returncode == 0, done.stderr
    said = (context / "hello.txt").read_text()
    assert builder.docker("run", "--rm", "piped") == f"x86_64 {said}"


def test_a_large_dockerfile_that_is_none_stops_nobody(builder: Daemon, context: Path, tmp_path: Path) -> None:
    """The client takes an archive in the PAX form for a Dockerfile."""
    archive = tmp_path / "context.tar"
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
        tar.add(context, ".")
    with archive.open("rb") as source:
        done = docker(builder, "build", "-q", "-", stdin=source)
    assert done.returncode
    assert "dockerfile parse error" in done.stderr
    (context / "Dockerfile").write_text("FROM scratch\n" + "# a long comment\n" * 10_000 + "NONSENSE\n")
    wrong = build(builder, context, check=False)
    assert "10002 | >>> NONSENSE" in wrong.stderr


def test_a_newline_in_a_file_name_is_refused_before_the_image_has_a_name(
    builder: Daemon, context: Path
) -> None:
    (context / "new\nline").write_text("x")
    (context / "Dockerfile").write_text("FROM scratch\nCOPY . /\n")
    done = build(builder, context, "-t", "newline", check=False)
    assert done.returncode != 0
    assert "cannot be part of a layer: a newline in a name" in done.stderr
    assert builder.docker("image", "ls", "-q", "newline") == ""


def test_a_secret_is_nowhere_afterwards(builder: Daemon, context: Path) -> None:
    secret = f"a-secret-{os.urandom(8).hex()}"
    (context.parent / "secret").write_text(secret)
    (context / "Dockerfile").write_text(
        DOCKERFILE
        + "RUN --mount=type=secret,id=one --mount=type=secret,id=one,env=ONE "
        + '[ "$(/bin/cat /run/secrets/one)" = "$ONE" ] && /bin/wc -c < /run/secrets/one\n'
    )
    done = build(
        builder, context, "--secret", f"id=one,src={context.parent / 'secret'}", "--provenance=mode=max"
    )
    assert str(len(secret)) in done.stderr
    missing = subprocess.run(
        ["grep", "-rlaF", secret, str(builder.directory)], capture_output=True, text=True, check=False
    )
    assert missing.stdout == ""


def test_a_killed_client_takes_its_build_along(builder: Daemon, context: Path) -> None:
    (context / "Dockerfile").write_text(DOCKERFILE + "RUN echo started && /bin/sleep 4711\n")
    before = left(builder)
    client = subprocess.Popen(
        ["docker", "buildx", "build", "--progress=plain", str(context)],
        stderr=subprocess.PIPE,
        start_new_session=True,
        env={
            **os.environ,
            "DOCKER_HOST": builder.host,
            "DOCKER_CONFIG": str(builder.directory / "docker-config"),
        },
    )
    assert client.stderr is not None
    for line in client.stderr:
        if line.rstrip().endswith(b"started") and b"RUN" not in line:
            break
    os.killpg(client.pid, signal.SIGKILL)
    killed = time.monotonic()
    client.wait()
    client.stderr.close()
    while running("4711") or left(builder) != before:
        assert time.monotonic() - killed < 20, (running("4711"), left(builder), before)
        time.sleep(0.02)
    print(f"gone after {time.monotonic() - killed:.2f} s")
    listed = builder.docker("buildx", "history", "ls", "--format", "{{json .}}").splitlines()
    assert json.loads(listed[0])["status"] in ("Canceled", "Error")


def running(word: str) -> list[str]:
    found: list[str] = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if entry.read_bytes().split(b"\0")[1:2] == [word.encode()]:
                found.append(str(entry))
    return found


def left(daemon: Daemon) -> tuple[list[str], list[str]]:
    """Mounts and processes of builds that are there."""
    state = daemon.exec_root / "build"
    mounts = [line.split(" ")[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    processes = list(state.glob("processes/*")) if state.exists() else []
    return [m for m in mounts if m.startswith(str(state))], [str(each) for each in processes]


def test_bake_shares_contexts_between_targets(builder: Daemon, context: Path) -> None:
    (context / "docker-bake.hcl").write_text(
        """
        group "default" { targets = ["one", "two"] }
        target "base" { target = "base" }
        target "one" {
          contexts = { start = "target:base" }
          dockerfile-inline = "FROM start\\nRUN echo one > /one"
          tags = ["bake-one"]
          platforms = ["linux/amd64", "linux/arm64"]
        }
        target "two" {
          target = "final"
          tags = ["bake-two"]
        }
        """.replace("{ ", "{\n").replace(" }\n", "\n}\n")
    )
    done = docker(builder, "buildx", "bake", "--progress=plain", cwd=context)
    assert done.returncode == 0, done.stderr
    assert builder.docker("run", "--rm", "--platform=linux/arm64", "bake-one", "/bin/cat", "/one") == "one\n"
    assert builder.docker("run", "--rm", "bake-two").startswith("x86_64")


def test_compose_builds_and_runs(builder: Daemon, context: Path) -> None:
    (context / "compose.yaml").write_text(
        "services:\n  said:\n    build: {context: ., target: final}\n    network_mode: none\n"
        "  machine:\n    build: {context: ., target: base}\n    image: composed\n    network_mode: none\n"
        "    command: /bin/cat /machine\n"
    )
    built = docker(builder, "compose", "-p", "e2e", "build", cwd=context)
    assert built.returncode == 0, built.stderr
    ran = docker(builder, "compose", "-p", "e2e", "run", "--rm", "machine", cwd=context)
    assert ran.stdout == "x86_64\n", ran.stderr
    docker(builder, "compose", "-p", "e2e", "down", cwd=context)


def test_questions_about_a_dockerfile(builder: Daemon, context: Path) -> None:
    (context / "Dockerfile").write_text("# The base.\n" + DOCKERFILE + "MAINTAINER me\nfrom final\n")
    checked = build(builder, context, "--check", check=False)
    assert checked.returncode == 1
    for rule in ("MaintainerDeprecated", "ConsistentInstructionCasing"):
        assert rule in checked.stdout + checked.stderr
    targets = build(builder, context, "--call=targets").stdout
    assert "base" in targets
    assert "TARGET: base" in build(builder, context, "--call=outline", "--target=base").stdout


def test_history_usage_and_prune() -> None:
    with running_daemon() as daemon:
        give_plugins(daemon)
        context = daemon.directory / "context"
        context.mkdir()
        shutil.copy(str(BUSYBOX), context / "sh")
        (context / "Dockerfile").write_text(
            'FROM scratch\nCOPY sh /bin/sh\nRUN ["/bin/sh", "-c", "echo made"]\n'
        )
        build(daemon, context, "-t", "pruned")
        assert "Completed" in daemon.docker("buildx", "history", "ls")
        assert "made" in docker(daemon, "buildx", "history", "logs", "--progress=plain").stderr
        used = json.loads(daemon.docker("buildx", "du", "--format", "json").splitlines()[0])
        assert used
        status, df = daemon.api("GET", "/system/df")
        assert status == 200
        assert any("RUN" in record["Description"] for record in df["BuildCache"])
        daemon.docker("buildx", "prune", "-f", "--filter", "type=nonsense")
        assert daemon.api("GET", "/system/df")[1]["BuildCache"]
        daemon.docker("builder", "prune", "-af")
        assert daemon.api("GET", "/system/df")[1]["BuildCache"] == []
        assert (
            daemon.docker("run", "--rm", "--network=none", "pruned", "/bin/sh", "-c", "echo fine") == "fine\n"
        )
        (context / "Dockerfile").write_text("FROM scratch\nCOPY nothing /\n")
        assert build(daemon, context, check=False).returncode == 1
        assert ">>> COPY nothing /" in docker(daemon, "buildx", "history", "inspect").stdout
        exported = daemon.directory / "failed.dockerbuild"
        daemon.docker("buildx", "history", "export", "-o", str(exported))
        with tarfile.open(exported) as archive:
            assert len([name for name in archive.getnames() if name.startswith("blobs/sha256/")]) >= 4
        daemon.docker("buildx", "history", "rm", "--all")
        assert "Completed" not in daemon.docker("buildx", "history", "ls")
        shown = daemon.docker("buildx", "inspect")
        assert "org.mobyproject.buildkit.worker.snapshotter" in shown
        assert "linux/arm64" in shown


@pytest.mark.daemon_args("--feature", "containerd-snapshotter=false")
def test_on_the_classic_store_buildx_itself_explains(daemon: Daemon, context: Path) -> None:
    give_plugins(daemon)
    done = build(daemon, context, BOTH, check=False)
    assert done.returncode == 1
    assert "Multi-platform build is not supported for the docker driver." in done.stderr


@pytest.mark.parametrize("kind", ["registry", "local", "inline"])
def test_a_cache_that_is_shared(registry: str, context: Path, kind: str) -> None:
    place = context.parent / "cache"
    to, source = {
        "registry": (f"type=registry,mode=max,ref={registry}/cache", f"type=registry,ref={registry}/cache"),
        "local": (f"type=local,mode=max,dest={place}", f"type=local,src={place}"),
        "inline": ("type=inline", f"type=registry,ref={registry}/inlined"),
    }[kind]
    image = f"type=image,push=true,name={registry}/inlined"
    with running_daemon() as first:
        give_plugins(first)
        build(first, context, "--cache-to", to, "--provenance=false", "-o", image)
    with running_daemon() as second:
        give_plugins(second)
        done = build(second, context, "--cache-from", source, "--provenance=false", "-t", "again")
        assert cached(done) >= 4, done.stderr
        assert second.docker("run", "--rm", "--network=none", "again").startswith("x86_64 hello from")


def test_a_cache_that_nobody_has_is_refused(builder: Daemon, context: Path) -> None:
    done = build(builder, context, "--cache-to", "type=nonsense", check=False)
    assert done.returncode == 1
    assert "nonsense" in done.stderr


def test_what_is_in_an_image_without_a_scanner(builder: Daemon, registry: str, context: Path) -> None:
    (context / "status").write_text("Package: thing\nVersion: 1.0-1\nArchitecture: all\n")
    (context / "Dockerfile").write_text(DOCKERFILE + "COPY status /var/lib/dpkg/status\n")
    name = f"{registry}/listed"
    build(builder, context, BOTH, "--sbom=true", "--provenance=false", "--push", "-t", name)
    shown = json.loads(builder.docker("buildx", "imagetools", "inspect", "--format", "{{json .SBOM}}", name))
    assert set(shown) == {"linux/amd64", "linux/arm64"}
    names = [package["name"] for package in shown["linux/arm64"]["SPDX"]["packages"]]
    assert names == ["thing", "sbom"]


def test_the_real_buildkit_reads_our_cache(builder: Daemon, tmp_path: Path) -> None:
    if why := dockerd.missing():
        pytest.skip(why)
    context = tmp_path / "shared"
    (context / "sub").mkdir(parents=True)
    shutil.copy(str(BUSYBOX), context / "busybox")
    (context / "a").write_text(f"{tmp_path}")
    (context / "sub" / "x").write_text("x")
    (context / "sub" / "link").symlink_to("x")
    (context / "Dockerfile").write_text(
        "FROM scratch AS b\nCOPY busybox /bin/sh\nCOPY busybox /bin/busybox\nENV X=1\n"
        'RUN echo "<&>" > /one\nCOPY --chmod=600 a /a\nCOPY sub /sub\nWORKDIR /w\n'
        "RUN --mount=type=cache,target=/c --mount=type=bind,source=sub,target=/m busybox cat /m/x > /two\n"
        "FROM b\nCOPY --from=b /two /three\n"
    )
    directory = tmp_path / "cache"
    build(builder, context, "--cache-to", f"type=local,dest={directory},mode=max")
    with dockerd.classic_dockerd() as real:
        real.start()
        done = docker(
            builder,
            "build",
            "--progress=plain",
            "--cache-from",
            f"type=local,src={directory}",
            str(context),
            DOCKER_HOST=real.host,
        )
    assert done.returncode == 0, done.stderr
    # Every key, by what was done and by what is in the files, is the same byte for byte.
    assert cached(done) == 8


def test_mount_points_that_the_runtime_made_let_others_pass(builder: Daemon, tmp_path: Path) -> None:
    context = tmp_path / "bare"
    context.mkdir()
    shutil.copy(str(BUSYBOX), context / "busybox")
    (context / "Dockerfile").write_text(
        'FROM scratch\nCOPY busybox /bin/busybox\nRUN ["/bin/busybox", "true"]\n'
    )
    build(builder, context, "-o", f"type=tar,dest={tmp_path}/out.tar")
    with tarfile.open(tmp_path / "out.tar") as opened:
        made = {member.name.rstrip("/"): member.mode for member in opened if member.isdir()}
    assert {name: made[name] for name in ("dev", "proc", "sys")} == dict.fromkeys(
        ("dev", "proc", "sys"), 0o755
    )
