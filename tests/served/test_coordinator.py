"""The coordinator by itself: events in, assignments and decoded jobs out, on a clock of the test's own."""

from __future__ import annotations

from typing import Any

from orchestrator.core.coding.build import build_scheme
from orchestrator.core.coding.waiting import WaitRule
from orchestrator.core.served import (
    Assignment,
    ChunkReport,
    Finished,
    Joined,
    Lost,
    Publication,
    Retired,
    RoundRequest,
    Sender,
    Submitted,
    Work,
)
from orchestrator.exchange.served.coordinator import Closed, Coordinator, GivenUp, RoundSummary


def work(model: int = 0, step: int = 0) -> Work:
    request = RoundRequest(
        model=model, phase=0, step=step, position=0, num_samples=8, num_counted=8, micro_batch_size=None
    )
    return Work(request=request, weights=Publication(version=step, flats=(), unchanging=None))


class Stage:
    """A coordinator whose workers do what the test says."""

    def __init__(self, scheme: str, workers: int, *, models: int = 1, rule: WaitRule | None = None, **parameters: Any):
        self.assigned: dict[int, Assignment] = {}
        self.closed: list[Closed] = []
        self.given_up: list[GivenUp] = []
        self.rounds: list[RoundSummary] = []
        self.overdue: list[Sender] = []
        self.coordinator = Coordinator(
            build_scheme(scheme, workers, **parameters),
            rule or WaitRule(kind="first"),
            num_models=models,
            assign=self.assigned.__setitem__,
            on_closed=self._end,
            on_round=self.rounds.append,
            on_overdue=self.overdue.append,
            worker_timeout_s=10.0,
        )
        self.lives = dict.fromkeys(range(workers), 0)

    def _end(self, job: Closed | GivenUp) -> None:
        if isinstance(job, GivenUp):
            self.given_up.append(job)
        else:
            self.closed.append(job)

    def sender(self, worker: int) -> Sender:
        return Sender(worker=worker, incarnation=self.lives[worker])

    def join(self, *workers: int, now: float = 0.0) -> None:
        for worker in workers:
            self.coordinator.handle(Joined(self.sender(worker)), now)

    def finish(self, worker: int, now: float = 1.0, *, assignment: Assignment | None = None, **fields: Any) -> None:
        done = assignment or self.assigned[worker]
        refused = fields.get("rejected", ())
        reports = {
            (task.job, chunk): ChunkReport(weight=1.0, metrics={"loss": float(chunk)})
            for task in done.tasks
            for chunk in task.chunks
        }
        self.coordinator.handle(
            Finished(
                sender=self.sender(worker),
                round_index=done.round_index,
                seconds=now,
                reports=reports,
                num_elements=4,
                sent=tuple(key for key in ((task.job, task.slot) for task in done.tasks) if key not in refused),
                **fields,
            ),
            now,
        )

    def submit(self, job: int, model: int = 0, now: float = 0.0) -> None:
        self.coordinator.handle(Submitted(job, work(model, job)), now)


def test_a_round_closes_with_one_answer_of_each_group() -> None:
    stage = Stage("fractional", 4, stragglers=1)
    stage.join(0, 1, 2, 3)
    stage.submit(0)
    assert stage.assigned.keys() == {0, 1, 2, 3}
    stage.finish(0)
    stage.finish(2)  # of the same group: workers equal mod 2
    assert stage.closed == []
    stage.finish(3)
    (closed,) = stage.closed
    assert {worker for worker, _ in closed.decoded.messages} <= {0, 2, 3}
    assert closed.metrics == {"loss": (0 + 1 + 2 + 3) / 4}  # every chunk once, whoever computed it twice


def test_a_dead_worker_is_waited_for_only_where_nobody_else_has_its_chunks() -> None:
    stage = Stage("uncoded", 2)
    stage.join(0, 1)
    stage.submit(0)
    stage.finish(0)
    dead = stage.sender(1)
    stage.coordinator.handle(Lost(dead), 2.0)
    assert stage.closed == []
    stage.lives[1] = 1
    del stage.assigned[1]
    stage.join(1, now=3.0)
    assert stage.assigned[1].round_index == 0  # at once: the open round needs it
    stage.finish(1, 4.0)
    assert len(stage.closed) == 1
    # What the dead one still had on its way counts for nothing.
    stage.coordinator.handle(Lost(dead), 5.0)
    stage.submit(1, now=5.0)
    assert stage.assigned[1].round_index == 1


def test_who_joins_late_takes_part_in_the_next_round() -> None:
    stage = Stage("fractional", 2, stragglers=1)
    stage.join(0)
    stage.submit(0)
    stage.finish(0)
    assert len(stage.closed) == 1
    stage.join(1, now=2.0)
    assert 1 not in stage.assigned
    stage.submit(1, now=2.0)
    stage.finish(1, 3.0)
    assert len(stage.closed) == 2


def test_the_history_of_a_round_is_told_when_the_next_has_closed() -> None:
    stage = Stage("fractional", 4, stragglers=1)
    stage.join(0, 1, 2, 3)
    stage.submit(0)
    first = dict(stage.assigned)
    stage.finish(0, 1.0)
    stage.finish(1, 1.5)
    stage.submit(1, now=2.0)
    assert stage.rounds == []
    stage.finish(2, 2.5, assignment=first[2], complete=False)  # leaves, as something newer waits
    stage.finish(0, 3.0)
    stage.finish(1, 3.5)
    (summary,) = stage.rounds
    assert summary.seconds == (1.0, 1.5, 2.5, 3.5)  # the last has not said a word: as long as it can have been
    assert summary.elements == (4, 4, None, None)
    assert summary.left == (2, 3)


def test_who_holds_up_a_round_for_too_long_is_told_once() -> None:
    stage = Stage("uncoded", 3)
    stage.join(0, 1, 2)
    stage.submit(0)
    stage.coordinator.tick(100.0)  # nobody has answered: the work may be that long
    assert stage.coordinator.next_check() is None
    stage.finish(0, 100.0)
    assert stage.coordinator.next_check() == 110.0
    stage.finish(1, 104.0)
    assert stage.coordinator.next_check() == 114.0
    stage.coordinator.tick(113.9)
    assert stage.overdue == []
    stage.coordinator.tick(114.0)
    hung = stage.sender(2)
    assert stage.overdue == [hung]
    assert stage.coordinator.next_check() is None
    stage.coordinator.handle(Lost(hung), 115.0)
    stage.lives[2] = 1
    stage.join(2, now=120.0)
    assert stage.coordinator.next_check() == 130.0  # its replacement has as long again
    stage.finish(2, 125.0)
    assert len(stage.closed) == 1
    assert stage.overdue == [hung]


def test_who_is_late_while_others_close_the_rounds_holds_up_nothing() -> None:
    stage = Stage("fractional", 2, stragglers=1)
    stage.join(0, 1)
    for job in range(3):
        stage.submit(job, now=20.0 * job)
        stage.finish(0, 20.0 * job + 1)
        stage.coordinator.tick(20.0 * job + 19)
    assert stage.overdue == []


def test_a_deadline_is_kept_by_the_clock() -> None:
    stage = Stage("ignore", 4, stragglers=2, rule=WaitRule(kind="deadline", mu=1.0))
    stage.join(0, 1, 2, 3)
    stage.submit(0)
    assert stage.coordinator.next_check() is None
    stage.finish(0, 1.0)
    assert stage.coordinator.next_check() == 2.0
    stage.finish(1, 1.5)
    stage.coordinator.tick(1.9)
    assert stage.closed == []
    stage.coordinator.tick(2.0)
    (closed,) = stage.closed
    assert closed.decoded.coverage == 0.5


def test_a_job_whose_gradients_are_refused_of_all_who_have_them_is_given_up() -> None:
    stage = Stage("fractional", 4, stragglers=1)
    stage.join(0, 1, 2, 3)
    stage.submit(6)
    stage.submit(0)
    stage.finish(0, rejected=((0, 0),))
    stage.finish(2, rejected=((0, 0),))
    stage.finish(1)
    stage.finish(3)
    (given_up,) = stage.given_up
    assert given_up.job == 0
    assert given_up.message.startswith("The gradients of step 1 are not finite on workers 0, 2: ")
    assert stage.closed == []


def test_what_was_sent_for_the_jobs_of_other_models_counts() -> None:
    stage = Stage("m_sgc", 3, models=3, burst=1, window=2, max_stragglers=0)
    stage.join(0, 1, 2)
    for job in range(3):
        stage.submit(job, model=job)
    for worker in range(3):
        stage.finish(worker, 1.0)
    for worker in range(3):  # round 1 ends job 0 and begins job 1, which has diverged
        tasks = stage.assigned[worker].tasks
        stage.finish(worker, 2.0, rejected=tuple((task.job, task.slot) for task in tasks if task.job == 1))
    assert [closed.decoded.job for closed in stage.closed] == [0]
    assert [job.job for job in stage.given_up] == [1]
    stage.coordinator.handle(Retired(1), 2.5)
    for now in (3.0, 4.0):
        assert {task.job for assignment in stage.assigned.values() for task in assignment.tasks} <= {2, 3}
        stage.submit(3, model=0, now=now)
        for worker in range(3):
            stage.finish(worker, now)
    assert [closed.decoded.job for closed in stage.closed] == [0, 2]


def test_a_refused_message_is_not_waited_for() -> None:
    stage = Stage("ignore", 3, stragglers=1, rule=WaitRule(kind="deadline", mu=0.0, wait="all"))
    stage.join(0, 1, 2)
    stage.submit(0)
    stage.finish(0, 1.0)  # alone it does not suffice, so the round is waited out
    stage.finish(2, 2.0, rejected=((0, 0),))
    stage.finish(1, 3.0)
    assert len(stage.closed) == 1


def test_models_take_turns_and_the_retired_leave_theirs_to_the_others() -> None:
    stage = Stage("m_sgc", 3, models=2, burst=1, window=2, max_stragglers=1)
    stage.join(0, 1, 2)
    stage.submit(1, model=1)
    assert stage.assigned == {}  # job 0 comes first
    stage.submit(0, model=0)
    for now in (1.0, 2.0):
        for worker in range(3):
            stage.finish(worker, now)
    assert [closed.decoded.job for closed in stage.closed] == [0]
    stage.coordinator.handle(Retired(0), 3.0)
    # Round 2 belongs to the retired model, and carries only what job 1 lacks.
    assert {task.job for assignment in stage.assigned.values() for task in assignment.tasks} == {1}
    for worker in range(3):
        stage.finish(worker, 4.0)
    assert [closed.decoded.job for closed in stage.closed] == [0, 1]


def test_a_late_message_is_credited() -> None:
    stage = Stage("m_sgc", 3, models=3, burst=1, window=3, max_stragglers=1)
    stage.join(0, 1, 2)
    for job in range(3):
        stage.submit(job, model=job)
    late = stage.assigned[2]
    stage.finish(0, 1.0)
    stage.finish(1, 1.0)  # closes round 0 without worker 2, which is within the model
    assert stage.assigned[2].round_index == 1
    stage.finish(2, 1.5, assignment=late)
    for round_index in (1, 2):
        for worker in range(3):
            assert stage.assigned[worker].round_index == round_index
            # Without the late message worker 2 would have to compute chunk 4 of job 0 again in round 2.
            tasks = [(task.job, task.chunks) for task in stage.assigned[worker].tasks]
            assert (0, (4,)) not in tasks or round_index < 2
            stage.finish(worker, 2.0 + round_index)
    assert [closed.decoded.job for closed in stage.closed] == [0]
