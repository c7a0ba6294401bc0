"""Whole definitions on real snapshots and in real shims: what is built, what is found again, what is left behind."""

import errno
import http.server
import os
import subprocess
import tarfile
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import anyio
import pytest
from support.builds import (
    Client,
    House,
    Screen,
    build_house,
    copy,
    definition,
    image,
    local,
    named,
    publish,
    run,
)
from support.daemon import left_mounts
from support.images import File, busybox_layer

from lading.builder.errors import VertexError
from lading.builder.model import PruneWish
from lading.builder.ops import layers
from lading.builder.pruning import default_policy
from lading.builder.results import Compression, LayerForm, Ref
from lading.core.content import IngestRef
from lading.core.leases import BUILDS
from lading.errors import FailedPreconditionError, InvalidArgumentError, LadingError
from lading.formats.llb import make, ops
from lading.runtime import foreground
from lading.testing.registry import FakeRegistry

pytestmark = pytest.mark.anyio


@pytest.fixture
def registry() -> Generator[FakeRegistry]:
    with FakeRegistry() as registry:
        yield registry


@pytest.fixture
def base(registry: FakeRegistry) -> str:
    return publish(registry, "base", [busybox_layer()])


@pytest.fixture(params=["overlayfs", "erofs"])
async def house(request, tmp_path: Path) -> AsyncGenerator[House]:
    async with build_house(tmp_path / "house", driver=request.param) as house:
        yield house
    assert left_mounts(tmp_path) == []


@pytest.fixture
def context(tmp_path: Path) -> Path:
    directory = tmp_path / "context"
    (directory / "sub").mkdir(parents=True)
    (directory / "hello").write_text("hello\n")
    (directory / "sub" / "script.sh").write_text("#!/bin/sh\necho hi\n")
    (directory / "sub" / "script.sh").chmod(0o755)
    os.symlink("sub/script.sh", directory / "link")
    return directory


@pytest.fixture
def client(context: Path) -> Client:
    return Client(directories={"context": context})


async def build(house: House, edge: make.Edge, client: Client, check=None, **options) -> Screen:
    """Build; ``check`` looks into the ref while it is there."""
    screen = Screen()
    async with house.solver.open_job("b", session=client, progress=screen, **options) as job:
        ref = await job.load(definition(edge))
        await ref.evaluate()
        if check is not None:
            await check(ref)
    return screen


async def collect(house: House) -> None:
    async for _ in house.store.maintenance.collect(dry_run=False):
        pass


async def files(ref: Ref, path: str = "/") -> dict[str, tuple[int, int, int]]:
    return {one.path: (one.mode & 0o7777, one.uid, one.gid) for one in await ref.read_dir(path)}


async def test_files_and_processes_make_a_tree(house: House, base: str, client: Client) -> None:
    edge = run(copy(image(base), local("context"), "/", "/app/"), "cat /app/hello >/made; /app/sub/script.sh")

    async def check(ref: Ref) -> None:
        assert await ref.read_file("/made") == b"hello\n"
        assert (await ref.stat("/app/link")).link == "sub/script.sh"
        assert await ref.read_file("/app/link") == b"#!/bin/sh\necho hi\n"
        # what the runtime needed to mount is no part of the result
        assert set(await files(ref, "/etc")) == {"passwd", "group"}

    screen = await build(house, edge, client, check)
    assert screen.output() == "hi\n"


async def test_only_what_changed_is_done_again(
    house: House, base: str, client: Client, context: Path
) -> None:
    first = run(copy(image(base), local("context"), "/hello", "/hello"), "cat /hello >/copy")
    edge = copy(first, local("context"), "/sub", "/sub")
    await build(house, edge, client)
    screen = await build(house, edge, client)
    assert {"copy /hello /hello", "run cat /hello >/copy", "copy /sub /sub"} <= screen.cached()
    os.utime(context / "hello", (1, 1))  # a file's time is no part of it
    screen = await build(house, edge, client)
    assert "copy /sub /sub" in screen.cached()
    (context / "sub" / "new").write_text("new")
    screen = await build(house, edge, client)
    assert "copy /sub /sub" in screen.ran()
    assert {"copy /hello /hello", "run cat /hello >/copy"} <= screen.cached()
    (context / "hello").write_text("changed")
    screen = await build(house, edge, client)
    assert {"copy /hello /hello", "run cat /hello >/copy", "copy /sub /sub"} <= screen.ran()


async def test_a_cache_survives_a_restart(tmp_path: Path, base: str, client: Client) -> None:
    edge = run(copy(image(base), local("context"), "/", "/app/"), "date >/made")
    async with build_house(tmp_path / "house") as house:
        await build(house, edge, client)
    async with build_house(tmp_path / "house") as house:
        screen = await build(house, edge, client)
        assert {"copy / /app/", "run date >/made"} <= screen.cached()
        await collect(house)
        screen = await build(house, edge, client)
        assert "run date >/made" in screen.cached()


async def test_copying_from_another_stage_goes_by_content(house: House, base: str, client: Client) -> None:
    def result(command: str) -> make.Edge:
        return copy(image(base), run(image(base), command), "/out", "/out")

    await build(house, result("echo same >/out"), client)
    screen = await build(house, result("echo same >/out; touch /other"), client)
    assert "copy /out /out" in screen.cached()


async def test_a_failing_process_is_told_with_its_code(house: House, base: str, client: Client) -> None:
    with pytest.raises(VertexError, match="did not complete successfully: exit code: 7") as caught:
        await build(house, run(image(base), "echo bad >&2; exit 7"), client)
    assert caught.value.exit_code == 7


async def test_a_cancelled_build_leaves_nothing(house: House, base: str, client: Client) -> None:
    edge = run(image(base), "echo started; sleep 100 & sleep 100")
    screen = Screen()

    async def going() -> None:
        async with house.solver.open_job("b", session=client, progress=screen) as job:
            await (await job.load(definition(edge))).evaluate()

    async with anyio.create_task_group() as group:
        group.start_soon(going)
        while "started" not in screen.output():
            await anyio.sleep(0.01)
        before = anyio.current_time()
        group.cancel_scope.cancel()
    assert anyio.current_time() - before < 5
    assert await house.runtime.load() == []
    active = [one.key async for one in house.store.snapshotter.walk() if one.kind.value == "active"]
    assert active == []


async def test_a_cancelled_build_waits_for_nobody_who_writes(
    house: House, base: str, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """runc passes on what its container writes, and would wait for a reader."""
    monkeypatch.setattr(foreground, "_PATIENCE", 60.0)
    screen = Screen()

    async def going() -> None:
        async with house.solver.open_job("b", session=client, progress=screen) as job:
            await (await job.load(definition(run(image(base), "cat /dev/zero")))).evaluate()

    with anyio.fail_after(40):
        async with anyio.create_task_group() as group:
            group.start_soon(going)
            while not screen.output():
                await anyio.sleep(0.01)
            group.cancel_scope.cancel()


async def test_mounts_of_a_process(house: House, base: str, client: Client) -> None:
    other = run(image(base), "mkdir /d; echo inside >/d/file")

    def mounted(command: str) -> make.Edge:
        return run(
            image(base),
            command,
            mounts=[
                make.MountWish(mount=ops.Mount(dest="/from", selector="/d", readonly=True), source=other),
                make.MountWish(mount=ops.Mount(dest="/whole", readonly=True), source=other),
                make.MountWish(mount=ops.Mount(dest="/rw"), source=other),
            ],
            extra=[
                ops.Mount(dest="/cache", type=ops.MountType.CACHE, cache=ops.CacheOptions(id="c")),
                ops.Mount(dest="/scratch", type=ops.MountType.TMPFS, tmpfs_size=1 << 20),
                ops.Mount(
                    dest="/run/secrets/s",
                    type=ops.MountType.SECRET,
                    secret=ops.SecretOptions(id="s", uid=1000, mode=0o400),
                ),
            ],
        )

    client.secrets["s"] = b"hidden"
    first = mounted(
        "cat /from/file /whole/d/file; touch /from/x || echo read-only; touch /rw/new; "
        "echo kept >/cache/f; echo t >/scratch/f; cat /run/secrets/s; ls -ln /run/secrets/s >/listing"
    )

    async def check(ref: Ref) -> None:
        assert b" 1000 " in await ref.read_file("/listing")
        assert {"from", "whole", "rw", "cache", "scratch", "run"}.isdisjoint(await files(ref))

    screen = await build(house, first, client, check)
    assert screen.output().replace("touch: /from/x: Read-only file system\n", "") == (
        "inside\ninside\nread-only\nhidden"
    )
    screen = await build(house, mounted("cat /cache/f; ls /rw"), client)
    assert screen.output().startswith("kept\n")
    assert "new" not in screen.output()
    records = await house.solver.disk_usage()
    assert [one.record_type for one in records].count("exec.cachemount") == 1
    assert b"hidden" not in b"".join(path.read_bytes() for path in house.root.rglob("lading.db*"))


async def test_what_is_lent_to_a_process_is_only_to_be_read(house: House, base: str, client: Client) -> None:
    client.secrets["s"] = b"hidden"
    secret = ops.Mount(
        dest="/secret", type=ops.MountType.SECRET, secret=ops.SecretOptions(id="s", mode=0o777)
    )
    edge = run(
        image(base), "cat /proc/self/mounts; (echo x >/etc/hosts) 2>/dev/null || echo refused", extra=[secret]
    )
    said = (await build(house, edge, client)).output()
    assert said.endswith("refused\n")
    options = {words[1]: set(words[3].split(",")) for words in map(str.split, said.splitlines()) if words[5:]}
    for path in ("/etc/hosts", "/etc/resolv.conf", "/secret"):
        assert {"ro", "nosuid", "nodev", "noexec"} <= options[path]


async def test_a_cache_is_one_by_what_it_begins_with(house: House, base: str, client: Client) -> None:
    def used(command: str, seed: make.Edge | None = None, *, selector: str = "", id: str = "c") -> make.Edge:
        mount = ops.Mount(
            dest="/c", selector=selector, type=ops.MountType.CACHE, cache=ops.CacheOptions(id=id)
        )
        return run(image(base), command, mounts=[make.MountWish(mount=mount, source=seed)])

    async def said(edge: make.Edge) -> str:
        return (await build(house, edge, client, no_cache=True)).output()

    def seeded(text: str) -> make.Edge:
        made = ops.MakeDirectory(path="/d", mode=0o755)
        file = ops.MakeFile(path="/d/file", mode=0o644, data=text.encode())
        return make.change(None, [(made, None), (file, None)], make.Style(metadata=named(f"seed {text}")))

    look = "cat /c/file; echo kept >>/c/file; ls /c"
    assert await said(used(look, seeded("one\n"), selector="/d")) == "one\nfile\n"
    # The same seed, though it is made once more; another one; none.
    assert await said(used(look, seeded("one\n"), selector="/d")) == "one\nkept\nfile\n"
    assert await said(used(look, seeded("two\n"), selector="/d")) == "two\nfile\n"
    assert await said(used("ls -A /c; touch /c/plain")) == ""
    assert await said(used("ls -A /c")) == "plain\n"
    names = {record.extra["name"] for record in await house.solver.records._cache.list() if record.mutable}
    assert "c" in names  # that of a cache without a seed is as it ever was
    assert len(names) == 3


@pytest.mark.parametrize("optional", [True, False])
async def test_an_agent_that_need_not_be_there(
    house: House, base: str, client: Client, optional: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(id: str) -> None:
        raise FailedPreconditionError(f"unset ssh forward key {id}")

    monkeypatch.setattr(client, "check_agent", refuse)
    agent = ops.Mount(
        dest="/agent", type=ops.MountType.SSH, ssh=ops.SecretOptions(id="default", optional=optional)
    )
    edge = run(image(base), "ls -d /agent || echo none", extra=[agent])
    if optional:
        assert "none\n" in (await build(house, edge, client)).output()
        return
    with pytest.raises(LadingError, match="unset ssh forward key default"):
        await build(house, edge, client)


async def test_users_are_the_images_own(house: House, registry: FakeRegistry, client: Client) -> None:
    layer = busybox_layer() | {"etc/passwd": File(b"root:x:0:0::/:/bin/sh\nme:x:4242:4243::/:/bin/sh\n")}
    name = publish(registry, "users", [layer])
    owner = ops.Owner(user=ops.NamedUser(name="me", input=0))
    made = copy(image(name), local("context"), "/hello", "/hello", owner=owner, mode="u=rw,go=")
    edge = run(made, "id -u; cat /hello", user="me")

    async def check(ref: Ref) -> None:
        assert (await files(ref))["hello"] == (0o600, 4242, 4243)

    assert (await build(house, edge, client, check)).output() == "4242\nhello\n"


async def test_links_of_an_image_lead_nowhere_else(
    house: House, registry: FakeRegistry, client: Client, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    hostile = busybox_layer() | {
        "out": File(link=str(victim)),
        "up": File(link="../../../../../../.." + str(victim)),
        "etc/passwd": File(link=str(tmp_path / "context" / "hello")),
        "proc/x": File(link="/proc/self/root"),
    }
    name = publish(registry, "hostile", [hostile])
    edge = image(name)
    for target in ("/out/a", "/up/b", "/out/deep/er/c"):
        edge = copy(edge, local("context"), "/hello", target)
    edge = make.change(
        edge,
        [
            (ops.MakeFile(path="/out/made", mode=0o644, data=b"x"), None),
            (ops.MakeDirectory(path="/out/dir", mode=0o755, make_parents=True), None),
            (ops.Remove(path="/up/b"), None),
        ],
        make.Style(metadata=named("changes")),
    )

    async def check(ref: Ref) -> None:
        assert await ref.read_file(f"{victim}/a") == b"hello\n"

    await build(house, edge, client, check)
    assert os.listdir(victim) == []
    client.directories["context"].joinpath("evil").symlink_to("/etc/shadow")
    with pytest.raises(VertexError, match="not found"):
        await build(house, copy(image(name), local("context"), "/evil", "/evil"), client)


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("a/" * 5000, "file name too long"),
        ("n" * 300, "file name too long"),
        ("/loop", "too many levels of symbolic links"),
        ("/loop/x", "too many levels of symbolic links"),
    ],
)
async def test_paths_that_nothing_can_be_at(house: House, client: Client, path: str, problem: str) -> None:
    client.directories["context"].joinpath("loop").symlink_to("/loop")
    edge = copy(None, local("context"), "/", "/")

    async def check(ref: Ref) -> None:
        looks = (ref.read_file, ref.read_dir) if path == "/loop" else (ref.read_file, ref.read_dir, ref.stat)
        for look in looks:
            with pytest.raises(InvalidArgumentError, match=problem) as caught:
                await look(path)
            assert len(str(caught.value)) < 300
        for offset, length in ((-1, 2), (0, -1)):
            with pytest.raises(InvalidArgumentError):
                await ref.read_file("/hello", offset=offset, length=length)

    await build(house, edge, client, check)


async def test_archives_are_unpacked_where_they_belong(
    house: House, base: str, client: Client, context: Path, tmp_path: Path
) -> None:
    for kind in ("gz", "bz2", "xz"):
        with tarfile.open(context / f"a.tar.{kind}", f"w:{kind}") as archive:
            archive.add(context / "hello", "top/hello")
            evil = tarfile.TarInfo("top/link")
            evil.type, evil.linkname = tarfile.SYMTYPE, str(tmp_path)
            archive.addfile(evil)
            archive.add(context / "hello", f"top/link/{kind}-escaped")
    edge = image(base)
    for kind in ("gz", "bz2", "xz"):
        edge = copy(edge, local("context"), f"/a.tar.{kind}", f"/{kind}/", attempt_unpack=True)
    edge = copy(edge, local("context"), "/hello", "/plain/", attempt_unpack=True)

    async def check(ref: Ref) -> None:
        for kind in ("gz", "bz2", "xz"):
            assert await ref.read_file(f"/{kind}/top/hello") == b"hello\n"
        assert await ref.read_file("/plain/hello") == b"hello\n"

    await build(house, edge, client, check)
    assert not list(tmp_path.glob("*-escaped"))


async def test_patterns_and_wildcards(house: House, client: Client, context: Path) -> None:
    for name in ("a.txt", "b.txt", "c.md"):
        (context / name).write_text(name)
    edge = copy(None, local("context"), "/*.txt", "/w/")
    edge = copy(edge, local("context"), "/", "/x/", exclude=("*.txt", "sub", "!a.txt"))
    edge = copy(edge, local("context"), "/", "/i/", include=("sub/*.sh",))

    async def check(ref: Ref) -> None:
        assert set(await files(ref, "/w")) == {"a.txt", "b.txt"}
        assert set(await files(ref, "/x")) == {"a.txt", "c.md", "hello", "link"}
        assert set(await files(ref, "/i")) == {"sub"}
        assert set(await files(ref, "/i/sub")) == {"script.sh"}

    await build(house, edge, client, check)
    with pytest.raises(VertexError, match="not found"):
        await build(house, copy(None, local("context"), "/missing", "/m"), client)


async def test_merge_and_diff_are_layers(house: House, base: str, client: Client) -> None:
    lower = image(base)
    upper = run(lower, "echo new >/new; rm /etc/group")
    delta = make.difference(lower, upper, make.Style(metadata=named("diff")))
    linked = copy(None, local("context"), "/hello", "/linked")
    merged = make.merge([image(base), linked, delta], make.Style(metadata=named("merge")))

    async def check(ref: Ref) -> None:
        assert {"linked", "new", "bin"} <= set(await files(ref))
        assert set(await files(ref, "/etc")) == {"passwd"}
        lease = (await house.store.leases.create()).id
        layers = await ref.layers(LayerForm(), lease=lease)
        assert len(layers) == 3

    await build(house, merged, client, check)
    unrelated = make.difference(linked, upper, make.Style(metadata=named("unrelated")))

    async def check_unrelated(ref: Ref) -> None:
        names = set(await files(ref))
        assert "new" in names
        assert "linked" not in names

    await build(house, unrelated, client, check_unrelated)


async def test_layers_are_the_same_bytes_again(house: House, base: str, client: Client) -> None:
    edge = run(copy(image(base), local("context"), "/", "/app/"), "echo x >/made")
    lease = (await house.store.leases.create()).id
    found: list[list[str]] = []

    async def check(ref: Ref) -> None:
        form = LayerForm(epoch=1_000_000, compression=Compression.ZSTD)
        found.append([one.diff_id for one in await ref.layers(form, lease=lease)])

    for _ in range(2):
        await build(house, edge, client, check, no_cache=True)
    assert found[0] == found[1]
    assert len(found[0]) == 3

    async def base_is_kept(ref: Ref) -> None:
        layers = await ref.layers(LayerForm(compression=Compression.ZSTD), lease=lease)
        assert layers[0].descriptor.media_type.endswith("gzip")
        assert layers[1].descriptor.media_type.endswith("zstd")
        forced = await ref.layers(LayerForm(compression=Compression.ZSTD, force=True), lease=lease)
        assert forced[0].descriptor.media_type.endswith("zstd")
        assert forced[0].diff_id == layers[0].diff_id

    await build(house, edge, client, base_is_kept)


async def test_a_layer_that_cannot_be_made_leaves_nothing(
    house: House, base: str, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = (await house.store.leases.create()).id

    def broken(_chunks: object, _form: object, write: Callable[[bytes], object]) -> NoReturn:
        write(b"the first bytes")
        raise OSError(errno.ENOSPC, "No space left on device")

    async def check(ref: Ref) -> None:
        with pytest.raises(OSError, match="No space left"):
            await ref.layers(LayerForm(), lease=lease)

    monkeypatch.setattr(layers, "_packed", broken)
    await build(house, run(image(base), "echo x >/made"), client, check)
    assert await house.store.content.statuses() == []


async def test_a_layer_that_a_killed_daemon_was_making_goes_at_the_next_start(tmp_path: Path) -> None:
    async with build_house(tmp_path / "house") as house:
        lease = (await house.store.leases.create(labels={BUILDS: "builds under way"})).id
        for ref in ("build-layer-one", "layer-that-a-pull-goes-on-with"):
            async with house.store.content.open_writer(IngestRef(ref), lease=lease) as writer:
                writer.write(b"the first bytes")
    async with build_house(tmp_path / "house") as house:
        assert [one.ref for one in await house.store.content.statuses()] == ["layer-that-a-pull-goes-on-with"]
        assert await house.store.leases.list() == []


async def test_images_for_other_platforms(house: House, registry: FakeRegistry, client: Client) -> None:
    name = publish(registry, "other", [busybox_layer()], architecture="mips")
    from lading.oci.descriptor import Platform

    platform = Platform(os="linux", architecture="mips")
    source = make.source(ops.SourceOp(identifier=f"docker-image://{name}"), make.Style(platform=platform))
    await build(house, copy(source, local("context"), "/hello", "/hello"), client)
    op = ops.ExecOp(meta=ops.Meta(args=("/bin/true",), cwd="/"), mounts=())
    root = make.MountWish(mount=ops.Mount(dest="/"), source=source, keep=True)
    _, outputs = make.execute(op, [root], make.Style(platform=platform))
    with pytest.raises(VertexError, match="cannot run programs for mips"):
        await build(house, outputs["/"], client)


async def test_pruning_takes_what_nothing_stands_on(house: House, base: str, client: Client) -> None:
    edge = run(copy(image(base), local("context"), "/", "/app/"), "echo x >/made")
    await build(house, edge, client)
    usage = await house.solver.disk_usage()
    assert all(one.size > 0 for one in usage)
    assert {one.record_type for one in usage} == {"source.local", "regular"}
    gone = [one async for one in house.solver.prune(PruneWish(filters=("type==source.local",)))]
    assert [one.record_type for one in gone] == ["source.local"]
    gone = [one async for one in house.solver.prune(PruneWish(all=True))]
    assert len(gone) == 2
    assert await house.solver.disk_usage() == []
    await collect(house)
    assert [one.key async for one in house.store.snapshotter.walk()] == []
    screen = await build(house, edge, client)
    assert "run echo x >/made" in screen.ran()


async def test_the_default_policy_keeps_what_fits(house: House, base: str, client: Client) -> None:
    await build(house, run(image(base), "echo x >/made"), client)
    records = {one.id for one in await house.solver.disk_usage()}
    for wish in default_policy(10**12):
        assert [one async for one in house.solver.prune(wish)] == []
    tight: set[str] = set()
    for wish in default_policy(1):
        tight |= {one.id async for one in house.solver.prune(wish)}
    assert tight == records


async def test_an_insecure_process_needs_a_grant(house: House, base: str, client: Client) -> None:
    edge = run(image(base), "echo fine", security=ops.SecurityMode.INSECURE)
    with pytest.raises(VertexError, match=r"security\.insecure is not allowed"):
        await build(house, edge, client)
    screen = await build(house, edge, client, entitlements=frozenset({"security.insecure"}))
    assert screen.output() == "fine\n"


class _Files(http.server.BaseHTTPRequestHandler):
    body = b"from the web\n"
    gets = 0

    def do_GET(self) -> None:
        if self.headers.get("If-None-Match") == '"1"' and type(self).body == b"from the web\n":
            self.send_response(304)
            self.end_headers()
            return
        if self.path != "/dir/file.txt":
            self.send_error(404)
            return
        type(self).gets += 1
        self.send_response(200)
        self.send_header("ETag", '"1"')
        self.send_header("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT")
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        return


@contextmanager
def web_server() -> Generator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Files)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


async def test_files_from_the_web(house: House, client: Client) -> None:
    _Files.gets = 0

    def fetched(url: str, **attrs: str) -> make.Edge:
        return make.source(ops.SourceOp(identifier=url, attrs=attrs), make.Style(metadata=named("fetch")))

    async def check(ref: Ref) -> None:
        found = await ref.stat("/file.txt")
        assert (found.mode & 0o7777, found.mtime) == (0o600, 1445412480 * 10**9)
        assert await ref.read_file("/file.txt") == b"from the web\n"

    with web_server() as url:
        await build(house, fetched(f"{url}/dir/file.txt"), client, check)
        await build(house, copy(None, fetched(f"{url}/dir/file.txt"), "/file.txt", "/f"), client)
        assert _Files.gets == 1
        with pytest.raises(VertexError, match="404"):
            await build(house, fetched(f"{url}/missing"), client)
        wrong = {"http.checksum": "sha256:" + "0" * 64}
        with pytest.raises(VertexError, match="digest mismatch"):
            await build(house, fetched(f"{url}/dir/file.txt", **wrong), client)


@contextmanager
def git_server(root: Path) -> Generator[tuple[str, str]]:
    """A repository with a tag and a submodule, over git's own protocol; its URL and its commit."""
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(root),
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@example.com",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@example.com",
    }

    def git(*arguments: str, cwd: Path) -> str:
        made = subprocess.run(
            ["git", *arguments], cwd=cwd, env=env, check=True, capture_output=True, text=True
        )
        return made.stdout.strip()

    tree = root / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "file").write_text("of git\n")
    (tree / "sub" / "inner").write_text("inner\n")
    git("init", "-q", "-b", "main", cwd=tree)
    hook = tree / ".git" / "hooks" / "post-checkout"
    hook.write_text("#!/bin/sh\ntouch /tmp/lading-hook-ran\n")
    hook.chmod(0o755)
    git("add", ".", cwd=tree)
    git("commit", "-q", "-m", "first", cwd=tree)
    git("tag", "-a", "v1", "-m", "tag", cwd=tree)
    git("clone", "-q", "--bare", str(tree), str(root / "repo.git"), cwd=root)
    commit = git("rev-parse", "HEAD", cwd=tree)
    with anyio_free_port() as port:
        pass
    server = subprocess.Popen(
        ["git", "daemon", "--export-all", "--reuseaddr", "--listen=127.0.0.1", f"--port={port}",
         f"--base-path={root}", str(root)],
        env=env, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        wait_for_port(port)
        yield f"git://127.0.0.1:{port}/repo.git", commit
    finally:
        os.killpg(server.pid, 15)
        server.wait()
        assert server.stderr is not None
        server.stderr.close()


@contextmanager
def anyio_free_port() -> Generator[int]:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        yield listener.getsockname()[1]


def wait_for_port(port: int) -> None:
    import socket
    import time

    for _ in range(500):
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.01)
    raise AssertionError("git daemon does not listen")


async def test_git_checkouts(house: House, client: Client, tmp_path: Path) -> None:
    def checkout(ref: str, **attrs: str) -> make.Edge:
        op = ops.SourceOp(identifier=f"git://x/repo.git#{ref}", attrs={"git.fullurl": url, **attrs})
        return make.source(op, make.Style(metadata=named(f"git {ref}")))

    async def whole(ref: Ref) -> None:
        assert set(await files(ref)) == {"file", "sub"}
        assert (await ref.read_file("/file")) == b"of git\n"

    async def part(ref: Ref) -> None:
        assert set(await files(ref)) == {"inner"}

    async def kept(ref: Ref) -> None:
        assert set(await files(ref)) == {"file", "sub", ".git"}

    with git_server(tmp_path / "git") as (url, commit):
        for ref in ("v1", "main", commit, ""):
            await build(house, checkout(ref), client, whole)
        await build(house, checkout("main:sub"), client, part)
        await build(house, checkout("main", **{"git.keepgitdir": "true"}), client, kept)
        with pytest.raises(VertexError, match="has no ref nothing"):
            await build(house, checkout("nothing"), client)
        for bad in ("file:///etc", "ext::sh -c id", "--upload-pack=x"):
            op = ops.SourceOp(identifier="git://x", attrs={"git.fullurl": bad})
            with pytest.raises(LadingError, match="invalid git URL"):
                await build(house, make.source(op, make.Style()), client)
    assert not Path("/tmp/lading-hook-ran").exists()
