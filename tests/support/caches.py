"""Shared build caches: a context to make one of, and what a recorded or exported one says."""

import json
import shutil
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from support.images import BUSYBOX

RECORDED = Path(__file__).parents[1] / "data" / "build-cache.tar.gz"
"""``context``, what BuildKit made of it (``out``), and its cache of that (``cache``, a local one with ``mode=max``)."""
RECORDED_STEPS = 5
"""Steps of that context."""
RECORDED_DOCKERFILE = """\
FROM scratch AS one
COPY a /a
COPY --chmod=600 --chown=1:2 b/ /b/
WORKDIR /w

FROM scratch
COPY --from=one /b /c
COPY <<end /d
inline
end
"""
DOCKERFILE = """\
FROM --platform=$BUILDPLATFORM scratch AS tools
COPY busybox /bin/sh
COPY busybox /bin/busybox
ENV A=b

FROM tools AS build
WORKDIR /w
COPY src src
RUN echo ha"s" run && busybox cat src/* /proc/sys/kernel/random/uuid > all
RUN --mount=type=bind,source=src,target=/m --mount=type=cache,target=/c busybox cat /m/one >> all

FROM scratch AS final
ARG TARGETARCH
COPY --from=build /w/all /said-$TARGETARCH
COPY src/one /
"""


def context(place: Path, *, salt: str) -> Path:
    """A context that was never built before."""
    (place / "src").mkdir(parents=True)
    shutil.copy(str(BUSYBOX), place / "busybox")
    (place / "src" / "one").write_text(salt)
    (place / "src" / "two").write_text("<&>\n")
    (place / "Dockerfile").write_text(DOCKERFILE)
    return place


def said(place: Path) -> dict[str, str]:
    """What was made of such a context, for each platform: it differs each time that it is made."""
    return {path.name: path.read_text() for path in place.rglob("said-*")}


def context_with_sources(place: Path, *, image: str, file: str, repository: str, salt: str) -> Path:
    """A context that was never built before, of all that comes from elsewhere; ``layout`` is one more, to be given its name."""
    place.mkdir(parents=True)
    (place / "one").write_text(salt)
    (place / "Dockerfile").write_text(f"""\
FROM {image} AS remote
RUN echo ha"s" run; echo {salt} > /all
WORKDIR /w
COPY one /one
COPY --link one /two
ADD {file} /file
ADD {repository}#main:dir /dir/
ADD --keep-git-dir {repository} /git/

FROM layout
COPY --from=remote /all /all
RUN echo ha"s" run
""")
    return place


SOURCES_STEPS = 9
"""Steps of that context."""


def recorded_context(place: Path) -> Path:
    """What is recorded."""
    (place / "b").mkdir(parents=True)
    (place / "a").write_text("a\n")
    (place / "b" / "x").write_text("x\n")
    (place / "b" / "link").symlink_to("x")
    (place / "Dockerfile").write_text(RECORDED_DOCKERFILE)
    return place


def unpacked(place: Path) -> Path:
    """The recorded cache with its context and what was made of it."""
    with tarfile.open(RECORDED) as archive:
        archive.extractall(place / "recorded")
    return place / "recorded"


def files(place: Path) -> dict[str, str]:
    """Files and links of a tree."""
    return {
        str(path.relative_to(place)): str(path.readlink()) if path.is_symlink() else path.read_text()
        for path in sorted(place.rglob("*"))
        if not path.is_dir() or path.is_symlink()
    }


@dataclass(frozen=True, kw_only=True)
class Cache:
    """What a cache says, without times and digests of layers, which differ from one compressor to another."""

    media_types: list[str]
    annotations: list[list[str]]
    results: Mapping[str, int]
    """The keys that have results, each by all that leads to it but names of sessions, and how many layers the result has."""
    roots: frozenset[str]
    """The keys of what is made from nothing: sources."""


def read(place: Path) -> Cache:
    """Read a local cache: an OCI layout."""

    def blob(digest: str) -> Any:
        return json.loads((place / "blobs" / digest.replace(":", "/")).read_text())

    (entry,) = json.loads((place / "index.json").read_text())["manifests"]
    manifest = blob(entry["digest"])
    config = blob(manifest["config"]["digest"])
    records, layers = config["records"], config["layers"]

    @cache
    def name(number: int) -> str:
        record = records[number]
        ways = [
            sorted(
                # A root beside others and without a selector is the client's directory, which is called by its session.
                [one.get("selector", ""), name(one["link"])]
                for one in way
                if len(way) == 1 or one.get("selector") or records[one["link"]].get("inputs")
            )
            for way in record.get("inputs", [])
        ]
        return json.dumps([record["digest"], ways])

    def depth(layer: int) -> int:
        return 0 if layer < 0 else 1 + depth(layers[layer].get("parent", -1))

    return Cache(
        media_types=[
            manifest["mediaType"],
            manifest["config"]["mediaType"],
            *{one["mediaType"] for one in manifest["layers"]},
        ],
        annotations=sorted(sorted(one.get("annotations", {})) for one in manifest["layers"]),
        results={
            name(number): depth(record["layers"][0]["layer"])
            for number, record in enumerate(records)
            if record.get("layers")
        },
        roots=frozenset(record["digest"] for record in records if not record.get("inputs")),
    )
