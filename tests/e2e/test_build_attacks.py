"""Dockerfiles and images that want out of their build (hostile-input.md X5 to X7), each attack with its honest twin."""

import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Generator
from pathlib import Path

import pytest
from support.buildx import give_plugins
from support.daemon import Daemon, running_daemon
from support.images import BUSYBOX, File, Layout, busybox_layer

pytestmark = pytest.mark.e2e
BASE = """\
FROM scratch AS base
COPY busybox /bin/busybox
RUN ["/bin/busybox", "sh", "-c", "/bin/busybox --install /bin"]
ENV PATH=/bin
"""


@pytest.fixture(scope="module")
def builder() -> Generator[Daemon]:
    with running_daemon() as daemon:
        give_plugins(daemon)
        yield daemon


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A directory of the machine with a file that no build may see or change."""
    place = tmp_path / "canary"
    place.mkdir()
    (place / "secret").write_text("of the machine\n")
    (place / "empty").mkdir()
    return place


@pytest.fixture
def context(tmp_path: Path) -> Path:
    place = tmp_path / "context"
    place.mkdir()
    shutil.copy(str(BUSYBOX), place / "busybox")
    (place / "stamp").write_text(str(tmp_path))
    return place


def build(
    daemon: Daemon, context: Path, dockerfile: str, *arguments: str, legacy: bool = False
) -> subprocess.CompletedProcess[str]:
    (context / "Dockerfile").write_text(dockerfile)
    shown = [] if legacy else ["--progress=plain"]
    return subprocess.run(
        ["docker", "build", *shown, *arguments, str(context)],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        stdin=subprocess.DEVNULL,
        env={
            **os.environ,
            "DOCKER_HOST": daemon.host,
            "DOCKER_CONFIG": str(daemon.directory / "docker-config"),
            **({"DOCKER_BUILDKIT": "0"} if legacy else {}),
        },
    )


def tree(daemon: Daemon, context: Path, dockerfile: str) -> dict[str, bytes | None]:
    """What is in an image: path to bytes, or ``None`` for what is no file."""
    place = context.parent / "out.tar"
    done = build(daemon, context, dockerfile, "-o", f"type=tar,dest={place}")
    assert done.returncode == 0, done.stderr
    with tarfile.open(place) as opened:
        return {
            member.name.rstrip("/"): opened.extractfile(member).read() if member.isreg() else None  # type: ignore[union-attr]
            for member in opened
        }


# X5: mounts of a build step.


@pytest.mark.parametrize("source", ["/out", "/up", "/proc/self/root{canary}"])
def test_the_source_of_a_mount_stays_in_its_stage(
    builder: Daemon, context: Path, canary: Path, source: str
) -> None:
    """CVE-2024-23651 and its kin: a link in the stage that a mount comes from."""
    evil = f"RUN /bin/ln -s {canary} /out && /bin/ln -s ../../../../../../../..{canary} /up\n"
    mount = f"--mount=from=evil,source={source.format(canary=canary)},target=/m"
    done = build(
        builder,
        context,
        f"{BASE}FROM base AS evil\n{evil}FROM base\nRUN {mount} /bin/cat /m/secret\n",
    )
    assert done.returncode == 1
    assert "of the machine" not in done.stdout + done.stderr


def test_a_link_within_the_stage_is_followed(builder: Daemon, context: Path) -> None:
    stage = "RUN /bin/mkdir /real && echo inside > /real/secret && /bin/ln -s /real /out\n"
    done = build(
        builder,
        context,
        f"{BASE}FROM base AS good\n{stage}FROM base\nRUN --mount=from=good,source=/out,target=/m /bin/cat /m/secret\n",
    )
    assert done.returncode == 0, done.stderr
    assert "inside" in done.stderr


def test_a_mount_point_that_moves_takes_nothing_of_the_machine_along(
    builder: Daemon, context: Path, canary: Path
) -> None:
    """CVE-2024-23652: what was made for a mount is removed afterwards; the step has put a link in its way."""
    done = build(
        builder,
        context,
        f"{BASE}RUN --mount=type=tmpfs,target=/d/empty /bin/mv /d /e && /bin/ln -s {canary} /d\n",
    )
    assert sorted(each.name for each in canary.iterdir()) == ["empty", "secret"], done.stderr


def test_a_mount_point_in_the_way_of_a_link_is_made_inside(
    builder: Daemon, context: Path, canary: Path
) -> None:
    dockerfile = f"{BASE}RUN /bin/ln -s {canary} /link\nRUN --mount=type=tmpfs,target=/link/made echo x > /link/made/y\n"
    done = build(builder, context, dockerfile)
    assert sorted(each.name for each in canary.iterdir()) == ["empty", "secret"], done.stderr


def test_mount_points_are_gone_from_the_image(builder: Daemon, context: Path) -> None:
    made = tree(
        builder,
        context,
        f"{BASE}RUN /bin/mkdir /kept\n"
        "RUN --mount=type=tmpfs,target=/fresh --mount=type=tmpfs,target=/kept echo x > /fresh/y && echo x > /kept/y\n",
    )
    assert "kept" in made
    assert not {"fresh", "fresh/y", "kept/y"} & set(made)


def test_privileges_need_to_be_granted(builder: Daemon, context: Path) -> None:
    """CVE-2024-23653: it is not the Dockerfile, nor a frontend, that decides."""
    done = build(builder, context, f"{BASE}RUN --security=insecure /bin/true\n")
    assert done.returncode == 1
    assert "security.insecure is not allowed" in done.stderr


def test_a_step_has_no_more_than_a_container(builder: Daemon, context: Path) -> None:
    done = build(builder, context, f"{BASE}RUN /bin/grep -E 'CapBnd|Seccomp:' /proc/self/status\n")
    assert done.returncode == 0, done.stderr
    assert "00000000a80425fb" in done.stderr
    assert "Seccomp:\t2" in done.stderr.replace("Seccomp:\\t", "Seccomp:\t")


# X6: COPY and ADD that lead out.


def test_copies_from_a_link_stay_in_its_stage(builder: Daemon, context: Path, canary: Path) -> None:
    evil = f"{BASE}FROM base AS evil\nRUN /bin/ln -s {canary} /out\nFROM scratch\n"
    for source in ("/out/secret", f"/proc/self/root{canary}/secret"):
        done = build(builder, context, f"{evil}COPY --from=evil {source} /stolen/\n")
        assert done.returncode == 1, (source, done.stderr)
    made = tree(builder, context, f"{evil}COPY stamp /\nCOPY --from=evil /out/* /stolen/\n")
    assert not [name for name in made if "secret" in name]


def test_copies_through_a_link_land_inside(builder: Daemon, context: Path, canary: Path) -> None:
    made = tree(
        builder,
        context,
        f"{BASE}RUN /bin/ln -s {canary} /link && /bin/ln -s ../../../..{canary}/secret /file\n"
        "COPY stamp /link/planted\nCOPY stamp /file\n",
    )
    assert sorted(each.name for each in canary.iterdir()) == ["empty", "secret"]
    assert (canary / "secret").read_text() == "of the machine\n"
    assert made[f"{str(canary)[1:]}/planted"] == (context / "stamp").read_bytes()


def test_links_within_a_stage_are_followed_by_copies(builder: Daemon, context: Path) -> None:
    made = tree(
        builder,
        context,
        f"{BASE}FROM base AS good\nRUN /bin/mkdir /real && echo x > /real/file && /bin/ln -s /real /out\n"
        "FROM scratch\nCOPY --from=good /out/file /file\n",
    )
    assert made["file"] == b"x\n"


def archive(*members: tuple[str, str, str]) -> bytes:
    """A tar archive of name, link target (empty for a file) and contents."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as opened:
        for name, link, text in members:
            member = tarfile.TarInfo(name)
            if link:
                member.type, member.linkname = tarfile.SYMTYPE, link
            member.size = len(text)
            opened.addfile(member, io.BytesIO(text.encode()))
    return made.getvalue()


def test_archives_that_lead_out_are_unpacked_inside(builder: Daemon, context: Path, canary: Path) -> None:
    (context / "evil.tar").write_bytes(
        archive(
            ("link", str(canary), ""),
            ("link/secret", "", "overwritten"),
            (f"../../../../../..{canary}/planted", "", "planted"),
            (f"{canary}/absolute", "", "planted"),
        )
    )
    build(builder, context, "FROM scratch\nADD evil.tar /\n")
    assert sorted(each.name for each in canary.iterdir()) == ["empty", "secret"]
    assert (canary / "secret").read_text() == "of the machine\n"


def test_archives_are_unpacked(builder: Daemon, context: Path) -> None:
    (context / "good.tar").write_bytes(archive(("a/file", "", "text"), ("a/link", "file", "")))
    assert tree(builder, context, "FROM scratch\nADD good.tar /\n")["a/file"] == b"text"


def test_a_git_reference_is_no_option(builder: Daemon, context: Path) -> None:
    mark = context.parent / "executed"
    for url in (
        f"http://127.0.0.1:9/repository.git#--upload-pack=/bin/touch {mark}",
        f"http://127.0.0.1:9/repository.git#-c core.sshCommand=/bin/touch {mark}",
    ):
        done = build(builder, context, f'FROM scratch\nADD ["{url}", "/x"]\n')
        assert done.returncode == 1
    assert not mark.exists()


# X7: a build cache that was poisoned.


def poisoned(place: Path) -> Path:
    """An archive with a base, and an image on it that says of itself what a build of good would say."""
    layout = Layout(place)
    good = "/bin/sh -c echo good > /x"
    layout.name(layout.manifest([busybox_layer()]), "base:latest")
    forged = layout.manifest([busybox_layer(), {"x": File(b"evil\n")}], config={"Cmd": ["/bin/sh"]})
    blob = place / "blobs/sha256"
    document = json.loads((blob / forged["digest"][7:]).read_text())
    config = json.loads((blob / document["config"]["digest"][7:]).read_text())
    config["history"][1]["created_by"] = good
    config["container_config"] = {"Cmd": ["/bin/sh", "-c", "echo good > /x"], "Image": "base:latest"}
    config["parent"] = "sha256:" + "0" * 64
    document["config"] = layout.blob(json.dumps(config).encode(), document["config"]["mediaType"])
    layout.name(layout.blob(json.dumps(document).encode(), document["mediaType"]), "forged:latest")
    archived = place.parent / "poisoned.tar"
    with tarfile.open(archived, "w") as opened:
        for each in sorted(place.iterdir()):
            opened.add(each, each.name)
    return archived


@pytest.mark.parametrize("legacy", [False, True], ids=["buildkit", "legacy"])
def test_an_image_that_was_loaded_is_no_build_cache(
    builder: Daemon, context: Path, tmp_path: Path, legacy: bool
) -> None:
    """CVE-2024-24557: the classic builder believed the history of any image. Built twice: the second is our own cache."""
    builder.docker("load", "-i", str(poisoned(tmp_path / "layout")))
    dockerfile = f"FROM base\nLABEL one={tmp_path.name}\nRUN echo good > /x\n"
    name = f"built-{'legacy' if legacy else 'buildkit'}"
    first = build(builder, context, dockerfile, "-t", name, legacy=legacy)
    assert first.returncode == 0, first.stderr
    assert builder.docker("run", "--rm", "--network=none", name, "cat", "/x") == "good\n"
    again = build(builder, context, dockerfile, "-t", name, legacy=legacy)
    assert ("Using cache" if legacy else "CACHED") in again.stdout + again.stderr
    assert builder.docker("run", "--rm", "--network=none", name, "cat", "/x") == "good\n"
