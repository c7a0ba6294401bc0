"""Every flag of dockerd and every key of its daemon.json, as one table (Docker Engine 28).

A flag and a key are one option. Some have a meaning here. Most others are accepted and named in a warning, so that an existing
command line or file starts this daemon. A few would silently weaken what the administrator asked for; those are refused, unless
they ask for what happens here anyway.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final


class Kind(Enum):
    """What values an option takes."""

    BOOL = "true or false"
    INT = "a whole number"
    TEXT = "a text"
    LIST = "a list of texts"
    MAP = "a map of texts"
    ANY = "any JSON"


class Meaning(Enum):
    """What happens to an option here."""

    USED = "used"
    IGNORED = "accepted with a warning"
    REFUSED = "refused unless off"
    KEPT_ON = "refused unless on"


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option. ``flag`` or ``key`` is empty where dockerd has only the other."""

    flag: str
    key: str
    kind: Kind
    meaning: Meaning = Meaning.IGNORED
    short: str = ""
    help: str = ""
    reloadable: bool = False


def _used(
    flag: str, kind: Kind, help: str, *, key: str | None = None, short: str = "", reload: bool = False
) -> Option:
    return Option(
        flag=flag,
        key=flag if key is None else key,
        kind=kind,
        meaning=Meaning.USED,
        short=short,
        help=help,
        reloadable=reload,
    )


USED: Final = (
    _used("config-file", Kind.TEXT, "Daemon configuration file", key=""),
    _used("validate", Kind.BOOL, "Check the configuration and exit", key=""),
    _used("version", Kind.BOOL, "Print version information and exit", key="", short="v"),
    _used("help", Kind.BOOL, "Print this help and exit", key="", short="h"),
    _used("data-root", Kind.TEXT, "Directory that holds everything that lasts"),
    _used("exec-root", Kind.TEXT, "Directory for what goes with a reboot"),
    _used("pidfile", Kind.TEXT, "File that holds the daemon's process ID", short="p"),
    _used(
        "host",
        Kind.LIST,
        "Listen here: unix:///path, tcp://host:port (needs --tlsverify), fd://",
        key="hosts",
        short="H",
    ),
    _used("group", Kind.TEXT, "Group of the Unix socket", short="G"),
    _used("debug", Kind.BOOL, "Log more", short="D", reload=True),
    _used("log-level", Kind.TEXT, "debug, info, warn, error or fatal", short="l", reload=True),
    _used("log-format", Kind.TEXT, "text or json"),
    _used("tls", Kind.BOOL, "Use TLS; implied by --tlsverify"),
    _used("tlsverify", Kind.BOOL, "Use TLS and demand a client certificate"),
    _used("tlscacert", Kind.TEXT, "Trust client certificates signed by this CA only"),
    _used("tlscert", Kind.TEXT, "The daemon's certificate"),
    _used("tlskey", Kind.TEXT, "The daemon's key"),
    _used("containerd-namespace", Kind.TEXT, "Namespace of images and containers"),
    _used(
        "storage-driver",
        Kind.TEXT,
        "Snapshotter: erofs, overlayfs or native (default: the first that works); overlay2: the classic image store",
        short="s",
    ),
    _used(
        "storage-opt",
        Kind.LIST,
        "overlay2.size=10g: what the writable layer of a container may hold that does not say",
        key="storage-opts",
    ),
    _used(
        "feature", Kind.MAP, "containerd-snapshotter=true or false: which image store to use", key="features"
    ),
    _used(
        "insecure-registry",
        Kind.LIST,
        "Registry without TLS, or with an unknown certificate",
        key="insecure-registries",
        reload=True,
    ),
    _used("registry-mirror", Kind.LIST, "Mirror of Docker Hub", key="registry-mirrors", reload=True),
    _used("max-concurrent-downloads", Kind.INT, "Layers downloaded at once", reload=True),
    _used("max-concurrent-uploads", Kind.INT, "Layers uploaded at once", reload=True),
    _used("max-download-attempts", Kind.INT, "Attempts for one download", reload=True),
    _used("http-proxy", Kind.TEXT, "Proxy for http registries (default: HTTP_PROXY)"),
    _used("https-proxy", Kind.TEXT, "Proxy for https registries (default: HTTPS_PROXY)"),
    _used("no-proxy", Kind.TEXT, "Hosts to reach without a proxy, comma-separated (default: NO_PROXY)"),
    _used("", Kind.ANY, "The three proxy options as one object", key="proxies"),
    _used("log-driver", Kind.TEXT, "Log driver of containers that name none"),
    _used("log-opt", Kind.MAP, "name=value option of that log driver", key="log-opts"),
    _used("init", Kind.BOOL, "Run an init process in every container"),
    _used("label", Kind.LIST, "key=value label of the daemon", key="labels", reload=True),
    _used(
        "shutdown-timeout",
        Kind.INT,
        "Seconds that a shutdown may take, at most 10; of a rootless daemon, that its containers have to stop",
        reload=True,
    ),
    _used("oom-score-adjust", Kind.INT, "The daemon's own oom_score_adj"),
    _used("add-runtime", Kind.LIST, "Runtime name=path", key=""),
    _used("default-runtime", Kind.TEXT, "Runtime of containers that name none"),
    _used("", Kind.ANY, "Runtimes by name", key="runtimes"),
    _used(
        "bridge",
        Kind.TEXT,
        "Interface of the default network; none: no such network (default: lading0, or made from the data-root)",
        short="b",
    ),
    _used("bip", Kind.TEXT, "Address of the default network's bridge, in CIDR form"),
    _used("mtu", Kind.INT, "MTU of the default network"),
    _used("ip", Kind.TEXT, "Address on which ports are published that name none"),
    _used(
        "default-address-pool",
        Kind.ANY,
        "Where networks take subnets from: base=172.30.0.0/16,size=24",
        key="default-address-pools",
    ),
    _used("dns", Kind.LIST, "Name server of containers that name none"),
    _used("dns-search", Kind.LIST, "Search domain of containers that name none"),
    _used("dns-opt", Kind.LIST, "Resolver option of containers that name none", key="dns-opts"),
    _used("host-gateway-ip", Kind.LIST, "What host-gateway means in --add-host", key="host-gateway-ips"),
    _used(
        "userns-remap",
        Kind.TEXT,
        "Root of containers is nobody on the machine: user[:group] with subordinate IDs, or default (dockremap)",
    ),
    _used(
        "rootless",
        Kind.BOOL,
        "Run in a user namespace, without privilege over the machine (what a user who is not root gets)",
    ),
    _used("", Kind.ANY, "Lading's own settings", key="lading"),
)


def _ignored(kind: Kind, *names: str) -> Iterator[Option]:
    for name in names:
        flag, _, key = name.partition("|")
        yield Option(flag=flag, key=key or flag, kind=kind)


IGNORED: Final = (
    *_ignored(
        Kind.BOOL,
        *("allow-direct-routing", "bridge-accept-fwmark", "cri-containerd", "experimental"),
        *("ip-forward", "ip-forward-no-drop", "ipv6", "live-restore", "raw-logs", "userland-proxy"),
    ),
    *_ignored(
        Kind.INT,
        *("cpu-rt-period", "cpu-rt-runtime", "network-control-plane-mtu"),
    ),
    *_ignored(
        Kind.TEXT,
        *(
            "bip6",
            "cgroup-parent",
            "containerd",
            "containerd-plugins-namespace",
            "default-cgroupns-mode",
        ),
        *(
            "default-gateway",
            "default-gateway-v6",
            "default-ipc-mode",
            "default-shm-size",
            "firewall-backend",
        ),
        *("fixed-cidr", "fixed-cidr-v6", "init-path"),
        *("metrics-addr", "swarm-default-advertise-addr", "userland-proxy-path"),
    ),
    *_ignored(
        Kind.LIST,
        *(
            "allow-nondistributable-artifacts",
            "cdi-spec-dir|cdi-spec-dirs",
        ),
        *("exec-opt|exec-opts", "node-generic-resource|node-generic-resources"),
    ),
    *_ignored(Kind.MAP, "default-ulimit|default-ulimits"),
    *_ignored(Kind.ANY, "default-network-opt|default-network-opts"),
    Option(flag="", key="builder", kind=Kind.ANY),
)
_REFUSED: Final = (
    ("authorization-plugin", "authorization-plugins", Kind.LIST),
    ("selinux-enabled", "selinux-enabled", Kind.BOOL),
    ("no-new-privileges", "no-new-privileges", Kind.BOOL),
    ("seccomp-profile", "seccomp-profile", Kind.TEXT),
)
REFUSED: Final = tuple(
    Option(flag=flag, key=key, kind=kind, meaning=Meaning.REFUSED) for flag, key, kind in _REFUSED
)
KEPT_ON: Final = tuple(
    Option(flag=name, key=name, kind=Kind.BOOL, meaning=Meaning.KEPT_ON)
    for name in ("icc", "ip-masq", "ip6tables", "iptables")
)
"""Without its rules netavark's networks would neither reach anything nor be kept apart; and it has none between two containers
of one network."""
ALL: Final = (*USED, *IGNORED, *REFUSED, *KEPT_ON)
BY_FLAG: Final = {option.flag: option for option in ALL if option.flag}
BY_SHORT: Final = {option.short: option for option in ALL if option.short}
BY_KEY: Final = {option.key: option for option in ALL if option.key}


def usage() -> str:
    """The text of ``lading daemon --help``."""
    rows = [
        (f"{'-' + option.short + ',' if option.short else '   '} --{option.flag}", option.help)
        for option in sorted(USED, key=lambda option: option.flag)
        if option.flag
    ]
    width = max(len(left) for left, _ in rows)
    return "\n".join(
        [
            "Usage: lading daemon [OPTIONS]",
            "",
            "Serves the Docker Engine API. Takes dockerd's flags, and its daemon.json.",
            "",
            *(f"  {left:{width}}  {right}" for left, right in rows),
            "",
            "Other flags of dockerd are accepted, and named in a warning where they mean nothing here.",
        ]
    )


def names(options: Iterable[Option]) -> list[str]:
    """What to call options in a message."""
    return [f"--{option.flag}" if option.flag else option.key for option in options]
