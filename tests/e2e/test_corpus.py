"""The corpus, built by the real buildx with this daemon: the same trees, configs and histories that BuildKit makes."""

from collections.abc import Generator

import pytest
from support import corpus
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


def parameters() -> Generator[object]:
    for case in CASES:
        marks = [] if case.name in SAMPLE else [pytest.mark.nightly]
        yield pytest.param(case, id=case.name, marks=marks)


@pytest.mark.parametrize("case", parameters())
def test_a_dockerfile_becomes_what_buildkit_makes_of_it(case: corpus.Case, buildx: corpus.Buildx) -> None:
    made, expected = buildx.build(case), case.expected()
    for key in ("exit_code", "config", "tree", "warnings"):
        assert made.get(key) == expected.get(key), key
