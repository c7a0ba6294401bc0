"""The corpus: graphs, configs, histories and remarks are those that the real BuildKit made of the same Dockerfiles."""

import json
from typing import Any

import pytest
from support import corpus
from support.gateways import AMD64, MemoryGateway

from lading.builder.frontend.frontend import DockerfileFrontend
from lading.builder.results import Result
from lading.errors import LadingError
from lading.formats.llb import graph
from lading.formats.llb.definition import Definition
from lading.formats.llb.shown import op_json
from lading.oci.digest import Digest

IMAGES = json.loads((corpus.BASES / "images.json").read_text())
CASES = [case for case in corpus.cases() if not case.labs]
pytestmark = pytest.mark.anyio
ELSEWHERE = {"bad-failing-run", "bad-missing-file", "bad-base"}
"""What goes wrong outside the frontend."""

UNEVEN = {"onbuild-from", "run-secrets"}
"""BuildKit counts the first stage's base twice in the one, and in the other never comes to speak of it."""


def gateway(case: corpus.Case) -> MemoryGateway:
    files = {
        "dockerfile": _read(case.context / case.file.rpartition("/")[0]),
        "context": _read(case.context),
        **{name: _read(case.directory / where) for name, where in case.contexts.items() if ":" not in where},
    }
    return MemoryGateway(
        files,
        {name: json.dumps(image["config"]).encode() for name, image in IMAGES.items()},
        {**corpus.attributes(case), "image-resolve-mode": "local"},
        worker=(AMD64,),
        digests={name: Digest(image["digest"]) for name, image in IMAGES.items()},
    )


def _read(directory: Any) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


def steps(result: Result) -> list[Any]:
    (ref,) = result.refs.values()
    definition = ref.definition if ref is not None else Definition()
    return [
        {
            "id": digest,
            "op": op_json(vertex.raw),
            "inputs": [f"{one.digest.replace(':', '-')}:{one.index}" for one in vertex.inputs],
        }
        for digest, vertex in graph.load(definition).vertices.items()
    ]


def names(door: MemoryGateway, result: Result) -> list[str]:
    """Of every vertex that was solved or looked up."""
    (ref,) = result.refs.values()
    definitions = [*door.solved, *([ref.definition] if ref is not None else [])]
    vertices = [vertex for one in definitions for vertex in graph.load(one).vertices.values()]
    return sorted({*(vertex.name for vertex in vertices), *(name for _, name, _ in door.looked_up)})


def shown(result: Result, *, pinned: bool = True) -> list[Any]:
    made = [{**step, "id": step["id"].replace(":", "-")} for step in steps(result)]
    return corpus.shown_steps(made, pinned=pinned)


@pytest.mark.parametrize("case", [case for case in CASES if not case.fails], ids=lambda case: case.name)
async def test_a_dockerfile_becomes_what_buildkit_makes_of_it(case: corpus.Case) -> None:
    expected = case.expected()
    door = gateway(case)
    result = await DockerfileFrontend().build(door)
    assert shown(result, pinned=case.pinned) == expected["steps"]
    config = corpus.shown_config(json.loads(result.metadata["containerimage.config"]))
    assert config == expected["config"]
    if case.name not in UNEVEN:
        assert names(door, result) == expected["names"]
    assert sorted(event.short.decode() for event in door.warnings) == expected["warnings"]


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.fails and case.name not in ELSEWHERE], ids=lambda case: case.name
)
async def test_a_bad_dockerfile_is_refused_in_buildkits_words(case: corpus.Case) -> None:
    with pytest.raises(LadingError) as caught:
        await DockerfileFrontend().build(gateway(case))
    assert caught.value.message == case.expected()["error"]


@pytest.mark.parametrize("case", [case for case in corpus.cases() if case.labs], ids=lambda case: case.name)
async def test_what_only_labs_frontends_have_is_understood(case: corpus.Case) -> None:
    assert shown(await DockerfileFrontend().build(gateway(case)))
