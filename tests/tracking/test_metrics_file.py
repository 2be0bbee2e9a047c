import json
import math

import pytest

from orchestrator.core.run_directory import read_json_lines
from orchestrator.tracking.client import clean_key
from orchestrator.tracking.cursor import Cursor
from orchestrator.tracking.metrics_file import Point, cut_half_line, encode_line, read_stretch, trim_metrics


def write(run_directory, steps, **metrics):
    with run_directory.metrics_file.open("ab") as stream:
        for step in steps:
            stream.write(encode_line(step, 1.5, metrics or {"loss": step / 2}))


def steps_of(run_directory):
    return [line["step"] for line in read_json_lines(run_directory.metrics_file)]


def test_a_line_holds_step_time_and_metrics(run_directory):
    write(run_directory, [7], loss=0.25, samples=128)
    line = run_directory.metrics_file.read_text()
    assert json.loads(line) == {"step": 7, "time": 1.5, "loss": 0.25, "samples": 128}
    stretch = read_stretch(run_directory.metrics_file, 0, 100)
    assert stretch == ([Point("loss", 0.25, 1500, 7), Point("samples", 128.0, 1500, 7)], len(line), 7)


def test_values_that_json_has_not_stay_visible(run_directory):
    write(run_directory, [1], a=math.nan, b=math.inf, c=-math.inf, d=None, e=[1], f=10**400)
    line = json.loads(run_directory.metrics_file.read_text(), parse_constant=pytest.fail)
    assert (line["a"], line["b"], line["c"]) == ("NaN", "Infinity", "-Infinity")
    values = {point.key: point.value for point in read_stretch(run_directory.metrics_file, 0, 100).points}
    assert values.keys() == {"a", "b", "c"}
    assert math.isnan(values["a"])
    assert (values["b"], values["c"]) == (math.inf, -math.inf)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("eval/top-5 acc.", "eval/top-5 acc."),
        ("größe", "größe"),
        ("loss[0]{x}", "loss_0__x_"),
        ("/a//b/", "a/b"),
        ("a/../b/.", "a/__/b/_"),
        ("///", "_"),
        ("", "_"),
        ("x" * 300, "x" * 250),
        ("x" * 249 + "/y", "x" * 249),
    ],
)
def test_names_become_what_mlflow_takes(name, key):
    from mlflow.utils.validation import _validate_metric_name

    assert clean_key(name) == key
    _validate_metric_name(clean_key(name))


def test_metrics_named_like_our_own_fields_do_not_replace_them():
    line = json.loads(encode_line(3, 1.5, {"step": 9, "time": 8, "/step": 7}))
    assert (line["step"], line["time"], line["time_"], line["step_"]) == (3, 1.5, 8, 7)


def test_reading_stops_at_the_limit_and_at_a_half_line(run_directory):
    write(run_directory, range(5), a=1, b=2)
    with run_directory.metrics_file.open("ab") as stream:
        stream.write(b'{"step": 5, "ti')
    first = read_stretch(run_directory.metrics_file, 0, 3)
    assert [point.step for point in first.points] == [0, 0, 1, 1]
    rest = read_stretch(run_directory.metrics_file, first.end, 1000)
    assert [point.step for point in rest.points] == [2, 2, 3, 3, 4, 4]
    assert read_stretch(run_directory.metrics_file, rest.end, 1000) == ([], rest.end, -1)


def test_a_damaged_line_does_not_block_the_queue(run_directory):
    write(run_directory, [1])
    with run_directory.metrics_file.open("ab") as stream:
        stream.write(b"\0\0\0\n[1]\n{}\n")
    write(run_directory, [2])
    assert [point.step for point in read_stretch(run_directory.metrics_file, 0, 100).points] == [1, 2]


def test_a_missing_file_is_empty(run_directory):
    assert read_stretch(run_directory.metrics_file, 0, 10) == ([], 0, -1)
    assert trim_metrics(run_directory, 0) == 0
    cut_half_line(run_directory.metrics_file)
    assert not run_directory.metrics_file.exists()


def test_a_crash_at_any_byte_leaves_whole_lines(run_directory):
    write(run_directory, [1, 2])
    whole = run_directory.metrics_file.read_bytes()
    first_line = whole.index(b"\n") + 1
    for size in range(len(whole) + 1):
        run_directory.metrics_file.write_bytes(whole[:size])
        cut_half_line(run_directory.metrics_file)
        kept = len(whole) if size == len(whole) else first_line if size >= first_line else 0
        assert run_directory.metrics_file.read_bytes() == whole[:kept]


@pytest.mark.parametrize(("last_step", "kept"), [(0, []), (4, [1, 2, 3, 4]), (99, [1, 2, 3, 4, 5, 6])])
def test_trim_keeps_the_steps_of_the_checkpoint(run_directory, last_step, kept):
    write(run_directory, range(1, 7))
    with run_directory.metrics_file.open("ab") as stream:
        stream.write(b'{"step": 3, "time"')
    assert trim_metrics(run_directory, last_step) == 6 - len(kept) + 1
    assert steps_of(run_directory) == kept
    assert [path.name for path in run_directory.root.iterdir()] == ["metrics.jsonl"]


def test_trim_moves_the_cursor_back_to_what_is_left(run_directory):
    write(run_directory, range(1, 4))
    after_three = run_directory.metrics_file.stat().st_size
    write(run_directory, range(4, 9))
    whole = run_directory.metrics_file.stat().st_size
    Cursor(run_id="r", offset=whole, step=8).save(run_directory)
    trim_metrics(run_directory, 3)
    assert Cursor.load(run_directory) == Cursor(run_id="r", offset=after_three, step=8)


def test_trim_leaves_a_cursor_that_is_before_the_cut(run_directory):
    write(run_directory, [1])
    cursor = Cursor(run_id="r", offset=run_directory.metrics_file.stat().st_size, step=1)
    cursor.save(run_directory)
    write(run_directory, range(2, 9))
    trim_metrics(run_directory, 5)
    assert Cursor.load(run_directory) == cursor
    assert steps_of(run_directory) == [1, 2, 3, 4, 5]


def test_a_cursor_of_another_run_does_not_count(run_directory):
    Cursor(run_id="old", offset=100, step=8).save(run_directory)
    assert Cursor.load(run_directory, "new") == Cursor(run_id="new")
    assert Cursor.load(run_directory, "old") == Cursor(run_id="old", offset=100, step=8)
