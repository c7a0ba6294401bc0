"""A Compose project around PostgreSQL of Debian's package in a debootstrapped root, as root of the machine and with ``--userns-remap``.

It has what a database asks of an engine: a user of its own, a volume that is that user's, shared memory, an orderly stop, restart
policies; and what it has acknowledged is there when its processes, or the daemon, were killed.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Generator
from pathlib import Path

import pytest
from support.compose import Compose
from support.daemon import NetnsDaemon, daemon_in_netns
from support.subids import FIRST, subordinate_ids
from support.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.nightly, pytest.mark.timeout(900)]

PROJECT = """
services:
  db:
    image: postgres
    user: postgres
    command: [/bin/sh, -c, "[ -s /data/PG_VERSION ] || /usr/lib/postgresql/*/bin/initdb -D /data --auth=trust >&2; exec /usr/lib/postgresql/*/bin/postgres -D /data -c listen_addresses=* -c unix_socket_directories=/tmp -c hba_file=/hba"]
    volumes: [data:/data]
    configs: [{source: hba, target: /hba}]
    shm_size: 128mb
    stop_signal: SIGINT
    restart: unless-stopped
    healthcheck: {test: pg_isready -h 127.0.0.1, interval: 1s, timeout: 10s, retries: 60, start_period: 60s, start_interval: 200ms}
  writer:
    image: postgres
    user: postgres
    command: sh -c 'while :; do psql -qh db -c "insert into t default values" && echo wrote; sleep 0.1; done'
    restart: unless-stopped
    stop_grace_period: 1s
    depends_on: {schema: {condition: service_completed_successfully}}
  idle:
    image: postgres
    command: sleep 100000
    restart: unless-stopped
    init: true
    stop_grace_period: 1s
  schema:
    image: postgres
    user: postgres
    command: psql -h db -c "create table t (n serial)"
    depends_on: {db: {condition: service_healthy}}
volumes:
  data: {}
configs:
  hba: {content: "host all all all trust\\n"}
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of Debian's base with PostgreSQL and a directory that is its user's."""
    directory = tmp_path_factory.mktemp("debian")
    root, archive = directory / "root", directory / "root.tar"
    words = ["debootstrap", "--variant=minbase", "--include=postgresql", "bookworm", str(root)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:]
    # The directory of the volume is the database's own; what is for installing packages need not come along.
    subprocess.run(
        ["chroot", str(root), "install", "-d", "-o", "postgres", "-m", "0700", "/data"], check=True
    )
    without = ("./var/cache/apt", "./var/lib/apt/lists", "./usr/share/doc", "./usr/share/locale")
    subprocess.run(
        ["tar", "-C", str(root), *(f"--exclude={each}" for each in without), "-cf", str(archive), "."],
        check=True,
    )
    return archive


@pytest.fixture(scope="module", params=["plain", "remapped"])
def daemon(request: pytest.FixtureRequest, root: Path) -> Generator[NetnsDaemon]:
    with contextlib.ExitStack() as stack:
        options = (
            [f"--userns-remap={stack.enter_context(subordinate_ids())}"]
            if request.param == "remapped"
            else []
        )
        made = stack.enter_context(daemon_in_netns(*options))
        made.directory.chmod(0o711)  # a machine's directories let everybody through
        made.docker("import", "--change", 'CMD ["/bin/sh"]', str(root), "postgres")
        yield made


@pytest.fixture
def compose(daemon: NetnsDaemon, tmp_path: Path) -> Generator[Compose]:
    (tmp_path / "compose.yaml").write_text(PROJECT)
    made = Compose(daemon, tmp_path, "shop")
    yield made
    made.run("down", "-v", "-t", "10")


def test_a_database_survives_what_happens_to_it(compose: Compose, daemon: NetnsDaemon):
    def query(words: str) -> str:
        done = compose.run("exec", "-T", "db", "psql", "-h", "127.0.0.1", "-Atc", words)
        return done.stdout.strip()

    def rows() -> int:
        return int(query("select count(*) from t") or 0)

    def goes_on(what: str) -> None:
        before = rows()
        eventually(lambda: rows() > before, what, seconds=60)

    def pid(service: str) -> int:
        return int(daemon.docker("inspect", "-f", "{{.State.Pid}}", f"shop-{service}-1"))

    compose("up", "-d", "--wait", "db", timeout=200)
    compose("up", "-d", timeout=200)
    eventually(lambda: rows() > 3, "the writer writes", seconds=60)
    owner = os.stat(f"/proc/{pid('db')}").st_uid
    assert (owner > FIRST) is any("userns-remap" in each for each in daemon.arguments)
    assert query("show shared_buffers") == "128MB"

    # The daemon is killed: nobody notices.
    before = {name: row["ID"] for name, row in compose.ps().items()}
    first = pid("db")
    daemon.kill()
    time.sleep(1)
    daemon.start()
    assert pid("db") == first
    goes_on("the writer goes on without a pause")

    # While it is away everything dies, as when the machine goes down: what was not stopped by the user comes back by itself.
    compose("stop", "-t", "1", "idle")
    acknowledged = rows()
    names = ("db", "writer")
    gone = [pid(each) for each in names]
    daemon.kill()
    for each in gone:
        os.kill(each, signal.SIGKILL)
    daemon.start()
    eventually(lambda: rows() >= acknowledged, "what was acknowledged is there", seconds=60)
    goes_on("the writer writes again")
    assert {name: row["ID"] for name, row in compose.ps().items()} == {
        name: id_ for name, id_ in before.items() if name != "shop-idle-1"
    }
    assert daemon.docker("inspect", "-f", "{{.State.Status}}", "shop-idle-1").strip() == "exited"

    # So does a restart of the daemon in order.
    daemon.stop()
    daemon.start()
    goes_on("the writer goes on after a restart")
    assert daemon.docker("inspect", "-f", "{{.State.Status}}", "shop-idle-1").strip() == "exited"

    # An orderly stop: PostgreSQL says so itself, and the data outlives the containers.
    compose("stop", "writer")
    last = rows()
    compose("stop", "-t", "30", "db")
    assert "database system is shut down" in compose("logs", "db")
    compose("down")
    compose("up", "-d", "--wait", "db", timeout=200)
    assert rows() == last
    compose("down", "-v")
    assert daemon.docker("volume", "ls", "-q") == ""
