"""A headless chromium, as Debian packages it and its driver."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

REPOSITORY = Path(__file__).parents[2]
FLAGS = """
--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync --window-size=1600,1200
"""


class Browser(NamedTuple):
    """Paths of its two programs."""

    chromium: str
    driver: str


def find_browser() -> Browser:
    """The installed one. Without one the test skips, but in CI, which must not lose it unnoticed, it fails."""
    paths = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in paths:
        reason = "chromium or chromedriver is missing; tests/install.sh installs both on Debian"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    return Browser(*map(str, paths))


@contextmanager
def opened(installed: Browser, address: str, profile: Path, name: str, *, network: bool = False) -> Iterator[Chrome]:
    """A page in a fresh browser; a screenshot of how the test left it is kept for people, passed or not.

    Args:
        installed: the browser.
        address: of the page.
        profile: folder for what the browser keeps.
        name: of the screenshot.
        network: keep a log of what the page asks for, ``performance``.
    """
    artifacts = Path(os.environ.get("ARTIFACTS_DIR") or REPOSITORY / "artifacts")
    artifacts.mkdir(parents=True, exist_ok=True)
    options = ChromeOptions()
    options.binary_location = installed.chromium
    for flag in (*FLAGS.split(), f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", **({"performance": "ALL"} if network else {})})
    # With both paths given, selenium looks for nothing to download.
    with Chrome(options=options, service=Service(executable_path=installed.driver)) as browser:
        try:
            browser.get(address)
            yield browser
        finally:
            browser.save_screenshot(str(artifacts / f"{name}.png"))
