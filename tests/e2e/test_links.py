"""``--link``, and names that follow a container when it is renamed."""

import time
from collections.abc import Iterator

import pytest
from support import engine as engines
from support.daemon import NetnsDaemon, daemon_in_netns
from support.engine import Engine, boxed

pytestmark = pytest.mark.e2e
engines.APPLETS += ("env", "nslookup", "ping")


@pytest.fixture(scope="module")
def daemon() -> Iterator[NetnsDaemon]:
    with daemon_in_netns() as daemon:
        yield daemon


@pytest.fixture(scope="module")
def engine(daemon: NetnsDaemon) -> Engine:
    return boxed(daemon)


@pytest.fixture(autouse=True)
def _clean(engine: Engine) -> Iterator[None]:
    yield
    for each in engine.run("ps", "-aq").stdout.split():
        engine.run("rm", "-f", each)
    engine.run("network", "prune", "-f")


def up(engine: Engine, name: str, *options: str) -> None:
    engine.docker("run", "-d", "--name", name, *options, "box", "sleep", "1000")


def address(engine: Engine, name: str) -> str:
    return engine.docker("inspect", "-f", "{{.NetworkSettings.IPAddress}}", name).strip()


@pytest.mark.proves("HostConfig.Links")
def test_a_link_on_the_default_bridge_is_a_name_and_variables(engine: Engine):
    up(engine, "db", "-e", "SECRET=word", "-h", "dbhost", "--expose", "5432", "--expose", "80/udp")
    said = engine.docker("run", "--rm", "--name", "app", "--link", "db:store", "box", "sh", "-c", "cat /etc/hosts; env; ping -c 1 store")  # fmt: skip
    up(engine, "one", "--link", "db:store")
    named = "{{.Names}}"
    shown = engine.docker("ps", "--no-trunc", "--filter", "name=db", "--format", named)
    assert shown.strip() == "db,one/store"
    engine.docker("rm", "-f", "one")
    assert engine.docker("ps", "--no-trunc", "--filter", "name=db", "--format", named).strip() == "db"
    where = address(engine, "db")
    lines = said.splitlines()
    assert f"{where}\tstore dbhost db" in lines
    assert "STORE_NAME=/app/store" in lines
    assert f"STORE_PORT=udp://{where}:80" in lines
    assert f"STORE_PORT_5432_TCP=tcp://{where}:5432" in lines
    assert f"STORE_PORT_5432_TCP_ADDR={where}" in lines
    assert "STORE_PORT_5432_TCP_PORT=5432" in lines
    assert "STORE_PORT_5432_TCP_PROTO=tcp" in lines
    assert "STORE_ENV_SECRET=word" in lines
    assert not any(line.startswith(("STORE_ENV_PATH", "STORE_ENV_HOME")) for line in lines)
    assert "1 packets received" in said


def test_a_link_follows_the_container_that_it_leads_to(engine: Engine):
    up(engine, "db")
    up(engine, "app", "--link", "db:store", "--link", "db")
    assert (
        engine.docker("inspect", "-f", "{{.HostConfig.Links}}", "app").strip()
        == "[/db:/app/store /db:/app/db]"
    )
    before = address(engine, "db")
    engine.docker("stop", "-t", "0", "db")
    up(engine, "squatter")  # takes the address, which is given up in the background
    engine.docker("start", "db")
    after = address(engine, "db")
    hosts = engine.docker("exec", "app", "cat", "/etc/hosts")
    assert f"{after}\tstore" in hosts
    assert after == before or f"{before}\tstore" not in hosts


def test_links_that_lead_nowhere_are_refused(engine: Engine):
    refused = engine.run("create", "--link", "nobody:x", "box", "true")
    assert "could not get container for nobody" in refused.stderr
    up(engine, "db")
    engine.docker("create", "--name", "app", "--link", "db:store", "box", "true")
    engine.docker("stop", "-t", "0", "db")
    refused = engine.run("start", "app")
    assert "Cannot link to a non running container: /db AS /app/store" in refused.stderr
    assert (
        "can't be used with links"
        in engine.run("create", "--network", "host", "--link", "db", "box", "true").stderr
    )
    assert "bad format for links" in engine.run("create", "--link", "db:a b", "box", "true").stderr


def test_a_link_in_a_network_is_a_name_of_one_container(engine: Engine):
    engine.docker("network", "create", "net")
    up(engine, "db", "--network", "net")
    up(engine, "app", "--network", "net", "--link", "db:store")
    engine.docker("exec", "app", "ping", "-c", "1", "store")
    up(engine, "other", "--network", "net")
    assert engine.run("exec", "other", "ping", "-c", "1", "store").returncode
    engine.docker(
        "create", "--name", "early", "--network", "net", "--link", "later:late", "box", "sleep", "1000"
    )
    engine.docker("start", "early")
    up(engine, "later", "--network", "net")
    engine.docker("exec", "early", "ping", "-c", "1", "late")


def test_names_follow_a_rename_and_later_networks(engine: Engine):
    engine.docker("network", "create", "net")
    engine.docker("network", "create", "more")
    up(engine, "old", "--network", "net", "--network-alias", "kept")
    up(engine, "asks", "--network", "net")
    engine.docker("rename", "old", "new")

    def found(name: str) -> bool:
        return engine.run("exec", "asks", "ping", "-c", "1", "-W", "1", name).returncode == 0

    deadline = time.monotonic() + 10
    while not found("new"):  # the resolver reads its file when it is told
        assert time.monotonic() < deadline
    assert found("kept")
    assert not found("old")
    engine.docker("network", "connect", "--alias", "again", "more", "new")
    engine.docker("network", "connect", "more", "asks")
    deadline = time.monotonic() + 10
    while not found("again"):
        assert time.monotonic() < deadline
    up(engine, "late", "--network", "net")  # netavark reads and writes the same file
    assert found("new")
