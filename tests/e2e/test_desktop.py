"""The page in a real browser: clicked through, with the keyboard too, in light and dark."""

from collections.abc import Generator

import pytest
from e2e.conftest import MakeImage
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from support.browser import Browser, browser, page_server
from support.daemon import Daemon

pytestmark = pytest.mark.e2e


@pytest.fixture
def page(daemon: Daemon) -> Generator[Browser]:
    with page_server(daemon.host) as url, browser(url) as opened:
        yield opened


def test_an_image_is_pulled_looked_at_and_deleted(page: Browser, daemon: Daemon, images: MakeImage) -> None:
    name = images("page:one", layers=3)
    page.see_text("#images", "There are no images yet.")

    page.find("#pull-name").send_keys(name, Keys.ENTER)
    page.see_text("#pull-status", "Downloaded newer image")
    assert page.text("#pull-layers").count("Pull complete") == 3
    page.see_text("#images", name)

    twist = page.find("#images .twist")
    assert twist.get_attribute("aria-expanded") == "false"
    twist.send_keys(Keys.SPACE)
    assert "linux/amd64" in page.see_text("#images li ul", "linux/s390x")
    assert "not pulled" in page.text("#images .absent")
    light = page.background(), page.shot("images").read_bytes()
    dark = page.background(), page.shot("images-dark", "dark").read_bytes()
    assert light[1] != dark[1]
    assert page.background() != light[0]

    page.find(f"[aria-label='Delete {name}']").click()
    page.find("#confirm button[value=cancel]").send_keys(Keys.ENTER)
    assert daemon.docker("image", "ls", "-q")
    page.find(f"[aria-label='Delete {name}']").click()
    page.find("#confirm-ok").click()
    page.see_text("#images", "There are no images yet.")
    assert not daemon.docker("image", "ls", "-q")


def test_a_pull_that_fails_says_why(page: Browser, registry: str) -> None:
    page.find("#pull-name").send_keys(f"{registry}/nothing/here:1", Keys.ENTER)
    assert "nothing/here" in page.see_text("#problem", "not")
    assert page.text("#pull-status") == "failed"


def test_what_a_daemon_was_away_for_shows_when_it_is_back(
    page: Browser, daemon: Daemon, images: MakeImage
) -> None:
    name = images("page-away:one")
    daemon.docker("pull", name)
    page.see_text("#images", name)
    daemon.stop()
    page.find("#tab-images").click()
    page.see_text("#problem", "cannot reach the Lading daemon")
    daemon.start()
    page.see(lambda: page.text("#problem") == "")
    assert "Lading" in page.text("#engine")
    assert name in page.text("#images")


def test_unused_images_are_removed(page: Browser, daemon: Daemon, images: MakeImage) -> None:
    name = images("prune:one")
    daemon.docker("pull", name)
    page.see_text("#images", name)  # told by an event, without a reload
    page.find("#prune").click()
    page.find("#confirm-check").send_keys(Keys.SPACE)
    page.find("#confirm-ok").click()
    page.see_text("#pull-status", "freed")
    page.see_text("#images", "There are no images yet.")
    assert not daemon.docker("image", "ls", "-q")


def test_containers_are_listed_read_stopped_and_started(
    page: Browser, daemon: Daemon, images: MakeImage
) -> None:
    name = images("page-run:one")
    daemon.docker("pull", name)
    script = "echo from the container; echo '<b>bold</b>' >&2; trap exit TERM; while :; do sleep 0.1; done"
    daemon.docker("run", "-d", "--name", "talker", "--network", "none", name, "sh", "-c", script)

    # From tab to tab with the keyboard.
    page.see_text("#images", name)
    page.find("#tab-images").send_keys(Keys.ARROW_RIGHT)
    assert page.driver.switch_to.active_element.get_attribute("id") == "tab-containers"
    page.see_text("#containers", "talker")
    page.find("[aria-label='Logs of talker']").click()
    assert "<b>bold</b>" in page.see_text("#logs-text", "from the container")
    assert not page.driver.find_elements(By.CSS_SELECTOR, "#logs-text b"), "output is text, never markup"
    page.shot("containers")

    page.find("[aria-label='Stop talker']").click()
    page.see_text("#containers", "Exited")
    page.find("[aria-label='Start talker']").click()
    page.see_text("#containers", "Up")
    assert daemon.docker("ps", "-q").strip()
    daemon.docker("rm", "-f", "talker")
    page.see_text("#containers", "There are no containers yet.")


def test_nothing_comes_from_anywhere_else(page: Browser) -> None:
    page.find("#tab-settings").click()
    page.see_text("#facts", "Data root")
    own = page.driver.current_url.partition("/?")[0]
    assert page.requested()
    assert all(each.startswith(f"{own}/") for each in page.requested())
