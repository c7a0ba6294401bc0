"""Every way to configure a container with the unmodified docker command: it takes effect, or is refused by its name."""

import contextlib
import json
import os
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from support.daemon import Daemon
from support.engine import Engine, boxed

from lading.containers import limits

pytestmark = pytest.mark.e2e
HYBRID = Path("/sys/fs/cgroup/memory").is_dir()


@pytest.fixture(scope="module")
def engine(shared_daemon: Daemon) -> Engine:
    return boxed(shared_daemon)


@pytest.fixture(autouse=True)
def _clean(engine: Engine) -> Iterator[None]:
    yield
    for each in engine.run("ps", "-aq").stdout.split():
        engine.run("rm", "-f", each)


def once(engine: Engine, script: str, *options: str) -> str:
    return engine.docker("run", "--rm", "--network", "none", *options, "box", "sh", "-c", script).strip()


def until(engine: Engine, template: str, wanted: str, name: str = "cc") -> None:
    """Wait for an inspect value; the daemon's own clock decides how long that takes."""
    deadline = time.monotonic() + 30
    while (found := engine.docker("inspect", "--format", template, name).strip()) != wanted:
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


def group_file(engine: Engine, name: str, v1: str, v2: str) -> str:
    """A value of the container's cgroup, as the host sees it."""
    pid = engine.docker("inspect", "--format", "{{.State.Pid}}", name).strip()
    groups = dict(line.split(":", 2)[1:] for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines())
    if HYBRID:
        controller = v1.split("/", maxsplit=1)[0]
        path = next(value for key, value in groups.items() if controller in key.split(","))
        return Path(f"/sys/fs/cgroup/{controller}{path}/{v1.split('/')[1]}").read_text().strip()
    return Path(f"/sys/fs/cgroup{groups['']}/{v2}").read_text().strip()


# Resources.


@pytest.mark.proves(
    "POST /containers/{name}/update",
    "POST /containers/{name}/restart",
    "HostConfig.Memory",
    "HostConfig.MemoryReservation",
    "HostConfig.MemorySwap",
    "HostConfig.NanoCpus",
    "HostConfig.CpuShares",
    "HostConfig.PidsLimit",
    "HostConfig.CpusetCpus",
)
def test_resources_reach_the_cgroup_and_can_be_changed(engine: Engine):
    options = ["-m", "64m", "--memory-reservation", "32m", "--cpus", "0.5", "--cpu-shares", "512"]
    engine.background("cc", "sleep 1000", *options, "--pids-limit", "50", "--cpuset-cpus", "0")
    memory = ("memory/memory.limit_in_bytes", "memory.max")
    assert group_file(engine, "cc", *memory) == str(64 << 20)
    assert group_file(engine, "cc", "pids/pids.max", "pids.max") == "50"
    assert group_file(engine, "cc", "cpuset/cpuset.cpus", "cpuset.cpus") == "0"
    assert group_file(engine, "cc", "memory/memory.soft_limit_in_bytes", "memory.low") == str(32 << 20)
    swap = ("memory/memory.memsw.limit_in_bytes", "memory.swap.max")
    assert group_file(engine, "cc", *swap) == str((128 if HYBRID else 64) << 20)
    assert group_file(engine, "cc", "cpu/cpu.shares", "cpu.weight") == ("512" if HYBRID else "20")
    assert group_file(engine, "cc", "cpu/cpu.cfs_quota_us", "cpu.max").split()[0] == "50000"
    engine.docker(
        "update", "-m", "96m", "--memory-swap", "192m", "--pids-limit", "60", "--cpus", "0.25", "cc"
    )
    assert group_file(engine, "cc", *memory) == str(96 << 20)
    assert group_file(engine, "cc", "pids/pids.max", "pids.max") == "60"
    assert group_file(engine, "cc", "cpu/cpu.cfs_quota_us", "cpu.max").split()[0] == "25000"
    assert group_file(engine, "cc", *swap) == str((192 if HYBRID else 96) << 20)
    assert engine.docker("inspect", "--format", "{{.HostConfig.Memory}}", "cc").strip() == str(96 << 20)
    assert engine.events("cc")[-1] == "update"
    engine.docker("restart", "-t", "0", "cc")
    assert group_file(engine, "cc", *memory) == str(96 << 20)
    engine.docker("stop", "-t", "0", "cc")
    engine.docker("update", "--restart", "on-failure:3", "cc")
    found = json.loads(engine.docker("inspect", "cc"))[0]["HostConfig"]["RestartPolicy"]
    assert found == {"Name": "on-failure", "MaximumRetryCount": 3}


def test_updates_that_cannot_be(engine: Engine):
    engine.background("cc", "sleep 1000", "-m", "64m", "--rm")
    assert "Minimum memory limit" in engine.run("update", "-m", "1m", "cc").stderr
    assert "memoryswap" in engine.run("update", "-m", "256m", "cc").stderr
    assert "AutoRemove" in engine.run("update", "--restart", "always", "cc").stderr
    assert engine.docker("inspect", "--format", "{{.HostConfig.Memory}}", "cc").strip() == str(64 << 20)


@pytest.mark.proves(
    "HostConfig.BlkioWeight",
    "HostConfig.BlkioDeviceReadBps",
    "HostConfig.BlkioDeviceWriteIOps",
    "HostConfig.BlkioDeviceWriteBps",
    "HostConfig.BlkioDeviceReadIOps",
    "HostConfig.Ulimits",
)
def test_block_io_and_ulimits(engine: Engine, tmp_path: Path):
    options = ["--device-read-bps", "/dev/loop0:1mb", "--device-write-iops", "/dev/loop0:100"]
    options += ["--device-write-bps", "/dev/loop0:3mb", "--device-read-iops", "/dev/loop0:77"]
    if not Path("/dev/loop0").is_block_device():
        pytest.skip("there is no /dev/loop0")
    weights = limits.has_weights(Path("/sys/fs/cgroup"))
    engine.background("cc", "sleep 1000", *options, *(("--blkio-weight", "300") if weights else ()))
    if weights:
        assert group_file(engine, "cc", "blkio/blkio.bfq.weight", "io.bfq.weight").endswith("300")
    else:
        assert "HostConfig.BlkioWeight" in engine.run("run", "--blkio-weight", "300", "box", "true").stderr
    for name, value in (
        ("read_bps", 1 << 20),
        ("write_bps", 3 << 20),
        ("read_iops", 77),
        ("write_iops", 100),
    ):
        found = group_file(engine, "cc", f"blkio/blkio.throttle.{name}_device", "io.max")
        assert str(value) in re.split(r"[ =\n]", found), name
    assert once(engine, "ulimit -n", "--ulimit", "nofile=123:456") == "123"
    assert "Range of blkio weight" in engine.run("run", "--blkio-weight", "5", "box", "true").stderr


def test_oom_is_told(engine: Engine):
    # The shim begins to watch the cgroup right after the start: what ends before that is not told.
    script = "sleep 0.3; a=xxxxxxxxxxxxxxxx; while :; do a=$a$a; done"
    engine.docker(
        "run", "--network", "none", "--name", "cc", "-m", "16m", "box", "sh", "-c", script, code=137
    )
    until(engine, "{{.State.OOMKilled}}", "true")
    assert "oom" in engine.events("cc")


# Processes.


@pytest.mark.proves("HostConfig.Init")
def test_init_is_process_one_and_reaps(engine: Engine):
    assert once(engine, "cat /proc/1/comm", "--init") == "docker-init"
    engine.background("cc", "sleep 1000", "--init")
    for _ in range(5):
        engine.docker("exec", "cc", "sh", "-c", "(sleep 0.01 &) ; true")
    deadline = time.monotonic() + 10
    while "Z" in (states := engine.docker("exec", "cc", "sh", "-c", "cat /proc/[0-9]*/stat")).split():
        assert time.monotonic() < deadline, states
    engine.docker("stop", "-t", "5", "cc")
    assert engine.docker("inspect", "--format", "{{.State.ExitCode}}", "cc").strip() == "143"


@pytest.mark.proves("HostConfig.IpcMode", "HostConfig.PidMode")
def test_namespaces_of_another_container(engine: Engine):
    engine.background("one", "echo shared >/dev/shm/f; sleep 1000", "--ipc", "shareable")
    assert "one" not in once(engine, "true", "--pid", "container:one")
    assert "sleep" in once(engine, "cat /proc/1/cmdline | tr '\\0' ' '", "--pid", "container:one")
    assert (
        once(engine, "until test -s /dev/shm/f; do :; done; cat /dev/shm/f", "--ipc", "container:one")
        == "shared"
    )
    engine.background("two", "sleep 1000")
    refused = engine.run("run", "--ipc", "container:two", "box", "true")
    assert "non-shareable IPC" in refused.stderr
    engine.docker("stop", "-t", "0", "two")
    assert "non running container" in engine.run("run", "--pid", "container:two", "box", "true").stderr
    assert "No such container" in engine.run("run", "--pid", "container:nope", "box", "true").stderr


@pytest.mark.proves("HostConfig.UTSMode", "HostConfig.CgroupnsMode", "HostConfig.UsernsMode")
@pytest.mark.parametrize(
    ("option", "namespace", "same"),
    [
        (("--pid", "host"), "pid", True),
        (("--ipc", "host"), "ipc", True),
        (("--uts", "host"), "uts", True),
        (("--cgroupns", "host"), "cgroup", True),
        (("--cgroupns", "private"), "cgroup", False),
        (("--ipc", "private"), "ipc", False),
        (("--userns", "host"), "user", True),
    ],
)
def test_namespace_modes(engine: Engine, option: tuple[str, str], namespace: str, same: bool):
    found = once(engine, f"readlink /proc/self/ns/{namespace}", *option)
    assert (found == os.readlink(f"/proc/self/ns/{namespace}")) is same


@pytest.mark.proves("Config.Hostname", "Config.Domainname", "HostConfig.Sysctls")
def test_hostname_domainname_and_sysctls(engine: Engine):
    options = ["--hostname", "h", "--domainname", "d.example", "--sysctl", "kernel.shmmax=12345"]
    script = "cat /proc/sys/kernel/hostname /proc/sys/kernel/domainname /proc/sys/kernel/shmmax"
    assert once(engine, script, *options).split() == ["h", "d.example", "12345"]
    assert "is not allowed" in engine.run("run", "--sysctl", "vm.swappiness=1", "box", "true").stderr


# Devices.


@pytest.mark.proves("HostConfig.Devices", "HostConfig.DeviceCgroupRules")
def test_devices_and_rules(engine: Engine):
    assert once(engine, "test -c /dev/x && head -c1 /dev/x | wc -c", "--device", "/dev/zero:/dev/x:r") == "1"
    script = "echo a >/dev/x 2>/dev/null && echo written || echo refused"
    assert once(engine, script, "--device", "/dev/kmsg:/dev/x:r") == "refused"
    if Path("/dev/mapper").is_dir():
        assert "control" in once(engine, "ls /dev/mapper", "--device", "/dev/mapper")
    assert "not a device" in engine.run("run", "--device", "/etc/passwd", "box", "true").stderr
    assert "invalid device cgroup" in engine.run("run", "--device-cgroup-rule", "x", "box", "true").stderr
    assert "DeviceRequests" in engine.run("run", "--gpus", "all", "box", "true").stderr


# Confinement.


@pytest.mark.proves("HostConfig.SecurityOpt")
def test_seccomp_and_other_options(engine: Engine, tmp_path: Path):
    profile = tmp_path / "p.json"
    profile.write_text(
        json.dumps(
            {
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}],
            }
        )
    )
    assert once(engine, "mkdir /tmp/x 2>/dev/null || echo no", "--security-opt", f"seccomp={profile}") == "no"
    status = "grep -E 'Seccomp:|NoNewPrivs' /proc/self/status"
    assert once(engine, status, "--security-opt", "seccomp=unconfined").split()[3] == "0"
    assert once(engine, status, "--security-opt", "no-new-privileges").split()[1] == "1"
    assert once(engine, status, "--security-opt", "apparmor=unconfined").split()[3] == "2"
    if not Path("/sys/kernel/security/apparmor").exists():
        refused = engine.run("run", "--security-opt", "apparmor=some", "box", "true").stderr
        assert "AppArmor is not enabled" in refused
    assert (
        "SecurityOpt 'label=type:x'"
        in engine.run("run", "--security-opt", "label=type:x", "box", "true").stderr
    )
    assert "secret" not in once(engine, "ls /proc/acpi", "--security-opt", "systempaths=unconfined")


@pytest.mark.proves("HostConfig.CapAdd", "HostConfig.CapDrop", "HostConfig.GroupAdd")
def test_capabilities_and_privileged(engine: Engine):
    bound = "grep CapBnd /proc/self/status"
    assert once(engine, bound, "--cap-drop", "ALL").split()[1] == "0" * 16
    assert once(engine, bound, "--cap-drop", "ALL", "--cap-add", "CHOWN").split()[1].endswith("1")
    assert once(engine, "grep Inh /proc/self/status", "--cap-add", "ALL").split()[1] == "0" * 16  # X3
    groups = once(engine, "id -G", "--group-add", "staff", "--group-add", "77", "-u", "alice")
    assert set(groups.split()) == {"1001", "50", "77"}


# Mounts.


def test_a_source_that_is_made_for_a_bind_is_open_to_every_user(engine: Engine, tmp_path: Path):
    found = once(engine, "ls -a /b", "-u", "alice", "-v", f"{tmp_path}/new/source:/b")
    assert found.split() == [".", ".."]
    modes = [stat.S_IMODE((tmp_path / each).stat().st_mode) for each in ("new", "new/source")]
    assert modes == [0o755, 0o755]


@pytest.mark.proves("HostConfig.Mounts", "HostConfig.ShmSize")
def test_kinds_of_mounts(engine: Engine, tmp_path: Path):
    (tmp_path / "sub").mkdir()
    mount = f"type=bind,source={tmp_path},target=/b"
    assert once(engine, "touch /b/x 2>/dev/null || echo ro", "--mount", f"{mount},readonly") == "ro"
    assert once(engine, "touch /b/x && echo rw", "--mount", mount) == "rw"
    assert (
        "does not exist"
        in engine.run("run", "--mount", "type=bind,source=/nope,target=/b", "box", "true").stderr
    )
    size = once(
        engine, "grep ' /t ' /proc/mounts", "--mount", "type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=1770"
    )
    assert "size=1024k" in size
    assert "mode=1770" in size
    assert "size=2048k" in once(engine, "grep ' /dev/shm ' /proc/mounts", "--shm-size", "2m")
    assert once(engine, "touch /x 2>/dev/null || echo ro", "--read-only", "--tmpfs", "/t") == "ro"


def test_read_only_means_what_is_mounted_below_too(engine: Engine, tmp_path: Path):
    (tmp_path / "below").mkdir()
    os.system(f"mount -t tmpfs x {tmp_path}/below")
    try:
        options = ["-v", f"{tmp_path}:/b:ro"]
        assert once(engine, "touch /b/below/x 2>/dev/null || echo ro", *options) == "ro"
        mount = f"type=bind,source={tmp_path},target=/b,readonly,bind-recursive=writable"
        assert once(engine, "touch /b/below/x && echo rw", "--mount", mount) == "rw"
        mount = f"type=bind,source={tmp_path},target=/b,bind-recursive=disabled"
        assert once(engine, "ls /b/below", "--mount", mount) == ""
    finally:
        os.system(f"umount {tmp_path}/below")


def test_an_image_can_be_mounted(engine: Engine):
    mount = "type=image,source=box,target=/other"
    engine.background("cc", "sleep 1000", "--mount", mount)
    assert "alice" in engine.docker("exec", "cc", "cat", "/other/etc/passwd")
    assert "Read-only" in engine.run("exec", "cc", "touch", "/other/x").stderr
    engine.docker("restart", "-t", "0", "cc")
    assert "alice" in engine.docker("exec", "cc", "cat", "/other/etc/passwd")
    engine.restart()
    assert "alice" in engine.docker("exec", "cc", "cat", "/other/etc/passwd")
    found = json.loads(engine.docker("inspect", "cc"))[0]["Mounts"]
    assert [(each["Type"], each["Source"], each["RW"]) for each in found] == [("image", "box", False)]
    engine.docker("rm", "-f", "cc")
    assert once(engine, "ls /other", "--mount", f"{mount},image-subpath=etc").split()[0] == "group"
    missing = engine.run("create", "--pull", "never", "--mount", "type=image,source=nope,target=/x", "box")
    assert "No such image" in missing.stderr
    refused = engine.run("run", "--mount", f"{mount},image-subpath=no/such", "box", "true").stderr
    assert "no/such" in refused


# Health.


@pytest.mark.proves("Config.Healthcheck", "POST /containers/{name}/pause", "POST /containers/{name}/unpause")
def test_health_goes_up_and_down_with_events(engine: Engine):
    options = [
        "--health-cmd",
        "test -e /ok && echo fine",
        "--health-interval",
        "50ms",
        "--health-retries",
        "2",
    ]
    engine.background("cc", "sleep 1000", *options)
    until(engine, "{{.State.Health.Status}}", "unhealthy")
    engine.docker("exec", "cc", "touch", "/ok")
    until(engine, "{{.State.Health.Status}}", "healthy")
    found = json.loads(engine.docker("inspect", "cc"))[0]["State"]["Health"]
    assert found["FailingStreak"] == 0
    assert found["Log"][-1]["Output"] == "fine\n"
    assert 1 <= len(found["Log"]) <= 5
    assert "(healthy)" in engine.docker("ps", "--filter", "health=healthy")
    assert "cc" not in engine.docker("ps", "--filter", "health=unhealthy")
    told = [each for each in engine.events("cc") if each.startswith("health_status")]
    assert told == ["health_status: unhealthy", "health_status: healthy"]
    engine.docker("pause", "cc")
    streak = engine.docker("inspect", "--format", "{{len .State.Health.Log}}", "cc")
    engine.docker("unpause", "cc")
    assert int(streak) <= 5
    engine.restart()
    until(engine, "{{.State.Health.Status}}", "healthy")
    engine.docker("stop", "-t", "0", "cc")
    assert engine.docker("inspect", "--format", "{{.State.Health.Status}}", "cc").strip() == "unhealthy"


def test_health_that_hangs_is_killed_and_start_period_forgives(engine: Engine):
    options = [
        "--health-cmd",
        "echo begun; sleep 100",
        "--health-interval",
        "50ms",
        "--health-timeout",
        "300ms",
    ]
    engine.background("cc", "sleep 1000", *options, "--health-retries", "1")
    until(engine, "{{.State.Health.Status}}", "unhealthy")
    found = json.loads(engine.docker("inspect", "cc"))[0]["State"]["Health"]["Log"][0]
    assert found["ExitCode"] == -1
    assert found["Output"].startswith("Health check exceeded timeout (300ms)")
    assert engine.docker("top", "cc").count("sleep 100") <= 3  # the container's own among them
    options = ["--health-cmd", "false", "--health-interval", "50ms", "--health-start-period", "1h"]
    engine.background("dd", "sleep 1000", *options, "--health-start-interval", "50ms")
    until(engine, "{{ge (len .State.Health.Log) 4}}", "true", "dd")
    assert engine.docker("inspect", "--format", "{{.State.Health.Status}}", "dd").strip() == "starting"


@pytest.mark.proves("Config.Shell")
def test_health_of_the_image_and_none(engine: Engine):
    with contextlib.closing(docker.APIClient(base_url=engine.daemon.host)) as api:
        check = {"Test": ["CMD-SHELL", "true it"], "Interval": 50_000_000}
        asked = {"Image": "box", "Cmd": ["sleep", "1000"], "Shell": ["/bin/sh", "-xc"], "Healthcheck": check}
        api.start(api.create_container_from_config({**asked, "HostConfig": {"NetworkMode": "none"}}, "ee"))
    until(engine, "{{.State.Health.Status}}", "healthy", "ee")
    assert (
        json.loads(engine.docker("inspect", "ee"))[0]["State"]["Health"]["Log"][0]["Output"] == "+ true it\n"
    )
    change = 'HEALTHCHECK --interval=50ms --retries=1 CMD ["true"]'
    engine.docker("create", "--name", "base", "box")
    engine.docker("commit", "-c", change, "base", "checked")
    engine.docker("run", "-d", "--network", "none", "--name", "cc", "checked", "sleep", "1000")
    until(engine, "{{.State.Health.Status}}", "healthy")
    engine.docker(
        "run", "-d", "--network", "none", "--name", "dd", "--no-healthcheck", "checked", "sleep", "1000"
    )
    assert json.loads(engine.docker("inspect", "dd"))[0]["State"].get("Health") is None
    assert "less than 1ms" in engine.run("run", "--health-cmd", "x", "--health-interval", "1ns", "box").stderr


# Restarts.


def test_a_restart_policy_gives_up_and_counts(engine: Engine):
    options = ["--restart", "on-failure:2"]
    engine.background("cc", "exit 3", *options)
    until(engine, "{{.RestartCount}} {{.State.Status}}", "2 exited")
    assert engine.docker("inspect", "--format", "{{.State.ExitCode}}", "cc").strip() == "3"
    assert engine.events("cc").count("die") == 3


@pytest.mark.proves(
    "HostConfig.OomScoreAdj",
    "HostConfig.OomKillDisable",
    "HostConfig.MemorySwappiness",
    "HostConfig.CpuPeriod",
    "HostConfig.CpuQuota",
    "HostConfig.CpusetMems",
    "HostConfig.BlkioWeightDevice",
    "HostConfig.CpuRealtimePeriod",
    "HostConfig.CpuRealtimeRuntime",
    "HostConfig.ContainerIDFile",
    "HostConfig.Annotations",
    "HostConfig.Runtime",
)
def test_the_rest_of_the_fields(engine: Engine, tmp_path: Path):
    assert once(engine, "cat /proc/self/oom_score_adj", "--oom-score-adj", "321") == "321"
    options = ["-m", "64m", "--cpu-period", "50000", "--cpu-quota", "20000", "--cpuset-mems", "0"]
    if HYBRID:
        options += ["--memory-swappiness", "7", "--oom-kill-disable"]
    engine.background("cc", "sleep 1000", *options, "--cidfile", str(tmp_path / "cid"), "--annotation", "a=b")
    assert group_file(engine, "cc", "cpu/cpu.cfs_period_us", "cpu.max").split()[-1] == "50000"
    assert group_file(engine, "cc", "cpu/cpu.cfs_quota_us", "cpu.max").split()[0] == "20000"
    assert group_file(engine, "cc", "cpuset/cpuset.mems", "cpuset.mems") == "0"
    if HYBRID:
        assert group_file(engine, "cc", "memory/memory.swappiness", "") == "7"
        assert "oom_kill_disable 1" in group_file(engine, "cc", "memory/memory.oom_control", "")
    found = json.loads(engine.docker("inspect", (tmp_path / "cid").read_text()))[0]
    assert found["HostConfig"]["Annotations"] == {"a": "b"}
    assert found["HostConfig"]["Runtime"] == "runc"
    assert "unknown or invalid runtime" in engine.run("run", "--runtime", "nope", "box", "true").stderr
    for option in ("--device-write-bps", "--device-read-iops"):
        refused = engine.run(
            "run", option, "/dev/nope:1mb" if "bps" in option else "/dev/nope:100", "box", "true"
        )
        assert "/dev/nope" in refused.stderr
    assert "/dev/nope" in engine.run("run", "--blkio-weight-device", "/dev/nope:100", "box", "true").stderr
    refused = engine.run("run", "--cpu-rt-runtime", "2", "--cpu-rt-period", "1", "box", "true").stderr
    assert "real-time" in refused


@pytest.mark.proves(
    *("HostConfig.VolumeDriver", "HostConfig.Cgroup", "HostConfig.CpuCount"),
    *("HostConfig.CpuPercent", "HostConfig.IOMaximumIOps", "HostConfig.IOMaximumBandwidth"),
    *("HostConfig.KernelMemory", "HostConfig.KernelMemoryTCP"),
)
def test_fields_that_are_refused_by_name(engine: Engine):
    volume = ("run", "--rm", "--network", "none", "-v", "driven:/v", "--volume-driver")
    assert "HostConfig.VolumeDriver 'nope'" in engine.run(*volume, "nope", "box", "true").stderr
    engine.docker(*volume, "local", "box", "true")
    assert engine.docker("volume", "inspect", "-f", "{{.Driver}}", "driven") == "local\n"
    api = docker.APIClient(base_url=engine.daemon.host)
    try:
        for field, value in (
            ("Cgroup", "container:x"),
            ("CpuCount", 1),
            ("CpuPercent", 1),
            ("IOMaximumIOps", 1),
            ("IOMaximumBandwidth", 1),
            ("KernelMemory", 1),
            ("KernelMemoryTCP", 1),
        ):
            with pytest.raises(docker.errors.APIError, match=f"HostConfig.{field}"):
                api.create_container_from_config({"Image": "box", "HostConfig": {field: value}})
    finally:
        api.close()
