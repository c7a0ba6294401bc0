"""Requests, specs, capabilities, seccomp, names, times, streams: what is computed without a file."""

import json
from pathlib import Path

import pytest

from lading.containers import (
    binds,
    capabilities,
    limits,
    listing,
    naming,
    request,
    seccomp,
    signals,
    spec,
    streams,
)
from lading.containers.journal import Chunk
from lading.containers.logfile import MESSAGE_LIMIT, Splitter
from lading.containers.users import User
from lading.errors import AlreadyExistsError, InvalidArgumentError, LadingError, UnsupportedError

ROOT = User(uid=0, gid=0, groups=(0,), home="/root")


def parse(config: dict[str, object] | None = None, **host: object) -> request.CreateRequest:
    return request.parse({"Image": "box", **(config or {}), "HostConfig": host})


def build(asked: request.CreateRequest, user: User = ROOT) -> dict[str, object]:
    asked_binds, tmpfs = binds.parse(asked.host)
    plan = spec.Plan(
        id="a" * 64,
        config=asked.config,
        host=asked.host,
        args=["x"],
        env=["A=b"],
        cwd="/",
        user=user,
        hostname="h",
        binds=asked_binds,
        tmpfs=tmpfs,
    )
    return spec.build(plan)


def test_nulls_and_unknown_keys_are_as_go_sends_them():
    asked = parse({"Cmd": None, "Env": None, "Later": {"x": 1}}, Binds=None, Memory=0, New=True)
    assert asked.config.cmd is None
    assert asked.host.binds is None
    assert "Later" in asked.raw_config


@pytest.mark.parametrize("field", sorted(request.UNSUPPORTED))
def test_each_unsupported_field_is_refused_by_name_and_zero_is_fine(field: str):
    for zero in (None, 0, "", [], {}, False):
        parse(**{field: zero})
    with pytest.raises(UnsupportedError, match=field):
        parse(**{field: [1]})


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ({"PidMode": "container:"}, "PidMode"),
        ({"PidMode": "theirs"}, "PidMode"),
        ({"BlkioWeight": 5}, "blkio weight"),
        ({"CpusetCpus": "9999"}, "Requested CPUs are not available - requested 9999, available: 0"),
        ({"CpusetMems": "0,999"}, "Requested memory nodes are not available"),
        ({"CpusetCpus": "0-x"}, "Invalid value 0-x"),
        ({"CpuRealtimeRuntime": 2, "CpuRealtimePeriod": 1}, "real-time"),
        ({"UsernsMode": "keep"}, "UsernsMode"),
        ({"Memory": 1000}, "6MB"),
        ({"MemoryReservation": 1000}, "reservation allowed is 6MB"),
        ({"Memory": 7 << 20, "MemoryReservation": 8 << 20}, "less than memory reservation"),
        ({"Annotations": {"": "x"}}, "Annotations"),
        ({"MemorySwap": 10}, "Memory"),
        ({"NanoCpus": 1, "CpuQuota": 1}, "Nano CPUs"),
        ({"OomScoreAdj": 1001}, "oom score"),
        ({"AutoRemove": True, "RestartPolicy": {"Name": "always"}}, "AutoRemove"),
        ({"RestartPolicy": {"Name": "sometimes"}}, "restart policy"),
        ({"RestartPolicy": {"Name": "always", "MaximumRetryCount": 3}}, "only be used with 'on-failure'"),
        ({"NanoCpus": 10**15}, "range of CPUs"),
        ({"NanoCpus": -1}, "range of CPUs"),
        ({"CpuShares": -1}, "CPU shares"),
        ({"CpuPeriod": 1}, "cfs period"),
        ({"CpuQuota": 1}, "cfs quota"),
        ({"ShmSize": -1}, "SHM size"),
        ({"ExtraHosts": ["nameonly"]}, "add-host"),
        ({"ExtraHosts": ["x:y"]}, 'invalid IP address in add-host: "y"'),
        ({"Dns": ["not an address"]}, "bad nameserver address"),
        ({"LogConfig": {"Type": "journald"}}, "LogConfig"),
        ({"LogConfig": {"Type": "json-file", "Config": {"tags": "x"}}}, "tags"),
        ({"Binds": "text"}, "HostConfig"),
    ],
)
def test_bad_host_configurations(host: dict[str, object], words: str):
    with pytest.raises(LadingError, match=words):
        parse(**host)


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ({"Binds": ["/a:x"]}, "absolute"),
        ({"Binds": ["/a:/../"]}, "destination"),
        ({"Binds": ["/a:/b:wrong"]}, "invalid mode"),
        ({"Binds": ["/a:/b", "/c:/b/"]}, "Duplicate"),
        ({"Mounts": [{"Type": "npipe", "Target": "/x"}]}, "npipe"),
        ({"Tmpfs": {"/x": "lowerdir=/etc"}}, "tmpfs option"),
    ],
)
def test_bad_mounts(host: dict[str, object], words: str):
    with pytest.raises(LadingError, match=words):
        binds.parse(parse(**host).host)


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ({"CapAdd": ["NO_SUCH"]}, "capability"),
        ({"SecurityOpt": ["seccomp={"]}, "seccomp"),
        ({"SecurityOpt": ["label=type:x"]}, "SecurityOpt"),
        ({"Sysctls": {"kernel.panic": "1"}}, "kernel.panic"),
        ({"Sysctls": {"net.x": "1"}, "NetworkMode": "host"}, "net.x"),
        ({"Ulimits": [{"Name": "nofile", "Soft": 2, "Hard": 1}]}, "nofile"),
        ({"Devices": [{"PathOnHost": "/etc/passwd"}]}, "not a device"),
        ({"DeviceCgroupRules": ["x"]}, "rule"),
        ({"CgroupParent": "../up"}, "CgroupParent"),
    ],
)
def test_what_only_the_spec_can_refuse(host: dict[str, object], words: str):
    with pytest.raises(LadingError, match=words):
        build(parse(**host))


def test_good_values_beside_the_refused_ones():
    parse(
        RestartPolicy={"Name": "on-failure", "MaximumRetryCount": 3},
        CpuPeriod=1000,
        ExtraHosts=["a:1.2.3.4", "b:::1"],
        Dns=["9.9.9.9", "::1"],
    )
    parse(NanoCpus=10**7)
    parse(Memory=8 << 20, MemoryReservation=8 << 20, Annotations={"x": ""})
    assert parse(OomKillDisable=True, Memory=8 << 20).warnings == []
    assert "OOM killer" in parse(OomKillDisable=True).warnings[0]
    parse(CpuPeriod=1_000_000, CpuQuota=-1, CpuShares=2)


def test_privileged_means_what_this_process_may_hand_on(tmp_path: Path):
    status = tmp_path / "status"
    status.write_text("Name:\tx\nCapBnd:\t00000000a80425fb\n", encoding="ascii")
    assert set(capabilities.known(status)) == set(capabilities.DEFAULT)
    status.write_text("CapBnd:\t000001ffffffffff\n", encoding="ascii")
    assert capabilities.known(status) == capabilities.ALL


def test_the_host_s_ipc_namespace_needs_no_mqueue_on_the_host():
    made = build(parse(IpcMode="host"))
    mounts = {mount["destination"]: mount for mount in made["mounts"]}
    assert mounts["/dev/mqueue"]["type"] == "mqueue"
    assert mounts["/dev/shm"]["type"] == "bind"


def test_limits_reach_the_spec():
    made = build(parse(Memory=64 << 20, CpuShares=512, NanoCpus=1_500_000_000, PidsLimit=9, CpusetCpus="0"))
    resources = made["linux"]["resources"]
    assert resources["memory"] == {"limit": 64 << 20, "swap": 128 << 20}
    assert resources["cpu"] == {"period": 100_000, "quota": 150_000, "shares": 512, "cpus": "0"}
    assert resources["pids"] == {"limit": 9}


def test_unprivileged_default_is_confined_and_privileged_is_not():
    confined, free = build(parse()), build(parse(Privileged=True))
    assert confined["process"]["capabilities"]["bounding"] == list(capabilities.DEFAULT)
    assert "inheritable" not in confined["process"]["capabilities"]
    assert "/proc/kcore" in confined["linux"]["maskedPaths"]
    assert confined["linux"]["seccomp"]["defaultAction"] == "SCMP_ACT_ERRNO"
    assert free["linux"]["maskedPaths"] == []
    assert "seccomp" not in free["linux"]
    assert "CAP_SYS_ADMIN" in free["process"]["capabilities"]["effective"]


def test_a_user_that_is_not_root_holds_no_capability():
    user = User(uid=5, gid=5, groups=(5, 6), home="/")
    process = build(parse(), user)["process"]
    assert process["capabilities"]["effective"] == []
    assert process["user"]["additionalGids"] == [5, 6]


def test_namespaces_follow_the_modes():
    def kinds(**host: object) -> set[str]:
        return {entry["type"] for entry in build(parse(**host))["linux"]["namespaces"]}

    assert kinds() == {"mount", "network", "uts", "pid", "ipc", "cgroup"}
    assert kinds(NetworkMode="host", PidMode="host", IpcMode="host") == {"mount", "uts", "cgroup"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (({}, ["e"], ["c"]), (["e"], ["c"])),
        (({"Cmd": ["x"]}, ["e"], ["c"]), (["e"], ["x"])),
        (({"Entrypoint": ["y"]}, ["e"], ["c"]), (["y"], [])),
        (({"Entrypoint": [""], "Cmd": ["x"]}, ["e"], ["c"]), ([], ["x"])),
        (({"Entrypoint": "y"}, None, ["c"]), (["y"], [])),
    ],
)
def test_entry_point_and_command(
    given: tuple[dict[str, object], list[str] | None, list[str]], expected: object
):
    body, entrypoint, cmd = given
    assert spec.arguments(parse(body).config, entrypoint, cmd) == expected


def test_nothing_to_run_is_an_error():
    with pytest.raises(InvalidArgumentError, match="no command"):
        spec.arguments(parse().config, None, None)


def test_environment_merges_by_name():
    assert spec.merge_env(["A=1", "B=2"], ["B=3", "A", "C="]) == ["B=3", "C="]
    env = spec.process_env(["PATH=/x"], tty=True, hostname="h", home="/root")
    assert env == ["PATH=/x", "HOSTNAME=h", "TERM=xterm", "HOME=/root"]


def test_capability_arithmetic():
    assert (
        capabilities.effective(add=["net_admin"], drop=["CAP_CHOWN"], privileged=False)[-1] == "CAP_NET_ADMIN"
    )
    assert capabilities.effective(add=[], drop=["ALL"], privileged=False) == []
    assert capabilities.effective(add=["KILL"], drop=["all"], privileged=False) == ["CAP_KILL"]
    assert "CAP_CHOWN" not in capabilities.effective(add=["ALL"], drop=["CHOWN"], privileged=False)


def allowed(made: dict[str, object]) -> set[str]:
    return {name for call in made["syscalls"] if call["action"] == "SCMP_ACT_ALLOW" for name in call["names"]}


def test_seccomp_depends_on_capabilities_architecture_and_kernel():
    plain = seccomp.default_filter(capabilities.DEFAULT, architecture="amd64", kernel=(6, 1))
    assert "mount" not in allowed(plain)
    assert {"ptrace", "chroot", "arch_prctl", "openat2"} <= allowed(plain)
    admin = seccomp.default_filter(["CAP_SYS_ADMIN"], architecture="amd64", kernel=(6, 1))
    assert {"mount", "clone3", "unshare"} <= allowed(admin)
    assert "ptrace" not in allowed(seccomp.default_filter((), architecture="arm64", kernel=(4, 4)))
    refused = [call for call in plain["syscalls"] if call["names"] == ["clone3"]]
    assert refused == [{"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}]
    sockets = [call["args"] for call in plain["syscalls"] if call["names"] == ["socket"]]
    assert all(set(arguments[0]) >= {"index", "value", "op"} for arguments in sockets)
    assert len(sockets) == 3


def test_sets_of_cpus():
    assert limits.numbers("") == frozenset()
    assert limits.numbers("0-2, 7") == {0, 1, 2, 7}


@pytest.mark.parametrize(
    "file", ["blkio/{}blkio.bfq.weight", "blkio/{}blkio.weight", "{}io.bfq.weight", "{}io.weight"]
)
def test_weights_of_block_devices_are_looked_for_in_groups(tmp_path: Path, file: str):
    assert limits.has_weights(tmp_path)
    found = tmp_path / file.format("group/")
    found.parent.mkdir(parents=True)
    (found.parent / "cgroup.procs").touch()
    assert not limits.has_weights(tmp_path)
    found.touch()
    assert limits.has_weights(tmp_path)


@pytest.mark.parametrize("there", [False, True])
def test_x32_is_filtered_only_where_the_kernel_has_it(monkeypatch: pytest.MonkeyPatch, there: bool):
    monkeypatch.setattr("lading.kit.linux.has_x32", lambda: there)
    expected = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", *(["SCMP_ARCH_X32"] if there else [])]
    assert seccomp.default_filter((), architecture="amd64", kernel=(6, 1))["architectures"] == expected
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    mapped = {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]}
    text = json.dumps({"defaultAction": "SCMP_ACT_ERRNO", "archMap": [mapped]})
    assert seccomp.custom_filter(text, ())["architectures"] == expected
    text = json.dumps({"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X32"]})
    assert seccomp.custom_filter(text, ())["architectures"] == ["SCMP_ARCH_X32"]


def test_custom_seccomp_profile_in_docker_s_form():
    text = json.dumps(
        {
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [
                {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"},
                {"names": ["chown"], "action": "SCMP_ACT_ERRNO", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
            ],
        }
    )
    made = seccomp.custom_filter(text, ())
    assert [call["names"] for call in made["syscalls"]] == [["mkdir"]]


@pytest.mark.parametrize("bad", ["", "x", "-ab", "a b", "a/b", "../x", "é1", "a" * 300, "ab\n"])
def test_bad_names(bad: str):
    with pytest.raises(InvalidArgumentError):
        naming.check(bad)


def test_a_name_is_reserved_for_one():
    names = naming.Names({"taken": "1" * 64}.get)
    with names.reserved("/new", "2" * 64) as chosen:
        assert chosen == "new"
        assert "new" in names
        for name, owner in (("new", "2" * 64), ("taken", "1" * 64)):
            with pytest.raises(AlreadyExistsError, match=owner), names.reserved(name, "3" * 64):
                pass
    with names.reserved("new", "3" * 64), names.reserved("", "4" * 64) as other:
        assert other not in ("new", "taken")


def test_random_names_avoid_the_taken():
    class All:
        def __contains__(self, name: object) -> bool:
            return not str(name)[-1].isdigit()

    assert naming.random_name(All())[-1].isdigit()
    assert naming.check("/fine-1") == "fine-1"


@pytest.mark.parametrize(
    ("text", "number"), [("SIGTERM", 15), ("kill", 9), ("15", 15), ("RTMIN+3", 37), ("SIGRTMAX-1", 63)]
)
def test_signals(text: str, number: int):
    assert signals.parse(text) == number


@pytest.mark.parametrize("text", ["", "0", "65", "SIGNOPE", "RTMIN+99"])
def test_bad_signals(text: str):
    with pytest.raises(InvalidArgumentError):
        signals.parse(text)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("TERM", 15),
        ("09", 9),
        ("+5", 5),
        ("64", 64),
        ("65", None),
        ("99", None),
        ("-9", None),
        (str(2**62), None),
    ],
)
def test_a_signal_to_stop_with_may_be_any_number(text: str, number: int | None):
    assert signals.parse_stop(text) == number


@pytest.mark.parametrize("text", ["", "0", "-0", "000", "0x9", "1.5", "9" * 30, "SIGNOPE"])
def test_bad_signals_to_stop_with(text: str):
    with pytest.raises(InvalidArgumentError, match="invalid signal"):
        signals.parse_stop(text)


@pytest.mark.parametrize(
    ("words", "code"),
    [('exec: "x": executable file not found in $PATH', 127), ("permission denied", 126), ("no memory", 128)],
)
def test_start_exit_codes(words: str, code: int):
    assert signals.start_exit_code(words) == code


def test_frames():
    assert streams.frame("stderr", b"ab") == b"\x02\0\0\0\0\0\0\x02ab"
    chunk = Chunk(stream="stdout", data=b"x" * 70_000)
    framed = streams.encode(chunk, multiplexed=True)
    assert len(framed) == 70_000 + 3 * 8
    assert streams.encode(chunk, multiplexed=False) == chunk.data


def test_detach_keys_split_over_reads_and_false_starts():
    filter_ = streams.DetachFilter(streams.detach_keys(""))
    assert filter_.feed(b"ab\x10") == (b"ab", False)
    assert filter_.feed(b"c\x10") == (b"\x10c", False)
    assert filter_.feed(b"\x10\x11later") == (b"\x10", True)
    assert streams.detach_keys("ctrl-@,x,DEL") == b"\x00x\x7f"
    with pytest.raises(InvalidArgumentError):
        streams.detach_keys("ctrl-9")


def test_splitter_cuts_lines_and_long_lines():
    splitter = Splitter()
    assert splitter.feed(b"one\ntw") == [b"one\n"]
    assert splitter.feed(b"o\n" + b"x" * (MESSAGE_LIMIT + 5)) == [b"two\n", b"x" * MESSAGE_LIMIT]
    assert splitter.finish() == [b"xxxxx"]
    assert splitter.finish() == []


def test_filters_match_labels_and_reject_nonsense():
    assert listing.matches_labels({"a": "1"}, ["a"])
    assert not listing.matches_labels({"a": "1"}, ["a=2"])
    for nonsense in (
        {"status": ["asleep"]},
        {"is-task": ["x"]},
        {"is-task": ["true", "false"]},
        {"id": ["(a+)+"]},
    ):
        with pytest.raises(InvalidArgumentError):
            listing.check(nonsense)
    listing.check({"name": ["["], "is-task": ["0"]})
    assert listing.prune_before({"until": ["1h30m"]}, 10**13) == 10**13 - 5400 * 10**9
    with pytest.raises(InvalidArgumentError):
        listing.prune_before({"until": ["5x"]}, 0)
