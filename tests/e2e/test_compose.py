"""``docker compose`` with a project of ten services: database, cache, queue, web, proxy, workers …

They are made from Debian's packages, talk by name over two networks, keep data in a volume, and are still there after the daemon
was killed. Nothing of them stays on the machine after ``down``.
"""

import socket
import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest
from support.compose import Compose, load
from support.daemon import NetnsDaemon, daemon_in_netns, is_idle_shim, left_mounts
from support.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

PROJECT = """
x-health: &health {interval: 1s, timeout: 5s, retries: 20, start_period: 20s, start_interval: 100ms}
services:
  db:
    image: stack
    command: redis-server --dir /data --appendonly yes --protected-mode no
    volumes: [dbdata:/data]
    networks: [back]
    stop_grace_period: 5s
    healthcheck: {<<: *health, test: redis-cli ping | grep PONG}
  cache:
    image: stack
    command: redis-server --save "" --protected-mode no --dir /tmp
    tmpfs: [/tmp]
    networks: {back: {aliases: [memory]}}
    healthcheck: {<<: *health, test: [CMD, redis-cli, ping]}
  queue:
    image: stack
    command: redis-server --save "" --protected-mode no --dir /tmp
    networks: [back]
    healthcheck: {<<: *health, test: [CMD, redis-cli, ping]}
  migrate:
    image: stack
    command: redis-cli -h db set schema 7
    networks: [back]
    depends_on: {db: {condition: service_healthy}}
  web:
    image: stack-web
    command: httpd -f -p 80 -h /www
    networks: [front, back]
    configs: [{source: page, target: /www/cgi-bin/page, mode: 0755}]
    secrets: [token]
    environment: {GREETING: hello}
    healthcheck: {<<: *health, test: wget -qO- http://127.0.0.1/cgi-bin/page}
    depends_on:
      db: {condition: service_healthy}
      cache: {condition: service_started}
      migrate: {condition: service_completed_successfully}
  proxy:
    image: stack
    command: httpd -f -p 80 -h /www
    networks: [front]
    ports: ["127.0.0.1:8080:80"]
    configs: [{source: forward, target: /www/cgi-bin/page, mode: 0755}]
    depends_on: {web: {condition: service_healthy}}
  worker:
    image: stack
    command: sh -c 'while :; do redis-cli -h queue blpop jobs 0 >/dev/null && redis-cli -h db incr done >/dev/null; done'
    networks: [back]
    scale: 2
    init: false
    stop_grace_period: 1s
    depends_on: {queue: {condition: service_healthy}, db: {condition: service_healthy}}
  scheduler:
    image: stack
    command: sh -c 'while :; do redis-cli -h queue rpush jobs job >/dev/null; sleep 0.2; done'
    networks: [back]
    stop_grace_period: 1s
    depends_on: {queue: {condition: service_healthy}}
  sidecar:
    image: stack
    command: sh -c 'while :; do wget -qO- http://127.0.0.1/cgi-bin/page | sed "s/^/seen /"; sleep 1; done'
    network_mode: service:web
    stop_grace_period: 1s
    depends_on: {web: {condition: service_healthy}}
  reporter:
    image: stack
    command: sh -c 'while :; do redis-cli -h memory incr reports; sleep 1; done'
    networks: [back]
    restart: always
    stop_grace_period: 1s
  debug:
    image: stack
    command: sleep 1000
    networks: [front]
    profiles: [debugging]
    stop_grace_period: 1s
networks:
  front: {}
  back: {internal: true, ipam: {config: [{subnet: 10.81.0.0/24}]}}
volumes:
  dbdata: {labels: {kept: "yes"}}
configs:
  page: {file: ./page.cgi}
  forward:
    content: |
      #!/bin/sh
      printf 'Content-Type: text/plain\\r\\n\\r\\n'
      exec wget -qO- http://web/cgi-bin/page
secrets:
  token: {file: ./token.txt}
"""
PAGE = """#!/bin/sh
printf 'Content-Type: text/plain\\r\\n\\r\\n'
echo "$GREETING schema $(redis-cli -h db get schema) token $(cat /run/secrets/token) hits $(redis-cli -h memory incr hits)"
"""
RUNNING = {"cache", "db", "proxy", "queue", "reporter", "scheduler", "sidecar", "web", "worker"}


@pytest.fixture(scope="module")
def daemon() -> Generator[NetnsDaemon]:
    with daemon_in_netns() as daemon:
        load(daemon, "stack")
        daemon.docker("tag", "stack", "stack-web")
        yield daemon


@pytest.fixture
def compose(daemon: NetnsDaemon, tmp_path: Path) -> Generator[Compose]:
    (tmp_path / "compose.yaml").write_text(PROJECT)
    (tmp_path / "page.cgi").write_text(PAGE)
    (tmp_path / "page.cgi").chmod(0o755)
    (tmp_path / "token.txt").write_text("s3cret")
    made = Compose(daemon, tmp_path, "shop")
    yield made
    made.run("--profile", "*", "down", "-v", "--remove-orphans", "-t", "1")


def fetch(daemon: NetnsDaemon, path: str) -> str:
    def get() -> str:
        with socket.create_connection(("127.0.0.1", 8080), timeout=5) as client:
            client.sendall(f"GET {path} HTTP/1.0\r\nHost: web\r\n\r\n".encode())
            return b"".join(iter(lambda: client.recv(4096), b"")).decode()

    return daemon.machine.call(get)


def served(daemon: NetnsDaemon, words: str) -> bool:
    try:
        return words in fetch(daemon, "/cgi-bin/page")
    except OSError:
        return False


def services(compose: Compose) -> set[str]:
    return {row["Service"] for row in compose.ps().values()}


def leftovers(daemon: NetnsDaemon) -> dict[str, object]:
    """Everything of containers that could still be on the machine."""
    cgroups = Path("/sys/fs/cgroup")
    ids = [path.name for path in (daemon.data_root / "containers").glob("*")]
    return {
        "containers": daemon.docker("ps", "-aq"),
        "networks": daemon.docker("network", "ls", "-q", "--filter", "type=custom"),
        "volumes": daemon.docker("volume", "ls", "-q"),
        "links": daemon.machine.links(),
        "rules": [line for line in daemon.machine.rules().splitlines() if "10.81." in line or " nv_" in line],
        "namespaces": [path.name for path in (daemon.exec_root / "network/namespaces").iterdir()],
        "mounts": [p for p in left_mounts(daemon.directory) if "/run/" in p or "/volumes/" in p],
        "processes": resolver_processes(daemon),
        "cgroups": [str(path) for id_ in ids for path in cgroups.glob(f"**/{id_}")],
        "tasks": [path.name for path in (daemon.exec_root / "tasks").rglob("*") if len(path.name) == 64],
    }


def resolver_processes(daemon: NetnsDaemon) -> list[str]:
    found: list[str] = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes()
        except OSError:
            continue
        if str(daemon.exec_root).encode() in line and (b"aardvark" in line or b"shim" in line):
            if is_idle_shim(int(entry.parent.name)):
                continue
            found.append(line.decode(errors="replace"))
    return found


def test_ten_services_come_up_talk_survive_and_go(compose: Compose, daemon: NetnsDaemon):
    compose("up", "-d", "--wait", timeout=150)
    rows = compose.ps("-a")
    assert {row["Service"] for row in rows.values()} == RUNNING | {"migrate"}
    assert len(rows) == 11
    healthy = {row["Service"] for row in rows.values() if row["Health"] == "healthy"}
    assert healthy == {"db", "cache", "queue", "web"}
    eventually(lambda: served(daemon, "hello schema 7 token s3cret hits"), "the page through the proxy")

    def done() -> int:
        return int(compose("exec", "-T", "db", "redis-cli", "get", "done").strip() or 0)

    eventually(lambda: done() > 3, "workers work")
    assert "seen hello schema 7" in compose("logs", "--no-color", "sidecar")
    back = compose("exec", "-T", "scheduler", "sh", "-c", "ip route").splitlines()
    assert not any(line.startswith("default") for line in back)  # internal

    daemon.kill()
    assert served(daemon, "hello schema 7")
    daemon.start()
    assert services(compose) == RUNNING
    before = done()
    eventually(lambda: done() > before, "workers go on")
    assert compose("exec", "-T", "proxy", "nslookup", "web")
    compose("up", "-d", timeout=150)  # nothing is made anew
    assert {name: row["ID"] for name, row in compose.ps().items()} == {
        name: row["ID"] for name, row in rows.items() if row["Service"] != "migrate"
    }

    compose("stop", "-t", "1", "db")
    compose("start", "db")
    eventually(lambda: served(daemon, "schema 7"), "the database kept its data")
    compose("down", "-t", "1")
    assert daemon.docker("volume", "ls", "-q").split() == ["shop_dbdata"]
    compose("down", "-v", "-t", "1")
    assert {what: left for what, left in leftovers(daemon).items() if left} == {}


def test_scale_profiles_copies_and_changes(compose: Compose, daemon: NetnsDaemon, tmp_path: Path):
    compose("up", "-d", "--wait", "web", "worker", timeout=150)
    assert services(compose) == {"db", "cache", "queue", "web", "worker"}
    compose("up", "-d", "--scale", "worker=3", "worker")
    assert len([row for row in compose.ps().values() if row["Service"] == "worker"]) == 3
    compose("up", "-d", "--scale", "worker=1", "worker")
    assert [name for name in compose.ps() if "worker" in name] == ["shop-worker-1"]

    compose("--profile", "debugging", "up", "-d", "debug")
    assert "debug" in services(compose)
    assert compose("exec", "-T", "debug", "wget", "-qO-", "http://web/cgi-bin/page").startswith(
        "hello schema 7"
    )

    (tmp_path / "note").write_text("words\n")
    compose("cp", "note", "debug:/tmp/note")
    assert compose("exec", "-T", "debug", "cat", "/tmp/note") == "words\n"
    compose("cp", "debug:/tmp/note", "back")
    assert (tmp_path / "back").read_text() == "words\n"

    old = compose.ps()["shop-web-1"]["ID"]
    database = compose.ps()["shop-db-1"]["ID"]
    compose("up", "-d", "web", timeout=150)
    assert compose.ps()["shop-web-1"]["ID"] == old
    load(daemon, "stack-web", www__new="content")  # another image under the same name
    compose("up", "-d", "--wait", "web", timeout=150)
    assert compose.ps()["shop-web-1"]["ID"] != old
    assert compose.ps()["shop-db-1"]["ID"] == database
    assert compose("exec", "-T", "web", "cat", "/www/new") == "content"
    assert compose("exec", "-T", "debug", "wget", "-qO-", "http://web/new") == "content"  # under the old name

    assert "httpd -f -p 80" in compose("top", "web")
    assert "127.0.0.1:8080" not in compose.run("port", "web", "80").stdout


WATCHED = """
services:
  app:
    image: stack
    command: httpd -f -p 80 -h /tmp
    develop:
      watch: [{action: sync, path: ./www, target: /tmp/www}]
"""


def test_watch_brings_changes_into_a_container(daemon: NetnsDaemon, tmp_path: Path):
    (tmp_path / "compose.yaml").write_text(WATCHED)
    (tmp_path / "www").mkdir()
    compose = Compose(daemon, tmp_path, "watched")
    try:
        compose("up", "-d", timeout=60)
        watcher = subprocess.Popen(
            compose.command("watch", "--no-up"),
            cwd=tmp_path,
            env=compose.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            assert watcher.stdout is not None
            for line in watcher.stdout:
                if "Watch enabled" in line or "watching" in line.lower():
                    break
            (tmp_path / "www/page").write_text("one\n")
            script = "while ! cat /tmp/www/page 2>/dev/null; do sleep 0.1; done"
            assert compose("exec", "-T", "app", "sh", "-c", script) == "one\n"
            (tmp_path / "www/page").unlink()
            compose("exec", "-T", "app", "sh", "-c", "while test -e /tmp/www/page; do sleep 0.1; done")
            # What comes after the deletion shows that it was told without an error.
            (tmp_path / "www/next").write_text("two\n")
            compose("exec", "-T", "app", "sh", "-c", "until test -e /tmp/www/next; do sleep 0.1; done")
        finally:
            watcher.terminate()
            said, _ = watcher.communicate(timeout=20)
        assert "rror" not in said
    finally:
        compose("down", "-t", "1")
