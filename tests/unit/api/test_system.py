"""System routes, events and what is absent, over a real socket."""

import json
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from unit.api.serving import Answer, get, send, serving, until

from lading.api.engine import absent, events, lading, system
from lading.api.engine.events import matches, shape
from lading.api.engine.routing import Router
from lading.api.engine.system import (
    ContainerCounts,
    DiskUsage,
    Host,
    Sources,
    info_document,
    version_document,
)
from lading.core.events import Event
from lading.core.remotes import Credentials
from lading.daemon.events import EventBus
from lading.errors import NotFoundError, UnauthenticatedError

pytestmark = pytest.mark.anyio
HOST = Host(
    driver_status=[["driver-type", "io.containerd.snapshotter.v1"]],
    id="id",
    name="host",
    version="1.2.3",
    python="3.11",
    kernel="6.1",
    operating_system="Debian",
    os_version="12",
    architecture="x86_64",
    goarch="amd64",
    cpus=2,
    memory=1,
    cgroup_version="2",
    data_root="/d",
    driver="overlayfs",
    namespace="moby",
    registry_mirrors=["https://m"],
    insecure_registries=["r:5000"],
)


def body(answer: Answer) -> Any:
    if answer.headers.get("transfer-encoding") == "chunked":
        return b"".join(answer.body.split(b"\r\n")[1::2])
    return json.loads(answer.body)


def table(**sources: Any) -> Router:
    router = Router()
    system.add_routes(router, Sources(host=HOST, **sources))
    absent.add_swarm(router)
    absent.add_plugins(router)
    return router


async def test_ping_tells_what_clients_negotiate_with() -> None:
    async with serving(table()) as path:
        for method in ("GET", "HEAD"):
            answer = await get(path, "/_ping", method)
            assert answer.status == 200
            assert answer.body == (b"OK" if method == "GET" else b"")
            assert answer.headers["api-version"] == "1.55"
            assert answer.headers["ostype"] == "linux"
            assert answer.headers["builder-version"] == "2"
            assert answer.headers["swarm"] == "inactive"
            assert "no-cache" in answer.headers["cache-control"]


async def test_info_counts_and_names_the_store() -> None:
    async def images() -> int:
        return 3

    async def containers() -> ContainerCounts:
        return ContainerCounts(running=1, paused=2, stopped=4)

    async with serving(table(images=images, containers=containers)) as path:
        info = body(await get(path, "/info"))
    assert (info["Images"], info["Containers"], info["ContainersPaused"]) == (3, 7, 2)
    assert info["DriverStatus"] == [["driver-type", "io.containerd.snapshotter.v1"]]
    assert info["Swarm"]["LocalNodeState"] == "inactive"
    assert info["RegistryConfig"]["IndexConfigs"]["docker.io"]["Mirrors"] == ["https://m"]
    assert info["RegistryConfig"]["IndexConfigs"]["r:5000"]["Secure"] is False


def test_info_and_version_are_shaped_to_the_client() -> None:
    assert "Containerd" in info_document(HOST, (1, 46))
    assert "Containerd" not in info_document(HOST, (1, 45))
    assert "BridgeNfIptables" in info_document(HOST, (1, 49))
    assert "BridgeNfIptables" not in info_document(HOST, (1, 50))
    assert version_document(HOST, (1, 51))["MinAPIVersion"] == "1.40"


async def test_df_asks_only_for_what_was_asked() -> None:
    asked: list[str] = []

    async def images(version: tuple[int, int]) -> DiskUsage:
        asked.append("image")
        return DiskUsage(items=[{"Id": "a"}], size=10)

    async def containers(version: tuple[int, int]) -> DiskUsage:
        asked.append("container")
        return DiskUsage()

    async with serving(table(image_usage=images, container_usage=containers)) as path:
        everything = body(await get(path, "/system/df"))
        assert (everything["LayersSize"], everything["Images"]) == (10, [{"Id": "a"}])
        assert everything["Volumes"] == []
        assert asked == ["image", "container"]
        only = body(await get(path, "/system/df?type=volume"))
        assert (only["Images"], only["Volumes"]) == (None, [])
        assert (await get(path, "/system/df?type=nonsense")).status == 400
    assert asked == ["image", "container"]


class Login:
    def __init__(self) -> None:
        self.seen: list[Credentials | None] = []

    def resolver(self, credentials: Credentials | None = None, *, headers: Any = None) -> "Login":
        self.seen.append(credentials)
        return self

    async def login(self, credentials: Credentials) -> str:
        if credentials.password != "right":
            raise UnauthenticatedError("the registry refused the credentials")
        return "token"

    async def close(self) -> None:
        return None


async def test_auth_checks_with_the_registry_that_is_named() -> None:
    registries = Login()
    async with serving(table(registries=registries)) as path:

        async def ask(document: object) -> Answer:
            data = json.dumps(document).encode()
            head = f"POST /auth HTTP/1.1\nHost: x\nConnection: close\nContent-Type: application/json\nContent-Length: {len(data)}\n\n"
            return await send(path, head, data)

        good = await ask({"username": "u", "password": "right", "serveraddress": "r:5"})
        assert body(good) == {"Status": "Login Succeeded", "IdentityToken": "token"}
        assert registries.seen[-1] is not None
        assert registries.seen[-1].server_address == "r:5"
        bad = await ask({"username": "u", "password": "wrong"})
        assert bad.status == 401
        assert b"wrong" not in bad.body
        assert registries.seen[-1].server_address == "https://index.docker.io/v1/"
        assert (await ask({"username": 7})).status == 400


@pytest.mark.parametrize(
    ("method", "target", "status", "words"),
    [
        ("GET", "/swarm", 503, "not a swarm manager"),
        ("GET", "/nodes", 503, "not a swarm manager"),
        ("GET", "/services/x", 503, "not a swarm manager"),
        ("POST", "/swarm/init", 501, "no Swarm"),
        ("GET", "/plugins/p/q/json", 404, 'plugin "p/q" not found'),
    ],
)
async def test_what_is_absent_says_so(method: str, target: str, status: int, words: str) -> None:
    async with serving(table()) as path:
        answer = await get(path, target, method)
    assert answer.status == status
    assert words in body(answer)["message"]


def event(type: str = "container", action: str = "start", actor: str = "abc", **attributes: str) -> Event:
    return Event(
        type=type, action=action, actor=actor, attributes=attributes, time_nano=1_700_000_000_123_456_789
    )


@pytest.mark.parametrize(
    ("filters", "fits"),
    [
        ({}, True),
        ({"type": ["container"]}, True),
        ({"type": ["image", "volume"]}, False),
        ({"event": ["start"]}, True),
        ({"event": ["die"]}, False),
        ({"container": ["ab"]}, True),
        ({"container": ["web"]}, True),
        ({"container": ["zz"]}, False),
        ({"image": ["alpine"]}, True),
        ({"image": ["alpine:3"]}, True),
        ({"image": ["debian"]}, False),
        ({"label": ["tier=db"]}, True),
        ({"label": ["tier"]}, True),
        ({"label": ["tier=web"]}, False),
        ({"network": ["abc"]}, False),
        ({"scope": ["swarm"]}, False),
        ({"type": ["container"], "event": ["die"]}, False),
    ],
)
def test_event_filters(filters: dict[str, list[str]], fits: bool) -> None:
    assert matches(event(name="web", image="alpine:3", tier="db"), filters) is fits


def test_compound_actions_match_by_their_verb() -> None:
    assert matches(event(action="exec_create: sh"), {"event": ["exec_create"]})


def test_older_keys_of_events_go_with_1_52() -> None:
    old = shape(event(image="alpine"), (1, 51))
    assert (old["status"], old["id"], old["from"]) == ("start", "abc", "alpine")
    assert "status" not in shape(event(), (1, 52))
    assert (old["time"], old["timeNano"]) == (1_700_000_000, 1_700_000_000_123_456_789)


async def test_events_stream_history_then_news_until_the_end() -> None:
    bus = EventBus()
    router = Router()
    events.add_routes(router, bus)
    first = bus.publish("image", "pull", "a")
    bus.publish("container", "start", "c")
    async with serving(router) as path:
        past = await get(
            path,
            f"/events?since=1&until={first.time_nano // 10**9 + 1}&filters=%7B%22type%22%3A%5B%22image%22%5D%7D",
        )
        assert past.body.count(b'"Action":"pull"') == 1
        assert b'"start"' not in past.body
        async with await anyio.connect_unix(path) as stream:
            await stream.send(b"GET /v1.45/events HTTP/1.1\r\nHost: x\r\n\r\n")
            await until(stream, b"\r\n\r\n")
            bus.publish("image", "create", "new in 1.46")
            bus.publish("image", "tag", "b")
            data = await until(stream, b"\n\r\n")
        assert b'"tag"' in data
        assert b"new in 1.46" not in data
        bad = await get(path, "/events?since=5&until=3")
        assert bad.status == 400


@pytest.mark.parametrize("query", ["until={}", "since=0&until={}", "since=&until={}"])
async def test_events_until_a_time_are_all_that_are_known_from_before(query: str) -> None:
    bus = EventBus()
    router = Router()
    events.add_routes(router, bus)
    bus.publish("image", "pull", "a")
    last = bus.publish("image", "tag", "b").time_nano
    bus.publish("image", "untag", "c")
    async with serving(router) as path:
        told = await get(path, "/events?" + query.format(f"{last // 10**9}.{last % 10**9:09}"))
        everything = await get(path, "/events?until=0")
    assert told.status == 200
    assert [word in told.body for word in (b'"pull"', b'"tag"', b'"untag"')] == [True, True, False]
    assert everything.body.count(b'"Action"') == 3


class Care:
    async def status(self) -> dict[str, Any]:
        return {"Images": 1}

    async def why(self, what: str) -> dict[str, Any]:
        raise NotFoundError(f"{what} is not in the store")

    async def collect(self, *, dry_run: bool, without: Any = ()) -> Any:
        yield {"result": {"Deleted": {"content": int(dry_run)}, "FreedBytes": 5}}

    async def check(self, *, repair: bool) -> Any:
        yield {"current": 0, "total": 9}
        raise NotFoundError("broken half-way")


class Two(lading.Stores):
    """Two stores, one of them in use."""

    async def status(self) -> dict[str, Any]:
        return {"Store": "classic"}

    async def use(self, store: str, *, stop: bool) -> dict[str, Any]:
        return {"Store": store, "Restarting": stop}

    async def migrate(self, *, offline: bool, fetch: bool) -> AsyncIterator[dict[str, Any]]:
        yield {"result": {"offline": offline, "fetch": fetch}}


async def test_what_is_hidden_is_a_warning() -> None:
    async def warnings() -> list[str]:
        return ["3 images are hidden"]

    async with serving(table(warnings=warnings)) as path:
        assert body(await get(path, "/info"))["Warnings"] == ["WARNING: 3 images are hidden"]


async def test_lading_s_own_routes() -> None:
    router = Router()
    lading.add_routes(router, Care(), Two())
    digest = "sha256:" + "a" * 64
    async with serving(router) as path:
        assert body(await get(path, "/lading/store")) == {"Images": 1, "Store": "classic"}
        assert body(await get(path, "/lading/store/use?store=containerd&stop=1", "POST")) == {
            "Store": "containerd",
            "Restarting": True,
        }
        answer = await get(path, "/lading/store/migrate?offline=1", "POST")
        assert b'{"result":{"offline":true,"fetch":false}}' in answer.body
        for what in (digest, "registry.test:5000/an/image:tag"):
            answer = await get(path, f"/lading/why/{what}")
            assert (answer.status, body(answer)) == (404, {"message": f"{what} is not in the store"})
        assert b'"content":1' in (await get(path, "/lading/gc?dry-run=1", "POST")).body
        assert b'"error":"broken half-way"' in (await get(path, "/lading/fsck", "POST")).body
