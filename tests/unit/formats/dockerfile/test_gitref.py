"""Repositories and ports."""

import pytest

from lading.formats.dockerfile import rules
from lading.formats.dockerfile.errors import DockerfileError, Lines
from lading.formats.dockerfile.gitref import is_git, is_http, parse_git_ref
from lading.formats.dockerfile.ports import parse_ports


@pytest.mark.parametrize(
    ("text", "remote", "ref", "subdir", "identifier"),
    [
        ("https://host/a/b.git", "https://host/a/b.git", "", "", "host/a/b.git"),
        (
            "https://host/a.git#main:sub/dir",
            "https://host/a.git",
            "main",
            "sub/dir",
            "host/a.git#main:sub/dir",
        ),
        ("https://host/a.git#:sub", "https://host/a.git", "", "sub", "host/a.git#:sub"),
        ("http://u:p@host:1/a.git", "http://u:p@host:1/a.git", "", "", "host:1/a.git"),
        ("git://host/a", "git://host/a", "", "", "host/a"),
        ("ssh://git@host/a", "ssh://git@host/a", "", "", "host/a"),
        ("git@host:a/b.git#v1", "git@host:a/b.git", "v1", "", "host/a/b.git#v1"),
        ("git@host:a.git?tag=v1", "git@host:a.git", "refs/tags/v1", "", "host/a.git#refs/tags/v1"),
        ("github.com/a/b", "github.com/a/b", "", "", "github.com/a/b"),
        ("https://host/a.git?ref=x&subdir=y", "https://host/a.git", "x", "y", "host/a.git#x:y"),
        (
            "https://host/a.git?branch=refs/heads/m",
            "https://host/a.git",
            "refs/heads/m",
            "",
            "host/a.git#refs/heads/m",
        ),
    ],
)
def test_repositories(text: str, remote: str, ref: str, subdir: str, identifier: str) -> None:
    found = parse_git_ref(text)
    assert found is not None
    assert (found.remote, found.ref, found.subdir, found.identifier) == (remote, ref, subdir, identifier)
    assert found.like_local is text.startswith("github.com/")
    assert is_git(text)
    assert not is_http(text)


@pytest.mark.parametrize(
    "text",
    ["./a.git", "../a.git", "a/b.git", "https://host/file", "ftp://host/a.git", "x", "https://[/a.git"],
)
def test_what_is_no_repository(text: str) -> None:
    assert parse_git_ref(text) is None
    assert not is_git(text)
    assert is_http(text) is text.startswith("https://")


def test_queries_steer_the_fetch() -> None:
    found = parse_git_ref("https://h/a.git?checksum=abc&keep-git-dir&submodules=false")
    assert found is not None
    assert (found.checksum, found.keep_git_dir, found.submodules) == ("abc", True, False)
    other = parse_git_ref("https://h/a.git?commit=abc&keep-git-dir=0")
    assert other is not None
    assert (other.checksum, other.keep_git_dir) == ("abc", False)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("ref=a&ref=b", 'query "ref" has multiple values'),
        ("ref=", 'query "ref" has no value'),
        ("x=y", 'unexpected query "x"'),
        ("tag=a&branch=b", "branch conflicts with tag"),
        ("tag=a&ref=b", 'ref conflicts: "b" vs "refs/tags/a"'),
        ("submodules=maybe", 'invalid submodules value: "maybe"'),
    ],
)
def test_bad_queries(query: str, message: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        parse_git_ref(f"https://h/a.git?{query}")
    assert caught.value.message == message
    assert not is_git(f"https://h/a.git?{query}")


def ports(*texts: str) -> tuple[list[str], list[str]]:
    found = rules.Findings(rules.Choice())
    return parse_ports(texts, Lines(1, 1), found), [one.rule.name for one in found.all]


@pytest.mark.parametrize(
    ("text", "made", "remarks"),
    [
        ("80", ["80/tcp"], []),
        ("80/", ["80/tcp"], []),
        ("53/udp", ["53/udp"], []),
        ("53/UDP", ["53/udp"], ["ExposeProtoCasing"]),
        ("80-82/sctp", ["80/sctp", "81/sctp", "82/sctp"], []),
        ("8080:80", ["80/tcp"], ["ExposeInvalidFormat"]),
        ("1.2.3.4:8080:80", ["80/tcp"], ["ExposeInvalidFormat"]),
        ("[::1]:8080:80", ["80/tcp"], ["ExposeInvalidFormat"]),
        ("8000-8009:80", ["80/tcp"], ["ExposeInvalidFormat"]),
    ],
)
def test_ports(text: str, made: list[str], remarks: list[str]) -> None:
    assert ports(text) == (made, remarks)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", 'invalid port: "": no port specified'),
        ("80/quic", 'invalid port: "80/quic": invalid proto: quic'),
        ("x", "invalid containerPort: x"),
        ("70000", "invalid containerPort: 70000"),
        ("9-8", "invalid containerPort: 9-8"),
        ("x:80", "invalid hostPort: x"),
        ("1-2:80-90", "invalid ranges specified for container and host Ports: 80-90 and 1-2"),
        ("nowhere:1:80", "invalid IP address: nowhere"),
    ],
)
def test_bad_ports(text: str, message: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        ports(text)
    assert caught.value.message == message
