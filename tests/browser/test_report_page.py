"""The page of `orchestrator report` in a real browser: drawn, silent, in both themes."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser.chromium import Browser, find_browser, opened
from cli.conftest import RECIPE, SPEC
from cli.page_jobs import write_finished_job
from selenium.webdriver import Chrome

from orchestrator.cli.main import main
from orchestrator.launch.prepare import prepare
from orchestrator.spec.load import load_spec

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]
NUM_PICTURES = 11
DRAWN = """
return [...document.querySelectorAll('figure svg')].map(svg => {
  const frame = svg.getBoundingClientRect();
  const marks = [...svg.querySelectorAll('path, use, image')].map(mark => mark.getBoundingClientRect());
  const inside = marks.filter(m => m.width + m.height > 0 && m.left >= frame.left - 1 && m.right <= frame.right + 1);
  return {title: svg.querySelector('title').textContent, width: frame.width, height: frame.height,
          marks: inside.length};
});
"""
COLORS = """
const style = element => getComputedStyle(element);
const label = [...document.querySelectorAll('svg text')].find(text => text.textContent === 'loss (log)');
const line = [...document.querySelectorAll('svg path')].find(path => path.style.stroke === 'var(--c0)');
return [style(document.body).backgroundColor, style(label).fill, style(line).stroke];
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("job")
    (folder / "recipe.py").write_text(RECIPE)
    (folder / "job.yaml").write_text(SPEC)
    write_finished_job(prepare(load_spec(folder / "job.yaml"), folder / "runs").run_directory)
    assert main(["report", "tiny", "--storage", str(folder / "runs")]) == 0
    return (folder / "runs" / "tiny" / "report.html").as_uri()


@pytest.fixture(scope="module")
def installed() -> Browser:
    return find_browser()


@pytest.fixture
def page(installed: Browser, address: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Chrome]:
    with opened(installed, address, tmp_path / "profile", request.node.name, network=True) as browser:
        yield browser


def test_every_picture_is_drawn_and_the_page_is_silent(page: Chrome, address: str) -> None:
    drawn = page.execute_script(DRAWN)
    assert len(drawn) == NUM_PICTURES
    for picture in drawn:
        assert picture["width"] > 500, picture
        assert picture["height"] > 100, picture
        assert picture["marks"] > 10, picture
    assert page.get_log("browser") == []  # type: ignore[no-untyped-call]  # selenium left this one untyped
    assert requests(page, address) == {address}


def requests(page: Chrome, address: str) -> set[str]:
    """What the page asked anybody for, but for what it holds itself; the browser's own first page does not count."""
    entries = page.get_log("performance")  # type: ignore[no-untyped-call]  # selenium left this one untyped
    messages = [json.loads(entry["message"])["message"] for entry in entries]
    asked = [message["params"] for message in messages if message["method"] == "Network.requestWillBeSent"]
    urls = [request["request"]["url"] for request in asked if request["documentURL"] == address]
    return {url for url in urls if not url.startswith("data:")}


def test_ground_words_and_lines_follow_the_theme(page: Chrome) -> None:
    shown = {}
    for theme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": theme}]
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        shown[theme] = page.execute_script(COLORS)
    assert shown["light"] == ["rgb(255, 255, 255)", "rgb(31, 36, 48)", "rgb(10, 99, 201)"]
    assert shown["dark"] == ["rgb(20, 23, 28)", "rgb(230, 232, 236)", "rgb(109, 177, 255)"]


def test_a_narrow_window_scrolls_pictures_and_not_the_page(page: Chrome) -> None:
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    )
    wide = page.execute_script("return document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide == 0
