"""Pictures of a training: loss and quality, batch and rate with what was decided, noise, trust ratios, delay, speed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from orchestrator.cli.page.charts import Chart, Curves, Heat, Line, Panel, in_words, line_of
from orchestrator.cli.page.record import Training
from orchestrator.launch.series import NUM_STRETCHES, Series, thinned

LOSS, EVALUATION = "loss", "eval/"
OWN_METRICS = frozenset({"loss", "time", "samples", "lr", "global_size", "samples_per_s", "step_s", "bytes_sent"})
TRUST = "trust_ratio/"
TRUST_EXTREMES = ("max", "median", "min")
MAX_LAYERS = 40
"""Layers that a picture shows, those with the largest range of ratios."""
MAX_DECISIONS = 150
"""Changes of the batch that are marked."""
STYLES = {"-": "solid", "--": "dashed", ":": "dotted", "o-": "with points"}
MOMENTS = {"phase": "phase begins", "resumed": "resumed"}


class _Wanted(NamedTuple):
    """One metric that a picture may show."""

    key: str
    label: str
    style: str = "-"


def training_charts(trainings: Sequence[Training]) -> Iterator[Chart]:
    """All pictures for which something was logged; several trainings share each of them."""
    yield from _simple(trainings, "Loss", "loss", [_Wanted(LOSS, "training"), _Wanted("eval/loss", "evaluation", "o-")])
    for name in _quality_names(trainings):
        wanted = [_Wanted(name, "training"), _Wanted(EVALUATION + name, "evaluation", "o-")]
        yield from _simple(trainings, name[0].upper() + name[1:], name, wanted)
    yield from _batch_and_rate(trainings)
    noise = [_Wanted("batch/noise_scale", "noise scale"), _Wanted("global_size", "batch", "--")]
    if any("batch/noise_scale" in one.series for one in trainings):
        yield from _simple(trainings, "Gradient noise scale", "samples", noise)
    ratios = [_Wanted(TRUST + name, name, "-" if name == "median" else ":") for name in TRUST_EXTREMES]
    yield from _simple(trainings, "Trust ratios", "trust ratio", ratios)
    if len(trainings) == 1:
        yield from _layers(trainings[0])
    delays = [_Wanted(f"delay_{name}", name, style) for name, style in (("mean", "-"), ("p95", "--"), ("max", ":"))]
    yield from _simple(trainings, "Delay of pushes", "updates", delays)
    speed = [_Wanted("samples_per_s", "samples/s")]
    yield from _simple(trainings, "Speed", "samples per second", speed, from_zero=True)


def _simple(
    trainings: Sequence[Training], title: str, y_label: str, wanted: Sequence[_Wanted], *, from_zero: bool = False
) -> Iterator[Curves]:
    """One panel; nothing where none of its metrics was logged."""
    lines, texts = _lines(trainings, wanted)
    if lines:
        panels = [Panel(y_label=y_label, lines=lines, may_be_log=not from_zero, from_zero=from_zero)]
        caption = _styles(trainings, wanted)
        yield Curves(title=title, panels=panels, moments=_moments(trainings), text=" ".join(texts), caption=caption)


def _lines(trainings: Sequence[Training], wanted: Sequence[_Wanted]) -> tuple[list[Line], list[str]]:
    """Lines and the same in words: of one training a color for each metric, of several a color for each training."""
    lines, texts = [], []
    for number, training in enumerate(trainings):
        label = training.label
        for place, one in enumerate(wanted):
            series = training.series.get(one.key)
            if series is None:
                continue
            texts.append(in_words(f"{training.label} {one.label}".strip(), series))
            if not len(series.values):
                continue
            if len(trainings) == 1:
                lines.append(line_of(series, one.label, color=place, style=one.style))
            else:
                lines.append(line_of(series, label, color=number, style=one.style))
                label = ""  # the training's color is told once
    return lines, texts


def _styles(trainings: Sequence[Training], wanted: Sequence[_Wanted]) -> str:
    """Of several trainings, which line is which metric; empty where there is nothing to tell apart."""
    shown = [one for one in wanted if any(one.key in training.series for training in trainings)]
    if len(trainings) == 1 or len(shown) < 2:
        return ""
    return f"Of each trial: {', '.join(f'{one.label} {STYLES[one.style]}' for one in shown)}."


def _quality_names(trainings: Sequence[Training]) -> list[str]:
    """The recipe's own metrics: what was evaluated besides the loss, and names that are none of ours."""
    keys = dict.fromkeys(key for one in trainings for key in one.series)
    evaluated = [key.removeprefix(EVALUATION) for key in keys if key.startswith(EVALUATION)]
    return [name for name in dict.fromkeys(["accuracy", *evaluated]) if _is_there(name, keys)]


def _is_there(name: str, keys: Mapping[str, None]) -> bool:
    return name not in OWN_METRICS and (name in keys or EVALUATION + name in keys)


def _batch_and_rate(trainings: Sequence[Training]) -> Iterator[Curves]:
    sizes, size_texts = _lines(trainings, [_Wanted("global_size", "batch")])
    rates, rate_texts = _lines(trainings, [_Wanted("lr", "learning rate")])
    if not sizes or not rates:
        return
    decided = [line for number, one in enumerate(trainings) for line in _decisions(one, number, len(trainings))]
    num_decisions = sum(one.num_decisions for one in trainings)
    num_changes = sum(len(one.decisions) for one in trainings)
    caption = (
        f"{num_decisions:,} decisions about the batch, {num_changes:,} of which changed it and are marked."
        if decided
        else ""
    )
    yield Curves(
        title="Batch and learning rate",
        panels=[
            Panel(y_label="batch (samples)", lines=[*sizes, *decided], from_zero=True),
            Panel(y_label="learning rate", lines=rates, may_be_log=False),
        ],
        moments=_moments(trainings),
        text=" ".join([*size_texts, *rate_texts, caption]).strip(),
        caption=caption,
    )


def _decisions(training: Training, number: int, num_trainings: int) -> Iterator[Line]:
    if training.decisions:
        steps = np.array([one.step for one in training.decisions], np.int64)
        batches = np.array([one.batch for one in training.decisions], np.float64)
        steps, batches = thinned(steps, batches, int(steps[-1]), MAX_DECISIONS // 2)
        label = "" if num_trainings > 1 else "decided"
        yield Line(label=label, steps=steps, values=batches, color=number if num_trainings > 1 else 1, style="o")


def _moments(trainings: Sequence[Training]) -> dict[str, Sequence[int]]:
    """Of one training only: those of several would be a thicket."""
    if len(trainings) > 1:
        return {}
    return {MOMENTS[name]: steps for name, steps in trainings[0].starts.items()}


def _layers(training: Training) -> Iterator[Heat]:
    """The trust ratio of each layer, where ``optimizer.log_layers_every`` had them logged."""
    names = [key for key in training.series if key.startswith(TRUST) and key[len(TRUST) :] not in TRUST_EXTREMES]
    layers = {key[len(TRUST) :]: _positive(training.series[key]) for key in names}
    layers = {name: series for name, series in layers.items() if len(series.values)}
    if not layers:
        return
    steps = np.unique(np.concatenate([series.steps for series in layers.values()]))
    steps, _ = thinned(steps, np.zeros(len(steps)), int(steps[-1]), NUM_STRETCHES)
    shown = _widest(layers)
    values = np.full((len(shown), len(steps)), np.nan)
    for row, name in enumerate(shown):
        at = np.searchsorted(steps, layers[name].steps)
        is_shown = (at < len(steps)) & (steps[np.minimum(at, len(steps) - 1)] == layers[name].steps)
        values[row, at[is_shown]] = layers[name].values[is_shown]
    hidden = len(layers) - len(shown)
    yield Heat(
        title="Trust ratio of each layer",
        labels=shown,
        steps=steps,
        values=values,
        value_label="trust ratio",
        text=" ".join(in_words(name, layers[name]) for name in shown),
        caption=f"The {len(shown)} layers of the widest range; {hidden:,} more are in metrics.jsonl." if hidden else "",
    )


def _widest(layers: Mapping[str, Series]) -> list[str]:
    """The layers with the largest range of ratios, in the model's order."""
    ranges = {name: float(series.values.max() / series.values.min()) for name, series in layers.items()}
    chosen = set(sorted(ranges, key=lambda name: -ranges[name])[:MAX_LAYERS])
    return [name for name in layers if name in chosen]


def _positive(series: Series) -> Series:
    """The ratios that a logarithmic color can show; 0 is a layer without a gradient."""
    is_positive = series.values > 0
    return Series(steps=series.steps[is_positive], values=series.values[is_positive], num_logged=series.num_logged)
