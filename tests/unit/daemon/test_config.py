"""Configuration: dockerd's flags and daemon.json."""

import json
from pathlib import Path

import pytest

from lading.daemon import options
from lading.daemon.config import Config, build, check_host, load, reloaded
from lading.daemon.options import Kind, Meaning
from lading.errors import FailedPreconditionError, InvalidArgumentError, UnsupportedError

# The flags of dockerd 28.5 and the keys of its daemon.json, as its documentation lists them.
DOCKERD_FLAGS = [
    "add-runtime",
    "allow-direct-routing",
    "authorization-plugin",
    "bip",
    "bip6",
    "bridge",
    "bridge-accept-fwmark",
    "cdi-spec-dir",
    "cgroup-parent",
    "config-file",
    "containerd",
    "containerd-namespace",
    "containerd-plugins-namespace",
    "cpu-rt-period",
    "cpu-rt-runtime",
    "cri-containerd",
    "data-root",
    "debug",
    "default-address-pool",
    "default-cgroupns-mode",
    "default-gateway",
    "default-gateway-v6",
    "default-ipc-mode",
    "default-network-opt",
    "default-runtime",
    "default-shm-size",
    "default-ulimit",
    "dns",
    "dns-opt",
    "dns-search",
    "exec-opt",
    "exec-root",
    "experimental",
    "feature",
    "firewall-backend",
    "fixed-cidr",
    "fixed-cidr-v6",
    "group",
    "help",
    "host",
    "host-gateway-ip",
    "http-proxy",
    "https-proxy",
    "icc",
    "init",
    "init-path",
    "insecure-registry",
    "ip",
    "ip-forward",
    "ip-forward-no-drop",
    "ip-masq",
    "ip6tables",
    "iptables",
    "ipv6",
    "label",
    "live-restore",
    "log-driver",
    "log-format",
    "log-level",
    "log-opt",
    "max-concurrent-downloads",
    "max-concurrent-uploads",
    "max-download-attempts",
    "metrics-addr",
    "mtu",
    "network-control-plane-mtu",
    "no-new-privileges",
    "no-proxy",
    "node-generic-resource",
    "oom-score-adjust",
    "pidfile",
    "raw-logs",
    "registry-mirror",
    "seccomp-profile",
    "selinux-enabled",
    "shutdown-timeout",
    "storage-driver",
    "storage-opt",
    "swarm-default-advertise-addr",
    "tls",
    "tlscacert",
    "tlscert",
    "tlskey",
    "tlsverify",
    "userland-proxy",
    "userland-proxy-path",
    "userns-remap",
    "validate",
    "version",
]
DOCKERD_KEYS = [
    "authorization-plugins",
    "bip",
    "bip6",
    "bridge",
    "builder",
    "cdi-spec-dirs",
    "cgroup-parent",
    "containerd",
    "containerd-namespace",
    "containerd-plugins-namespace",
    "data-root",
    "debug",
    "default-address-pools",
    "default-cgroupns-mode",
    "default-gateway",
    "default-gateway-v6",
    "default-network-opts",
    "default-runtime",
    "default-shm-size",
    "default-ulimits",
    "dns",
    "dns-opts",
    "dns-search",
    "exec-opts",
    "exec-root",
    "experimental",
    "features",
    "fixed-cidr",
    "fixed-cidr-v6",
    "group",
    "host-gateway-ips",
    "hosts",
    "http-proxy",
    "https-proxy",
    "icc",
    "init",
    "init-path",
    "insecure-registries",
    "ip",
    "ip-forward",
    "ip-masq",
    "ip6tables",
    "iptables",
    "ipv6",
    "labels",
    "live-restore",
    "log-driver",
    "log-format",
    "log-level",
    "log-opts",
    "max-concurrent-downloads",
    "max-concurrent-uploads",
    "max-download-attempts",
    "metrics-addr",
    "mtu",
    "no-new-privileges",
    "no-proxy",
    "node-generic-resources",
    "oom-score-adjust",
    "pidfile",
    "proxies",
    "raw-logs",
    "registry-mirrors",
    "runtimes",
    "seccomp-profile",
    "selinux-enabled",
    "shutdown-timeout",
    "storage-driver",
    "storage-opts",
    "swarm-default-advertise-addr",
    "tls",
    "tlscacert",
    "tlscert",
    "tlskey",
    "tlsverify",
    "userland-proxy",
    "userland-proxy-path",
    "userns-remap",
]


def run(*arguments: str, file: Path | None = None) -> Config:
    config = file or Path("/nonexistent/daemon.json")
    return load([*arguments, *(["--config-file", str(config)] if file else [])]).config


def written(directory: Path, document: object) -> Path:
    path = directory / "daemon.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def test_every_flag_and_key_of_dockerd_is_known() -> None:
    assert [flag for flag in DOCKERD_FLAGS if flag not in options.BY_FLAG] == []
    assert [key for key in DOCKERD_KEYS if key not in options.BY_KEY] == []


def test_every_option_that_is_used_is_a_field_and_has_help() -> None:
    own = {"config-file", "validate", "version", "help", "add-runtime", "feature", ""}
    for option in options.USED:
        assert option.help
        if option.flag not in own:
            assert option.key.replace("-", "_") in Config.__dataclass_fields__, option


def test_flags_are_written_as_dockerd_takes_them() -> None:
    config = run(
        "-D",
        "--data-root=/d",
        "--exec-root",
        "/e",
        "-Hunix:///a",
        "-H",
        "unix:///b",
        "-l=warn",
        "--tls=false",
    )
    assert (config.debug, str(config.data_root), str(config.exec_root)) == (True, "/d", "/e")
    assert config.hosts == ("unix:///a", "unix:///b")
    assert (config.log_level, config.level) == ("warn", "debug")


def test_a_file_says_the_same(tmp_path: Path) -> None:
    document = {
        "data-root": "/d",
        "hosts": ["unix:///a"],
        "registry-mirrors": ["https://m"],
        "lading": {"durability": "strict"},
    }
    config = run(file=written(tmp_path, document))
    assert config.hosts == ("unix:///a",)
    assert config.registry_mirrors == ("https://m",)
    assert config.lading.durability == "strict"
    assert config.warnings == ()


@pytest.mark.parametrize("option", [option for option in options.IGNORED if option.flag])
def test_an_option_without_meaning_is_accepted_and_named(option: options.Option) -> None:
    value = {Kind.BOOL: "true", Kind.INT: "1"}.get(option.kind, "a=b")
    config = run(f"--{option.flag}={value}")
    assert len(config.warnings) == 1
    assert f"--{option.flag}" in config.warnings[0]


@pytest.mark.parametrize("option", options.REFUSED)
def test_an_option_that_protects_is_refused_and_off_is_accepted(option: options.Option) -> None:
    with pytest.raises(UnsupportedError, match=option.flag):
        run(f"--{option.flag}={'true' if option.kind is Kind.BOOL else 'x'}")
    if option.kind is not Kind.LIST:
        assert run(f"--{option.flag}={'false' if option.kind is Kind.BOOL else ''}").warnings == ()


@pytest.mark.parametrize("option", options.KEPT_ON)
def test_an_option_that_cannot_be_off_is_refused_and_on_is_accepted(
    option: options.Option, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedError, match=f"'{option.key}' cannot be off"):
        run(f"--{option.flag}=false")
    with pytest.raises(UnsupportedError, match=f"'{option.key}' cannot be off"):
        run(file=written(tmp_path, {option.key: False}))
    assert run(f"--{option.flag}=true").warnings == ()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--date-root=/x"], "unknown flag: --date-root: did you mean --data-root"),
        (["--data-root"], "needs an argument"),
        (["--debug=perhaps"], "true or false"),
        (["--mtu=many"], "whole number"),
        (["extra"], "unexpected argument"),
        (["-Z"], "unknown shorthand"),
        (["--data-root=relative"], "not an absolute path"),
        (["--log-level=loud"], "invalid log level"),
        (["--max-concurrent-downloads=0"], "at least 1"),
        (["--label=x"], "key=value"),
        (["--oom-score-adjust=5000"], "oom-score-adjust"),
        (["--add-runtime=x"], "name=path"),
        (["-H", "http://x"], "unix:///path"),
        (["-H", "unix://relative"], "absolute"),
    ],
)
def test_bad_flags_say_what_to_do(arguments: list[str], words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=words):
        run(*arguments)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"data-rot": "/x"}, r"don't match any configuration option: data-rot: did you mean data-root"),
        ({"debug": "yes"}, "invalid value for 'debug'"),
        ({"hosts": "unix:///x"}, "invalid value for 'hosts'"),
        ({"lading": {"durabilty": "strict"}}, "did you mean durability"),
        ({"lading": {"durability": "never"}}, "lading"),
        ({"lading": {"gc-interval": -1}}, "at least 1 second"),
        ({"lading": {"layers-cache": -1}}, "layers-cache"),
        ({"lading": {"layers-keep": "neither"}}, "layers-keep`: use one of both, compressed, unpacked"),
        ({"lading": {"layers-cache": "1GB"}}, r"Expected `int`, got `str` - at `\$.layers-cache`"),
        ({"layers-keep": "both"}, "it belongs into the object 'lading': layers-keep"),
        ({"lading": 3}, "give an object"),
        ({"runtimes": {"x": 3}}, "invalid runtimes"),
        ("[1]", "expected an object"),
        ("{", "invalid JSON"),
    ],
)
def test_bad_files_say_what_to_do(tmp_path: Path, document: object, words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=words):
        run(file=written(tmp_path, document))


def test_one_option_in_both_places_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, {"hosts": ["unix:///a"], "debug": True})
    with pytest.raises(
        InvalidArgumentError, match=r"both as a flag and in the configuration file: hosts, debug"
    ):
        run("-H", "unix:///b", "--debug", file=path)
    assert run("--data-root=/d", file=path).hosts == ("unix:///a",)


def test_a_named_file_must_exist_and_the_default_need_not() -> None:
    with pytest.raises(FailedPreconditionError, match="does not exist"):
        run(file=Path("/nonexistent/daemon.json"))


def test_tcp_needs_mutual_tls() -> None:
    with pytest.raises(InvalidArgumentError, match="without mutual TLS"):
        run("-H", "tcp://127.0.0.1:2375")
    with pytest.raises(InvalidArgumentError, match="without mutual TLS"):
        run("-H", "tcp://127.0.0.1:2375", "--tls", "--tlscert=c", "--tlskey=k")
    with pytest.raises(InvalidArgumentError, match="CA of the clients"):
        run("-H", "tcp://127.0.0.1:2376", "--tlsverify", "--tlscert=c", "--tlskey=k")
    check_host("tcp://127.0.0.1:2376", mutual_tls=True)


def test_actions() -> None:
    assert load(["--validate"]).action == "validate"
    assert load(["-v"]).action == "version"
    assert load(["--help"]).action == "help"
    assert "--data-root" in options.usage()


def test_a_reload_takes_over_what_may_change_and_nothing_else() -> None:
    running = build({"data-root": "/a", "labels": ["x=1"]})
    fresh = build({"data-root": "/b", "labels": ["x=2"], "debug": True})
    after = reloaded(running, fresh)
    assert (str(after.data_root), after.labels, after.debug) == ("/a", ("x=2",), True)


def test_proxies_come_from_options_then_the_object_then_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://user:secret@environment")
    monkeypatch.setenv("https_proxy", "http://small")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("NO_PROXY", "a,b")
    path = written(tmp_path, {"proxies": {"http-proxy": "http://object", "no-proxy": "c"}})
    config = run(file=path)
    assert (config.http_proxy, config.https_proxy, config.no_proxy) == ("http://object", "http://small", "c")
    assert run("--http-proxy=http://flag", file=path).http_proxy == "http://flag"
    assert "secret" not in repr(run())
    with pytest.raises(InvalidArgumentError, match="proxies"):
        run(file=written(tmp_path, {"proxies": {"ftp-proxy": "x"}}))


def test_the_table_has_no_option_twice() -> None:
    flags = [option.flag for option in options.ALL if option.flag]
    keys = [option.key for option in options.ALL if option.key]
    assert len(set(flags)) == len(flags)
    assert len(set(keys)) == len(keys)
    assert all(option.meaning is Meaning.USED for option in options.ALL if option.reloadable)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"registry-mirrors": ["ftp://mirror.example"]}, "not a URL of http or https"),
        ({"registry-mirrors": ["mirror.example"]}, "not a URL of http or https"),
        ({"insecure-registries": ["http://r.example"]}, "neither a host nor a network"),
    ],
)
def test_registries_that_could_never_be_used_are_refused_at_start(
    values: dict[str, list[str]], words: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=words):
        build(values)


def test_registries_in_every_form_are_accepted() -> None:
    build(
        {
            "registry-mirrors": ["https://mirror.example/path/", "http://10.0.0.1:5000"],
            "insecure-registries": ["r.example", "r.example:5000", "10.0.0.0/8", "fd00::/8"],
        }
    )


def test_the_feature_that_chooses_the_store(tmp_path: Path) -> None:
    assert run().containerd_snapshotter is None
    assert run("--feature", "containerd-snapshotter=false").containerd_snapshotter is False
    file = tmp_path / "daemon.json"
    file.write_text('{"features": {"containerd-snapshotter": true, "buildkit": true}}')
    config = run(f"--config-file={file}")
    assert config.containerd_snapshotter is True
    assert any("buildkit" in each for each in config.warnings)
    with pytest.raises(InvalidArgumentError, match="containerd-snapshotter"):
        run("--feature", "containerd-snapshotter=perhaps")


def test_docker_driver_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_DRIVER", "overlay2")
    assert run("--storage-driver=erofs").storage_driver == "overlay2"
