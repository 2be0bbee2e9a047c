"""Which workers a served attempt replaces and when it gives up, with a stand-in for Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import OutOfMemoryError, RayActorError

from orchestrator.core.run_directory import RunDirectory, read_json_lines
from orchestrator.core.served import Lost, Sender
from orchestrator.core.values import Failure
from orchestrator.schedule import served_attempt as module
from orchestrator.schedule.attempt import Ended
from orchestrator.schedule.served_attempt import MAX_DEATHS_IN_A_ROW, ServedAttempt
from orchestrator.spec.job import JobSpec

SPEC = JobSpec.model_validate(
    {
        "name": "tiny",
        "recipe": {"target": "tiny.py:Digits"},
        "train": {"steps": 3},
        "resources": {"workers": 2},
        "exchange": {"name": "coded", "scheme": "uncoded"},
    }
)
PENDING = object()


class Ref:
    """A result of a remote call; pending until the test sets it. An exception is raised by ``get``."""

    def __init__(self, value: Any = PENDING) -> None:
        self.value = value


class Shard:
    """What the attempt asks of the coordinating shard."""

    def __init__(self, ray: Ray) -> None:
        self.run_ref = ray.shard_run = Ref()
        self.joined_lives: set[Sender] = set()
        self.worked: set[Sender] = set()
        self.hung: set[Sender] = set()
        self.lost: list[Sender] = []
        ray.shard = self

    def address(self) -> tuple[str, str]:
        return "node", "127.0.0.1:1"

    def run(self, *_: Any) -> Ref:
        return self.run_ref

    def set_worker(self, worker: int, actor: Any) -> None: ...

    def notify(self, event: Lost) -> None:
        self.lost.append(event.sender)

    def joined(self) -> set[Sender]:
        return self.joined_lives

    def has_worked(self, sender: Sender) -> bool:
        return sender in self.worked

    def overdue(self) -> set[Sender]:
        return self.hung


class Worker:
    """One life of a worker."""

    def __init__(self, ray: Ray) -> None:
        self._ray = ray

    def place(self) -> Any:
        return self._ray.places.pop(0) if self._ray.places else "node"

    def run(self, config: Any, sender: Sender, shards: Any) -> Ref:
        self._ray.runs[sender] = Ref()
        return self._ray.runs[sender]


class Handle:
    """An actor whose methods have ``remote``."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def __getattr__(self, name: str) -> Any:
        def remote(*arguments: Any) -> Ref:
            result = getattr(self._actor, name)(*arguments)
            return result if isinstance(result, Ref) else Ref(result)

        return type("Method", (), {"remote": staticmethod(remote)})


class Ray:
    """Stands in for the module. The attempt waits; each time, the next of ``turns`` happens first."""

    def __init__(self, turns: Iterable[Callable[[Ray], None]], places: Iterable[Any] = ()) -> None:
        self._turns = list(turns)
        self.places = list(places)
        """What the first workers answer when they are asked where they are; others are on "node"."""
        self.runs: dict[Sender, Ref] = {}
        self.killed = 0
        self.shard: Shard
        self.shard_run: Ref

    def remote(self, **_: Any) -> Callable[[type], Any]:
        def made(kind: type) -> Any:
            class Options:
                @staticmethod
                def options(**_: Any) -> Any:
                    build = {"ShardActor": Shard, "WorkerActor": Worker}[kind.__name__]
                    return type("Made", (), {"remote": staticmethod(lambda **_: Handle(build(self)))})

            return Options

        return made

    def get(self, refs: Any) -> Any:
        if isinstance(refs, list):
            return [self.get(ref) for ref in refs]
        assert refs.value is not PENDING
        if isinstance(refs.value, Exception):
            raise refs.value
        return refs.value

    def wait(self, refs: list[Ref], **options: Any) -> tuple[list[Ref], list[Ref]]:
        if options.get("timeout") == module._POLL_S:
            assert self._turns, "the attempt goes on for ever"
            self._turns.pop(0)(self)
        return [ref for ref in refs if ref.value is not PENDING], []

    def kill(self, actor: Any) -> None:
        self.killed += 1


def dies(worker: int, life: int, error: Exception | None = None) -> Callable[[Ray], None]:
    def turn(ray: Ray) -> None:
        ray.runs[Sender(worker=worker, incarnation=life)].value = error or RayActorError()

    return turn


def works(worker: int, life: int) -> Callable[[Ray], None]:
    return lambda ray: ray.shard.worked.add(Sender(worker=worker, incarnation=life))


def hangs(worker: int, life: int) -> Callable[[Ray], None]:
    return lambda ray: ray.shard.hung.add(Sender(worker=worker, incarnation=life))


def ends(ray: Ray) -> None:
    ray.shard_run.value = {"outcome": "finished", "step": 3}


def waits(ray: Ray) -> None: ...


@pytest.fixture
def attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Ray], Ended | Failure]:
    """Runs an attempt on a stand-in."""

    def run(ray: Ray) -> Ended | Failure:
        group = type("Group", (), {"ready": staticmethod(lambda: Ref(True))})
        monkeypatch.setattr(module, "ray", ray)
        monkeypatch.setattr(module, "placement_group", lambda *_, **__: group)
        monkeypatch.setattr(module, "remove_placement_group", lambda _: None)
        monkeypatch.setattr(module, "_LOOK_S", 0.0)
        (tmp_path / "logs").mkdir()
        return ServedAttempt(RunDirectory(tmp_path), 1, SPEC, {}, {})._run()

    return run


def events(folder: Path) -> list[tuple[Any, ...]]:
    return [(line["event"], line["worker"], line["life"]) for line in read_json_lines(folder / "events.jsonl")]


@pytest.mark.parametrize("error", [RayActorError(), OutOfMemoryError("killed: the node was short of memory")])
def test_a_worker_that_dies_is_replaced(error: Exception, attempt: Any, tmp_path: Path) -> None:
    assert attempt(Ray([dies(1, 0, error), waits, ends])) == Ended("finished", "finished 3 steps")
    assert events(tmp_path) == [("worker_lost", 1, 1)]


def test_a_worker_that_keeps_dying_within_its_first_round_ends_the_attempt(attempt: Any) -> None:
    result = attempt(Ray([dies(0, life) for life in range(MAX_DEATHS_IN_A_ROW)]))
    message = f"worker 0 died {MAX_DEATHS_IN_A_ROW} times in a row before it had worked through a round"
    assert result == Failure(cause="worker_lost", message=message, rank=0)


def test_deaths_of_workers_that_have_worked_do_not_add_up(attempt: Any) -> None:
    lives = range(2 * MAX_DEATHS_IN_A_ROW)
    turns = [turn for life in lives for turn in ([works(0, life)] if life % 3 == 2 else []) + [dies(0, life)]]
    assert attempt(Ray([*turns, ends])) == Ended("finished", "finished 3 steps")


def test_a_worker_that_dies_before_it_could_start_is_named(attempt: Any) -> None:
    result = attempt(Ray([], places=["node", RayActorError()]))
    assert (result.cause, result.message, result.rank) == ("worker_lost", "worker 1 died before it had started", 1)


def test_a_worker_that_holds_up_a_round_is_ended_and_replaced(attempt: Any, tmp_path: Path) -> None:
    ray = Ray([hangs(1, 0), waits, waits, ends])
    assert isinstance(attempt(ray), Ended)
    assert events(tmp_path) == [("worker_hung", 1, 1), ("worker_lost", 1, 1)]
    assert ray.shard.lost == [Sender(worker=1, incarnation=0)]
    assert Sender(worker=1, incarnation=1) in ray.runs
    assert ray.killed == 1 + 3  # and at the end everybody


@pytest.mark.parametrize(
    ("place", "limit", "message"),
    [
        (Ref(), "_PLACEMENT_TIMEOUT_S", "the replacement of worker 1 was not placed within 0 s"),
        ("node", "_JOIN_TIMEOUT_S", "the replacement of worker 1 was not ready within 0 s"),
    ],
)
def test_a_replacement_that_does_not_come_ends_the_attempt(
    place: Any, limit: str, message: str, attempt: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, limit, 0.0)
    result = attempt(Ray([dies(1, 0), waits], places=["node", "node", place]))
    assert result == Failure(cause="worker_lost", message=message, rank=1)
