"""The switch between the two image stores: what it hides, what it refuses, and that everything is there on return."""

import json
import subprocess
import time
from collections.abc import Generator
from pathlib import Path

import pytest
from e2e.conftest import MakeImage
from support.browser import browser, page_server
from support.daemon import Daemon, running_daemon
from support.images import busybox_image
from support.registry import docker_registry

from lading.testing.registry import FakeRegistry

pytestmark = [pytest.mark.e2e, pytest.mark.stores("containerd", "classic", itself=True)]
BUSY = ("sh", "-c", "trap exit TERM; while :; do sleep 0.1; done")


def status(daemon: Daemon) -> dict[str, object]:
    return json.loads(daemon.lading("store", "status", "--json").stdout)


def listed(daemon: Daemon) -> set[str]:
    return set(
        daemon.docker("images", "--no-trunc", "--format", "{{.ID}} {{.Repository}}:{{.Tag}}").splitlines()
    )


def use(daemon: Daemon, store: str, *options: str) -> subprocess.CompletedProcess[str]:
    return daemon.lading("store", "use", store, *options)


def test_there_and_back_again(daemon: Daemon, images: MakeImage) -> None:
    name = images("switch:one", layers=2)
    daemon.docker("pull", name)
    daemon.docker("create", "--name", "modern", "--network", "none", name, "cat", "/layer-0")
    daemon.docker("start", "-a", "modern")
    logs = daemon.docker("logs", "modern")
    assert logs
    modern = listed(daemon)
    assert "driver-type" in daemon.docker("info", "--format", "{{json .DriverStatus}}")

    done = use(daemon, "classic")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "hidden now: 1 image and 1 container\nthe classic image store is in use\n"
    assert listed(daemon) == set()
    assert daemon.docker("ps", "-aq") == ""
    assert daemon.docker("info", "--format", "{{.Driver}}") == "overlay2\n"
    warning = "1 image and 1 container of the containerd image store are hidden"
    assert warning in daemon.run("info").stderr.decode()
    assert warning in daemon.tail()
    found = status(daemon)
    assert (found["Store"], found["HiddenImages"], found["HiddenContainers"]) == ("classic", 1, 1)

    # The classic store: the ID is the config's digest, and what was packed does not stay.
    daemon.docker("pull", name)
    daemon.docker("tag", name, "only:here")
    assert listed(daemon).isdisjoint(modern)
    daemon.docker("create", "--name", "classic", "--network", "none", name, "cat", "/layer-0")
    assert daemon.docker("start", "-a", "classic").strip("0\n") == ""
    classic = listed(daemon)
    trees = json.loads(daemon.docker("image", "inspect", "--format", "{{json .GraphDriver.Data}}", name))
    assert Path(trees["UpperDir"], "layer-0").read_text() == f"{0:064d}"

    # A restart keeps the choice.
    assert daemon.stop() == 0
    daemon.start()
    assert listed(daemon) == classic

    assert use(daemon, "containerd").returncode == 0
    assert listed(daemon) == modern
    assert daemon.docker("ps", "-a", "--format", "{{.Names}}") == "modern\n"
    assert daemon.docker("logs", "modern") == logs
    assert daemon.docker("start", "-a", "modern").strip("0\n") == ""
    found = status(daemon)
    assert (found["Store"], found["HiddenImages"], found["HiddenContainers"]) == ("containerd", 1, 1)
    assert use(daemon, "classic").returncode == 0
    assert listed(daemon) == classic
    assert use(daemon, "classic").stdout == "the classic image store is in use\n"


def test_a_running_container_is_never_orphaned(daemon: Daemon, images: MakeImage) -> None:
    name = images("switch:run")
    daemon.docker("pull", name)
    daemon.docker("run", "-d", "--name", "busy", "--network", "none", name, *BUSY)
    steady = ("--name", "steady", "--restart", "unless-stopped", "--network", "none")
    daemon.docker("run", "-d", *steady, name, *BUSY)
    refused = use(daemon, "classic")
    assert refused.returncode == 1
    assert "busy" in refused.stderr
    assert "--stop" in refused.stderr
    assert status(daemon)["Store"] == "containerd"
    assert daemon.docker("ps", "-q")

    # Not through the configuration either.
    daemon.signal(9)
    assert daemon.process is not None
    daemon.process.wait()
    config = daemon.directory / "daemon.json"
    config.write_text('{"features": {"containerd-snapshotter": false}}')
    daemon.arguments.append(f"--config-file={config}")
    daemon.start(wait=False)
    assert daemon.process.wait(30) == 1
    assert "would be orphaned: " in daemon.tail()
    config.write_text("{}")
    daemon.start()

    assert use(daemon, "classic", "--stop").returncode == 0
    assert daemon.docker("ps", "-aq") == ""
    assert use(daemon, "containerd").returncode == 0
    # The user has not stopped it, so that it comes back with its store, as after a restart of the daemon.
    deadline = time.monotonic() + 20
    while "running" not in daemon.docker("inspect", "--format", "{{.State.Status}}", "steady"):
        assert time.monotonic() < deadline, daemon.tail()
        time.sleep(0.1)
    assert daemon.docker("inspect", "--format", "{{.State.Status}}", "busy") == "exited\n"


@pytest.fixture
def told(tmp_path: Path) -> Generator[Daemon]:
    config = tmp_path / "daemon.json"
    config.write_text('{"features": {"containerd-snapshotter": false}}')
    with running_daemon(f"--config-file={config}") as running:
        yield running


def test_the_configuration_decides(told: Daemon) -> None:
    assert status(told)["Store"] == "classic"
    refused = use(told, "containerd")
    assert refused.returncode == 1
    assert "features.containerd-snapshotter" in refused.stderr


def test_a_store_that_does_not_open_is_left_again(daemon: Daemon) -> None:
    broken = daemon.data_root / "image" / "overlay2" / "repositories.json"
    broken.parent.mkdir(parents=True)
    broken.write_text("no JSON")
    answer = daemon.api("POST", "/lading/store/use?store=classic")
    assert answer == (200, {"Store": "classic", "Restarting": True})
    daemon.wait_ready()
    assert status(daemon)["Store"] == "containerd"
    assert "switch_failed" in daemon.tail()
    assert daemon.stop() == 0
    daemon.start()
    assert status(daemon)["Store"] == "containerd"


def test_the_page_switches(daemon: Daemon, images: MakeImage) -> None:
    name = images("switch:page")
    daemon.docker("pull", name)
    daemon.docker("run", "-d", "--name", "busy", "--network", "none", name, *BUSY)
    with page_server(daemon.host) as url, browser(url) as page:
        page.see_text("#images", name)
        page.find("#tab-settings").click()
        page.see_text("#facts", "containerd")
        assert page.find("#containerd").is_selected()
        page.find("#containerd").click()
        page.find("#apply").click()
        page.see_text("#problem", "busy")
        assert status(daemon)["Store"] == "containerd"
        page.find("#stop").click()
        page.find("#apply").click()
        page.see_text("#applied", "The classic image store is in use.")
        page.see_text("#hidden", "1 image and 1 container, hidden now")
        page.shot("settings")
        page.find("#tab-images").click()
        page.see_text("#images", "There are no images yet.")
        page.find("#tab-settings").click()
        page.find("#containerd").click()
        page.find("#apply").click()
        page.see_text("#applied", "The containerd image store is in use.")
        page.find("#tab-images").click()
        page.see_text("#images", name)
    assert daemon.docker("ps", "-a", "--format", "{{.State}}") == "exited\n"


def test_images_migrate_and_keep_their_digests(daemon: Daemon, images: MakeImage, registry: str) -> None:
    known, local = images("migrate:known", layers=3), "local:1"
    assert use(daemon, "classic").returncode == 0
    daemon.docker("pull", known)
    pulled = daemon.docker("image", "inspect", "--format", "{{index .RepoDigests 0}}", known).strip()
    config = daemon.docker("images", "--no-trunc", "-q", known).strip()
    daemon.docker(
        "run", "--name", "grow", "--network", "none", known, "sh", "-c", "echo grown > /grown; rm /layer-0"
    )
    daemon.docker("commit", "grow", local)
    daemon.docker("rm", "grow")
    refused = daemon.lading("store", "migrate")
    assert "not in use" in refused.stderr
    before = listed(daemon)

    assert use(daemon, "containerd").returncode == 0
    done = daemon.lading("store", "migrate", "--offline", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "Migrated": 2,
        "DigestsKept": 1,
        "Present": 0,
        "Failed": [],
        "NamesTaken": [],
    }
    assert daemon.docker("images", "--no-trunc", "-q", known).strip() == pulled.partition("@")[2]
    assert daemon.docker("run", "--rm", "--network", "none", local, "cat", "/grown") == "grown\n"
    assert daemon.run("run", "--rm", "--network", "none", local, "ls", "/layer-0").returncode
    assert daemon.docker("run", "--rm", "--network", "none", known, "ls", "/layer-0") == "/layer-0\n"
    daemon.docker("save", "-o", str(daemon.directory / "local.tar"), local)

    # The layers that were pulled are not here as they came: that is said, with the remedy.
    missing = daemon.run("save", "-o", str(daemon.directory / "missing.tar"), known)
    assert missing.returncode
    assert b"pull it again" in missing.stderr, missing.stderr

    # What was pulled goes back to its registry under the digest that it came with, though its layers are not kept packed.
    again = f"{registry}/migrate:again"
    daemon.docker("tag", known, again)
    assert pulled.partition("@")[2] in daemon.docker("push", again)

    # A second time there is nothing to do, and a blob that is missing comes with a pull.
    done = daemon.lading("store", "migrate")
    assert done.stdout.startswith("0 images migrated")
    daemon.docker("pull", known)
    daemon.docker("save", "-o", str(daemon.directory / "known.tar"), known)

    assert use(daemon, "classic").returncode == 0
    assert listed(daemon) == before
    assert config in {line.split()[0] for line in before}


def test_images_whose_names_are_taken_migrate_without_them(daemon: Daemon, images: MakeImage) -> None:
    pulled, other, own = images("taken:pulled", layers=2), images("taken:other"), "own:1"
    assert use(daemon, "classic").returncode == 0
    daemon.docker("pull", pulled)
    daemon.docker("tag", pulled, "solo:1")
    daemon.docker("tag", pulled, "solo:2")
    tree = subprocess.run(["tar", "-c", "-C", "/etc", "hostname"], check=True, capture_output=True).stdout
    local = daemon.run("import", "-", own, input=tree).stdout.decode().strip()
    config = daemon.docker("images", "--no-trunc", "-q", "solo:1").strip()

    assert use(daemon, "containerd").returncode == 0
    daemon.docker("pull", other)
    for name in ("solo:1", pulled, own):
        daemon.docker("tag", other, name)
    done = daemon.lading("store", "migrate")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(
        "2 images migrated: 1 with the registry's digests, 1 with a new manifest; 0 were"
    )
    target = daemon.docker("images", "--no-trunc", "-q", "solo:2").strip()
    assert (
        f"name not given: solo:1 means another image here; the one of the classic store is {target[7:19]}"
        in done.stderr
    )
    # An image that kept no name is here all the same: a pulled one by its digest, another one dangling.
    (dangling,) = daemon.docker("images", "--no-trunc", "-q", "--filter", "dangling=true").split()
    assert f"docker tag {dangling[7:19]} NAME" in done.stderr
    daemon.docker("tag", dangling, "own:2")
    daemon.docker("rmi", "solo:2")
    assert daemon.docker("images", "--no-trunc", "-q", "solo:1").strip() != target

    again = json.loads(daemon.lading("store", "migrate", "--json").stdout)
    assert (again["Migrated"], again["Present"]) == (1, 1)  # solo:2 is gone, and comes back
    daemon.docker("rmi", "solo:2")
    assert json.loads(daemon.lading("store", "migrate", "--json").stdout)["Failed"] == []
    taken = {(each["Name"], each["ClassicID"], each["ID"]) for each in again["NamesTaken"]}
    assert taken == {("solo:1", config, target), (pulled, config, target), (own, local, dangling)}


@pytest.mark.parametrize("driver", ["erofs", "overlayfs"])
def test_a_migrated_image_outlives_its_registry(driver: str) -> None:
    with (
        FakeRegistry() as registry,
        docker_registry() as other,
        running_daemon(f"--storage-driver={driver}") as daemon,
    ):
        name = f"{registry.host}/app:1"
        busybox_image(daemon.directory / "app", name, layers=2)
        assert use(daemon, "classic").returncode == 0
        daemon.docker("pull", name)
        config = json.loads(daemon.docker("image", "inspect", name))[0]
        assert use(daemon, "containerd").returncode == 0
        assert daemon.lading("store", "migrate").returncode == 0
        registry.repository("app").blobs.clear()
        daemon.docker("run", "--name", "work", "--network", "none", name, "sh", "-c", "echo done > /work")
        daemon.docker("commit", "work", "work:1")
        daemon.docker("rm", "work")
        for each in (name, "work:1"):
            saved = daemon.directory / "saved.tar"
            daemon.docker("save", "-o", str(saved), each)
            copy = f"{other}/{each.rpartition('/')[2]}"
            daemon.docker("tag", each, copy)
            assert "layers were packed anew" in daemon.docker("push", copy)
            daemon.docker("rmi", each, copy)
            assert f"Loaded image: {each}" in daemon.docker("load", "-i", str(saved))
            look = ("run", "--rm", "--network", "none")
            assert daemon.docker(*look, each, "ls", "/layer-0") == "/layer-0\n"
            daemon.docker("rmi", each)
            daemon.docker("pull", copy)
            assert daemon.docker(*look, copy, "ls", "/layer-0") == "/layer-0\n"
            if each == name and driver == "erofs":  # which keeps the streams, byte for byte
                layers = json.loads(daemon.docker("image", "inspect", copy))[0]["RootFS"]["Layers"]
                assert layers == config["RootFS"]["Layers"]
            if each != name:
                assert daemon.docker(*look, copy, "cat", "/work") == "done\n"
