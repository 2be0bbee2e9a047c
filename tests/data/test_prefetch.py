"""Loader processes: the same samples as without them, and failures that say what happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from data_samples import UNEVEN, BrokenNumbers, NoisyNumbers, Numbers, map_style, plan

from orchestrator.core.errors import DataError, RecipeError
from orchestrator.data.loader import MapStyleData

PLANS = [*(plan(size) for size in UNEVEN), plan(9, lr_factor=0.5), plan(9, 2), plan(22, None)]

# A loader process that has delivered everything sometimes aborts in the C++ teardown of its interpreter; torch notices
# while it collects the loader and can only complain to nobody.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in.*_MultiProcessingDataLoaderIter.__del__:pytest.PytestUnraisableExceptionWarning"
)


def serve(data: MapStyleData) -> list[Any]:
    """Every step's samples under changing plans, abandoning the second and the third half-way at first."""
    steps = []
    for index, batch_plan in enumerate(PLANS):
        if index in (1, 2):
            next(data.step(batch_plan)[1])
        num_samples, micro_batches = data.step(batch_plan)
        served = [([column.tolist() for column in micro.batch], micro.weight) for micro in micro_batches]
        steps.append((num_samples, data.position.samples, served))
    return steps


def test_loader_processes_serve_the_same_whatever_the_plans_do() -> None:
    here = map_style(NoisyNumbers(30), rank=1, world_size=2, total_samples=115)
    random_state = torch.get_rng_state()
    with closing(
        map_style(NoisyNumbers(30), rank=1, world_size=2, total_samples=115, loader_workers=2, prefetch=3)
    ) as ahead:
        assert serve(ahead) == serve(here)
        loaders = active_children()
        assert len(loaders) == 2
    assert here.position.samples == 115  # the last step was short
    assert torch.equal(torch.get_rng_state(), random_state)
    for loader in loaders:
        loader.join()
    # Prefetching from a position on, as a resumed job does.
    resumed = {"rank": 1, "world_size": 2, "samples": 26}
    with closing(map_style(NoisyNumbers(30), loader_workers=1, **resumed)) as ahead:
        assert serve(ahead) == serve(map_style(NoisyNumbers(30), **resumed))


def test_errors_of_user_code_keep_their_line_and_their_cause() -> None:
    data = map_style(BrokenNumbers(10), loader_workers=1, code_folder=Path(__file__).parent)
    message = r"raised KeyError at data_samples.py:\d+ \(raise KeyError"
    with closing(data), pytest.raises(RecipeError, match=message) as error:
        list(data.step(plan(10))[1])
    assert isinstance(error.value.__cause__, KeyError)
    assert "In a loader process" in error.value.__cause__.__notes__[0]


@pytest.mark.filterwarnings("ignore:Got pickle error:UserWarning")  # torch's own advice, of use to nobody here
def test_what_cannot_travel_to_a_loader_process_is_explained() -> None:
    data = map_style(Numbers(10), collate=lambda samples: samples, loader_workers=1)
    with closing(data), pytest.raises(RecipeError, match=r"cannot be sent .* data.loader_workers: 0"):
        list(data.step(plan(10))[1])


def test_a_killed_loader_process_ends_the_step() -> None:
    with closing(map_style(Numbers(10**6), loader_workers=1, prefetch=1)) as data:
        next(data.step(plan(10))[1])
        (loader,) = active_children()
        # In a main thread torch's handler of SIGCHLD may be first to tell, wherever Python is then.
        with pytest.raises((DataError, RuntimeError), match=r"DataLoader worker \(pid.* (killed by|exited)"):  # noqa: PT012
            os.kill(loader.pid, signal.SIGKILL)
            list(data.step(plan(10**5, 4))[1])


RANK = """
import sys, time
sys.path.insert(0, {tests!r})
from multiprocessing import active_children
from data_samples import Numbers, map_style, plan
if __name__ == "__main__":
    data = map_style(Numbers(1000), loader_workers=1)
    next(data.step(plan(10))[1])
    print(*(child.pid for child in active_children()), flush=True)
    time.sleep(600)
"""


def test_loader_processes_end_with_a_killed_rank(tmp_path: Path) -> None:
    script = tmp_path / "rank.py"
    script.write_text(RANK.format(tests=str(Path(__file__).parent)))
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as rank:
        assert rank.stdout is not None
        loader = psutil.Process(int(rank.stdout.readline()))
        rank.kill()
    while loader.is_running() and loader.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.1)  # torch's loaders look for their parent every 5 s; pytest's timeout ends a failure
