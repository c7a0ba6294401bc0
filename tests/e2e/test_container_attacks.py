"""Images and containers that want out: rows X1 to X4 and X8 of docs/reference/hostile-input.md, each with its honest twin."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.daemon import Daemon
from support.engine import Engine, box, boxed
from support.images import File, layer_tar

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def engine(shared_daemon: Daemon) -> Engine:
    return boxed(shared_daemon)


@pytest.fixture(autouse=True)
def _clean(engine: Engine) -> Iterator[None]:
    yield
    for each in engine.run("ps", "-aq").stdout.split():
        engine.run("rm", "-f", each)


def imported(engine: Engine, name: str, files: dict[str, File], change: str = "CMD /bin/sh") -> str:
    engine.daemon.docker("import", "--change", change, "-", name, input=layer_tar(files))
    return name


def once(engine: Engine, script: str, *options: str, image: str = "box") -> str:
    return engine.docker("run", "--rm", "--network", "none", *options, image, "sh", "-c", script).strip()


@pytest.mark.parametrize("name", ["proc", "sys", "dev"])
def test_a_link_where_the_kernel_s_files_belong_is_refused(engine: Engine, name: str, tmp_path: Path):
    """X1: what is mounted and masked there would land elsewhere (CVE-2019-19921, CVE-2025-31133)."""
    files = {key: each for key, each in box().items() if key != name and not key.startswith(f"{name}/")}
    image = imported(engine, f"link-{name}", files | {name: File(link="/tmp")})
    refused = engine.run("run", "--rm", "--network", "none", image, "true")
    assert refused.returncode != 0
    assert f"/{name}" in refused.stderr
    plain = imported(engine, f"plain-{name}", files | {name: File(directory=True, mode=0o755)})
    assert once(engine, "echo fine", image=plain) == "fine"


@pytest.mark.parametrize("directory", [f"/proc/self/fd/{number}" for number in (3, 5, 7, 8, 9)])
def test_a_working_directory_is_no_way_out(engine: Engine, directory: str, tmp_path: Path):
    """X1: CVE-2024-21626, at start, from the image, and in an exec."""
    canary = tmp_path / "canary"
    canary.write_text("outside")
    look = (
        f"cat ../../../../../../../..{canary} 2>/dev/null; cat /proc/self/cwd{canary} 2>/dev/null; echo end"
    )
    image = imported(engine, "wd", box(), f"WORKDIR {directory}")
    engine.background("cc", "sleep 1000")
    for words in (
        ["run", "--rm", "--network", "none", "-w", directory, "box", "sh", "-c", look],
        ["run", "--rm", "--network", "none", image, "sh", "-c", look],
        ["exec", "-w", directory, "cc", "sh", "-c", look],
    ):
        assert "outside" not in engine.run(*words).stdout
    assert engine.docker("exec", "-w", "/etc", "cc", "pwd") == "/etc\n"


def test_the_runtime_cannot_be_written_from_inside(engine: Engine):
    """X1: CVE-2019-5736, the program that enters a container is a copy or cannot be opened for writing."""
    before = {
        path: path.stat().st_mtime_ns
        for path in map(Path, ("/usr/bin/runc", "/usr/sbin/runc"))
        if path.exists()
    }
    assert before
    script = (
        "echo '#!/proc/self/exe' >/tmp/me; chmod +x /tmp/me; "
        "while :; do for p in /proc/[0-9]*; do (echo bad >$p/exe) 2>/dev/null; done; done"
    )
    engine.background("cc", script)
    for _ in range(5):
        engine.run("exec", "cc", "/tmp/me")
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_what_docker_hides_is_hidden(engine: Engine):
    """X2: the kernel's own secrets and levers."""
    script = (
        "for f in /proc/kcore /proc/keys /proc/timer_list /proc/sched_debug /proc/interrupts; do head -c1 $f 2>/dev/null | wc -c; done; "
        "ls -A /proc/acpi /proc/scsi /sys/firmware /sys/devices/virtual/powercap 2>/dev/null | grep -v ':$' | grep -v '^$' | wc -l; "
        "for f in /proc/sysrq-trigger /proc/sys/kernel/hostname /proc/irq/default_smp_affinity; do (echo x >$f) 2>/dev/null && echo wrote $f; done; "
        "touch /sys/x 2>/dev/null && echo wrote; echo end"
    )
    found = once(engine, script).split()
    assert found == ["0"] * len(found[:-1]) + ["end"]
    assert (
        once(engine, "head -c1 /proc/interrupts | wc -c", "--security-opt", "systempaths=unconfined") == "1"
    )


def test_what_no_process_needs_is_denied(engine: Engine):
    """X3: the default filter and capabilities; nothing is inheritable (CVE-2022-24769)."""
    denied = "mount -t tmpfs x /tmp 2>/dev/null && echo mounted; dd if=/dev/kmsg of=/dev/null count=1 2>/dev/null && echo read; echo end"
    assert once(engine, denied) == "end"
    status = dict(
        line.split(":\t", 1) for line in once(engine, "cat /proc/self/status").splitlines() if ":\t" in line
    )
    assert (status["CapInh"], status["CapAmb"], status["Seccomp"]) == ("0" * 16, "0" * 16, "2")
    assert status["CapBnd"] == "00000000a80425fb"  # Docker's fourteen
    other = once(engine, "grep -E 'CapEff|CapPrm' /proc/self/status; id -G", "-u", "1000:1001").split()
    assert other == ["CapPrm:", "0" * 16, "CapEff:", "0" * 16, "1001"]
    assert once(engine, "mount -t tmpfs x /tmp && echo mounted", "--privileged") == "mounted"


@pytest.mark.parametrize(
    ("user", "ids"), [("1", "1 0"), ("alice", "1000 1001"), ("1000:50", "1000 50"), ("0", "0 0")]
)
def test_an_exec_is_who_it_should_be(engine: Engine, user: str, ids: str):
    """X4: CVE-2026-30892, as the kernel sees it."""
    engine.background("cc", "sleep 1000")
    script = "grep -E '^(Uid|Gid)' /proc/self/status"
    found = engine.docker("exec", "-u", user, "cc", "sh", "-c", script).split()
    uid, gid = ids.split()
    assert found == ["Uid:", *[uid] * 4, "Gid:", *[gid] * 4]
    held = engine.docker("exec", "-u", user, "cc", "sh", "-c", "grep CapEff /proc/self/status").split()[1]
    assert (held == "0" * 16) is (uid != "0")


def test_labels_and_annotations_move_nothing(engine: Engine):
    """A10: what an image or a request says in labels never names a program or a path for us."""
    labels = ["-l", "io.containerd.runc.v2.group=evil", "-l", "com.docker.log=binary:///bin/sh"]
    engine.background("cc", "sleep 1000", *labels, "--annotation", "run.oci.hooks={}")
    found = json.loads(engine.docker("inspect", "cc"))[0]
    assert found["HostConfig"]["LogConfig"]["Type"] == "json-file"
    assert found["State"]["Running"]


@pytest.mark.parametrize(
    "runtime", ["io.containerd.wasmedge.v1", "io.containerd.wasmtime.v1", "/opt/containerd-shim-spin-v2"]
)
def test_a_wasm_runtime_is_refused_before_anything_runs(engine: Engine, runtime: str):
    """X8: no module runs, so that none gets out; the reason is told, and nothing stays."""
    for words in (["run", "--rm"], ["create"]):
        refused = engine.run(*words, "--network", "none", "--runtime", runtime, "box", "true")
        assert refused.returncode in (1, 125)
        assert "runs WebAssembly" in refused.stderr
    assert engine.docker("ps", "-aq") == ""


def test_an_image_for_wasm_is_refused_and_the_same_files_for_linux_run(engine: Engine):
    """X8: the runtime for Linux would take a module for a program, or for a script of the machine's binfmt_misc."""
    module = {"app.wasm": File(b"\0asm\1\0\0\0", mode=0o755)} | box()
    tar = layer_tar(module)
    engine.daemon.docker(
        "import", "--platform", "wasi/wasm", "--change", 'CMD ["/app.wasm"]', "-", "module", input=tar
    )
    for options in (["--platform", "wasi/wasm"], []):
        refused = engine.run("run", "--rm", "--pull", "never", "--network", "none", *options, "module")
        assert refused.returncode == 125
        assert "no runtime here runs WebAssembly" in refused.stderr
    assert engine.docker("ps", "-aq") == ""
    plain = imported(engine, "no-module", module)
    assert once(engine, "head -c 4 /app.wasm | tail -c 3", image=plain) == "asm"
