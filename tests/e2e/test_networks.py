"""Networks with the unmodified ``docker`` command, on a daemon in a network namespace of its own."""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support import engine as engines
from support.daemon import NetnsDaemon, daemon_in_netns
from support.engine import Engine, boxed
from support.netns import Netns, inside, new_netns

pytestmark = pytest.mark.e2e
engines.APPLETS += ("httpd", "ip", "nc", "nslookup", "ping", "wget")


@pytest.fixture(scope="module")
def daemon() -> Generator[NetnsDaemon]:
    with daemon_in_netns() as daemon:
        yield daemon


@pytest.fixture(scope="module")
def loaded(daemon: NetnsDaemon) -> Engine:
    return boxed(daemon)


@pytest.fixture
def engine(loaded: Engine, daemon: NetnsDaemon) -> Generator[Engine]:
    yield loaded
    loaded.run("rm", "-f", *loaded.docker("ps", "-aq").split())
    loaded.docker("network", "prune", "-f")
    assert daemon.machine.links() == []


def serve(engine: Engine, name: str, *options: str) -> str:
    script = "echo hello from $HOSTNAME >/tmp/index.html; exec httpd -f -p 80 -h /tmp"
    id_ = engine.docker("run", "-d", "--name", name, *options, "box", "sh", "-c", script).strip()
    listening(engine, name)
    return id_


def listening(engine: Engine, name: str) -> None:
    """Wait until its web server does."""
    ready = "while ! wget -qO- http://127.0.0.1/ >/dev/null 2>&1; do sleep 0.05; done"
    engine.docker("exec", name, "sh", "-c", ready)


def fetch(daemon: NetnsDaemon, address: str, port: int) -> str:
    """What a program on the machine gets from a published port."""

    def get() -> str:
        with socket.create_connection((address, port), timeout=5) as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return b"".join(iter(lambda: client.recv(4096), b"")).decode()

    return daemon.machine.call(get)


def fetch_soon(engine: Engine, daemon: NetnsDaemon, address: str, port: int) -> str:
    """As `fetch`, with some seconds of patience; a refusal that lasts is told with what there is."""
    until = time.monotonic() + 5
    while True:
        try:
            return fetch(daemon, address, port)
        except OSError as exc:
            if time.monotonic() > until:
                rules = daemon.machine.call(
                    lambda: subprocess.run(
                        ["nft", "list", "ruleset"], capture_output=True, text=True, check=False
                    )
                )
                raise AssertionError((engine.docker("ps", "-a"), rules.stdout, daemon.tail())) from exc
            time.sleep(0.1)


def post(daemon: NetnsDaemon, target: str, body: object) -> bytes:
    """Post a body; the whole answer."""
    text = json.dumps(body)
    head = f"POST {target} HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {len(text)}"
    return daemon.raw(f"{head}\r\n\r\n{text}".encode())


def look(engine: Engine, container: str, template: str) -> str:
    return engine.docker("inspect", "--format", template, container).strip()


def test_a_step_of_a_build_is_in_the_default_network(engine: Engine, tmp_path: Path):
    (tmp_path / "Dockerfile").write_text("FROM box\nRUN ip -4 addr show eth0 && ip route\n")
    said = engine.docker("build", "--no-cache", str(tmp_path))
    assert "default via" in said
    assert " scope global eth0" in said


@pytest.mark.proves("HostConfig.NetworkMode")
def test_the_default_network_has_a_gateway(engine: Engine):
    said = engine.docker("run", "--rm", "box", "ip", "route")
    assert "default via 172.17.0.1 dev eth0" in said
    assert engine.docker("run", "--rm", "box", "ping", "-c1", "-W2", "172.17.0.1")


@pytest.mark.proves("GET /networks", "DELETE /networks/{name}")
def test_predefined_networks_cannot_be_removed(engine: Engine):
    assert engine.docker("network", "ls", "--format", "{{.Name}}").split() == ["bridge", "host", "none"]
    for name in ("bridge", "host", "none"):
        assert "pre-defined" in engine.run("network", "rm", name).stderr
        assert engine.run("network", "create", name).returncode


@pytest.mark.proves("POST /networks/create", "Config.Hostname")
def test_containers_find_each_other_by_every_name(engine: Engine):
    engine.docker("network", "create", "--label", "a=b", "net")
    id_ = serve(engine, "web", "--network", "net", "--network-alias", "www", "--hostname", "host-of-web")
    for name in ("web", "www", id_[:12], "host-of-web"):
        script = f"wget -qO- http://{name}/"
        assert engine.docker("run", "--rm", "--network", "net", "box", "sh", "-c", script) == (
            "hello from host-of-web\n"
        )
    assert engine.run("run", "--rm", "--network", "net", "box", "nslookup", "no-such").returncode
    assert engine.run(
        "run", "--rm", "box", "sh", "-c", "wget -T2 -qO- http://web/"
    ).returncode  # other network


def test_a_shared_alias_leads_to_all(engine: Engine):
    engine.docker("network", "create", "net")
    for name in ("one", "two"):
        serve(engine, name, "--network", "net", "--network-alias", "both")
    said = engine.docker("run", "--rm", "--network", "net", "box", "nslookup", "both")
    addresses = {look(engine, name, "{{.NetworkSettings.Networks.net.IPAddress}}") for name in ("one", "two")}
    assert len(addresses) == 2
    assert all(address in said for address in addresses)


def test_networks_are_apart(engine: Engine):
    engine.docker("network", "create", "net")
    serve(engine, "web", "--network", "net")
    address = look(engine, "web", "{{.NetworkSettings.Networks.net.IPAddress}}")
    assert engine.run("run", "--rm", "box", "wget", "-T2", "-qO-", f"http://{address}/").returncode


@pytest.mark.proves("HostConfig.PortBindings", "Config.ExposedPorts")
def test_published_ports(engine: Engine, daemon: NetnsDaemon):
    serve(
        engine, "web", "-p", "127.0.0.1:8080:80", "-p", "80", "-p", "9000-9001:9000-9001", "--expose", "7/udp"
    )
    assert "hello from" in fetch(daemon, "127.0.0.1", 8080)
    ports = engine.docker("port", "web").splitlines()
    free = next(line for line in ports if line.startswith("80/tcp -> 0.0.0.0:")).rpartition(":")[2]
    assert "hello from" in fetch(daemon, "127.0.0.1", int(free))
    assert "9001/tcp -> 0.0.0.0:9001" in ports
    shown = json.loads(look(engine, "web", "{{json .NetworkSettings.Ports}}"))
    assert shown["7/udp"] is None
    assert {each["HostPort"] for each in shown["80/tcp"]} == {"8080", free}
    row = engine.docker("ps", "--format", "{{.Ports}}", "--filter", "publish=80", "--filter", "expose=7/udp")
    assert "127.0.0.1:8080->80/tcp" in row
    assert "7/udp" in row
    again = engine.run("run", "--rm", "-p", "127.0.0.1:8080:80", "box", "true")
    assert again.returncode == 125
    assert "port is already allocated" in again.stderr
    engine.docker("stop", "-t", "0", "web")
    assert engine.docker("port", "web") == ""
    with pytest.raises(OSError, match="refused"):
        fetch(daemon, "127.0.0.1", 8080)
    engine.docker("start", "web")
    listening(engine, "web")
    assert "hello from" in fetch(daemon, "127.0.0.1", 8080)


def test_a_port_of_another_program_is_not_taken(engine: Engine, daemon: NetnsDaemon):
    listener = daemon.machine.call(lambda: socket.create_server(("127.0.0.1", 8088)))
    with listener:
        result = engine.run("run", "--rm", "-p", "127.0.0.1:8088:80", "box", "true")
    assert result.returncode == 125
    assert "port is already allocated" in result.stderr
    assert engine.docker("run", "--rm", "-p", "127.0.0.1:8088:80", "box", "echo", "free") == "free\n"


def test_udp_is_published(engine: Engine, daemon: NetnsDaemon):
    engine.docker("run", "-d", "--name", "echo", "-p", "127.0.0.1:5300:53/udp", "box", "sleep", "1000")

    def bound() -> socket.socket:
        listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        listener.settimeout(5)
        listener.bind(("", 53))
        return listener

    def client() -> socket.socket:
        return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    with (
        inside(look(engine, "echo", "{{.NetworkSettings.SandboxKey}}"), bound) as listener,
        daemon.machine.call(client) as asking,
    ):
        asking.settimeout(5)
        asking.sendto(b"ping", ("127.0.0.1", 5300))
        data, peer = listener.recvfrom(100)
        listener.sendto(data + b" pong", peer)
        assert asking.recv(100) == b"ping pong"


@pytest.mark.proves(
    "Config.MacAddress",
    "Config.Domainname",
    "HostConfig.ExtraHosts",
    "HostConfig.DnsSearch",
    "HostConfig.DnsOptions",
)
def test_addresses_names_and_resolvers_that_were_asked_for(engine: Engine):
    engine.docker("network", "create", "--subnet", "10.77.0.0/24", "--ip-range", "10.77.0.128/25", "net")
    options = [
        "--network",
        "net",
        "--ip",
        "10.77.0.7",
        "--mac-address",
        "02:42:0a:4d:00:07",
        "--hostname",
        "me",
    ]
    options += ["--domainname", "example.org", "--add-host", "db:10.9.9.9", "--add-host", "up:host-gateway"]
    options += ["--dns-search", "example.org", "--dns-option", "timeout:1"]
    script = "ip -o addr show eth0; ip link show eth0; cat /etc/hosts /etc/resolv.conf"
    said = engine.docker("run", "--rm", *options, "box", "sh", "-c", script)
    for part in (
        "10.77.0.7/24",
        "02:42:0a:4d:00:07",
        "10.9.9.9\tdb",
        "10.77.0.1\tup",
        "10.77.0.7\tme.example.org me",
        "nameserver 10.77.0.1",
        "search example.org",
        "timeout:1",
    ):
        assert part in said
    assert "inet 10.77.0.128/24" in engine.docker("run", "--rm", "--network", "net", "box", "ip", "addr")
    taken = engine.run("run", "--rm", "--network", "net", "--ip", "10.77.0.1", "box", "true")
    assert "Address already in use" in taken.stderr
    assert (
        "no configured subnet"
        in engine.run("run", "--rm", "--network", "net", "--ip", "10.1.1.1", "box").stderr
    )
    assert "user defined networks" in engine.run("run", "--rm", "--ip", "172.17.0.9", "box", "true").stderr


def test_ports_on_addresses_of_the_other_version_are_refused_by_name(engine: Engine, daemon: NetnsDaemon):
    for address in ("[::]", "[::1]"):
        refused = engine.run("run", "--rm", "-p", f"{address}:8098:80", "box", "true").stderr
        assert f"cannot publish port 80 on {address}: the network bridge has no IPv6" in refused
    engine.docker("network", "create", "--ipv6", "--subnet", "fd00:84::/64", "both")
    for asked, addresses in (("", {"0.0.0.0", "::"}), ("0.0.0.0:", {"0.0.0.0"}), ("[::]:", {"::"})):
        serve(engine, "one", "--network", "both", "-p", f"{asked}8098:80")
        template = '{{json (index .NetworkSettings.Ports "80/tcp")}}'
        shown = json.loads(engine.docker("inspect", "-f", template, "one"))
        assert {each["HostIp"] for each in shown} == addresses
        if "0.0.0.0" in addresses:
            assert "hello" in fetch(daemon, "127.0.0.1", 8098)
        else:
            with pytest.raises(ConnectionRefusedError):
                fetch(daemon, "127.0.0.1", 8098)
        if "::" in addresses:
            assert "hello" in fetch(daemon, "fd00:84::1", 8098)
        else:
            with pytest.raises(ConnectionRefusedError):
                fetch(daemon, "fd00:84::1", 8098)
        engine.docker("rm", "-f", "one")


def test_a_container_that_is_made_anew_is_found_at_once(engine: Engine, daemon: NetnsDaemon):
    """Others remember the MAC address that its addresses had before."""
    # The IPv6 subnet first: netavark pairs addresses with subnets by their order.
    body = {
        "Name": "both",
        "EnableIPv6": True,
        "IPAM": {"Config": [{"Subnet": "fd00:85::/64"}, {"Subnet": "10.85.0.0/24"}]},
    }
    assert b" 201 " in post(daemon, "/networks/create", body)
    engine.docker("run", "-d", "--name", "other", "--network", "both", "box", "sleep", "1000")
    addresses = ("--ip", "10.85.0.9", "--ip6", "fd00:85::9")
    for _ in range(3):
        serve(engine, "web", "--network", "both", *addresses, "-p", "8080:80")
        assert "hello from" in fetch(daemon, "127.0.0.1", 8080)
        assert "hello from" in fetch(daemon, "fd00:85::9", 80)
        for address in ("10.85.0.9", "fd00:85::9"):
            assert engine.docker("exec", "other", "ping", "-c1", "-W2", address)
        engine.docker("rm", "-f", "web")


def test_published_ports_answer_on_the_ipv6_loopback(engine: Engine, daemon: NetnsDaemon):
    engine.docker("network", "create", "--ipv6", "both")
    serve(engine, "web", "--network", "both", "-p", "8080:80", "-p", "[0:0::1]:8081:80")
    assert "[::1]:8081" in engine.docker("port", "web")
    serve(engine, "other", "--network", "both", "-p", "[::]:8082:80")
    engine.restart()
    for port in (8080, 8081, 8082):
        assert "hello from" in fetch(daemon, "::1", port)
    with pytest.raises(ConnectionRefusedError):
        fetch(daemon, "127.0.0.1", 8081)
    engine.docker("rm", "-f", "other")
    engine.docker("network", "create", "waits-until-it-left")
    engine.docker("network", "rm", "waits-until-it-left")
    with pytest.raises(ConnectionRefusedError):
        fetch(daemon, "::1", 8082)
    assert "hello from" in fetch(daemon, "::1", 8080)
    refused = engine.run("run", "--rm", "--network", "both", "-p", "[::1]:8083:80/udp", "box", "true").stderr
    assert "cannot publish port 80/udp on [::1]: only TCP is passed on" in refused


@pytest.mark.proves("POST /networks/create")
def test_options_of_a_network(engine: Engine):
    options = ["--opt", "com.docker.network.driver.mtu=1400", "--opt", "com.docker.network.bridge.name=mine0"]
    engine.docker("network", "create", "--ipv6", "--subnet", "fd00:77::/64", "--internal", *options, "net")
    said = engine.docker("run", "--rm", "--network", "net", "box", "ip", "addr")
    assert "mtu 1400" in said
    assert "fd00:77::2/64" in said
    assert "default" not in engine.docker("run", "--rm", "--network", "net", "box", "ip", "route")
    shown = json.loads(engine.docker("network", "inspect", "net"))[0]
    assert (shown["Internal"], shown["EnableIPv6"], shown["Options"][options[1].partition("=")[0]]) == (
        True,
        True,
        "1400",
    )
    refused = engine.run("network", "create", "--opt", "com.example.unheard=1", "other")
    assert "com.example.unheard is not supported" in refused.stderr
    assert "overlaps" in engine.run("network", "create", "--ipv6", "--subnet", "fd00:77::/80", "other").stderr
    assert "not supported" in engine.run("network", "create", "-d", "overlay", "other").stderr
    for words, said in (
        ("--subnet 10.9.1.0/24 --subnet 10.9.2.0/24", "bridge driver doesn't support multiple subnets"),
        ("--subnet 10.9.1.5/24", "invalid subnet 10.9.1.5/24: it should be 10.9.1.0/24"),
        ("--subnet 10.9.1.0/24 --gateway 10.9.1.255", "gateway (10.9.1.255): Address already in use"),
    ):
        refused = engine.run("network", "create", *words.split(), "other")
        assert (refused.returncode, said in refused.stderr) == (1, True), refused.stderr


@pytest.mark.proves("POST /networks/{name}/connect", "POST /networks/{name}/disconnect")
def test_a_running_container_is_connected_and_disconnected(engine: Engine):
    engine.docker("network", "create", "net")
    serve(engine, "web", "--network", "net")
    engine.background("other", "exec sleep 1000")
    assert engine.run("network", "connect", "net", "other").returncode  # it has no network of its own
    engine.docker("rm", "-f", "other")
    engine.docker("run", "-d", "--name", "other", "box", "sleep", "1000")
    engine.docker("network", "connect", "--alias", "oo", "net", "other")
    assert "hello" in engine.docker("exec", "other", "wget", "-qO-", "http://web/")
    assert "eth1" in engine.docker("exec", "other", "ip", "link")
    assert engine.docker("exec", "web", "ping", "-c1", "-W2", "oo")
    assert "already exists in network" in engine.run("network", "connect", "net", "other").stderr
    engine.docker("network", "disconnect", "net", "other")
    assert "eth1" not in engine.docker("exec", "other", "ip", "link")
    assert "not connected" in engine.run("network", "disconnect", "net", "other").stderr
    engine.docker("stop", "-t", "0", "other")
    engine.docker("network", "connect", "net", "other")
    engine.docker("start", "other")
    assert "hello" in engine.docker("exec", "other", "wget", "-qO-", "http://web/")


def test_a_container_without_a_network_is_put_into_one(engine: Engine, daemon: NetnsDaemon):
    engine.docker("network", "create", "net")
    serve(engine, "web", "--network", "none", "-p", "8080:80")
    places = "{{json .NetworkSettings.Networks}}"
    refused = engine.run("network", "connect", "net", "web").stderr
    assert (
        "container cannot be connected to multiple networks with one of the networks in private (none)"
        in refused
    )
    engine.docker("network", "disconnect", "none", "web")
    assert look(engine, "web", places) == "{}"
    assert "not connected" in engine.run("network", "disconnect", "none", "web").stderr
    engine.docker("network", "connect", "net", "web")
    assert list(json.loads(look(engine, "web", places))) == ["net"]
    engine.restart()
    for _ in range(2):
        assert engine.docker("run", "--rm", "--network", "net", "box", "wget", "-qO-", "http://web/")
        assert "hello from" in fetch(daemon, "127.0.0.1", 8080)
        engine.docker("restart", "-t", "0", "web")
        listening(engine, "web")
    engine.docker("network", "disconnect", "net", "web")
    engine.docker("network", "connect", "none", "web")
    assert list(json.loads(look(engine, "web", places))) == ["none"]
    engine.docker("restart", "-t", "0", "web")
    assert "eth0" not in engine.docker("exec", "web", "ip", "link")


def test_ports_move_when_their_network_is_left(engine: Engine, daemon: NetnsDaemon):
    for name in ("one", "two", "three"):
        engine.docker("network", "create", name)
    serve(engine, "web", "--network", "one", "-p", "8080:80", "--network-alias", "www")
    for name in ("two", "three"):
        engine.docker("network", "connect", "--alias", "www", name, "web")
    places = "{{json .NetworkSettings.Networks}}"
    before = json.loads(look(engine, "web", places))
    engine.docker("network", "disconnect", "one", "web")
    after = json.loads(look(engine, "web", places))
    assert sorted(after) == ["three", "two"]
    for key in ("IPAddress", "MacAddress", "DNSNames"):
        assert after["two"][key] == before["two"][key]
    assert engine.docker("port", "web").splitlines()[0] == "80/tcp -> 0.0.0.0:8080"
    assert "hello from" in fetch(daemon, "127.0.0.1", 8080)
    assert engine.docker("run", "--rm", "--network", "two", "box", "wget", "-qO-", "http://www/")
    engine.docker("network", "connect", "one", "web")  # back: nothing changes for the others
    assert "hello from" in fetch(daemon, "127.0.0.1", 8080)
    routes = engine.docker("exec", "web", "ip", "route").splitlines()
    metrics = [line.split()[-1] for line in routes if line.startswith("default")]
    assert len(set(metrics)) == 3
    assert f"via {before['two']['Gateway']} " in routes[metrics.index(min(metrics))]


def test_host_gateway_is_a_name_where_no_gateway_is(engine: Engine):
    engine.docker("network", "create", "--internal", "closed")
    gateway = json.loads(engine.docker("network", "inspect", "bridge"))[0]["IPAM"]["Config"][0]["Gateway"]
    for network in ("closed", "none"):
        options = ("run", "--rm", "--network", network, "--add-host", "up:host-gateway", "box")
        assert f"{gateway}\tup\n" in engine.docker(*options, "cat", "/etc/hosts")


def test_a_container_that_was_taken_out_of_every_network_can_be_put_into_another(engine: Engine):
    engine.docker("network", "create", "net")
    engine.docker("run", "-d", "--name", "box", "box", "sleep", "1000")
    engine.docker("network", "disconnect", "bridge", "box")
    assert look(engine, "box", "{{json .NetworkSettings.Networks}}").strip() == "{}"
    engine.docker("restart", "-t", "0", "box")
    assert "eth0" not in engine.docker("exec", "box", "ip", "link")
    engine.docker("network", "connect", "net", "box")
    assert "eth0" in engine.docker("exec", "box", "ip", "link")
    engine.docker("network", "disconnect", "net", "box")
    assert "eth0" not in engine.docker("exec", "box", "ip", "link")


@pytest.mark.proves(
    "GET /networks/{name}", "DELETE /networks/{name}", "POST /networks/prune", "GET /networks"
)
def test_a_network_in_use_stays(engine: Engine):
    engine.docker("network", "create", "net")
    engine.docker("network", "create", "unused")
    serve(engine, "web", "--network", "net")
    assert "has active endpoints" in engine.run("network", "rm", "net").stderr
    members = json.loads(engine.docker("network", "inspect", "net"))[0]["Containers"]
    assert [each["Name"] for each in members.values()] == ["web"]
    assert "unused" in engine.docker("network", "prune", "-f")
    assert engine.docker("network", "ls", "-q", "--filter", "type=custom").split() == [
        look(engine, "net", "{{.Id}}")[:12]
    ]
    assert engine.docker("ps", "-q", "--filter", "network=net")
    assert engine.docker("ps", "-q", "--filter", "network=bridge") == ""


@pytest.mark.proves("HostConfig.NetworkMode")
def test_the_network_of_another_container(engine: Engine):
    serve(engine, "web", "--hostname", "webby")
    words = ("run", "--rm", "--network", "container:web", "box", "sh", "-c")
    assert engine.docker(*words, "hostname; wget -qO- http://127.0.0.1/") == "webby\nhello from webby\n"
    engine.docker("stop", "-t", "0", "web")
    assert "non running container" in engine.run(*words, "true").stderr
    both = engine.run("run", "--rm", "--network", "container:web", "-p", "80:80", "box", "true")
    assert "conflicting options" in both.stderr


@pytest.mark.proves("HostConfig.NetworkMode")
def test_the_machine_s_own_network(engine: Engine, daemon: NetnsDaemon):
    result = engine.run("run", "--rm", "--network", "host", "-p", "80:80", "box", "ip", "-o", "link")
    assert len(result.stdout.splitlines()) == len(daemon.machine.links()) + 1
    assert "discarded when using host network mode" in result.stderr


def test_network_events_are_told_in_order(engine: Engine):
    engine.docker("network", "create", "heard")
    engine.docker("run", "--rm", "--name", "told", "--network", "heard", "box", "true")
    engine.docker("network", "rm", "heard")
    form = "{{.Type}} {{.Action}} {{.Actor.Attributes.name}}"
    said = engine.docker("events", "--since", "1", "--until", f"{time.time():.9f}", "--format", form)
    lines = said.splitlines()
    begin = lines.index("network create heard")
    assert lines[begin:] == [
        "network create heard",
        "container create told",
        "container attach told",
        "network connect heard",
        "container start told",
        "container die told",
        "network disconnect heard",
        "container destroy told",
        "network destroy heard",
    ]


def test_a_killed_daemon_leaves_running_networks_and_nothing_else(engine: Engine, daemon: NetnsDaemon):
    engine.docker("network", "create", "net")
    serve(engine, "web", "--network", "net", "-p", "127.0.0.1:8080:80")
    engine.docker("run", "-d", "--name", "short", "--network", "net", "box", "sleep", "1000")
    pid = int(look(engine, "short", "{{.State.Pid}}"))
    daemon.kill()
    assert "hello from" in fetch(daemon, "127.0.0.1", 8080)
    os.kill(pid, signal.SIGKILL)
    daemon.start()
    engine.docker("wait", "short")
    assert "hello from" in fetch_soon(engine, daemon, "127.0.0.1", 8080)
    assert "already allocated" in engine.run("run", "--rm", "-p", "127.0.0.1:8080:80", "box", "true").stderr
    said = engine.docker("run", "--rm", "--network", "net", "box", "wget", "-qO-", "http://web/")
    assert said.startswith("hello from")
    assert engine.run("run", "--rm", "--network", "net", "box", "nslookup", "short").returncode
    members = json.loads(engine.docker("network", "inspect", "net"))[0]["Containers"]
    assert [each["Name"] for each in members.values()] == ["web"]


def test_rules_of_a_network_go_with_its_last_container(engine: Engine, daemon: NetnsDaemon):
    engine.docker("network", "create", "--subnet", "10.78.0.0/24", "net")
    serve(engine, "web", "--network", "net", "-p", "127.0.0.1:8080:80")
    assert "10.78.0." in daemon.machine.rules()
    engine.docker("rm", "-f", "web")
    engine.docker("network", "rm", "net")  # waits for what is being left
    assert "10.78.0." not in daemon.machine.rules()
    assert not list((daemon.exec_root / "network/namespaces").iterdir())


@pytest.mark.proves("HostConfig.PublishAllPorts", "HostConfig.Dns", "Config.NetworkDisabled")
def test_every_exposed_port_and_a_resolver_of_its_own(engine: Engine, daemon: NetnsDaemon):
    serve(engine, "web", "--expose", "80", "-P", "--dns", "192.0.2.53")
    [line] = engine.docker("port", "web").splitlines()
    assert "hello from" in fetch(daemon, "127.0.0.1", int(line.rpartition(":")[2]))
    assert "nameserver 192.0.2.53" in engine.docker("exec", "web", "cat", "/etc/resolv.conf")
    body = {"Image": "box", "Cmd": ["ip", "-o", "link"], "NetworkDisabled": True}
    assert b" 201 " in post(daemon, "/containers/create?name=alone", body)
    assert len(engine.docker("start", "-a", "alone").splitlines()) == 1


def test_a_bridge_of_the_administrator_stays_as_it_was(engine: Engine, daemon: NetnsDaemon):
    machine = daemon.machine
    option = "com.docker.network.bridge.name"
    for name in ("lo", "port0"):
        machine.run("ip", "link", "add", "port0", "type", "veth", "peer", "name", "port1", check=False)
        refused = engine.run("network", "create", "-o", f"{option}={name}", "net").stderr
        assert f"existing interface {name} is not a bridge" in refused
    machine.run("ip", "link", "add", "mine1", "type", "bridge")
    try:
        refused = engine.run("network", "create", "-o", f"{option}=mine1", "--subnet", "10.86.0.0/24", "net")
        assert "existing bridge mine1 has no address 10.86.0.1/24: ip addr add" in refused.stderr
        machine.run("ip", "addr", "add", "10.86.0.1/24", "dev", "mine1")
        for port in ("no port", "a port"):  # of the administrator's on it
            engine.docker("network", "create", "-o", f"{option}=mine1", "net")
            serve(engine, "web", "--network", "net", "-p", "8080:80")
            serve(engine, "two", "--network", "net", "-p", "8081:80")
            assert look(engine, "web", "{{.NetworkSettings.Networks.net.IPAddress}}") == "10.86.0.2"
            assert "hello from" in fetch(daemon, "127.0.0.1", 8080)
            assert engine.docker("exec", "two", "wget", "-qO-", "http://web/")
            engine.restart()
            engine.docker("rm", "-f", "two")
            assert "hello from" in fetch(daemon, "127.0.0.1", 8080)
            engine.docker("rm", "-f", "web")
            engine.docker("network", "rm", "net")
            [bridge] = [each for each in machine.links() if each["ifname"] == "mine1"]
            assert [each["local"] for each in bridge["addr_info"] if each["scope"] == "global"] == [
                "10.86.0.1"
            ]
            rules = machine.rules()
            assert not [word for word in ("10.86.0.", "mine1", "lading-", "nv_", "sw-") if word in rules], (
                port
            )
            machine.run("ip", "link", "set", "port0", "master", "mine1")
    finally:
        machine.run("ip", "link", "del", "port0")
        machine.run("ip", "link", "del", "mine1")


def test_the_default_network_on_a_bridge_of_the_administrator():
    with daemon_in_netns() as daemon:
        daemon.stop()
        machine = daemon.machine
        machine.run("ip", "link", "add", "mine2", "type", "bridge")
        machine.run("ip", "addr", "add", "10.87.0.5/24", "dev", "mine2")
        index = machine.links()[0]["ifindex"]
        daemon.arguments.append("--bridge=mine2")
        daemon.start()
        said = boxed(daemon).docker("run", "--rm", "box", "ip", "route")
        assert "default via 10.87.0.5 dev eth0" in said
        daemon.stop()
        [bridge] = machine.links()
        assert (bridge["ifindex"], bridge["addr_info"][0]["local"]) == (index, "10.87.0.5")
        machine.run("ip", "link", "del", "mine2")


def outside(daemon: NetnsDaemon, stack: ExitStack) -> Netns:
    """Another machine, 192.0.2.9, which sends packets for containers to this one, 192.0.2.1."""
    other = stack.enter_context(new_netns())
    daemon.machine.run(
        "ip", "link", "add", "up0", "type", "veth", "peer", "name", "up1", "netns", str(other.path)
    )
    stack.callback(daemon.machine.run, "ip", "link", "del", "up0")
    daemon.machine.run("ip", "addr", "add", "192.0.2.1/24", "dev", "up0")
    daemon.machine.run("ip", "link", "set", "up0", "up")
    other.run("ip", "addr", "add", "192.0.2.9/24", "dev", "up1")
    other.run("ip", "link", "set", "up1", "up")
    other.run("ip", "route", "add", "default", "via", "192.0.2.1")
    return other


def test_other_machines_reach_published_ports_alone(engine: Engine, daemon: NetnsDaemon):
    engine.docker("network", "create", "--internal", "--subnet", "10.82.0.0/24", "inner")
    serve(engine, "open", "-p", "8080:80")
    serve(engine, "closed")
    serve(engine, "inside", "--network", "inner")
    with ExitStack() as stack:
        other = outside(daemon, stack)

        def reach(address: str, port: int, seconds: float = 1) -> bool:
            try:
                with other.call(lambda: socket.create_connection((address, port), timeout=seconds)):
                    return True
            except OSError:
                return False

        assert reach("192.0.2.1", 8080, 10)
        for name, network in (("open", "bridge"), ("closed", "bridge"), ("inside", "inner")):
            address = look(engine, name, f"{{{{.NetworkSettings.Networks.{network}.IPAddress}}}}")
            assert not reach(address, 80), name
        # An internal network has no way out either, also not for who makes a route.
        key = look(engine, "inside", "{{.NetworkSettings.SandboxKey}}")
        Netns(Path(key)).run("ip", "route", "add", "default", "via", "10.82.0.1")
        assert engine.run("exec", "inside", "ping", "-c1", "-W1", "192.0.2.9").returncode
    for name in ("open", "closed", "inside"):
        engine.docker("rm", "-f", name)
    engine.docker("network", "rm", "inner")
    assert "lading-" not in daemon.machine.rules()


def test_containers_on_a_link_of_the_machine(engine: Engine, daemon: NetnsDaemon):
    assert "needs a parent" in engine.run("network", "create", "-d", "macvlan", "lan").stderr
    daemon.machine.run("ip", "link", "add", "lan0", "type", "veth", "peer", "name", "lan1")
    try:
        for link in ("lan0", "lan1"):
            daemon.machine.run("ip", "link", "set", link, "up")
        engine.docker(
            "network", "create", "-d", "macvlan", "-o", "parent=lan0", "--subnet", "10.83.0.0/24", "lan"
        )
        engine.docker("run", "-d", "--name", "first", "--network", "lan", "box", "sleep", "1000")
        said = engine.docker("run", "--rm", "--network", "lan", "box", "ping", "-c1", "-W5", "10.83.0.2")
        assert "1 packets received" in said
        engine.docker("rm", "-f", "first")
        engine.docker("network", "rm", "lan")
    finally:
        daemon.machine.run("ip", "link", "del", "lan0")
