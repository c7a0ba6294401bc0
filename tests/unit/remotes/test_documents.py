"""Resolving and listing: D1, D5 to D7, D13 as seen by a resolver; R10, R11."""

import json
from collections.abc import Generator

import pytest
from support.remotes import at, world

from lading.core.remotes import Document, replies_of
from lading.errors import (
    DataLossError,
    InvalidArgumentError,
    LadingError,
    NotFoundError,
    UnsupportedError,
)
from lading.oci import mediatypes
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest
from lading.testing.registry import FakeRegistry, Fault
from lading.testing.remotes import blob, image

pytestmark = pytest.mark.anyio

BODY = image([])
MANIFESTS = "/manifests/"


@pytest.fixture
def registry() -> Generator[FakeRegistry]:
    with FakeRegistry() as fake:
        fake.add_manifest("app", BODY, mediatypes.OCI_MANIFEST, tag="v1")
        yield fake


async def resolve(registry: FakeRegistry, *faults: Fault) -> Descriptor:
    registry.faults.extend(faults)
    async with world() as client:
        return (await client.resolver().resolve(at(registry))).descriptor


async def test_head_and_then_get_by_digest(registry: FakeRegistry) -> None:
    found = await resolve(registry)
    assert [(one.method, one.target.rpartition("/")[2]) for one in registry.requests] == [
        ("HEAD", "v1"),
        ("GET", found.digest),
    ]


async def test_what_is_known_is_not_fetched(registry: FakeRegistry) -> None:
    asked: list[tuple[Digest, str]] = []
    descriptor = Descriptor(media_type=mediatypes.OCI_MANIFEST, digest=Digest.of(BODY), size=len(BODY))

    async def known(digest: Digest, media_type: str) -> Document | None:
        asked.append((digest, media_type))
        return Document(descriptor=descriptor, body=BODY) if len(asked) == 2 else None

    async with world() as client:
        assert (await client.resolver().resolve(at(registry), known=known)).body == BODY
        assert [one.method for one in registry.requests] == ["HEAD", "GET"]
        assert (await client.resolver().resolve(at(registry), known=known)).descriptor == descriptor
    assert [one.method for one in registry.requests] == ["HEAD", "GET", "HEAD"]
    assert set(asked) == {(descriptor.digest, descriptor.media_type)}


async def test_a_registry_without_head(registry: FakeRegistry) -> None:
    registry.head_allowed = False
    assert (await resolve(registry)).digest == Digest.of(BODY)


async def test_a_registry_that_does_not_say_the_digest(registry: FakeRegistry) -> None:
    raw = f"HTTP/1.1 200 OK\r\nContent-Type: {mediatypes.OCI_MANIFEST}\r\nContent-Length: {len(BODY)}\r\n\r\n"
    head = Fault(method="HEAD", raw=raw.encode(), times=-1)
    assert (await resolve(registry, head, Fault(raw=raw.encode() + BODY, times=-1))).digest == Digest.of(BODY)


async def test_bytes_that_are_not_what_was_announced(registry: FakeRegistry) -> None:
    with pytest.raises(DataLossError):
        await resolve(registry, Fault(path=MANIFESTS, data=BODY + b" ", times=-1))


@pytest.mark.parametrize("text", ["sha256:../../x", "sha256:" + "A" * 64, "md5:" + "0" * 32, "sha256:12"])
async def test_odd_digests(registry: FakeRegistry, text: str) -> None:
    with pytest.raises(LadingError):
        await resolve(registry, Fault(method="HEAD", fields=(("Docker-Content-Digest", text),), times=-1))


@pytest.mark.parametrize(
    ("content_type", "taken"),
    [
        (mediatypes.OCI_MANIFEST, True),
        (mediatypes.OCI_MANIFEST + "; charset=utf-8", True),
        ("application/json", True),
        ("text/plain", True),
        (mediatypes.OCI_INDEX, False),
        (mediatypes.DOCKER_MANIFEST, False),
        ("application/vnd.example", False),
    ],
)
async def test_one_digest_has_one_meaning(registry: FakeRegistry, content_type: str, taken: bool) -> None:
    typed = Fault(path=MANIFESTS, fields=(("Content-Type", content_type),), times=-1)
    if taken:
        assert (await resolve(registry, typed)).media_type == mediatypes.OCI_MANIFEST
    else:
        with pytest.raises((InvalidArgumentError, UnsupportedError)):
            await resolve(registry, typed)


@pytest.mark.parametrize(
    "document",
    [
        {"schemaVersion": 2, "manifests": [], "layers": [], "config": {}},
        {"schemaVersion": 1, "fsLayers": []},
        {"schemaVersion": True},
        [],
    ],
)
async def test_ambiguous_documents(registry: FakeRegistry, document: object) -> None:
    registry.add_manifest("app", json.dumps(document).encode(), mediatypes.OCI_MANIFEST, tag="v1")
    with pytest.raises((InvalidArgumentError, UnsupportedError)):
        await resolve(registry)


async def test_a_manifest_of_five_megabytes(registry: FakeRegistry) -> None:
    registry.add_manifest("app", BODY + b" " * (5 << 20), mediatypes.OCI_MANIFEST, tag="v1")
    with pytest.raises(LadingError, match="over 4194304 bytes"):
        await resolve(registry)


async def test_a_manifest_of_almost_four(registry: FakeRegistry) -> None:
    body = BODY + b" " * ((4 << 20) - len(BODY))
    registry.add_manifest("app", body, mediatypes.OCI_MANIFEST, tag="v1")
    assert (await resolve(registry)).size == 4 << 20


async def test_error_bodies_are_bounded_and_harmless(registry: FakeRegistry) -> None:
    evil = json.dumps({"errors": [{"code": "DENIED", "message": "\x1b[2J\r\nHTTP/1.1 200 OK" + "x" * 5000}]})
    with pytest.raises(LadingError) as caught:
        await resolve(registry, Fault(method="HEAD|GET", status=403, body=evil.encode(), times=-1))
    assert all(c.isprintable() for c in str(caught.value))
    assert len(str(caught.value)) < 1000
    big = Fault(method="GET", status=404, body=b"x" * 1_000_000, times=-1)
    registry.head_allowed = False
    registry.faults.clear()
    with pytest.raises(NotFoundError) as missing:
        await resolve(registry, big)
    assert replies_of(missing.value)[0].message == ""


async def test_pages_of_tags(registry: FakeRegistry) -> None:
    registry.page = 3
    for n in range(10):
        registry.repository("app").tags[f"t{n}"] = Digest.of(BODY)
    async with world() as client:
        found = [tag async for tag in client.resolver().tags(at(registry))]
    assert found == [*(f"t{n}" for n in range(10)), "v1"]


@pytest.mark.parametrize(
    "link",
    [
        "/v2/app/tags/list?n=1000",
        "/v2/app/tags/list?last=a",
        "http://thief.example/v2/app/tags/list",
        "/v2/_catalog",
    ],
)
async def test_pages_that_lead_astray_or_nowhere(registry: FakeRegistry, link: str) -> None:
    fields = (("Link", f'<{link}>; rel="next"'),)
    registry.faults.append(Fault(path="/tags/", status=200, body=b'{"tags":["a"]}', fields=fields, times=-1))
    async with world() as client:
        with pytest.raises(DataLossError):
            _ = [tag async for tag in client.resolver().tags(at(registry))]
    assert len(registry.requests) <= 3


async def test_pages_without_end(registry: FakeRegistry) -> None:
    for n in range(50):
        fields = (("Link", f'</v2/app/tags/list?last={n}>; rel="next"'),)
        registry.faults.append(Fault(path="/tags/", status=200, body=b'{"tags":["a"]}', fields=fields))
    async with world(limits={"pages": 20}) as client:
        with pytest.raises(DataLossError):
            _ = [tag async for tag in client.resolver().tags(at(registry))]
    assert len(registry.requests) == 20


async def test_referrers_by_tag(registry: FakeRegistry) -> None:
    registry.has_referrers = False
    subject = blob(BODY, mediatypes.OCI_MANIFEST)
    entry = {
        "mediaType": mediatypes.OCI_MANIFEST,
        "digest": Digest.of(b"x"),
        "size": 1,
        "artifactType": "a/b",
    }
    index = {"schemaVersion": 2, "mediaType": mediatypes.OCI_INDEX, "manifests": [entry]}
    tag = subject.digest.replace(":", "-")
    async with world() as client:
        fetcher = client.resolver().fetcher(at(registry))
        assert await fetcher.referrers(subject) == []
        registry.add_manifest("app", json.dumps(index).encode(), mediatypes.OCI_INDEX, tag=tag)
        assert [one.digest for one in await fetcher.referrers(subject)] == [Digest.of(b"x")]
        assert await fetcher.referrers(subject, artifact_types=["c/d"]) == []


async def test_an_answer_that_is_html_is_no_index(registry: FakeRegistry) -> None:
    html = Fault(path="/referrers/", status=200, body=b"<html>", fields=(("Content-Type", "text/html"),))
    registry.faults.append(html)
    async with world() as client:
        fetcher = client.resolver().fetcher(at(registry))
        assert await fetcher.referrers(blob(BODY, mediatypes.OCI_MANIFEST)) == []


async def test_a_document_from_a_host_that_lies(registry: FakeRegistry) -> None:
    registry.faults.append(Fault(path=MANIFESTS, data=BODY[:-1] + b" ", times=-1))
    async with world() as client:
        with pytest.raises(DataLossError):
            await client.resolver().fetcher(at(registry)).document(blob(BODY, mediatypes.OCI_MANIFEST))


async def test_a_document_that_is_none(registry: FakeRegistry) -> None:
    async with world() as client:
        huge = Descriptor(media_type=mediatypes.OCI_CONFIG, digest=Digest.of(b""), size=1 << 30)
        with pytest.raises(InvalidArgumentError):
            await client.resolver().fetcher(at(registry)).document(huge)
    assert not registry.requests
