"""The corpus, built by the real buildx with this daemon: the same trees, configs and histories that BuildKit makes."""

from pathlib import Path

import pytest
from support import corpus, dockerd
from support.daemon import Daemon
from support.newer import CLI_PLUGINS

pytestmark = pytest.mark.e2e
SAMPLE = {"node-app", "copy-link", "heredoc-copy", "run-mounts", "onbuild-image", "bad-failing-run"}
"""Enough for every run; the whole corpus takes minutes."""
CASES = [case for case in corpus.cases() if not case.labs]


@pytest.fixture(scope="module")
def buildx(shared_daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> corpus.Buildx:
    made = corpus.Buildx(shared_daemon.host, CLI_PLUGINS, tmp_path_factory.mktemp("buildx"))
    made.bases()
    return made


PARAMETERS = [
    pytest.param(case, id=case.name, marks=[] if case.name in SAMPLE else [pytest.mark.nightly])
    for case in CASES
]


@pytest.mark.parametrize("case", PARAMETERS)
def test_a_dockerfile_becomes_what_buildkit_makes_of_it(case: corpus.Case, buildx: corpus.Buildx) -> None:
    made, expected = buildx.build(case, built_in=False), case.expected()
    for key in ("exit_code", "config", "tree", "warnings"):
        assert made.get(key) == expected.get(key), key
    assert len(made.get("steps", ())) == len(expected.get("steps", ()))


@pytest.mark.nightly
@pytest.mark.timeout(1800)
@pytest.mark.skipif(bool(dockerd.missing()), reason=dockerd.missing() or "there is one")
def test_what_is_recorded_is_what_buildkit_makes_today(tmp_path: Path) -> None:
    with dockerd.classic_dockerd(dockerd.BuildingDockerd) as peer:
        peer.start()
        buildx = corpus.Buildx(peer.host, CLI_PLUGINS, tmp_path)
        buildx.bases()
        found = [(case.name, buildx.build(case, built_in=False), case.expected()) for case in CASES]
    keys = ("exit_code", "config", "tree", "warnings")
    different = [
        (name, key) for name, made, known in found for key in keys if made.get(key) != known.get(key)
    ]
    assert different == []
