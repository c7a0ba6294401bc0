"""What a client asks of the network, read and judged; and the files that tell a container of it."""

from typing import Any

import pytest

from lading.containers import hostfiles, netmodes, request
from lading.containers.environment import Resolving
from lading.containers.netmodes import Kind
from lading.containers.networking import Joint
from lading.core.networks import PortMapping
from lading.errors import InvalidArgumentError, LadingError


def parse(endpoints: dict[str, Any] | None = None, host: dict[str, Any] | None = None, **config: Any):
    body = {"Image": "box", **config, "HostConfig": host or {}}
    return request.parse(body | {"NetworkingConfig": {"EndpointsConfig": endpoints}})


def wishes(endpoints: dict[str, Any] | None = None, host: dict[str, Any] | None = None, **config: Any):
    asked = parse(endpoints, host, **config)
    return netmodes.wishes(asked.config, asked.host, asked.networking)


@pytest.mark.parametrize(
    ("mode", "kind", "name"),
    [
        ("", Kind.NETWORK, "bridge"),
        ("default", Kind.NETWORK, "bridge"),
        ("bridge", Kind.NETWORK, "bridge"),
        ("mine", Kind.NETWORK, "mine"),
        ("host", Kind.HOST, ""),
        ("none", Kind.NONE, ""),
        ("container:x", Kind.CONTAINER, "x"),
    ],
)
def test_modes(mode: str, kind: Kind, name: str):
    found = netmodes.mode_of(parse(host={"NetworkMode": mode}).host)
    assert (found.kind, found.name) == (kind, name)


def test_the_network_of_the_mode_comes_first():
    found = wishes(
        {"b": None, "a": {"Aliases": ["x"], "IPAMConfig": {"IPv4Address": "10.1.1.5"}}}, {"NetworkMode": "a"}
    )
    assert list(found) == ["a", "b"]
    assert (found["a"].aliases, found["a"].ipv4) == (["x"], "10.1.1.5")


def test_a_container_s_mac_address_is_its_first_endpoint_s():
    assert wishes(MacAddress="02:42:00:00:00:01")["bridge"].mac_address == "02:42:00:00:00:01"
    with pytest.raises(InvalidArgumentError, match="conflicting MAC"):
        wishes({"bridge": {"MacAddress": "02:42:00:00:00:02"}}, MacAddress="02:42:00:00:00:01")


@pytest.mark.parametrize(
    ("endpoints", "host", "config", "words"),
    [
        ({"a": None}, {"NetworkMode": "host"}, {}, "cannot attach host to network a"),
        ({"bridge": {"Aliases": ["x"]}}, {}, {}, "user-defined networks"),
        ({"bridge": {"IPAMConfig": {"IPv4Address": "172.17.0.9"}}}, {}, {}, "user defined networks only"),
        ({"none": {"IPAMConfig": {"IPv4Address": "1.2.3.4"}}}, {"NetworkMode": "none"}, {}, "networks only"),
        ({"host": {"Aliases": ["x"]}}, {"NetworkMode": "host"}, {}, "user-defined networks"),
        ({"a": {"IPAMConfig": {"IPv4Address": "nope"}}}, {"NetworkMode": "a"}, {}, "invalid IPv4 address"),
        ({"a": {"IPAMConfig": {"LinkLocalIPs": ["169.254.1.1"]}}}, {"NetworkMode": "a"}, {}, "LinkLocalIPs"),
        ({"a": {"DriverOpts": {"x": "y"}}}, {"NetworkMode": "a"}, {}, "DriverOpts"),
        ({"a": {"Aliases": "x"}}, {"NetworkMode": "a"}, {}, "invalid endpoint settings"),
        ({}, {"NetworkMode": "container:"}, {}, "invalid container format"),
        ({}, {"NetworkMode": "container:x"}, {"Hostname": "h"}, "hostname and the container type"),
        ({}, {"NetworkMode": "container:x", "Dns": ["1.1.1.1"]}, {}, "dns and the container type"),
        ({}, {"NetworkMode": "container:x", "PublishAllPorts": True}, {}, "port publishing and"),
        ({}, {"NetworkMode": "host", "UTSMode": "host"}, {"Hostname": "h"}, "UTS mode"),
    ],
)
def test_contradictions(endpoints: dict[str, Any], host: dict[str, Any], config: dict[str, Any], words: str):
    with pytest.raises(LadingError, match=words):
        wishes(endpoints, host, **config)


def published(bindings: Any, exposed: dict[str, Any] | None = None, **host: Any):
    asked = parse(host={"PortBindings": bindings, **host}, ExposedPorts=exposed)
    return netmodes.published(asked.config, asked.host)


def test_published_ports():
    assert published({"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}, {"HostIp": "127.0.0.1"}]}) == [
        PortMapping(port=80, host_ip="0.0.0.0", host_port=8080, host_last=8080),
        PortMapping(port=80, host_ip="127.0.0.1"),
    ]
    assert published({"80/tcp": [{"HostIp": "[::]"}]}) == [PortMapping(port=80, host_ip="::")]
    assert published({"53/udp": [{"HostPort": "5300-5310"}]}) == [
        PortMapping(port=53, protocol="udp", host_port=5300, host_last=5310)
    ]
    assert published({"80/tcp": None}) == published({"80/tcp": []}) == [PortMapping(port=80)]
    assert published({"80/tcp": None}, {"80/tcp": {}, "90-91": {}}, PublishAllPorts=True) == [
        PortMapping(port=port) for port in (80, 90, 91)
    ]


@pytest.mark.parametrize(
    "bindings",
    [
        {"x/tcp": []},
        {"80/icmp": []},
        {"0/tcp": []},
        {"65536": []},
        {"80": "8080"},
        {"80": [{"HostPort": "70000"}]},
        {"80": [{"HostPort": "a"}]},
        {"80": [{"HostIp": "nope"}]},
        {"80": [{"HostPort": 8080}]},
    ],
)
def test_wrong_ports(bindings: Any):
    with pytest.raises(InvalidArgumentError):
        published(bindings)


# Files.


def test_hosts_name_the_container_by_its_addresses():
    asked = parse(host={"ExtraHosts": ["db:10.1.1.9", "up:host-gateway", "six:[fd00::1]"]})
    joint = Joint(path="/net", addresses=("172.17.0.2", "fd00::2"), gateway="172.17.0.1")
    lines = hostfiles.hosts(asked.host, "box", "example.org", joint).splitlines()
    assert lines[-5:] == [
        "10.1.1.9\tdb",
        "172.17.0.1\tup",
        "fd00::1\tsix",
        "172.17.0.2\tbox.example.org box",
        "fd00::2\tbox.example.org box",
    ]


def test_host_gateway_needs_a_gateway():
    asked = parse(host={"ExtraHosts": ["up:host-gateway"]})
    with pytest.raises(InvalidArgumentError, match="host-gateway"):
        hostfiles.hosts(asked.host, "box", "", Joint())


@pytest.fixture
def machine_resolver(monkeypatch: pytest.MonkeyPatch):
    def use(text: str) -> None:
        monkeypatch.setattr(hostfiles, "_host_file", lambda _: text)

    return use


def test_the_machine_s_resolver_is_passed_on_where_it_can_be_reached(machine_resolver: Any):
    machine_resolver("search example.org\nnameserver 127.0.0.53\nnameserver 10.0.0.2\n")
    host, networked = parse().host, Joint(path="/net")
    assert hostfiles.resolv_conf(host, networked, Resolving()) == "search example.org\nnameserver 10.0.0.2\n"
    assert "127.0.0.53" in hostfiles.resolv_conf(host, Joint(), Resolving())  # the host's network
    machine_resolver("nameserver ::1\n")
    assert hostfiles.resolv_conf(host, networked, Resolving()).count("nameserver 8.8.") == 2


def test_a_network_that_resolves_names_is_asked_alone(machine_resolver: Any):
    machine_resolver("search example.org\nnameserver 10.0.0.2\noptions edns0\n")
    joint = Joint(path="/net", servers=("172.18.0.1",), embedded=True)
    asked = parse(host={"Dns": ["1.1.1.1"], "DnsSearch": ["x.org"], "DnsOptions": ["ndots:2"]})
    assert hostfiles.resolv_conf(parse().host, joint, Resolving()) == (
        "search example.org\nnameserver 172.18.0.1\noptions ndots:0\n"
    )
    assert hostfiles.resolv_conf(asked.host, joint, Resolving()) == (
        "nameserver 172.18.0.1\nsearch x.org\noptions ndots:2\n"
    )
    assert hostfiles.resolv_conf(asked.host, Joint(path="/net"), Resolving()) == (
        "nameserver 1.1.1.1\nsearch x.org\noptions ndots:2\n"
    )
