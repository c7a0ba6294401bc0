"""docker stats, top, ps, inspect -s and system df tell the truth."""

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import docker
import pytest
from support.daemon import Daemon
from support.engine import Engine, boxed

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def engine(shared_daemon: Daemon) -> Engine:
    return boxed(shared_daemon)


@pytest.fixture(autouse=True)
def _clean(engine: Engine) -> Iterator[None]:
    yield
    for each in engine.run("ps", "-aq").stdout.split():
        engine.run("rm", "-f", each)


def stats(engine: Engine, name: str, query: str) -> dict[str, Any]:
    status, document = engine.daemon.api("GET", f"/v1.45/containers/{name}/stats?{query}")
    assert status == 200, document
    return document


@pytest.mark.proves("GET /containers/{name}/stats")
def test_stats_of_a_busy_container(engine: Engine):
    engine.background("cc", "while :; do :; done", "-m", "64m", "--pids-limit", "77", "--cpus", "0.3")
    once = stats(engine, "cc", "stream=false&one-shot=true")
    assert once["preread"] == "0001-01-01T00:00:00Z"
    found = stats(engine, "cc", "stream=false")
    assert found["name"] == "/cc"
    now, before = found["cpu_stats"], found["precpu_stats"]
    busy = now["cpu_usage"]["total_usage"] - before["cpu_usage"]["total_usage"]
    assert 0 < busy < now["system_cpu_usage"] - before["system_cpu_usage"]
    assert now["online_cpus"] >= 1
    assert now["throttling_data"]["periods"] > 0
    assert found["memory_stats"]["limit"] == 64 << 20
    assert 0 < found["memory_stats"]["usage"] <= 64 << 20
    assert "inactive_file" in found["memory_stats"]["stats"]
    assert found["pids_stats"] == {"current": 1, "limit": 77}
    assert "io_service_bytes_recursive" in found["blkio_stats"]


def test_stats_as_the_client_shows_them(engine: Engine):
    engine.background("cc", "sleep 1000", "-m", "64m")
    row = json.loads(engine.docker("stats", "--no-stream", "--format", "json", "cc"))
    assert (row["Name"], row["PIDs"]) == ("cc", "1")
    assert row["MemUsage"].endswith("/ 64MiB")
    assert row["CPUPerc"].endswith("%")
    engine.docker("stop", "-t", "0", "cc")
    assert json.loads(engine.docker("stats", "--no-stream", "--format", "json", "-a"))["PIDs"] == "0"
    engine.docker("rm", "cc")
    assert "No such container" in engine.run("stats", "--no-stream", "cc").stderr


def test_the_stream_goes_on_through_a_restart_and_ends_with_the_container(engine: Engine):
    engine.background("cc", "sleep 1000")
    with contextlib.closing(docker.DockerClient(base_url=engine.daemon.host)) as client:
        stream = client.containers.get("cc").stats(decode=True, stream=True)
        assert next(stream)["pids_stats"]["current"] == 1
        second = next(stream)
        assert second["precpu_stats"]["system_cpu_usage"] > 0
        engine.docker("restart", "-t", "0", "cc")
        while not next(stream)["pids_stats"]:
            pass
        engine.docker("rm", "-f", "cc")
        for _ in stream:
            pass


def test_network_figures(engine: Engine):
    engine.background("cc", "sleep 1000")
    assert "networks" not in stats(engine, "cc", "stream=false&one-shot=true")
    pid = engine.docker("inspect", "-f", "{{.State.Pid}}", "cc").strip()
    command = [
        "nsenter",
        "-t",
        pid,
        "-n",
        "ip",
        "link",
        "add",
        "eth7",
        "type",
        "veth",
        "peer",
        "name",
        "eth8",
    ]
    subprocess.run(command, check=True)
    assert stats(engine, "cc", "stream=false&one-shot=true")["networks"]["eth7"]["rx_bytes"] == 0


@pytest.mark.proves("GET /containers/{name}/top")
def test_top_with_arguments(engine: Engine):
    engine.background("cc", "sleep 1000 & sleep 1001")
    deadline = time.monotonic() + 20
    while engine.docker("top", "cc").count("sleep 100") < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    head, *rows = engine.docker("top", "cc", "-o", "pid,args").splitlines()
    assert head.split() == ["PID", "COMMAND"]
    assert len(rows) in (2, 3)
    assert "Couldn't find PID" in engine.run("top", "cc", "-o", "args").stderr
    assert "ps:" in engine.run("top", "cc", "--nonsense").stderr
    engine.docker("stop", "-t", "0", "cc")
    assert "is not running" in engine.run("top", "cc").stderr


@pytest.mark.proves("GET /containers/{name}/json")
def test_sizes(engine: Engine):
    engine.docker(
        "run", "--network", "none", "--name", "cc", "box", "sh", "-c", "head -c 3000000 /dev/zero >/big"
    )
    found = json.loads(engine.docker("inspect", "-s", "cc"))[0]
    assert 3_000_000 <= found["SizeRw"] < 3_200_000
    assert found["SizeRootFs"] > found["SizeRw"]
    assert "3.0" in engine.docker("ps", "-as", "--format", "{{.Size}}")
    usage = json.loads(engine.docker("system", "df", "-v", "--format", "json"))
    assert [each["Names"] for each in usage["Containers"]] == ["cc"]
    assert "cc" not in json.loads(engine.docker("inspect", "cc"))[0].get("SizeRw", "")


def test_every_filter_of_ps(engine: Engine):
    engine.background("web-1", "sleep 1000", "-l", "app=shop", "-v", "/tmp:/mnt")
    engine.docker(
        "run", "--network", "none", "--name", "web-2", "-l", "app=blog", "box", "sh", "-c", "exit 4", code=4
    )
    engine.docker("create", "--network", "host", "--name", "db", "box")

    def names(*filters: str) -> set[str]:
        words = [word for each in filters for word in ("--filter", each)]
        return set(engine.docker("ps", "-a", "--format", "{{.Names}}", *words).split())

    first = engine.docker("inspect", "-f", "{{.Id}}", "web-1").strip()
    for filters, wanted in (
        (["name=web"], {"web-1", "web-2"}),
        (["name=^web-1$"], {"web-1"}),
        (["name=^/db$"], {"db"}),
        (["name=w.b-[2-9]"], {"web-2"}),
        (["name=eb-1", "name=db"], {"web-1", "db"}),
        (["label=app"], {"web-1", "web-2"}),
        (["label=app=shop"], {"web-1"}),
        (["label=app", "label=app=blog"], {"web-2"}),
        (["status=running"], {"web-1"}),
        (["status=created", "status=exited"], {"web-2", "db"}),
        (["exited=4"], {"web-2"}),
        ([f"id={first[:20]}"], {"web-1"}),
        (["ancestor=box"], {"web-1", "web-2", "db"}),
        (["ancestor=other"], set()),
        (["before=web-2"], {"web-1"}),
        (["since=web-1"], {"web-2", "db"}),
        (["volume=/mnt"], {"web-1"}),
        (["volume=/tmp"], {"web-1"}),
        (["network=host"], {"db"}),
        (["health=none"], {"web-1", "web-2", "db"}),
        (["is-task=false"], {"web-1", "web-2", "db"}),
        (["is-task=true"], set()),
        (["name=["], set()),
    ):
        assert names(*filters) == wanted, filters
    for bad in ("status=odd", "exited=x", "health=odd", "nope=1", "name=(a+)+$"):
        assert "invalid filter" in engine.run("ps", "--filter", bad).stderr, bad
    assert engine.docker("ps", "-lq").split() == engine.docker("ps", "-q", "-n", "1").split()


@pytest.mark.proves("POST /containers/prune")
def test_prune_with_filters(engine: Engine):
    for name, label in (("one", "keep=1"), ("two", "keep=0"), ("three", "x=1")):
        engine.docker("run", "--network", "none", "--name", name, "-l", label, "box", "true")
    engine.docker("container", "prune", "-f", "--filter", "until=1h")
    engine.docker("container", "prune", "-f", "--filter", "label=keep", "--filter", "label!=keep=1")
    assert set(engine.docker("ps", "-a", "--format", "{{.Names}}").split()) == {"one", "three"}
    engine.docker("container", "prune", "-f")
    assert engine.docker("ps", "-aq") == ""
