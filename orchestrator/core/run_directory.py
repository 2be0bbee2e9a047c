"""The run directory: the durable record of one job, and the only place that knows its file names. No torch.

<storage>/<name>/
  job.yaml  resolved.yaml  state.json  events.jsonl  metrics.jsonl  worker_times.jsonl  model.safetensors
  code/     the spec's folder as submitted
  logs/<attempt>/rank_<k>.log, logs/driver.log
  checkpoints/step_<n>/, LATEST
  trials/<k>/   of a sweep: a run directory of each trial, whose code is the job's
  report.html, report.png   what `orchestrator report` makes of all this
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

TERMINAL_PHASES = frozenset({"succeeded", "failed", "stopped"})
PHASES = ("queued", "preparing", "placing", "running", "succeeded", "failed", "stopped")
PRUNED = "pruned"
"""Reason of a trial that was stopped because others are ahead: it stays so when its sweep goes on."""
TRIALS_FOLDER = "trials"


def write_atomically(path: Path, text: str) -> None:
    """Write to a temporary name in the same folder, flush to disk, then move: readers see old or new, never half."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the complete lines of a JSONL file; a last line cut off by a crash is left out. A missing file is empty."""
    if not path.exists():
        return
    with path.open("rb") as stream:
        for line in stream:
            if line.endswith(b"\n"):
                yield json.loads(line)


def last_json_line(path: Path, *, tail_bytes: int = 65536) -> dict[str, Any] | None:
    """The last complete line of a JSONL file, read from its end; None where there is none."""
    if not path.exists():
        return None
    with path.open("rb") as stream:
        stream.seek(max(0, stream.seek(0, os.SEEK_END) - tail_bytes))
        lines = stream.read().split(b"\n")[:-1]
    last: dict[str, Any] | None = json.loads(lines[-1]) if lines else None
    return last


class RunDirectory:
    """Paths of one job or of one trial of a sweep, its state and its events.

    ``state.json`` has one writer at a time: the command that creates or reconciles the job, then the job's driver.

    Args:
        root: the folder.
        job: of a trial, the job that it belongs to.
    """

    def __init__(self, root: Path | str, *, job: RunDirectory | None = None) -> None:
        self.root = Path(root)
        self._job = job

    @property
    def name(self) -> str:
        """The job's name."""
        return self.root.name

    @property
    def storage(self) -> Path:
        """The folder of all run directories, for a trial too."""
        job = self.root.parent.parent
        is_trial = self.root.parent.name == TRIALS_FOLDER and (job / "state.json").is_file()
        return job.parent if is_trial else self.root.parent

    @property
    def submitted_spec(self) -> Path:
        """``job.yaml``: the spec as submitted."""
        return self.root / "job.yaml"

    @property
    def resolved_spec(self) -> Path:
        """``resolved.yaml``: the spec after base, overrides and defaults."""
        return self.root / "resolved.yaml"

    @property
    def code(self) -> Path:
        """``code/``: the spec's folder as submitted; recipes are imported from here."""
        return self.root / "code"

    @property
    def state_file(self) -> Path:
        """``state.json``."""
        return self.root / "state.json"

    @property
    def events_file(self) -> Path:
        """``events.jsonl``: every decision."""
        return self.root / "events.jsonl"

    @property
    def metrics_file(self) -> Path:
        """``metrics.jsonl``: one object per logged step, and the spill that MLflow is fed from."""
        return self.root / "metrics.jsonl"

    @property
    def pushes_file(self) -> Path:
        """``pushes.csv``: the order of an asynchronous job's pushes."""
        return self.root / "pushes.csv"

    @property
    def worker_times_file(self) -> Path:
        """``worker_times.jsonl``: how long each worker computed in each step."""
        return self.root / "worker_times.jsonl"

    @property
    def logs(self) -> Path:
        """``logs/``."""
        return self.root / "logs"

    @property
    def checkpoints(self) -> Path:
        """``checkpoints/``."""
        return self.root / "checkpoints"

    @property
    def model_file(self) -> Path:
        """``model.safetensors``: the final weights."""
        return self.root / "model.safetensors"

    @property
    def report_file(self) -> Path:
        """``report.html``: the page that tells of the job, with its picture ``report.png`` beside it."""
        return self.root / "report.html"

    @property
    def failure_file(self) -> Path:
        """Of a trial, ``failure.json``: why it has ended while others of its job went on, and in which attempt."""
        return self.root / "failure.json"

    @property
    def stop_file(self) -> Path:
        """Exists while somebody asks the job to stop at the next step; trials stop with their job."""
        return (self._job or self).root / "stop_requested"

    @property
    def preempt_file(self) -> Path:
        """Exists while the job is to stop at the next step, for a more urgent one or to go on with other workers."""
        return (self._job or self).root / "preempt_requested"

    def ask_to_stop(self, reason: str, message: str) -> None:
        """Ask the job to stop at the next step for another reason than that a person wants it to."""
        write_atomically(self.stop_file, json.dumps({"reason": reason, "message": message}))

    def stop_request(self) -> dict[str, str]:
        """Why the job is asked to stop, as ``reason`` and ``message``; empty where a person asks, or nobody."""
        text = self.stop_file.read_text(encoding="utf-8") if self.stop_file.exists() else ""
        request: dict[str, str] = json.loads(text) if text else {}
        return request

    def should_stop(self) -> bool:
        """Whether the ranks are to stop at the next step, for whatever reason."""
        return self.stop_file.exists() or self.preempt_file.exists()

    @property
    def driver_log(self) -> Path:
        """Output of the job's driver, over all attempts."""
        return self.logs / "driver.log"

    @property
    def trials(self) -> list[RunDirectory]:
        """The trials of a sweep in their order; empty for every other job."""
        folder = self.root / TRIALS_FOLDER
        numbers = (int(path.name) for path in folder.iterdir() if path.name.isdecimal()) if folder.is_dir() else ()
        return [self.trial(number) for number in sorted(numbers)]

    def trial(self, number: int) -> RunDirectory:
        """The run directory of one trial of a sweep, from 0, whether it exists or not."""
        return RunDirectory(self.root / TRIALS_FOLDER / str(number), job=self)

    def rank_log(self, attempt: int, rank: int) -> Path:
        """Output of one rank in one attempt."""
        return self.logs / str(attempt) / f"rank_{rank}.log"

    def shard_log(self, attempt: int, shard: int) -> Path:
        """Output of one shard of a served job in one attempt."""
        return self.logs / str(attempt) / f"shard_{shard}.log"

    def read_state(self) -> dict[str, Any]:
        """The state, or an empty mapping where there is none yet."""
        if not self.state_file.exists():
            return {}
        state: dict[str, Any] = json.loads(self.state_file.read_text(encoding="utf-8"))
        return state

    def update_state(self, **fields: Any) -> dict[str, Any]:
        """Merge fields into ``state.json`` atomically and return the whole state.

        Raises:
            ValueError: on a phase that is not in ``PHASES``.
        """
        if fields.get("phase", "queued") not in PHASES:
            raise ValueError(f"Invalid phase value: {fields['phase']}. Must be one of {', '.join(PHASES)}.")
        state = {**self.read_state(), **fields, "updated_at": time.time()}
        write_atomically(self.state_file, json.dumps(state, indent=2) + "\n")
        return state

    def event(self, name: str, fields: Mapping[str, Any] | None = None) -> None:
        """Append one decision to ``events.jsonl`` as a single write."""
        line = json.dumps({"time": time.time(), "event": name, **(fields or {})}) + "\n"
        with self.events_file.open("ab") as stream:
            stream.write(line.encode())
