"""Source policies: what a client's file (EXPERIMENTAL_BUILDKIT_SOURCE_POLICY) says of sources holds for its build."""

import functools
import hashlib
import http.server
import json
import shutil
import subprocess
import threading
from collections.abc import Generator
from pathlib import Path

import pytest
from support.daemon import Daemon, running_daemon

from .test_build import build, give_plugins

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
    return place


def build_with(
    daemon: Daemon, context: Path, dockerfile: str, rules: list[object], *arguments: str
) -> subprocess.CompletedProcess[str]:
    (context / "Dockerfile").write_text(dockerfile)
    policy = context.parent / "policy.json"
    policy.write_text(json.dumps({"version": 1, "rules": rules}))
    return build(
        daemon,
        context,
        *arguments,
        check=False,
        EXPERIMENTAL_BUILDKIT_SOURCE_POLICY=str(policy),
        BUILDX_EXPERIMENTAL="1",
    )


@pytest.fixture
def base(builder: Daemon, context: Path, registry: str) -> str:
    """Two images in a registry that differ by their label."""
    for tag in ("1", "2"):
        (context / "Dockerfile").write_text(f"FROM scratch\nCOPY busybox /busybox\nLABEL tag={tag}\n")
        build(builder, context, "--push", "-t", f"{registry}/policy:{tag}")
    return f"{registry}/policy"


def test_a_denied_image_is_not_used(builder: Daemon, context: Path, base: str) -> None:
    rules: list[object] = [{"action": "DENY", "selector": {"identifier": f"docker-image://{base}:*"}}]
    refused = build_with(builder, context, f"FROM {base}:1\n", rules)
    assert refused.returncode == 1
    assert "could not resolve image due to policy" in refused.stderr
    assert f'source "docker-image://{base}:1" denied by policy' in refused.stderr
    assert ">>> FROM" in refused.stderr
    allowed = [*rules, {"action": "ALLOW", "selector": {"identifier": f"docker-image://{base}:1*"}}]
    assert build_with(builder, context, f"FROM {base}:1\n", allowed).returncode == 0


def test_one_image_stands_in_for_another(builder: Daemon, context: Path, base: str) -> None:
    rules: list[object] = [
        {
            "action": "CONVERT",
            "selector": {"identifier": f"docker-image://{base}:1", "matchType": "EXACT"},
            "updates": {"identifier": f"docker-image://{base}:2"},
        }
    ]
    done = build_with(builder, context, f"FROM {base}:1\nENV X=y\n", rules, "-t", "converted")
    assert done.returncode == 0, done.stderr
    image = json.loads(builder.docker("image", "inspect", "converted"))[0]
    assert image["Config"]["Labels"] == {"tag": "2"}


@pytest.fixture
def web(tmp_path: Path) -> Generator[str]:
    (tmp_path / "www").mkdir()
    (tmp_path / "www/file").write_text("from the web\n")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "www"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/file"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_file_of_the_web_is_pinned(builder: Daemon, context: Path, web: str) -> None:
    def pin(text: str) -> list[object]:
        checksum = f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
        return [
            {
                "action": "CONVERT",
                "selector": {"identifier": web},
                "updates": {"attrs": {"http.checksum": checksum}},
            }
        ]

    dockerfile = f"FROM scratch\nADD {web} /file\n"
    out = context.parent / "out"
    done = build_with(builder, context, dockerfile, pin("from the web\n"), "-o", str(out))
    assert done.returncode == 0, done.stderr
    assert (out / "file").read_text() == "from the web\n"
    refused = build_with(builder, context, dockerfile, pin("something else"), "--no-cache")
    assert refused.returncode == 1
    assert "digest mismatch" in refused.stderr
