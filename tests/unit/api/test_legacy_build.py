"""What a request for the legacy builder asks for."""

import base64
import json
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode

import pytest

from lading.api.engine.legacy_build import wish_of
from lading.api.engine.routing import Request, parse_target
from lading.errors import InvalidArgumentError, UnsupportedError


def request(headers: dict[str, str] | None = None, **query: Any) -> Request:
    pairs = [
        (key, one) for key, value in query.items() for one in (value if isinstance(value, list) else [value])
    ]
    raw: Any = SimpleNamespace(headers=headers or {})
    return Request(raw, parse_target(f"/v1.47/build?{urlencode(pairs)}"), {})


def test_everything_asked_reaches_the_frontend() -> None:
    wish = wish_of(
        request(
            dockerfile="sub/D",
            t=["a:1", "b"],
            pull="1",
            nocache="1",
            q="1",
            rm="0",
            target="x",
            platform="linux/arm64/v8",
            buildargs=json.dumps({"A": "1", "B": None}),
            labels=json.dumps({"l": "v"}),
            ulimits=json.dumps([{"Name": "nofile", "Soft": 1, "Hard": 2}]),
            extrahosts=["h:1.2.3.4", "i:::1"],
            shmsize="1048576",
            networkmode="none",
            cgroupparent="c",
            cachefrom='["x"]',
            remote="https://h/r.git",
            buildid="id",
        )
    )
    assert wish.cache_from
    assert wish.attributes == {
        "filename": "sub/D",
        "image-resolve-mode": "pull",
        "build-arg:A": "1",
        "label:l": "v",
        "context": "https://h/r.git",
        "target": "x",
        "platform": "linux/arm64",
        "cgroup-parent": "c",
        "shm-size": "1048576",
        "add-hosts": "h=1.2.3.4,i=::1",
        "ulimit": "nofile=1:2",
        "force-network-mode": "none",
        "no-cache": "",
    }
    assert (wish.names, wish.quiet, wish.keep_containers, wish.no_cache) == (["a:1", "b"], True, True, True)
    assert (wish.remote, wish.build_id) == ("https://h/r.git", "id")


def test_nothing_asked() -> None:
    wish = wish_of(request(shmsize="0", memory="0", ulimits="null"))
    assert wish.attributes == {"filename": "Dockerfile", "image-resolve-mode": "local"}
    assert not wish.keep_containers


def test_credentials_by_host() -> None:
    logins = {
        "https://index.docker.io/v1/": {"username": "u", "password": "p"},
        "registry:5000": {"identitytoken": "t"},
    }
    header = base64.urlsafe_b64encode(json.dumps(logins).encode()).decode().rstrip("=")
    wish = wish_of(request({"X-Registry-Config": header}))
    assert wish.credentials["docker.io"].username == "u"
    assert wish.credentials["registry:5000"].identity_token == "t"
    assert "password" not in repr(wish)
    assert wish_of(request({"X-Registry-Config": "!"})).credentials == {}


@pytest.mark.parametrize(
    ("query", "error", "said"),
    [
        ({"version": "3"}, InvalidArgumentError, "invalid version"),
        ({"version": "2"}, UnsupportedError, "buildx"),
        ({"cpuquota": "5"}, UnsupportedError, "cpuquota"),
        ({"squash": "1"}, InvalidArgumentError, "squash"),
        ({"securityopt": "x"}, InvalidArgumentError, "security options"),
        ({"isolation": "hyperv"}, InvalidArgumentError, "isolation"),
        ({"outputs": "[{}]"}, InvalidArgumentError, "outputs"),
        ({"networkmode": "container:x"}, UnsupportedError, "network"),
        ({"remote": "client-session"}, UnsupportedError, "session"),
        ({"platform": "linux/amd64,linux/arm64"}, InvalidArgumentError, "builds for one"),
        ({"labels": "[1]"}, InvalidArgumentError, "labels"),
        ({"ulimits": "[{}]"}, InvalidArgumentError, "ulimits"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(
    query: dict[str, str], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        wish_of(request(**query))


@pytest.mark.parametrize("nothing", ["", "null", "[]"])
def test_no_image_to_take_steps_from(nothing: str) -> None:
    assert not wish_of(request(cachefrom=nothing)).cache_from
