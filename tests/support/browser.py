"""Debian's Chromium without a window, and the page of ``lading desktop`` in it."""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from support.daemon import SOURCE

_SECONDS = 40
SCREENSHOTS = os.environ.get("LADING_SCREENSHOTS", "")
"""Directory for the screenshots of the documentation; empty for a temporary one."""


@contextlib.contextmanager
def page_server(host: str) -> Generator[str]:
    """``lading desktop`` for a daemon; the URL that it prints."""
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "lading", "desktop", "--host", host],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": SOURCE},
    ) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().removeprefix("Open ").strip()
        finally:
            process.terminate()


class Browser:
    """A browser at one page. Elements are named as a user sees them, or by the names that assistive technology reads."""

    def __init__(self, driver: webdriver.Chrome, shots: Path) -> None:
        self.driver = driver
        self.shots = shots

    def see(self, what: Callable[[], Any], why: str = "") -> Any:
        """Wait until something is there."""
        return WebDriverWait(self.driver, _SECONDS, ignored_exceptions=[Exception]).until(
            lambda _: what(), why
        )

    def find(self, selector: str) -> WebElement:
        """The first visible element of a CSS selector; waits for it."""
        return self.see(
            lambda: next(
                each for each in self.driver.find_elements(By.CSS_SELECTOR, selector) if each.is_displayed()
            ),
            f"{selector} does not show",
        )

    def text(self, selector: str) -> str:
        """The text of an element."""
        return self.driver.find_element(By.CSS_SELECTOR, selector).text

    def see_text(self, selector: str, part: str) -> str:
        """Wait until an element says something; all that it says."""
        self.see(lambda: part in self.text(selector), f"{part!r} does not show in {selector}")
        return self.text(selector)

    def shot(self, name: str, scheme: str = "light") -> Path:
        """A picture of the page in a colour scheme."""
        self.driver.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        )
        path = self.shots / f"{name}.png"
        assert self.driver.save_screenshot(str(path))
        return path

    def background(self) -> str:
        """The page's background as the browser computes it."""
        return str(self.driver.execute_script("return getComputedStyle(document.body).backgroundColor"))

    def requested(self) -> list[str]:
        """Every URL that the page has loaded."""
        return list(
            self.driver.execute_script(
                "return performance.getEntriesByType('resource').map((each) => each.name)"
            )
        )


@contextlib.contextmanager
def browser(url: str) -> Generator[Browser]:
    """Chromium at a URL, with an empty profile."""
    with tempfile.TemporaryDirectory() as scratch:
        options = webdriver.ChromeOptions()
        options.binary_location = "/usr/bin/chromium"
        for argument in (
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--window-size=1280,860",
            f"--user-data-dir={scratch}/profile",
        ):
            options.add_argument(argument)
        driver = webdriver.Chrome(options, webdriver.ChromeService("/usr/bin/chromedriver"))
        shots = Path(SCREENSHOTS or scratch)
        shots.mkdir(parents=True, exist_ok=True)
        try:
            driver.get(url)
            yield Browser(driver, shots)
        finally:
            driver.quit()
