"""Credentials and tokens: hostile-input.md R2 and R8."""

import json
import os
import pathlib
from collections.abc import Generator

import anyio
import pytest
from support.remotes import at, world

from lading.core.remotes import Credentials, replies_of
from lading.errors import LadingError, PermissionDeniedError, UnauthenticatedError
from lading.oci import mediatypes, reference
from lading.remotes.auth import Identity, is_bound
from lading.remotes.keychain import DockerKeychain
from lading.testing.registry import FakeRegistry, Fault
from lading.testing.remotes import image

pytestmark = pytest.mark.anyio

ME = Credentials(username="me", password="hunter2")


@pytest.fixture
def registry() -> Generator[FakeRegistry]:
    with FakeRegistry() as fake:
        fake.login = ("me", "hunter2")
        fake.add_manifest("app", image([]), mediatypes.OCI_MANIFEST, tag="v1")
        yield fake


@pytest.mark.parametrize("bearer", [True, False])
async def test_credentials_open_the_door(registry: FakeRegistry, bearer: bool) -> None:
    registry.bearer = bearer
    async with world() as client:
        found = await client.resolver(ME).resolve(at(registry))
    assert found.body == image([])


@pytest.mark.parametrize("bearer", [True, False])
async def test_wrong_credentials(registry: FakeRegistry, bearer: bool) -> None:
    registry.bearer = bearer
    async with world() as client:
        with pytest.raises(UnauthenticatedError) as caught:
            await client.resolver(Credentials(username="me", password="s3cr3t")).resolve(at(registry))
    assert len(registry.requests) <= 4
    assert "s3cr3t" not in str(caught.value) + repr(caught.value) + repr(replies_of(caught.value))


async def test_no_credentials(registry: FakeRegistry) -> None:
    async with world() as client:
        with pytest.raises(UnauthenticatedError):
            await client.resolver().resolve(at(registry))


async def test_anonymous_tokens(registry: FakeRegistry) -> None:
    registry.login, registry.anonymous_tokens = None, True
    async with world() as client:
        await client.resolver().resolve(at(registry))
    assert registry.issued == [("repository:app:pull",)]


async def test_a_registry_that_says_401_for_ever(registry: FakeRegistry) -> None:
    registry.token_uses = 0
    async with world() as client:
        with pytest.raises(UnauthenticatedError):
            await client.resolver(ME).resolve(at(registry))
    assert len(registry.seen("HEAD", "manifests")) == 2
    assert len(registry.issued) == 1


async def test_tokens_that_expire_at_every_request(registry: FakeRegistry) -> None:
    registry.token_uses = 1
    async with world() as client:
        await client.resolver(ME).resolve(at(registry))
    assert len(registry.issued) == 2


async def test_a_hundred_requests_share_a_token(registry: FakeRegistry) -> None:
    async with world() as client, anyio.create_task_group() as tasks:
        for _ in range(50):
            tasks.start_soon(client.resolver(ME).resolve, at(registry))
    assert len(registry.issued) == 1


async def test_identities_do_not_share_tokens(registry: FakeRegistry) -> None:
    async with world() as client:
        await client.resolver(ME).resolve(at(registry))
        with pytest.raises(UnauthenticatedError):
            await client.resolver().resolve(at(registry))
        with pytest.raises(UnauthenticatedError):
            await client.resolver(Credentials(username="me", password="guess")).resolve(at(registry))


async def test_repositories_do_not_share_tokens(registry: FakeRegistry) -> None:
    registry.add_manifest("other", image([]), mediatypes.OCI_MANIFEST, tag="v1")
    async with world() as client:
        await client.resolver(ME).resolve(at(registry))
        await client.resolver(ME).resolve(at(registry, "other"))
    assert registry.issued == [("repository:app:pull",), ("repository:other:pull",)]


async def test_a_foreign_realm_gets_no_credentials(registry: FakeRegistry) -> None:
    with FakeRegistry() as thief:
        thief.anonymous_tokens = True
        registry.realm = f"http://thief.example:{thief.port}/token"
        async with world() as client:
            client.names["thief.example"] = "127.0.0.1"
            with pytest.raises(LadingError) as caught:
                await client.resolver(ME).resolve(at(registry))
        assert thief.seen("GET", "token")
        assert all("authorization" not in one.fields for one in thief.requests)
        assert all("me" not in one.target.partition("?")[2].split("&") for one in thief.requests)
    assert "hunter2" not in str(caught.value)


async def test_a_trusted_realm_gets_them(registry: FakeRegistry) -> None:
    registry.realm = f"http://auth.example:{registry.port}/token"
    async with world(trusted_realms={"127.0.0.1": frozenset({"auth.example"})}) as client:
        client.names["auth.example"] = "127.0.0.1"
        await client.resolver(ME).resolve(at(registry))


@pytest.mark.parametrize(
    "realm",
    [
        "http://169.254.169.254/latest",
        "http://[fe80::1]/",
        "file:///etc/passwd",
        "http://me:you@127.0.0.1/",
        "x",
        "",
    ],
)
async def test_a_realm_that_leads_astray(registry: FakeRegistry, realm: str) -> None:
    registry.realm = realm or " "
    async with world() as client:
        with pytest.raises((UnauthenticatedError, PermissionDeniedError)):
            await client.resolver(ME).resolve(at(registry))


@pytest.mark.parametrize(
    ("realm", "host", "bound"),
    [
        ("registry.example.com", "registry.example.com", True),
        ("auth.example.com", "registry.example.com", True),
        ("example.com", "registry.example.com", True),
        ("auth.docker.io", "registry-1.docker.io", True),
        ("localhost", "127.0.0.1", True),
        ("evil.com", "registry.example.com", False),
        ("notexample.com", "registry.example.com", False),
        ("evil.co.uk", "registry.co.uk", False),
        ("auth.mine.co.uk", "registry.mine.co.uk", True),
        ("evil.com", "example.com", False),
        ("auth.example.com", "example.com", True),
        ("com", "example.com", False),
        ("10.0.0.2", "10.0.0.1", False),
        ("10.0.0.1", "10.0.0.1", True),
        ("evil.0.0.1", "10.0.0.1", False),
    ],
)
def test_which_realms_belong_to_a_registry(realm: str, host: str, bound: bool) -> None:
    assert is_bound(realm, host, {}) is bound


async def test_an_identity_token_makes_tokens(registry: FakeRegistry) -> None:
    registry.identity_token = "idt"
    async with world() as client:
        await client.resolver(Credentials(identity_token="idt")).resolve(at(registry))
    assert registry.seen("POST", "token")


async def test_a_registry_token_is_sent_as_it_is(registry: FakeRegistry) -> None:
    token = registry.make_token(())
    async with world() as client:
        await client.resolver(Credentials(registry_token=token)).resolve(at(registry))
    assert not registry.seen("GET", "token")


@pytest.mark.parametrize(
    "body", [b"{}", b"[]", b"<html>", b'{"token":"a b"}', b'{"token":"a\\r\\nX: y"}', b'{"token":7}']
)
async def test_a_token_server_that_babbles(registry: FakeRegistry, body: bytes) -> None:
    registry.faults.append(Fault(path="/token", status=200, body=body, times=-1))
    async with world() as client:
        with pytest.raises(UnauthenticatedError):
            await client.resolver(ME).resolve(at(registry))


async def test_a_token_server_that_is_down(registry: FakeRegistry) -> None:
    registry.faults.append(Fault(path="/token", status=500, times=-1))
    async with world() as client:
        with pytest.raises(LadingError) as caught:
            await client.resolver(ME).resolve(at(registry))
    assert caught.value.code == "remote-unavailable"


async def test_what_a_registry_asked_for_once_does_not_shut_it_for_ever(registry: FakeRegistry) -> None:
    """Its token server is down, and a little later it wants no token any more."""
    registry.faults.append(Fault(path="/token", status=500, times=-1))
    async with world() as client:
        with pytest.raises(LadingError):
            await client.resolver().resolve(at(registry))
        registry.login = None
        await client.resolver().resolve(at(registry))


async def test_headers_go_to_the_registry(registry: FakeRegistry) -> None:
    registry.login = None
    async with world() as client:
        await client.resolver(headers={"X-Meta-Job": "7"}).resolve(at(registry))
        with pytest.raises(LadingError):
            await client.resolver(headers={"X-Meta-Job": "7\r\nX-Evil: 1"}).resolve(at(registry))
    assert registry.requests[0].fields["x-meta-job"] == "7"
    assert all("x-evil" not in one.fields for one in registry.requests)


@pytest.mark.parametrize("bearer", [True, False])
async def test_login(registry: FakeRegistry, bearer: bool) -> None:
    registry.bearer, registry.identity_token = bearer, "idt"
    async with world() as client:
        resolver = client.resolver()
        good = Credentials(username="me", password="hunter2", server_address=f"http://{registry.host}/v2/")
        assert await resolver.login(good) == ("idt" if bearer else "")
        with pytest.raises(UnauthenticatedError):
            await resolver.login(Credentials(username="me", password="x", server_address=registry.host))


async def test_login_where_none_is_needed(registry: FakeRegistry) -> None:
    registry.login = None
    async with world() as client:
        assert await client.resolver().login(Credentials(username="a", server_address=registry.host)) == ""


def test_identities_tell_nothing() -> None:
    identity = Identity.of(ME)
    assert "hunter2" not in repr(identity) + repr(ME)
    assert Identity.of(ME) == identity
    assert Identity.of(Credentials()) == Identity.of(None)
    assert Identity.of(Credentials(username="me", password="other")).key != identity.key


def write_config(path: pathlib.Path, **document: object) -> DockerKeychain:
    (path / "config.json").write_text(json.dumps(document))
    return DockerKeychain(str(path / "config.json"), str(path))


def write_helper(path: pathlib.Path, script: str, name: str = "docker-credential-test") -> pathlib.Path:
    helper = path / name
    helper.write_text(f"#!/bin/sh\n{script}\n")
    helper.chmod(0o755)
    return helper


async def test_docker_config(tmp_path: pathlib.Path, registry: FakeRegistry) -> None:
    keychain = write_config(
        tmp_path,
        auths={
            registry.host: {"auth": "bWU6aHVudGVyMg=="},
            "https://index.docker.io/v1/": {"auth": "aHViOnB3"},
        },
    )
    assert await keychain.lookup("docker.io") == Credentials(
        username="hub", password="pw", server_address="docker.io"
    )
    assert await keychain.lookup("elsewhere.example") is None
    async with world(keychain=keychain) as client:
        await client.resolver().resolve(at(registry))


@pytest.mark.parametrize(
    "document", [{"auths": []}, {"auths": {"h.example": {"auth": 7}}}, {"credsStore": 1}]
)
async def test_a_damaged_docker_config(tmp_path: pathlib.Path, document: dict[str, object]) -> None:
    assert await write_config(tmp_path, **document).lookup("h.example") is None


async def test_a_missing_docker_config(tmp_path: pathlib.Path) -> None:
    assert await DockerKeychain(str(tmp_path / "none.json"), "").lookup("h.example") is None


async def test_a_helper_is_asked(tmp_path: pathlib.Path) -> None:
    write_helper(tmp_path, """read host; echo '{"ServerURL":"x","Username":"u-'$host'","Secret":"s"}'""")
    keychain = write_config(tmp_path, credHelpers={"h.example": "test"})
    found = await keychain.lookup("h.example")
    assert found is not None
    assert (found.username, found.password) == ("u-h.example", "s")
    assert await keychain.lookup("other.example") is None


async def test_a_helper_by_its_path_gives_an_identity_token(tmp_path: pathlib.Path) -> None:
    helper = write_helper(tmp_path, """cat >&-; echo '{"Username":"<token>","Secret":"idt"}'""", "anything")
    found = await write_config(tmp_path, credsStore=str(helper)).lookup("h.example")
    assert found is not None
    assert found.identity_token == "idt"


@pytest.mark.parametrize("name", ["../test", "a/b", "", "-x", "x;y", "missing"])
async def test_a_helper_that_may_not_be_started(tmp_path: pathlib.Path, name: str) -> None:
    canary = tmp_path / "canary"
    write_helper(tmp_path, f"touch {canary}")
    assert await write_config(tmp_path, credHelpers={"h.example": name}).lookup("h.example") is None
    assert not canary.exists()


@pytest.mark.parametrize("script", ["exit 1", "echo no", "head -c 100000 /dev/zero", "exec sleep 60"])
async def test_a_helper_that_fails(
    tmp_path: pathlib.Path, script: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lading.remotes.keychain.HELPER_TIMEOUT", 0.3)
    write_helper(tmp_path, f"echo $$ > {tmp_path}/pid; {script}")
    assert await write_config(tmp_path, credHelpers={"h.example": "test"}).lookup("h.example") is None
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


async def test_mirrors_get_their_own_credentials_unless_told_otherwise(tmp_path: pathlib.Path) -> None:
    with FakeRegistry() as mirror:
        mirror.login = ("me", "hunter2")
        mirror.add_manifest("library/app", image([]), mediatypes.OCI_MANIFEST, tag="v1")
        directory = tmp_path / "upstream.example"
        directory.mkdir()
        for auth, works in (("own", False), ("upstream", True)):
            (directory / "hosts.toml").write_text(
                f'server = "http://127.0.0.1:1"\n[host."http://{mirror.host}"]\nauth = "{auth}"\n'
            )
            mirror.realm = f"http://auth.upstream.example:{mirror.port}/token"
            async with world(host_directories=(str(tmp_path),)) as client:
                client.names["auth.upstream.example"] = "127.0.0.1"
                wanted = reference.parse("upstream.example/library/app:v1")
                if works:
                    await client.resolver(ME).resolve(wanted)
                else:
                    with pytest.raises(LadingError):
                        await client.resolver(ME).resolve(wanted)
