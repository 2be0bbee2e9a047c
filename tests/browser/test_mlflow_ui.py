"""What a user sees of a run: a real MLflow page in a real headless chromium, as Debian packages both parts of it."""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from browser.chromium import REPOSITORY, Browser, find_browser, opened
from selenium.common.exceptions import (
    ElementClickInterceptedException,
    ElementNotInteractableException,
    NoSuchElementException,
    StaleElementReferenceException,
)
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from orchestrator.core.errors import OutOfReachError
from orchestrator.core.run_directory import RunDirectory, read_json_lines
from orchestrator.tracking.client import open_client
from orchestrator.tracking.uri import check_reachable

# Generous: Ray, MLflow and chromium start one after the other, on few and busy cores.
pytestmark = [pytest.mark.browser, pytest.mark.ray, pytest.mark.timeout(900)]

BIN = Path(sys.executable).parent
WAIT_S = 240
"""Longest wait for one thing to appear on a page."""

SPEC = """
name: digits-lamb
recipe: {target: 'tiny.py:Digits'}
train: {steps: 20, eval_every: 10}
batch: {global_size: 48}
optimizer: {name: lamb, lr: 0.01}
resources: {workers: 1}
"""
FOREIGN_SETTINGS = ("MLFLOW_TRACKING_URI", "ORCHESTRATOR_STORAGE", "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
"""What a developer's shell may hold and must not reach the job."""

HARMLESS = (
    "/mlflow/users/current",  # 404: MLflow asks who is logged in, and a server without accounts does not know
    "ResizeObserver loop",  # a layout that needed a second frame
)

CURVE = """
const cards = [...document.querySelectorAll('[data-testid=experiment-view-compare-runs-card]')];
const plot = cards[0]?.querySelector('.js-plotly-plot');
const line = plot?.querySelector('.lines path.js-line');
if (cards.length !== 1 || !line) return null;
const {x, y} = plot.data[0];
const {width, height} = line.getBoundingClientRect();
const num_points = plot.querySelector('.points').childElementCount;
return {title: cards[0].innerText.split('\\n')[0], steps: [...x], losses: [...y], num_points, width, height};
"""
"""What the only chart on the page draws, once it is drawn: read at one blow, because the page renews its elements."""

NOT_YET = (
    NoSuchElementException,
    StaleElementReferenceException,
    ElementNotInteractableException,
    ElementClickInterceptedException,
)
"""How an element answers that is still being built."""


@pytest.fixture(scope="module")
def installed() -> Browser:
    return find_browser()


class Job(NamedTuple):
    directory: RunDirectory
    output: str


@pytest.fixture(scope="module")
def job(installed: Browser, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """Twenty steps of LAMB, run as a user runs them."""
    folder = tmp_path_factory.mktemp("job")
    shutil.copy(REPOSITORY / "tests" / "recipes" / "tiny.py", folder)
    (folder / "job.yaml").write_text(SPEC, encoding="utf-8")
    storage = tmp_path_factory.mktemp("storage")
    process = subprocess.run(
        [BIN / "orchestrator", "run", folder / "job.yaml", "--storage", storage],
        env={name: value for name, value in os.environ.items() if name not in FOREIGN_SETTINGS},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return Job(RunDirectory(storage / "digits-lamb"), process.stdout)


@contextmanager
def serving(command: str, folder: Path) -> Iterator[str]:
    """The address of the page that a command for users brings up, on a free port; its processes end with the block."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log_file = folder / "mlflow.log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [*shlex.split(command), "--port", str(port), "--workers", "1"],
            cwd=folder,
            env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    uri = f"http://127.0.0.1:{port}"
    try:
        while not answers(uri):
            assert process.poll() is None, log_file.read_text()
            time.sleep(0.5)
        yield uri
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def answers(uri: str) -> bool:
    try:
        check_reachable(uri, 5)
    except OutOfReachError:
        return False
    return True


@pytest.fixture(scope="module")
def run_address(job: Job, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The run's page at a server that is started by the very command that ``orchestrator run`` ends with."""
    told = re.search(r"^open MLflow +(mlflow ui .+)$", job.output, re.MULTILINE)
    assert told, job.output
    run_id = job.directory.read_state()["mlflow_run_id"]
    with serving(told[1], tmp_path_factory.mktemp("ui")) as uri:
        experiment_id = open_client(uri).get_run(run_id).info.experiment_id
        yield f"{uri}/#/experiments/{experiment_id}/runs/{run_id}"


@pytest.fixture
def page(installed: Browser, run_address: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Chrome]:
    """The run's page in a fresh browser."""
    with opened(installed, run_address, tmp_path / "profile", request.node.name) as browser:
        yield browser


def once_there(page: Chrome, xpath: str, act: Callable[[WebElement], object]) -> None:
    """Do something with an element of the page as soon as that is possible."""

    def tried(browser: Chrome) -> bool:
        act(browser.find_element(By.XPATH, xpath))
        return True

    WebDriverWait(page, WAIT_S, ignored_exceptions=NOT_YET).until(tried, f"not on the page: {xpath}")


def scroll_to(element: WebElement) -> None:
    element.parent.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)


def console_errors(page: Chrome) -> list[str]:
    entries = page.get_log("browser")  # type: ignore[no-untyped-call]  # selenium left this one untyped
    severe = [str(entry["message"]) for entry in entries if entry["level"] == "SEVERE"]
    return [message for message in severe if not any(text in message for text in HARMLESS)]


def test_the_run_page_shows_the_parameters(page: Chrome) -> None:
    for name, value in {"batch.global_size": "48", "train.steps": "20", "optimizer.name": "lamb"}.items():
        once_there(page, f"//*[@role='row'][*[1]='{name}'][*[2]='{value}']", scroll_to)
    assert console_errors(page) == []


def test_the_run_page_draws_the_loss_curve(page: Chrome, job: Job) -> None:
    once_there(page, "//*[@role='tab'][.='Model metrics']", lambda tab: tab.click())
    once_there(page, "//input[@placeholder='Search metric charts']", lambda field: field.send_keys("^loss$"))
    drawn = WebDriverWait(page, WAIT_S).until(lambda browser: browser.execute_script(CURVE), "no single curve drawn")
    lines = list(read_json_lines(job.directory.metrics_file))
    assert drawn["title"] == "loss"
    assert drawn["steps"] == [line["step"] for line in lines] == list(range(1, 21))
    assert drawn["losses"] == [line["loss"] for line in lines]
    assert drawn["num_points"] == 20
    assert min(drawn["width"], drawn["height"]) > 100, "a curve in pixels that nobody sees"
    assert console_errors(page) == []
