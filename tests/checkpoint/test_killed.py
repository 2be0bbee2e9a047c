"""Processes that are killed while they save, at every moment: what can be seen afterwards is complete.

A process counts what it asks of the file system (every opening, renaming and removing) and kills itself at the k-th, or
lets the kernel kill it when a file grows beyond a number of bytes. Nothing of the writing is replaced.
"""

import json
import os
import resource
import signal
import sys
from itertools import count
from pathlib import Path

import pytest
import torch.distributed as dist
from checkpoint_cases import assert_holds, manifest, pieces_of, share, store, tensors
from gloo import multiprocessing

from orchestrator.checkpoint.background import CheckpointWriter
from orchestrator.checkpoint.listing import latest_checkpoint, list_checkpoints, step_of

STEPS = (1, 2)
MOMENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}
NEVER = 10**9
FORKSERVER = multiprocessing.get_context("forkserver")
"""With the imports of ``gloo`` done once."""


def save_steps(folder: Path, done, *, padding: int = 0) -> None:
    """Save one step after another beside the training; ``done`` is the last that was told to be complete."""

    def tell(written) -> None:
        done.value = written.step

    writer = CheckpointWriter(store(folder, keep=1), asynchronous=True, on_written=tell)
    for step in STEPS:
        pieces = pieces_of(tensors(step))
        said = manifest(step, pieces, controller={"padding": "x" * padding if step == STEPS[-1] else ""})
        writer.save(share(pieces), said, is_current=lambda: True)
    writer.wait()


def die_at(moment: int) -> None:
    """Kill this process when it asks the file system for the ``moment``-th time."""
    numbers = count(1)

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event in MOMENTS and next(numbers) == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def die_at_every_moment(root: str, done, ends: str) -> None:
    """Save again and again in processes that die one moment later each; leaves (exit code, last step told) of each."""
    save_steps(Path(root) / "before", done)  # what is imported late is imported here
    found = []
    while not found or found[-1][0] != 0:
        done.value = 0
        child = os.fork()
        if child == 0:
            die_at(len(found) + 1)
            save_steps(Path(root) / str(len(found)), done)
            os._exit(0)
        found.append((os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), done.value))
    Path(ends).write_text(json.dumps(found))


def save_until_a_file_is_too_large(folder: str, num_bytes: int, padding: int, done) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))
    save_steps(Path(folder), done, padding=padding)


def exit_codes(*targets) -> list[int | None]:
    """Run (function, arguments) as processes to their ends."""
    processes = [FORKSERVER.Process(target=function, args=arguments) for function, arguments in targets]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def assert_only_complete_checkpoints(folder: Path, last_told: int) -> None:
    """What is shown loads and is what was saved, nothing that was told is lost, and the next attempt goes on."""
    shown = list_checkpoints(folder)
    for path in shown:
        assert_holds(path, step_of(path))
    assert (step_of(shown[-1]) if shown else 0) >= last_told
    if (folder / "LATEST").exists():
        named = folder / (folder / "LATEST").read_text().strip()
        assert named in shown
    pieces = pieces_of(tensors(9))
    store(folder, keep=1, attempt=2).save(pieces, manifest(9, pieces), is_current=lambda: True)
    latest = latest_checkpoint(folder)
    assert latest == folder / "step_9"
    assert_holds(latest, 9)
    assert [path.name for path in folder.iterdir() if path.is_dir()] == ["step_9"]


def test_killed_at_every_call_to_the_file_system(tmp_path: Path) -> None:
    done, ends = FORKSERVER.Value("i", 0), tmp_path / "ends.json"
    assert exit_codes((die_at_every_moment, (str(tmp_path), done, str(ends)))) == [0]
    *killed, undisturbed = json.loads(ends.read_text())
    assert undisturbed == [0, STEPS[-1]]
    assert len(killed) > 10 * len(STEPS)
    assert {code for code, _ in killed} == {-signal.SIGKILL}
    assert {told for _, told in killed} == {0, *STEPS[:-1]}
    for moment, (_, told) in enumerate(killed):
        assert_only_complete_checkpoints(tmp_path / str(moment), told)


@pytest.mark.parametrize("padding", [0, 3_000_000])
def test_killed_in_the_middle_of_a_file(tmp_path: Path, padding: int) -> None:
    """In the tensors; or, where the manifest is the largest file, in the manifest of the last step."""
    done = FORKSERVER.Value("i", 0)
    sizes = (1, 1000, 8191, 100_000, 1_500_000) if not padding else (2_000_000, 2_999_999)
    for num_bytes in sizes:
        folder, done.value = tmp_path / str(num_bytes), 0
        codes = exit_codes((save_until_a_file_is_too_large, (str(folder), num_bytes, padding, done)))
        assert codes == [-signal.SIGXFSZ]
        shown = list_checkpoints(folder)
        assert tuple(step_of(path) for path in shown) == (STEPS[:-1] if padding else ())
        assert_only_complete_checkpoints(folder, done.value)


def save_as_rank(rank: int, root: str, moment: int, done) -> None:
    dist.init_process_group("gloo", init_method=f"file://{root}/rendezvous", rank=rank, world_size=2)
    save_steps(Path(root) / "before", done)
    done.value = 0
    die_at(moment)
    save_steps(Path(root) / "checkpoints", done)
    dist.destroy_process_group()


@pytest.mark.distributed
@pytest.mark.parametrize(("killed", "moments"), [(0, (1, 2, 5, 8, 14, 20, 26)), (1, (1, 2))])
def test_one_of_two_ranks_killed(tmp_path: Path, killed: int, moments: tuple[int, ...]) -> None:
    """The other rank, which waits for it, ends as well; only rank 0 does more than write its own file."""
    for moment in moments:
        root, done = tmp_path / str(moment), FORKSERVER.Value("i", 0)
        root.mkdir()
        targets = [(save_as_rank, (rank, str(root), moment if rank == killed else NEVER, done)) for rank in range(2)]
        codes = exit_codes(*targets)
        assert codes[killed] == -signal.SIGKILL
        assert codes[1 - killed] == 1
        assert_only_complete_checkpoints(root / "checkpoints", done.value)
