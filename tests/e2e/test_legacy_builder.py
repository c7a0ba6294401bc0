"""The legacy builder: ``docker build`` without BuildKit, in the old builder's words."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from support.daemon import Daemon

pytestmark = [pytest.mark.e2e, pytest.mark.stores("containerd", "classic")]
FROM = "FROM scratch\nCOPY busybox /bin/busybox\n"
RUN = 'RUN ["/bin/busybox", "sh", "-c", "{}"]\n'


PASSWD = (
    f"{FROM}{RUN.format('/bin/busybox mkdir /etc; echo me:x:5:6::: >/etc/passwd; echo us:x:7: >/etc/group')}"
)


@pytest.fixture
def context(tmp_path: Path) -> Path:
    place = tmp_path / "context"
    place.mkdir()
    shutil.copy("/bin/busybox", place / "busybox")
    return place


def build(daemon: Daemon, context: Path, dockerfile: str, *args: str) -> subprocess.CompletedProcess[str]:
    (context / "Dockerfile").write_text(dockerfile)
    return subprocess.run(
        ["docker", "build", *args, str(context)],
        env={**os.environ, "DOCKER_HOST": daemon.host, "DOCKER_BUILDKIT": "0"},
        capture_output=True,
        text=True,
        check=False,
    )


def inspect(daemon: Daemon, name: str) -> dict[str, object]:
    return json.loads(daemon.docker("image", "inspect", name))[0]


def test_it_builds_step_by_step_and_again_from_its_cache(shared_daemon: Daemon, context: Path) -> None:
    dockerfile = (
        f"ARG UNUSED=1\n{FROM}ENV A=b\n{RUN.format('echo hello; echo $A > /made')}"
        'COPY Dockerfile /d\nLABEL x=y\nCMD ["/bin/busybox", "cat", "/made"]\n'
    )
    first = build(shared_daemon, context, dockerfile, "-t", "legacy:1", "--label", "given=yes")
    assert first.returncode == 0, first.stderr
    lines = first.stdout.splitlines()
    steps = [line for line in lines if line.startswith("Step ")]
    assert steps[0] == "Step 1/9 : ARG UNUSED=1"
    assert steps[3] == "Step 4/9 : ENV A=b"
    assert steps[-2] == 'Step 8/9 : CMD ["/bin/busybox", "cat", "/made"]'
    assert steps[-1] == "Step 9/9 : LABEL given=yes"
    assert "hello" in lines
    assert any(re.fullmatch(r" ---> Running in [0-9a-f]{12}", line) for line in lines)
    assert any(re.fullmatch(r" ---> Removed intermediate container [0-9a-f]{12}", line) for line in lines)
    assert lines[-1] == "Successfully tagged legacy:1"
    image = inspect(shared_daemon, "legacy:1")
    assert re.fullmatch(rf"Successfully built {str(image['Id'])[7:19]}", lines[-2])
    config = image["Config"]
    assert isinstance(config, dict)
    assert config["Labels"] == {"x": "y", "given": "yes"}
    history = shared_daemon.docker(
        "history", "--no-trunc", "--format", "{{.CreatedBy}}", "legacy:1"
    ).splitlines()
    assert history[0] == "/bin/sh -c #(nop)  LABEL given=yes"
    assert history[1] == '/bin/sh -c #(nop)  CMD ["/bin/busybox" "cat" "/made"]'
    assert "/bin/busybox sh -c echo hello; echo $A > /made" in history
    assert shared_daemon.docker("run", "--rm", "--network", "none", "legacy:1").strip() == "b"

    again = build(shared_daemon, context, dockerfile, "-t", "legacy:1", "--label", "given=yes")
    assert again.stdout.count(" ---> Using cache") == 7
    assert "Running in" not in again.stdout
    assert inspect(shared_daemon, "legacy:1")["Id"] == image["Id"]


def test_projects_do_not_share_files(shared_daemon: Daemon, context: Path) -> None:
    """A file of the same name, size and time, in whole seconds as tar has it, is another project's, or was edited."""
    usage = ""
    for text in ("one", "two", "six"):
        (context / "file").write_text(text)
        os.utime(context / "file", ns=(1_600_000_000_000_000_000 + ord(text[0]),) * 2)
        done = build(shared_daemon, context, f"{FROM}COPY file /file\n", "-t", "legacy:shared")
        assert done.returncode == 0, done.stderr
        command = ("run", "--rm", "--network", "none", "legacy:shared", "/bin/busybox", "cat", "/file")
        assert shared_daemon.docker(*command) == text
        if text == "one":
            usage = shared_daemon.docker("system", "df", "-v", "--format", "{{len .BuildCache}}")
    # One layer more for each of the other two files, and no directory.
    after = shared_daemon.docker("system", "df", "-v", "--format", "{{len .BuildCache}}")
    assert int(after) - int(usage) == 2


def test_every_stage_up_to_the_target_is_built(shared_daemon: Daemon, context: Path) -> None:
    dockerfile = (
        f"{FROM.replace('scratch', 'scratch AS one')}{RUN.format('echo 1 > /1')}"
        f"FROM scratch AS two\nCOPY --from=one /1 /one\n"
        f"FROM missing.invalid/never AS three\n"
    )
    done = build(shared_daemon, context, dockerfile, "--target", "two", "-q")
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"sha256:[0-9a-f]{64}\n", done.stdout)


def test_a_failed_command_passes_on_its_exit_code(shared_daemon: Daemon, context: Path) -> None:
    failed = build(shared_daemon, context, f"{FROM}{RUN.format('echo no >&2; exit 7')}")
    assert failed.returncode == 7
    said = "The command '/bin/busybox sh -c echo no >&2; exit 7' returned a non-zero code: 7"
    assert said in failed.stderr
    assert "\x1b[91mno" in failed.stdout


@pytest.mark.parametrize(
    ("dockerfile", "said"),
    [
        (f"{FROM}RUN --mount=type=cache,target=/c true\n", "the --mount option requires BuildKit"),
        ("FROM scratch\nCOPY --chmod=755 busybox /b\n", "the --chmod option requires BuildKit"),
        ("FORM scratch\n", "unknown instruction: FORM"),
        (
            "FROM scratch\nADD nothing /x\n",
            "ADD failed: file not found in build context or excluded by .dockerignore: stat nothing: file does not exist",
        ),
        (f"{FROM}FROM scratch\nCOPY --from=0 /no /x\n", "COPY failed: stat no: file does not exist"),
        ("FROM scratch\nCOPY no*thing /x\n", "COPY failed: no source files were specified"),
        (f"{FROM}FROM scratch\nCOPY --from=0 /b?x /x\n", "COPY failed: no source files were specified"),
        ("FROM scratch\nCOPY ../escape /x\n", "escape"),
        (
            "FROM scratch\nCOPY --chown=nope busybox /x\n",
            "can't find uid for user nope: open /etc/passwd: no such file or directory",
        ),
        (f"{PASSWD}COPY --chown=nope busybox /x\n", "can't find uid for user nope: no such user: nope"),
        (f"{PASSWD}COPY --chown=me busybox /x\n", "can't find gid for group me: no such group: me"),
        (f"{PASSWD}ADD --chown=me:nope busybox /x\n", "can't find gid for group nope: no such group: nope"),
        (f"{PASSWD}COPY --chown=me:us:x busybox /x\n", "invalid chown string format"),
    ],
)
def test_what_it_cannot_do_is_refused(
    dockerfile: str, said: str, shared_daemon: Daemon, context: Path
) -> None:
    refused = build(shared_daemon, context, dockerfile)
    assert refused.returncode == 1
    assert said in refused.stderr + refused.stdout


@pytest.mark.parametrize(
    ("query", "status", "said"),
    [
        ("version=3", 400, "invalid version"),
        ("version=2", 501, "use docker buildx"),
        ("memory=1000000", 501, "memory"),
        ("squash=1", 400, "squash is only supported with experimental mode"),
        ("platform=linux/amd64,linux/arm64", 400, "invalid platform"),
        ("networkmode=other", 501, "network"),
        ("buildargs=1", 400, "buildargs"),
        ("t=x@sha256:" + "0" * 64, 400, "digest"),
    ],
)
def test_a_request_that_cannot_be_honoured_is_refused_by_name(
    query: str, status: int, said: str, shared_daemon: Daemon
) -> None:
    code, body = shared_daemon.api("POST", f"/build?{query}")
    assert code == status
    assert said in body["message"]


def test_one_of_several_wildcards_may_fit_nothing(shared_daemon: Daemon, context: Path) -> None:
    done = build(shared_daemon, context, "FROM scratch\nCOPY busybox no*thing /x/\n", "-q")
    assert done.returncode == 0, done.stderr


def test_an_owner_has_a_group_of_his_name(shared_daemon: Daemon, context: Path) -> None:
    groups = RUN.format("echo me:x:8: >>/etc/group")
    shown = RUN.format("/bin/busybox stat -c %u:%g /x /y /z")
    copies = "COPY --chown=me busybox /x\nCOPY --chown=me:us busybox /y\nCOPY --chown=9 busybox /z\n"
    done = build(shared_daemon, context, f"{PASSWD}{groups}{copies}{shown}")
    assert "5:8\n5:7\n9:9\n" in done.stdout


def test_a_command_that_is_not_there_is_told_once(shared_daemon: Daemon, context: Path) -> None:
    failed = build(shared_daemon, context, f'{FROM}RUN ["nope"]\n')
    said = "OCI runtime create failed: runc create failed: unable to start container process"
    assert said in failed.stderr
    assert (failed.stdout + failed.stderr).count("executable file not found") == 1


def test_an_image_for_another_machine_is_none(shared_daemon: Daemon, context: Path, registry: str) -> None:
    name = f"{registry}/machines:1"
    assert build(shared_daemon, context, FROM, "-t", name).returncode == 0
    asked = build(shared_daemon, context, f"FROM --platform=linux/s390x {name}\nENV A=b\n")
    assert asked.returncode == 1
    assert f"{name}" in asked.stdout + asked.stderr
    assert "Successfully" not in asked.stdout
    assert build(shared_daemon, context, f"FROM --platform=linux/amd64 {name}\nENV A=b\n").returncode == 0


def test_unused_arguments_are_remarked(shared_daemon: Daemon, context: Path) -> None:
    done = build(shared_daemon, context, FROM, "--build-arg", "NOBODY=1", "--build-arg", "http_proxy=x")
    assert "[Warning] One or more build-args [NOBODY] were not consumed" in done.stdout


def test_giving_up_what_is_not_there(shared_daemon: Daemon) -> None:
    assert shared_daemon.api("POST", "/build/cancel?id=nothing")[0] == 404
    assert shared_daemon.api("POST", "/build/cancel")[0] == 400
