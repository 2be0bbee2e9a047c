"""Branches inside a training: they train as a loop of plain torch would, and nothing of them stays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from gloo import run_on_ranks
from support import ListTracker, assert_same_weights, export_here, job_here, make_run_directory, tiny_by_hand, tiny_spec
from torch.nn import functional as F

from orchestrator.core.run_directory import RunDirectory
from orchestrator.train.loop import train

STEPS, BATCH = 8, 48
PROBE = {"name": "cbs_probe", "every_samples": 2 * BATCH, "branch_samples": 8 * BATCH, "max_size": 2 * BATCH}
NEVER, ALWAYS = {**PROBE, "tolerance": 0.0, "coupling": "none"}, {**PROBE, "tolerance": 10.0}
"""Half as many updates at the same rate end above the others early in a training; and any loss will do."""


def prepared(root: Path, workers: int = 1, controller: dict[str, Any] | None = None, **sections: Any) -> RunDirectory:
    batch = {"global_size": BATCH, "micro_size": 16, "controller": controller or {"name": "constant"}}
    return make_run_directory(
        root, tiny_spec(train={"steps": STEPS}, resources={"workers": workers}, batch=batch, **sections)
    )


def run(root: str) -> tuple[list[dict[str, Any]], dict[str, list[dict[str, Any]]]]:
    """Train as this process's rank; lines, and events by name."""
    tracker = ListTracker()
    job = job_here(root, tracker)
    with closing(job.data):
        train(job)
    export_here(job, root)
    events: dict[str, list[dict[str, Any]]] = {}
    for name, fields in tracker.events:
        events.setdefault(name, []).append(fields)
    return tracker.lines, events


BATCH_NORM = "batch norm, dropout and a clip by quantiles"
CASES: dict[str, dict[str, Any]] = {
    "sgd": {},
    BATCH_NORM: {
        "recipe": {"target": "tiny.py:Digits", "args": {"batch_norm": True, "dropout": 0.3}},
        "optimizer": {"name": "adamw", "lr": 0.01},
        "train": {"steps": STEPS, "auto_clip": {"quantile": 0.5}},
    },
    "an optimizer that looks at layers": {"optimizer": {"name": "lamb", "lr": 0.02}},
    "an optimizer with numbers of its own": {"optimizer": {"name": "prodigy", "d0": 0.001}},
    "the gradient's variance": {"modulators": [{"name": "vrgd"}]},
    "measured modules": {"modulators": [{"name": "agvm", "every": 1, "decay": 0.5}]},
}


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("engine", "workers", "case"),
    [
        *(("ddp", 1, case) for case in CASES),
        *(("ddp", 2, case) for case in (BATCH_NORM, "measured modules", "the gradient's variance")),
        *(("fsdp2", 2, case) for case in (BATCH_NORM, "an optimizer that looks at layers")),
    ],
)
def test_a_training_whose_batch_stays_is_to_the_last_bit_the_one_without_probes(
    tmp_path: Path, engine: str, workers: int, case: str
) -> None:
    sections = {**CASES[case], "engine": {"name": engine}}
    train_section = sections.pop("train", {"steps": STEPS})
    probed, plain = (
        make_run_directory(
            tmp_path / name,
            tiny_spec(
                train=train_section,
                resources={"workers": workers},
                batch={"global_size": BATCH, "micro_size": 12, "controller": controller},
                **sections,
            ),
        )
        for name, controller in (("probed", NEVER), ("plain", {"name": "constant"}))
    )
    (lines, events), (expected, _) = (
        run(str(one.root)) if workers == 1 else run_on_ranks(workers, run, str(one.root))[0] for one in (probed, plain)
    )
    assert [event["step"] for event in events["branches"]] == [3, 5, 7]
    assert {event["batch"] for event in events["batch"]} == {BATCH}
    assert_same_weights(probed, plain)
    for line, other in zip(lines, expected, strict=True):
        same = {name for name in other if not name.endswith("_s") and name != "slowest_worker_ratio"}
        assert {name: line[name] for name in same} == {name: other[name] for name in same}


def reference(batch: int, lr: float) -> Iterator[float]:
    """The losses of a branch after two steps, by torch alone."""
    by_hand = tiny_by_hand()
    rows, model, optimizer, order = by_hand.samples, by_hand.model, by_hand.optimizer, by_hand.order

    def step(position: int, size: int) -> float:
        ids = order.take(position, size)
        loss = F.cross_entropy(
            model(torch.stack([rows[i]["image"] for i in ids])), torch.tensor([rows[i]["label"] for i in ids])
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    for number in range(2):
        step(number * BATCH, BATCH)
    for group in optimizer.param_groups:
        group["lr"] = lr
    for number in range(8 * BATCH // batch):
        yield step(2 * BATCH + number * batch, batch)


@pytest.mark.distributed
@pytest.mark.parametrize("workers", [1, 2])
def test_branches_are_trainings_of_plain_torch_and_the_batch_follows_them(
    tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = prepared(tmp_path / "job", workers, ALWAYS)
    monkeypatch.syspath_prepend(directory.code)
    lines, events = run_on_ranks(workers, run, str(directory.root))[0]
    (event,) = events["branches"]  # then the batch is the largest
    averages = []
    for batch, lr in ((BATCH, 0.1), (2 * BATCH, 0.2)):
        first, *losses = reference(batch, lr)
        for loss in losses:
            kept = 0.5 ** (batch // BATCH)
            first = kept * first + (1 - kept) * loss
        averages.append(first)
    assert event["losses"] == pytest.approx(averages, abs=1e-5)
    assert (event["step"], event["batches"], event["critical_batch"]) == (3, (BATCH, 2 * BATCH), 2 * BATCH)
    assert (event["num_samples"], event["num_samples_so_far"]) == (16 * BATCH, 16 * BATCH)
    assert [line["global_size"] for line in lines] == [BATCH] * 2 + [2 * BATCH] * (STEPS - 2)
    assert [line["lr"] for line in lines] == pytest.approx([0.1] * 2 + [0.2] * (STEPS - 2))
    assert lines[-1]["samples"] == 2 * BATCH + (STEPS - 2) * 2 * BATCH  # those of the branches are not counted
    assert (lines[2]["branches/critical_batch"], lines[2]["branches/samples"]) == (2 * BATCH, 16 * BATCH)
    assert [decision["reason"] for decision in events["batch"]] == ["the critical batch is 96 or more"]
