"""The page's server: what it passes on, and whom it refuses."""

import asyncio
import socket
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import aiohttp
import anyio
import pytest
from aiohttp import web

from lading.desktop.server import Engine, open_page
from lading.errors import InvalidArgumentError, UnavailableError


@dataclass
class World:
    """A page over a daemon that records what it is asked."""

    url: str
    client: aiohttp.ClientSession
    asked: list[str] = field(default_factory=list)
    release: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def base(self) -> str:
        return self.url.partition("/?")[0]

    @property
    def token(self) -> str:
        return parse_qs(urlsplit(self.url).query)["token"][0]

    async def ask(self, method: str, path: str, **headers: str) -> tuple[int, str]:
        given = {"Authorization": f"Bearer {self.token}", **headers}
        async with self.client.request(
            method, aiohttp.client.URL(f"{self.base}{path}", encoded=True), headers=given
        ) as answer:
            return answer.status, await answer.text()


@asynccontextmanager
async def world() -> AsyncGenerator[World]:
    with tempfile.TemporaryDirectory() as directory:
        path = str(Path(directory) / "s")
        made: list[World] = []

        async def answer(request: web.Request) -> web.StreamResponse:
            made[0].asked.append(f"{request.method} {request.raw_path}")
            if request.path.endswith("/events"):
                stream = web.StreamResponse()
                await stream.prepare(request)
                await stream.write(b'{"Type":"image"}\n')
                await made[0].release.wait()
                return stream
            if request.path.endswith("/missing"):
                return web.json_response({"message": "No such image"}, status=404)
            return web.json_response([])

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", answer)
        runner = web.AppRunner(app, shutdown_timeout=0)
        await runner.setup()
        await web.UnixSite(runner, path).start()
        try:
            async with open_page(Engine(host=f"unix://{path}")) as url, aiohttp.ClientSession() as client:
                made.append(World(url=url, client=client))
                yield made[0]
                made[0].release.set()
        finally:
            await runner.cleanup()


def test_the_page_opens_with_its_token_and_binds_the_browser() -> None:
    async def main() -> None:
        async with world() as found, found.client.get(found.url) as answer:
            assert answer.status == 200
            assert "Use containerd for pulling and storing images" in await answer.text()
            assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
            assert answer.headers["Referrer-Policy"] == "no-referrer"
            assert "Set-Cookie" not in answer.headers

    anyio.run(main)


def test_every_asset_of_the_page_is_served_and_nothing_else() -> None:
    async def main() -> None:
        async with world() as found:
            page = Path(__file__).parents[3] / "src/lading/desktop/page"
            for file in page.iterdir():
                async with found.client.get(f"{found.base}/page/{file.name}") as answer:
                    assert answer.status == 200, file.name
                    assert await answer.read() == file.read_bytes()
            for name in ("..%2fserver.py", "server.py", "__init__.py", "none.js", "app.js%00"):
                assert (await found.ask("GET", f"/page/{name}"))[0] == 404, name

    anyio.run(main)


@pytest.mark.parametrize("token", ["", "x", "é"])
def test_without_the_token_nothing_is_told(token: str) -> None:
    async def main() -> None:
        async with world() as found:
            async with found.client.get(f"{found.base}/", params={"token": token}) as answer:
                assert answer.status == 403
                assert "lading desktop" in await answer.text()
            assert (await found.ask("GET", "/engine/images/json", Authorization="Bearer nonsense"))[0] == 403
            assert found.asked == []

    anyio.run(main)


def test_another_site_cannot_have_the_browser_ask() -> None:
    """A form or an image of another page sends no header of ours, and the token in the address opens the page alone."""

    async def main() -> None:
        async with world() as found:
            token = found.url.partition("token=")[2]
            for method, path in (
                ("POST", "lading/store/use"),
                ("POST", "images/prune"),
                ("GET", "images/json"),
            ):
                for query in ("", f"?token={token}"):
                    async with found.client.request(
                        method,
                        f"{found.base}/engine/{path}{query}",
                        headers={"Origin": "http://evil.example"},
                    ) as answer:
                        assert answer.status == 403
                        assert "Access-Control-Allow-Origin" not in answer.headers
            assert found.asked == []

    anyio.run(main)


def test_another_name_for_this_machine_is_refused() -> None:
    """DNS rebinding: the name of some site that now points to 127.0.0.1."""

    async def main() -> None:
        async with world() as found:
            for name in ("evil.example", "localhost", "127.0.0.1"):
                status, text = await found.ask("GET", "/engine/images/json", Host=name)
                assert (status, text) == (403, "this page is served to this machine alone")
            assert found.asked == []

    anyio.run(main)


@pytest.mark.parametrize(
    ("method", "path", "asked"),
    [
        ("GET", "images/json?manifests=1", "GET /v1.51/images/json?manifests=1"),
        ("POST", "images/create?fromImage=r.example/a", "POST /v1.51/images/create?fromImage=r.example/a"),
        (
            "DELETE",
            "images/r.example:5000/a/b:1?force=1",
            "DELETE /v1.51/images/r.example:5000/a/b:1?force=1",
        ),
        ("DELETE", "images/sha256:00", "DELETE /v1.51/images/sha256:00?"),
        ("POST", "containers/abc/stop", "POST /v1.51/containers/abc/stop?"),
        ("GET", "lading/store", "GET /lading/store?"),
    ],
)
def test_what_the_page_does_is_passed_on(method: str, path: str, asked: str) -> None:
    async def main() -> None:
        async with world() as found:
            assert await found.ask(method, f"/engine/{path}") == (200, "[]")
            assert [each.rstrip("?") for each in found.asked] == [asked.rstrip("?")]

    anyio.run(main)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "containers/create"),
        ("POST", "containers/abc/exec"),
        ("POST", "build"),
        ("DELETE", "containers/abc"),
        ("GET", "images/../containers/abc/json"),
        ("DELETE", "images/%2e%2e/containers/abc"),
        ("DELETE", "images/a%2f..%2f..%2fcontainers/abc"),
        ("GET", "lading/gc"),
        ("PUT", "images/json"),
    ],
)
def test_what_the_page_does_not_do_cannot_be_asked_through_it(method: str, path: str) -> None:
    async def main() -> None:
        async with world() as found:
            assert (await found.ask(method, f"/engine/{path}"))[0] == 404
            assert found.asked == []

    anyio.run(main)


def test_refusals_of_the_daemon_arrive_as_they_are() -> None:
    async def main() -> None:
        async with world() as found:
            assert await found.ask("DELETE", "/engine/images/missing") == (
                404,
                '{"message": "No such image"}',
            )

    anyio.run(main)


def test_a_stream_arrives_while_it_goes_on() -> None:
    async def main() -> None:
        async with world() as found:
            headers = {"Authorization": f"Bearer {found.token}"}
            async with found.client.get(f"{found.base}/engine/events", headers=headers) as answer:
                with anyio.fail_after(10):
                    assert await answer.content.readline() == b'{"Type":"image"}\n'

    anyio.run(main)


def test_a_daemon_that_is_away_is_named() -> None:
    async def main() -> None:
        async with (
            open_page(Engine(host="unix:///nonexistent/lading.sock")) as url,
            aiohttp.ClientSession() as client,
        ):
            found = World(url=url, client=client)
            status, text = await found.ask("GET", "/engine/info")
            assert status == 502
            assert "unix:///nonexistent/lading.sock" in text

    anyio.run(main)


def test_a_daemon_that_leaves_without_an_answer_is_named() -> None:
    async def main() -> None:
        with tempfile.TemporaryDirectory() as directory:
            path = f"{directory}/s"

            async def leave(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                writer.close()

            async with (
                await asyncio.start_unix_server(leave, path),
                open_page(Engine(host=f"unix://{path}")) as url,
                aiohttp.ClientSession() as client,
            ):
                found = World(url=url, client=client)
                status, text = await found.ask("GET", "/engine/info")
                assert status == 502
                assert f"unix://{path} did not answer" in text

    anyio.run(main)


@pytest.mark.parametrize("host", ["http://x", "unix://relative", "tcp://x:1"])
def test_a_bad_address_of_the_daemon_is_refused(host: str) -> None:
    async def main() -> None:
        async with open_page(Engine(host=host)):
            raise AssertionError("opened")

    with pytest.raises(InvalidArgumentError, match="invalid host"):
        anyio.run(main)


def test_a_port_that_is_taken_is_named() -> None:
    async def main(port: int) -> None:
        async with open_page(Engine(host="unix:///x"), port=port):
            raise AssertionError("opened")

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UnavailableError, match=f"cannot listen on 127.0.0.1:{port}"):
            anyio.run(main, port)


def test_a_query_goes_to_the_daemon_as_it_came() -> None:
    async def main() -> None:
        async with world() as found:
            query = "filters=%7B%22label%22%3A%7B%22a%3Db%2B%26%25c%22%3Atrue%7D%7D&x=%c3%bc+y%20z"
            assert (await found.ask("GET", f"/engine/images/json?{query}"))[0] == 200
            assert found.asked[-1].partition("?")[2] == query

    anyio.run(main)
