"""The legacy builder's parts: what it refuses, its history, and an uploaded context as a session."""

import json
import os
from pathlib import Path

import pytest

from lading.builder.legacy.session import UploadSession
from lading.builder.legacy.wish import checked, names_of, steps_of, unused_arguments
from lading.builder.legacy.words import as_legacy
from lading.core.remotes import Credentials
from lading.core.session import SyncMemory, SyncWish
from lading.errors import InvalidArgumentError, NotFoundError, UnsupportedError
from lading.formats.dockerfile import instructions as ins
from lading.formats.dockerfile.errors import DockerfileError
from lading.formats.dockerfile.parse import parse

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("RUN --mount=type=cache,target=/c x", "--mount option"),
        ("RUN --network=none x", "--network option"),
        ("RUN <<E\nx\nE", "heredoc"),
        ("COPY --chmod=755 a b", "--chmod option"),
        ("COPY --parents a b", "--parents option"),
        ("COPY --exclude=x a b", "--exclude option"),
        ("COPY <<E /x\nE", "heredoc"),
        ("ADD --checksum=sha256:x https://a b", "--checksum option"),
        ("ADD --keep-git-dir a b", "--keep-git-dir option"),
        ("ADD --unpack a b", "--unpack option"),
    ],
)
async def test_what_it_never_knew_is_refused(line: str, what: str) -> None:
    with pytest.raises(DockerfileError, match=f"the {what} requires BuildKit") as caught:
        checked(parse(f"FROM x\n{line}\n".encode()))
    assert caught.value.lines is not None
    assert caught.value.lines.start == 2


async def test_links_mean_nothing() -> None:
    file = checked(parse(b"FROM x\nCOPY --link a b\nADD c d\nENV a=b\n"))
    copy = file.stages[0].commands[0]
    assert isinstance(copy, ins.Copy)
    assert not copy.link


async def test_steps_and_arguments_are_counted() -> None:
    file = parse(b"ARG A\nFROM x\nARG B\nRUN y\nFROM z\n")
    assert steps_of(file) == 5
    assert unused_arguments(file, {"A": "", "B": "", "C": "", "HTTP_PROXY": ""}) == ["C"]


async def test_the_history_is_the_old_builders() -> None:
    ours = {"comment": "buildkit.dockerfile.v0"}
    config = {
        "history": [
            {"created_by": "base's", "comment": "other"},
            {**ours, "created_by": "RUN |1 A=b /bin/sh -c x # buildkit"},
            {**ours, "created_by": "COPY a b # buildkit"},
            {**ours, "created_by": 'CMD ["a"]', "empty_layer": True},
        ]
    }
    assert json.loads(as_legacy(json.dumps(config).encode()))["history"] == [
        {"created_by": "base's", "comment": "other"},
        {"created_by": "|1 A=b /bin/sh -c x"},
        {"created_by": "/bin/sh -c #(nop) COPY a b"},
        {"created_by": '/bin/sh -c #(nop)  CMD ["a"]', "empty_layer": True},
    ]


async def test_a_tag_has_no_digest() -> None:
    assert names_of(["a:1", "", "b"]) == ["a:1", "b"]
    with pytest.raises(InvalidArgumentError, match="digest"):
        names_of(["a@sha256:" + "0" * 64])


# The session.


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    source, target = tmp_path / "source", tmp_path / "target"
    target.mkdir()
    for path, text in {
        "a": "a",
        "dir/b": "b",
        "dir/sub/c": "c",
        "skipped/d": "d",
        "skipped/kept": "k",
        "real": "r",
    }.items():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_text(text)
    (source / "link").symlink_to("dir/sub")
    (source / "out").symlink_to("/etc/passwd")
    os.mkfifo(source / "pipe")
    return source, target


def listed(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_symlink() or not path.is_dir()}


async def test_everything_but_what_is_excluded(places: tuple[Path, Path]) -> None:
    source, target = places
    session = UploadSession("id", source, {})
    wish = SyncWish(name="context", exclude=["skipped", "!skipped/kept"])
    first = await session.sync(wish, str(target))
    assert listed(target) == {"a", "dir/b", "dir/sub/c", "skipped/kept", "real", "link", "out", "pipe"}
    assert first.transferred_files == 8
    assert os.readlink(target / "out") == "/etc/passwd"


async def test_nothing_of_an_earlier_build_is_left(places: tuple[Path, Path]) -> None:
    source, target = places
    wish = SyncWish(name="context")
    os.utime(source / "a", (1, 1))
    await UploadSession("id", source, {}).sync(wish, str(target))
    # Another project's file of the same name, size and time.
    (source / "a").write_text("b")
    os.utime(source / "a", (1, 1))
    (source / "real").unlink()
    memory = SyncMemory(entries=[b"of another client"])
    assert (await UploadSession("other", source, {}).sync(wish, str(target), memory=memory)).changed
    assert (target / "a").read_text() == "b"
    assert "real" not in listed(target)
    assert not memory.entries


async def test_what_is_followed_comes_with_what_it_points_to(places: tuple[Path, Path]) -> None:
    source, target = places
    session = UploadSession("id", source, {})
    await session.sync(SyncWish(name="context", follow=["link", "re*"]), str(target))
    assert listed(target) == {"link", "dir/sub/c", "real"}


async def test_a_file_becomes_a_directory_and_the_other_way(places: tuple[Path, Path]) -> None:
    source, target = places
    (target / "a").mkdir()
    (target / "a" / "old").write_text("x")
    (target / "dir").write_text("x")
    await UploadSession("id", source, {}).sync(SyncWish(name="context"), str(target))
    assert (target / "a").read_text() == "a"
    assert (target / "dir/b").read_text() == "b"


async def test_it_lends_credentials_and_nothing_else() -> None:
    login = Credentials(username="u")
    session = UploadSession("id", Path("/nowhere"), {"host": login})
    assert await session.credentials("host") is login
    assert await session.credentials("other") is None
    assert (session.id, session.shared_key, session.offers("/x/Y")) == ("id", "legacy", False)
    for lookup in (session.secret, session.check_agent):
        with pytest.raises(NotFoundError):
            await lookup("x")
    for refused in (
        lambda: session.open_output(0, {}),
        lambda: session.open_agent("x"),
        lambda: session.upload("p", "h"),
        lambda: session.content("s"),
    ):
        with pytest.raises(UnsupportedError, match="legacy builder"):
            refused()
    with pytest.raises(UnsupportedError):
        await session.send_tree(0, [])
