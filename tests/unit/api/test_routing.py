"""Routing and the parts of a request."""

import base64
import json

import pytest
from aiohttp import web

from lading.api.engine.routing import Request, Router, parse_auth, parse_filters, parse_target
from lading.api.engine.streams import encode
from lading.errors import InvalidArgumentError, NotFoundError
from lading.oci.digest import Digest


async def handler(request: Request) -> web.StreamResponse:
    return web.Response()


def table() -> Router:
    router = Router()
    for method, pattern in [
        ("GET", "/images/{name:.*}/json"),
        ("GET", "/images/{name:.*}/get"),
        ("DELETE", "/images/{name:.*}"),
        ("GET", "/images/json"),
        ("GET", "/containers/{id}/json"),
        ("POST", "/containers/{id}/exec"),
    ]:
        router.add(method, pattern, handler)
    return router


@pytest.mark.parametrize(
    ("method", "path", "pattern", "params"),
    [
        ("GET", "images/json", "/images/json", {}),
        ("GET", "images/json/json", "/images/{name:.*}/json", {"name": "json"}),
        ("GET", "images/a/b/c/get", "/images/{name:.*}/get", {"name": "a/b/c"}),
        ("DELETE", "images/a/json", "/images/{name:.*}", {"name": "a/json"}),
        ("GET", "containers/x/json", "/containers/{id}/json", {"id": "x"}),
    ],
)
def test_the_most_exact_route_wins(method: str, path: str, pattern: str, params: dict[str, str]) -> None:
    route, found = table().find(method, path.split("/"))
    assert (route.pattern, found) == (pattern, params)


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "images"), ("POST", "images/json"), ("GET", "containers/a/b/json"), ("GET", "containers/a")],
)
def test_what_fits_no_route_is_not_found(method: str, path: str) -> None:
    with pytest.raises(NotFoundError, match=r"^page not found$"):
        table().find(method, path.split("/"))


@pytest.mark.anyio
async def test_a_mounted_router_serves_all_that_begins_as_it_was_mounted() -> None:
    asked: list[str] = []
    inner = table()

    async def mounted() -> Router:
        asked.append("inner")
        return inner

    router = Router()
    router.add("GET", "/images/json", handler)
    router.mount(("containers", "exec"), mounted)
    assert (await router.resolve("GET", ["images", "json"]))[0].pattern == "/images/json"
    assert not asked
    route, params = await router.resolve("POST", ["containers", "x", "exec"])
    assert (route.pattern, params) == ("/containers/{id}/exec", {"id": "x"})
    for path in (["exec"], ["exec", "x"], ["images", "x", "get"], []):
        with pytest.raises(NotFoundError, match="page not found"):
            await router.resolve("GET", path)
    assert asked == ["inner"] * 3


def test_a_query_keeps_repeated_and_empty_fields() -> None:
    target = parse_target("/v1.43/images/get?names=a%2Fb&names=c+d&all&x=1=2")
    assert target.version == (1, 43)
    assert target.segments == ("images", "get")
    assert target.query.getall("names") == ["a/b", "c d"]
    assert target.query["all"] == ""
    assert target.query["x"] == "1=2"


def test_too_many_fields_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="fields"):
        parse_target("/images/get?" + "&".join(["names=a"] * 10_001))


def test_filters_come_in_two_forms() -> None:
    assert parse_filters('{"label":{"a=b":true,"c":true}}', ["label"]) == {"label": ["a=b", "c"]}
    assert parse_filters('{"label":["a=b","c"]}', ["label"]) == {"label": ["a=b", "c"]}
    assert parse_filters("") == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"nope":{"x":true}}', "invalid filter 'nope'"),
        ("[1]", "invalid filter"),
        ('{"label":3}', "invalid filter"),
        ("{" * 10_000, "invalid filter"),
        (json.dumps({"label": [str(n) for n in range(1001)]}), "more than 1000"),
        ('{"label":["' + "x" * 300_000 + '"]}', "longer than"),
    ],
)
def test_bad_filters_are_refused(text: str, words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=words):
        parse_filters(text, ["label"])


def encoded(document: object, *, padded: bool = True) -> str:
    text = base64.urlsafe_b64encode(json.dumps(document).encode()).decode()
    return text if padded else text.rstrip("=")


@pytest.mark.parametrize("padded", [True, False])
def test_credentials_are_decoded(padded: bool) -> None:
    found = parse_auth(
        encoded({"username": "u", "password": "p\u00ff", "serveraddress": "r:5"}, padded=padded)
    )
    assert found is not None
    assert (found.username, found.password, found.server_address) == ("u", "p\u00ff", "r:5")
    assert "p\u00ff" not in repr(found)


def test_the_combined_form_of_credentials_is_decoded() -> None:
    found = parse_auth(encoded({"auth": base64.b64encode(b"u:p:q").decode()}))
    assert found is not None
    assert (found.username, found.password) == ("u", "p:q")


@pytest.mark.parametrize("header", ["", "e30=", "!!!", encoded([1]), encoded({"username": 3}), "\u00ff"])
def test_auth_that_says_nothing_is_ignored(header: str) -> None:
    assert parse_auth(header) is None


def test_what_is_not_utf_8_is_escaped_and_digests_are_texts() -> None:
    digest = Digest("sha256:" + "a" * 64)
    assert json.loads(encode({"name": "a\udc80", "digest": digest}))["name"] == "a\udc80"
    assert json.loads(encode([digest])) == [digest]
    with pytest.raises(NotImplementedError):
        encode(object())
