"""`orchestrator report`: what the page says and draws, taken apart as a browser would; tests/browser opens one too."""

import json
import re
import shutil
import webbrowser
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from cli.conftest import RECIPE, SPEC, Command
from cli.page_jobs import LAYERS, write_event, write_finished_job, write_metrics

from orchestrator.cli.page.charts import Heat, anchor
from orchestrator.cli.page.command import charts_of
from orchestrator.cli.page.drawing import themes
from orchestrator.cli.page.html import DARK
from orchestrator.cli.page.html import page_of as render
from orchestrator.cli.page.record import read_record
from orchestrator.core.run_directory import RunDirectory
from orchestrator.launch.prepare import prepare
from orchestrator.spec.load import load_spec
from orchestrator.tracking.client import open_client
from orchestrator.tracking.run import open_run

TITLES = [
    "Loss",
    "Accuracy",
    "Perplexity",
    "Batch and learning rate",
    "Gradient noise scale",
    "Trust ratios",
    "Trust ratio of each layer",
    "Delay of pushes",
    "Speed",
    "Time of each rank in a step",
    "Time of each rank over the training",
]
SVG = "{http://www.w3.org/2000/svg}"
SWEEP = SPEC + "resources: {workers: 2}\nexchange: coded\nsweep: {optimizer.lr: [0.1, 0.2]}\n"
SCRIPT = "name: tiny\nscript: {path: train.py}\n"


class Page(HTMLParser):
    """Texts by tag, all attributes, and the pictures as trees."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.text = text
        self.feed(text)
        self.pictures = [ElementTree.fromstring(found) for found in re.findall(r"<svg.*?</svg>", text, re.DOTALL)]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self._open.append(tag)
        self.texts.setdefault(tag, []).append("")

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts[self._open[-1]][-1] += data

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def cells(self) -> list[str]:
        return self.texts.get("td", [])

    def summary(self) -> dict[str, str]:
        return dict(zip(self.texts["dt"], self.texts["dd"], strict=True))


@pytest.fixture
def make_job(spec: Path, storage: Path) -> Callable[..., RunDirectory]:
    def make(text: str = SPEC) -> RunDirectory:
        spec.write_text(text)
        (spec.parent / "train.py").write_text("")
        return prepare(load_spec(spec), storage).run_directory

    return make


@pytest.fixture
def finished(make_job: Callable[..., RunDirectory]) -> RunDirectory:
    run = make_job()
    write_finished_job(run)
    return run


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The finished job's page, drawn once for all tests that look at it."""
    folder = tmp_path_factory.mktemp("job")
    (folder / "recipe.py").write_text(RECIPE)
    (folder / "job.yaml").write_text(SPEC)
    run = prepare(load_spec(folder / "job.yaml"), folder / "runs").run_directory
    write_finished_job(run)
    record = read_record(run, run.read_state(), 1e10)
    return Page(render(record, charts_of(record)))


def page_of(cli: Command, storage: Path) -> Page:
    answer = cli("report", "tiny", "--storage", storage)
    assert answer.code == 0, answer.err
    return Page((storage / "tiny" / "report.html").read_text(encoding="utf-8"))


def texts_in(picture: ElementTree.Element) -> list[str]:
    return ["".join(text.itertext()) for text in picture.iter(f"{SVG}text")]


def test_everything_that_was_recorded_has_a_picture(cli: Command, storage: Path, finished: RunDirectory) -> None:
    page = page_of(cli, storage)
    assert page.texts["h2"][: len(TITLES)] == TITLES
    assert page.texts["h2"][len(TITLES) :] == ["Attempts and cost", "Decisions about the batch", "Stragglers"]
    assert [picture.find(f"{SVG}title").text for picture in page.pictures] == TITLES
    for picture in page.pictures:
        assert len(list(picture.iter(f"{SVG}path"))) > 5, "nothing is drawn"
        assert picture.get("role") == "img"
    png = (finished.root / "report.png").read_bytes()
    assert png.startswith(b"\x89PNG")


def test_axes_have_units_and_the_text_tells_the_curve(page: Page) -> None:
    by_title = dict(zip(TITLES, page.pictures, strict=True))
    assert {"loss (log)", "step", "training", "evaluation", "resumed"} <= set(texts_in(by_title["Loss"]))
    assert {"batch (samples)", "learning rate", "decided"} <= set(texts_in(by_title["Batch and learning rate"]))
    assert {"rank 2 on node-b", "median, named as slow"} <= set(texts_in(by_title["Time of each rank in a step"]))
    assert "rank 2 (named as slow)" in texts_in(by_title["Time of each rank over the training"])
    assert set(LAYERS) <= set(texts_in(by_title["Trust ratio of each layer"]))
    words = by_title["Loss"].find(f"{SVG}desc").text
    assert "training: first 2 at step 1, lowest 0.03333 at step 60, highest 2 at step 1, last 0.03333" in words
    assert not [text for picture in page.pictures for text in texts_in(picture) if "$\\" in text]


def test_the_summary_the_attempts_and_the_decisions(page: Page) -> None:
    summary = page.summary()
    assert (summary["loss"], summary["eval/accuracy"], summary["batch"]) == ("0.03333", "0.9", "64")
    assert summary["slowest worker"].startswith("rank 2 on node-b, 2.7x the median")
    # 600 s and 1,200 s of three workers.
    assert summary["cost"] == "1.5 worker-hours"
    cells = page.cells()
    assert cells[:8] == ["1", "2026-09-21 14:14:20", "10 min 00 s", "3", "0.5", "0", "worker_lost", "rank 1 died"]
    assert cells[8:16][4:] == ["1", "30", "succeeded", "finished 60 steps"]
    assert cells[16:20] == ["20", "64", "0.01", "1 x noise scale <raised>"]
    assert "All 1 change; 2 decisions in all" in page.text
    assert cells[20:] == ["rank 2", "node-b", "named as slow", "31", "2.70", "21"]


def test_nothing_is_asked_of_any_machine(page: Page) -> None:
    for tag, name, value in page.attributes:
        if name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
            assert value.startswith(("#", "data:")), f"<{tag} {name}={value[:60]}>"
    assert not {"script", "iframe", "object", "embed"} & page.texts.keys()
    assert "@import" not in page.text
    assert set(re.findall(r"url\((.)", page.text)) == {"#"}
    policy = next(value for tag, name, value in page.attributes if (tag, name) == ("meta", "content"))
    assert policy.startswith("default-src 'none'")


def test_names_within_the_page_are_there_and_unique(page: Page) -> None:
    names = [value for _, name, value in page.attributes if name == "id"]
    assert len(names) == len(set(names))
    wanted = re.findall(r"url\(#([^)]+)\)", page.text)
    wanted += [value[1:] for _, name, value in page.attributes if name.endswith("href") and value.startswith("#")]
    wanted += [value for _, name, value in page.attributes if name in ("aria-labelledby", "aria-describedby")]
    assert set(wanted) <= set(names)


def luminance(color: str) -> float:
    parts = np.array([int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)])
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize(("colors", "ground"), [(themes(), "#ffffff"), (DARK, "#14171c")], ids=["light", "dark"])
def test_text_and_lines_can_be_read_on_both_grounds(colors: dict[str, str], ground: str) -> None:
    assert colors.keys() == themes().keys()
    for name, color in colors.items():
        lighter, darker = sorted((luminance(color), luminance(ground)), reverse=True)
        # WCAG 2, of text; grid lines only have to be there.
        assert (lighter + 0.05) / (darker + 0.05) >= (1.2 if name == "grid" else 4.5), name


def test_no_color_is_left_that_would_not_change_with_the_theme(page: Page) -> None:
    without_heat = [p for p, title in zip(page.pictures, TITLES, strict=True) if title != "Trust ratio of each layer"]
    left = {color for p in without_heat for color in re.findall("#[0-9a-f]{6}", ElementTree.tostring(p).decode())}
    assert left == set()


def test_a_job_that_logged_nothing_says_so(cli: Command, storage: Path, make_job: Callable[..., RunDirectory]) -> None:
    make_job()
    page = page_of(cli, storage)
    assert "This job has logged no step yet. Make the page again when it has." in page.text
    assert page.pictures == []
    assert not (storage / "tiny" / "report.png").exists()


def test_a_running_job_costs_up_to_now(
    cli: Command, storage: Path, make_job: Callable[..., RunDirectory], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_job()
    write_event(run, 1_790_000_000.0, "placed", attempt=1, workers=4)
    write_metrics(run)
    run.update_state(phase="running", attempts=1)
    record = read_record(run, run.read_state(), 1_790_003_600.0)
    (attempt,) = record.attempts
    assert (attempt.ending, attempt.worker_hours(record.read_at_s)) == ("goes on", 4.0)


def test_a_failed_job_shows_why(cli: Command, storage: Path, make_job: Callable[..., RunDirectory]) -> None:
    run = make_job()
    write_event(run, 1_790_000_000.0, "placed", attempt=1, workers=2)
    write_event(
        run, 1_790_000_360.0, "gave_up", cause="user_error", rank=1, message="a <b> went wrong", budget="0 of 0"
    )
    run.update_state(phase="failed", reason="user_error", message="a <b> went wrong", attempts=1)
    run.rank_log(1, 1).parent.mkdir(parents=True)
    run.rank_log(1, 1).write_text("rank 1 says\nValueError: <no such thing>\n")
    page = page_of(cli, storage)
    assert page.texts["pre"] == ["rank 1 says\nValueError: <no such thing>"]
    assert page.summary()["message"] == "a <b> went wrong"
    assert "This job has logged no step yet." in page.text
    assert page.cells()[4:8] == ["0.2", "", "user_error", "a <b> went wrong"]


def test_a_sweep_has_all_trials_in_each_picture(
    cli: Command, storage: Path, make_job: Callable[..., RunDirectory]
) -> None:
    run = make_job(SWEEP)
    for number, trial in enumerate(run.trials):
        write_metrics(trial, scale=1.0 + number)
        trial.update_state(phase="succeeded")
    run.update_state(phase="succeeded", attempts=1)
    page = page_of(cli, storage)
    assert page.cells()[:4] == ["0", "0.1", "succeeded", "60"]
    loss = texts_in(page.pictures[0])
    assert [text for text in loss if "trial" in text] == ["trial 0", "trial 1"]
    assert "Of each trial: training solid, evaluation with points." in page.texts["figcaption"]
    words = page.pictures[0].find(f"{SVG}desc").text
    assert "trial 1 training: first 4 at step 1" in words
    assert "trial 1 evaluation: first 0.22 at step 20" in words
    assert page.summary()["trials"] == "2"


def test_a_script_job_says_where_its_metrics_are(
    cli: Command, storage: Path, make_job: Callable[..., RunDirectory]
) -> None:
    run = make_job(SCRIPT)
    write_event(run, 1_790_000_000.0, "placed", attempt=1, workers=1, script="train.py")
    write_event(run, 1_790_007_200.0, "succeeded", reason=None, message="train.py ended")
    run.update_state(phase="succeeded", attempts=1)
    page = page_of(cli, storage)
    assert "This job runs a script: its steps and metrics are its own." in page.text
    assert page.summary()["cost"] == "2 worker-hours"


def test_a_loss_that_is_not_finite_is_told(cli: Command, storage: Path, make_job: Callable[..., RunDirectory]) -> None:
    run = make_job()
    rows = [{"step": 1, "time": 1.0, "loss": 0.5}, {"step": 2, "time": 2.0, "loss": "NaN"}]
    run.metrics_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = page_of(cli, storage)
    assert "The loss was not finite in 1 logged step; pictures leave these out." in page.text
    assert "1 value not finite, from step 2 on." in page.pictures[0].find(f"{SVG}desc").text
    run.metrics_file.write_text(json.dumps(rows[1]) + "\n")
    assert page_of(cli, storage).pictures == []


def test_more_layers_than_fit_are_those_of_the_widest_range(make_job: Callable[..., RunDirectory]) -> None:
    run = make_job()
    for step in (1, 2):
        ratios = {f"trust_ratio/layer{k}": (1.0 + k) ** step if k else 0.0 for k in range(50)}
        with run.metrics_file.open("a") as stream:
            stream.write(json.dumps({"step": step, "time": 1.0, "loss": 1.0, **ratios}) + "\n")
    (heat,) = (chart for chart in charts_of(read_record(run, run.read_state(), 0.0)) if isinstance(chart, Heat))
    # A ratio of 0 cannot be shown on a logarithmic scale.
    assert heat.labels == [f"layer{k}" for k in range(10, 50)]
    assert heat.values.tolist() == [[1.0 + k, (1.0 + k) ** 2] for k in range(10, 50)]
    assert anchor(heat) == "trust-ratio-of-each-layer"


def test_another_file_is_not_replaced_without_force(
    cli: Command, storage: Path, finished: RunDirectory, tmp_path: Path
) -> None:
    target = tmp_path / "mine.html"
    answer = cli("report", "tiny", "--storage", storage, "--output", target)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out == f"page     {target}\npicture  {target.with_suffix('.png')}\n"
    assert not (finished.root / "report.html").exists()
    answer = cli("report", "tiny", "--storage", storage, "--output", target)
    assert (answer.code, answer.err) == (
        2,
        f"error: --output: {target} exists; name another file, or replace it with --force.\n",
    )
    answer = cli("report", "tiny", "--storage", storage, "--output", target, "--force", "--json")
    assert answer.code == 0
    assert json.loads(answer.out) == {
        "page": str(target),
        "picture": str(target.with_suffix(".png")),
        "mlflow_artifacts": None,
    }
    answer = cli("report", "tiny", "--storage", storage, "--output", tmp_path / "mine.pdf")
    assert answer.code == 2
    assert "must end in .html" in answer.err


def test_open_shows_the_page(
    cli: Command, storage: Path, finished: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda address: bool(shown.append(address)))
    answer = cli("report", "tiny", "--storage", storage, "--open")
    page = finished.root / "report.html"
    assert shown == [page.as_uri()]
    assert answer.err == f"--open: no browser was found here; open {page} in one.\n"


def test_page_and_picture_become_artifacts_of_the_run(
    cli: Command, storage: Path, finished: RunDirectory, tmp_path: Path
) -> None:
    uri = f"sqlite:///{tmp_path / 'history' / 'mlflow.db'}"
    run_id = open_run(uri, "digits", "tiny", {}, {}, artifact_root=tmp_path / "artifacts")
    finished.update_state(tracking_uri=uri, mlflow_run_id=run_id)
    answer = cli("report", "tiny", "--storage", storage)
    assert answer.out.endswith(f"MLflow artifacts  report/ of run {run_id}\n")
    stored = {item.path for item in open_client(uri).list_artifacts(run_id, "report")}
    assert stored == {"report/report.html", "report/report.png"}
    shutil.rmtree(tmp_path / "history")
    answer = cli("report", "tiny", "--storage", storage)
    assert answer.code == 0
    assert answer.err.startswith("not kept in MLflow: ")
    assert not (tmp_path / "history").exists(), "a report must not make a database"
