"""Servers, archives and graphs of a stranger: each is used or refused with a reason, and the solver goes on."""

import gzip
import http.server
import io
import os
import tarfile
import threading
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import pytest
from support.builds import Client, House, Screen, build_house, definition
from support.daemon import left_mounts

from lading.builder.ops.web import WebOperation
from lading.errors import LadingError
from lading.formats.llb import make, ops
from lading.oci.digest import Digest

pytestmark = pytest.mark.anyio
BODY = b"body\n"
PACKED = {
    "whole": gzip.compress(BODY),
    "twice": gzip.compress(BODY[:2]) + gzip.compress(BODY[2:]),
    "bomb": gzip.compress(bytes(9 << 20)),
    "nothing": b"",
    "cut": gzip.compress(BODY)[:-3],
    "none": BODY,
    "more": gzip.compress(BODY) + b"more",
}


class _Hostile(http.server.BaseHTTPRequestHandler):
    """Says what its path asks for."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        kind, _, rest = self.path.strip("/").partition("/")
        match kind:
            case "loop":
                self._send(302, Location=self.path)
            case "longer":
                self._send(302, Location=f"/longer/{rest}x")
            case "file":
                self._send(302, Location="file:///etc/passwd")
            case "nowhere":
                self._send(302)
            case "name":
                name = {
                    "dots": "..",
                    "slash": "../../../etc/passwd",
                    "long": "x" * 300,
                    "empty": "",
                    "bytes": "\xff",
                }[rest]
                self._send(200, BODY, **{"Content-Disposition": f'attachment; filename="{name}"'})
            case "time":
                time = {
                    "early": "Mon, 01 Jan 0001 00:00:00 GMT",
                    "naive": "Fri, 31 Dec 9999 23:59:59 -0000",
                    "none": "x" * 2000,
                }
                self._send(200, BODY, **{"Last-Modified": time[rest]})
            case "packed":
                self._send(200, PACKED[rest], **{"Content-Encoding": "GZip"})
            case "endless":
                self._endless()
            case "unchanged":
                self._send(304)
            case "short":
                self._send(200, BODY, **{"Content-Length": "100"})
                self.close_connection = True
            case "header":
                self._send(200, BODY, **{"X-Long": "x" * 100_000})
            case "headers":
                self._send(200, BODY, **{f"X-{number}": "x" * 1000 for number in range(5000)})
            case "status":
                self._send(int(rest), BODY)
            case "archive":
                self._send(200, ARCHIVES[rest])
            case _:
                self._send(200, BODY)

    def _send(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _endless(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
        try:
            while True:
                self.wfile.write(chunk)
        except OSError:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        return


def archive(*members: tarfile.TarInfo, data: bytes = b"") -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as opened:
        for member in members:
            member.size = len(data) if member.isreg() else 0
            opened.addfile(member, io.BytesIO(data))
    return made.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", **fields: int) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, link
    for key, value in fields.items():
        setattr(made, key, value)
    return made


ARCHIVES = {
    "out": archive(member("../../escaped"), data=b"x"),
    "link": archive(member("l", tarfile.SYMTYPE, "/"), member("l/escaped"), data=b"x"),
    "hard": archive(member("h", tarfile.LNKTYPE, "../../../../etc/passwd")),
    "long": archive(member("x" * 300), data=b"x"),
    "deep": archive(member("d/" * 3000 + "x"), data=b"x"),
    "newline": archive(member("a\nb"), data=b"x"),
    "owner": archive(member("o", uid=2**40, gid=2**40)),
    "time": archive(member("t", mtime=2**62)),
    "negative": archive(member("t", mtime=-(2**40))),
    "device": archive(member("d", tarfile.CHRTYPE, devmajor=2**20, devminor=2**20)),
    "cut": archive(member("c"), data=b"x" * 5000)[:1000],
    "itself": archive(member("a", tarfile.LNKTYPE, "a")),
}


@pytest.fixture
def server() -> Generator[str]:
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Hostile)
    made.daemon_threads = True
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{made.server_port}"
    made.shutdown()
    made.server_close()
    thread.join()


@pytest.fixture
async def house(tmp_path: Path) -> AsyncGenerator[House]:
    async with build_house(tmp_path / "house") as house:
        yield house
    assert left_mounts(tmp_path) == []


async def outcome(house: House, edge: make.Edge | None) -> str:
    """What a graph's tree holds, or the error; what is no `LadingError` is a bug, and passes."""
    async with house.solver.open_job("b", session=Client(), progress=Screen()) as job:
        try:
            ref = await job.load(definition(edge))
            await ref.evaluate()
            return f"has {[one.path for one in await ref.read_dir('/')]}"
        except LadingError as exc:
            return str(exc)


def web(url: str, **attrs: str) -> make.Edge:
    named = {f"http.{name}": value for name, value in attrs.items()}
    return make.source(ops.SourceOp(identifier=url, attrs=named), make.Style())


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("loop", "stopped after 10 redirects"),
        ("longer/x", "cannot fetch"),
        ("file", "cannot fetch"),
        ("nowhere", "status 302"),
        ("name/dots", "has ['dots']"),
        ("name/slash", "has ['passwd']"),
        ("name/long", "name"),
        ("name/empty", "has ['empty']"),
        ("name/bytes", "has ["),
        ("time/early", "has ["),
        ("time/naive", "has ["),
        ("time/none", "has ["),
        ("unchanged", "status 304"),
        ("short", "cannot fetch"),
        ("header", "has ['header']"),
        ("packed/nothing", "has ['nothing']"),
        ("packed/cut", "no gzip: it breaks off"),
        ("packed/none", "no gzip: "),
        ("packed/more", "no gzip: "),
        ("headers", ""),
        ("status/404", "status 404"),
        ("status/503", "status 503"),
        ("status/600", "status 600"),
        ("plain/..", "has ['download']"),
        ("plain/%00", "has ['download']"),
        ("plain/" + "x" * 300, "name"),
    ],
)
async def test_a_hostile_server_is_answered(house: House, server: str, path: str, said: str) -> None:
    assert said in await outcome(house, web(f"{server}/{path}"))
    assert await outcome(house, web(f"{server}/fine")) == "has ['fine']"


async def test_a_body_without_end_has_one(house: House, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = WebOperation.__init__
    monkeypatch.setattr(WebOperation, "__init__", lambda self, *args: usual(self, *args, max_bytes=8 << 20))
    assert "more than 8388608 bytes" in await outcome(house, web(f"{server}/endless"))


@pytest.mark.parametrize("path", ["packed/whole", "packed/twice"])
async def test_what_a_server_packs_for_the_way_is_unpacked(house: House, server: str, path: str) -> None:
    edge = web(f"{server}/{path}", checksum=Digest.of(BODY), filename="file")
    async with house.solver.open_job("b", session=Client(), progress=Screen()) as job:
        ref = await job.load(definition(edge))
        assert await ref.read_file("/file") == BODY


async def test_what_a_server_packs_is_limited_as_it_is_unpacked(
    house: House, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = WebOperation.__init__
    monkeypatch.setattr(WebOperation, "__init__", lambda self, *args: usual(self, *args, max_bytes=8 << 20))
    assert "more than 8388608 bytes" in await outcome(house, web(f"{server}/packed/bomb"))


@pytest.mark.parametrize(
    ("attrs", "said"),
    [
        ({"checksum": Digest.of(b"other")}, "digest mismatch"),
        ({"checksum": "sha256:1"}, "digest"),
        ({"checksum": "md5:" + "0" * 32}, "digest"),
        ({"filename": ".."}, "name"),
        ({"filename": "a\0b"}, "name"),
        ({"filename": "x" * 300}, "name"),
        ({"filename": "a\nb"}, "has ['a\\nb']"),
        ({"perm": "-1"}, ""),
        ({"perm": "9"}, "malformed"),
        ({"perm": "7" * 5000}, ""),
        ({"uid": "-1"}, "malformed"),
        ({"uid": "4294967296"}, "malformed"),
        ({"gid": "9" * 5000}, "malformed"),
        ({"header.host": "x"}, "may not be set"),
        ({"header.accept": "a\r\nX: y"}, ""),
    ],
)
async def test_a_file_is_wanted_in_a_way_that_cannot_be(
    house: House, server: str, attrs: dict[str, str], said: str
) -> None:
    assert said in await outcome(house, web(f"{server}/fine", **attrs))
    assert await outcome(house, web(f"{server}/fine")) == "has ['fine']"


@pytest.mark.parametrize(
    "url", ["http://", "http://[", "http://x:99999999/", "https://\0/", "http:///x", "http://a b/"]
)
async def test_an_address_that_is_none(house: House, url: str) -> None:
    assert "has" not in await outcome(house, web(url))


@pytest.mark.parametrize("kind", sorted(ARCHIVES))
async def test_a_hostile_archive_is_unpacked_inside_or_refused(
    house: House, server: str, tmp_path: Path, kind: str
) -> None:
    source = web(f"{server}/archive/{kind}", filename="a.tar")
    copy = ops.Copy(src="/a.tar", dest="/sub/", create_dest_path=True, attempt_unpack=True)
    said = await outcome(house, make.change(None, [(copy, source)], make.Style()))
    assert said
    assert not list(tmp_path.rglob("escaped")) or all(
        "/sub/" in str(one) for one in tmp_path.rglob("escaped")
    )
    assert not os.path.exists("/escaped")
    assert await outcome(house, web(f"{server}/fine")) == "has ['fine']"


# Graphs.


def scratch_with(*actions: ops.Action) -> make.Edge:
    return make.change(None, [(one, None) for one in actions], make.Style())


@pytest.mark.parametrize(
    "action",
    [
        ops.MakeFile(path="/..", mode=0o644, data=b""),
        ops.MakeFile(path="/" + "x" * 300, mode=0o644, data=b""),
        ops.MakeFile(path="/a\0b", mode=0o644, data=b""),
        ops.MakeFile(path="", mode=0o644, data=b""),
        ops.MakeFile(path="/a", mode=-1, data=b""),
        ops.MakeFile(path="/a", mode=0o644, data=b"", timestamp=-(2**63)),
        ops.MakeFile(path="/a", mode=0o644, data=b"", timestamp=2**62),
        ops.MakeFile(path="/a", mode=0o644, data=b"", owner=ops.Owner(user=2**32 - 1, group=2**32 - 1)),
        ops.MakeDirectory(path="/d" * 3000, mode=0o755, make_parents=True),
        ops.MakeDirectory(path="/a/b", mode=0o755),
        ops.MakeSymlink(path="/l", target=""),
        ops.MakeSymlink(path="/l", target="x" * 5000),
        ops.MakeSymlink(path="/l", target="a\0b"),
        ops.Remove(path="/"),
        ops.Remove(path="/nothing"),
        ops.Remove(path="/..", allow_not_found=True),
        ops.Remove(path="/*" * 100, allow_wildcard=True, allow_not_found=True),
    ],
    ids=lambda action: str(action)[:60],
)
async def test_an_action_that_cannot_be_is_refused(house: House, action: ops.Action) -> None:
    assert await outcome(house, scratch_with(action))
    fine = scratch_with(ops.MakeFile(path="/fine", mode=0o644, data=b""))
    assert await outcome(house, fine) == "has ['fine']"


async def test_merges_of_merges_end_somewhere(house: House) -> None:
    tree: make.Edge | None = scratch_with(ops.MakeFile(path="/a", mode=0o644, data=b""))
    other = scratch_with(ops.MakeFile(path="/b", mode=0o644, data=b""))
    for number in range(40):
        again = make.merge([other, tree], make.Style(platform=None))
        tree = make.merge([tree, again], make.Style())
        assert tree is not None, number
    assert "layers" in await outcome(house, tree)


@pytest.mark.parametrize(
    "identifier",
    [
        "git://",
        "git:///",
        "git://host/..",
        "git://127.0.0.1:1/x#--upload-pack=touch",
        "git://-oProxyCommand=touch/x",
        "git://file:///etc",
        "local://",
        "local://..",
        "docker-image://",
        "docker-image://A B",
        "docker-image://127.0.0.1:1/x@sha256:1",
        "oci-layout://x",
        "blob://x",
        "nothing",
        "://",
    ],
)
async def test_a_source_that_is_none(house: House, identifier: str) -> None:
    edge = make.source(ops.SourceOp(identifier=identifier), make.Style())
    assert "has" not in (await outcome(house, edge)).split(" ", 1)[0]


@pytest.mark.parametrize("text", ["1", "{}", "[1]", '"a"', "[" * 100_000, "{"])
async def test_patterns_that_are_no_list(house: House, text: str) -> None:
    op = ops.SourceOp(
        identifier="local://x", attrs={"local.excludepatterns": text, "local.session": "client"}
    )
    assert "no JSON list of texts" in await outcome(house, make.source(op, make.Style()))
