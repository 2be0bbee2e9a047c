"""Drivers of stand-in jobs at a real queue on a cluster of two raylets; prints what happened as one JSON object.

The test starts it, because Ray leaves threads and handles behind that a test process would have to answer for.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ray
from ray.cluster_utils import Cluster
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from orchestrator.schedule.attempt import on_nodes
from orchestrator.schedule.queue.actor import NAME, NAMESPACE, QueueActor, open_queue
from orchestrator.schedule.queue.grow import smaller_place
from orchestrator.schedule.queue.keeper import NOT_HEARD_YET
from orchestrator.schedule.queue.seat import Seat
from orchestrator.schedule.queue.values import UNIT, Demand, Quota, Request

LEASE_S, GRACE_S, GROWTH_PAUSE_S = 10.0, 8.0, 3.0
JOBS = {
    # owner, priority, workers of one CPU each
    "a0": ("ann", 0, 1),
    "a1": ("ann", 0, 2),
    "a2": ("ann", 2, 1),
    "a3": ("ann", 1, 1),
    "b0": ("bob", 0, 3),
    "b1": ("bob", 1, 2),
    "b2": ("bob", 2, 4),
    "b3": ("bob", 0, 1),
}
QUOTAS = {"ann": Quota(cpu=2 * UNIT), "bob": Quota()}


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = 100.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def seat_for(
    name: str,
    workers: int,
    *,
    owner: str = "bob",
    priority: int = 0,
    preemptible: bool = False,
    max_workers: int = 0,
    wanted: Callable[[], int | None] = lambda: None,
) -> Seat:
    demand = Demand(workers, UNIT)
    quota = QUOTAS[owner]
    request = Request(
        key=name, name=name, demand=demand, submitted=time.time(), priority=priority, owner=owner, account=owner,
        quota=quota, preemptible=preemptible, max_workers=max_workers,
    )  # fmt: skip
    seat = Seat(lambda: replace(request, wanted_workers=wanted()))
    seat.wait_again()
    return seat


def has_place(seat: Seat) -> bool:
    return seat.answer is not None and seat.answer.uses is not None


@ray.remote(num_cpus=1)
def worker(seconds: float) -> str:
    time.sleep(seconds)
    return str(ray.get_runtime_context().get_node_id())


class Life:
    """One stand-in job: waits, runs real Ray tasks on the nodes of its place, leaves."""

    def __init__(self, name: str, log: list[dict[str, Any]]) -> None:
        self.name, self._log = name, log
        self.owner, priority, self._workers = JOBS[name]
        self._seat = seat_for(name, self._workers, owner=self.owner, priority=priority)
        self.thread = threading.Thread(target=self._live)

    def _live(self) -> None:
        wait_until(lambda: has_place(self._seat), f"{self.name} has no place: {self._seat.answer}")
        answer = self._seat.answer
        assert answer is not None
        started = time.monotonic()
        nodes = [use.node for use in answer.uses or () for _ in range(use.workers)]
        group = placement_group([{"CPU": 1}] * self._workers, bundle_label_selector=on_nodes(nodes))
        tasks = [
            worker.options(
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index)
            ).remote(1.0)
            for index in range(self._workers)
        ]
        ran_on = ray.get(tasks)
        ended = time.monotonic()
        remove_placement_group(group)
        self._seat.close()
        entry = {"name": self.name, "owner": self.owner, "workers": self._workers, "started": started, "ended": ended}
        self._log.append({**entry, "granted": nodes, "ran_on": ran_on})


def eight_jobs() -> list[dict[str, Any]]:
    """Eight jobs on four CPUs; the queue dies twice meanwhile, once to be restarted by Ray, once for good."""
    log: list[dict[str, Any]] = []
    blocker = seat_for("blocker", 4, priority=9)
    wait_until(lambda: has_place(blocker), "the blocker's place")
    lives = [Life(name, log) for name in JOBS]
    for life in lives:
        life.thread.start()
    wait_until(lambda: blocker.answer is not None and blocker.answer.num_waiting == len(JOBS), "eight that wait")
    blocker.close()
    for num_done, for_good in ((2, False), (5, True)):
        wait_until(lambda num_done=num_done: len(log) >= num_done, f"{num_done} jobs")  # type: ignore[misc]
        ray.kill(ray.get_actor(NAME, namespace=NAMESPACE), no_restart=for_good)
    for life in lives:
        life.thread.join()
    return log


def killed_driver(address: str) -> dict[str, Any]:
    """A driver that holds everything is killed; the next job gets the place when the lease is over."""
    driver = subprocess.Popen([sys.executable, __file__, address], stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    assert driver.stdout.readline() == "placed\n"
    seat = seat_for("heir", 4)
    wait_until(lambda: seat.answer is not None, "an answer")
    reason_before = seat.answer and seat.answer.reason
    driver.kill()
    driver.wait()
    wait_until(lambda: has_place(seat), "the heir's place")
    seat.close()
    return {"reason": reason_before}


def preemption() -> dict[str, Any]:
    """A running job is told who needs its place, gives it back, and is told when it has one again."""
    low = seat_for("low", 4, preemptible=True)
    wait_until(lambda: has_place(low), "low's place")
    high = seat_for("high", 1, priority=5)
    wait_until(lambda: low.answer is not None and low.answer.makes_room_for, "the question")
    asked_by = low.answer and low.answer.makes_room_for and low.answer.makes_room_for.name
    low.wait_again()
    wait_until(lambda: has_place(high), "high's place")
    wait_until(lambda: low.answer is not None, "low's answer")
    position = low.answer and low.answer.position
    high.close()
    wait_until(lambda: has_place(low), "low's place again")
    low.close()
    return {"asked_by": asked_by, "position": position}


def elasticity() -> dict[str, Any]:
    """A job that may have all four CPUs keeps one node's and is given the other's again.

    Then it asks for one, gives the others back once it may, and is given three when it asks for them.
    """
    wanted = [4]
    seat = seat_for("elastic", 1, preemptible=True, max_workers=4, wanted=lambda: wanted[0])
    wait_until(lambda: has_place(seat), "the elastic job's place")
    whole = (seat.answer and seat.answer.uses) or ()
    seat.keep(whole[:1])
    wait_until(lambda: has_place(seat), "an answer about the part")
    kept = seat.answer and seat.answer.uses
    wait_until(lambda: seat.answer and seat.answer.uses != kept, "growth")
    again = (seat.answer and seat.answer.uses) or ()
    wanted[0] = 1
    wait_until(lambda: seat.answer and seat.answer.is_settled, "leave to give a part back")
    seat.keep(smaller_place(again, 1, "pack"))
    wait_until(lambda: seat.answer and seat.answer.is_settled, "time enough to grow")
    alone = (seat.answer and seat.answer.uses) or ()
    wanted[0] = 3
    wait_until(lambda: seat.answer and seat.answer.uses != alone, "as many as are asked for")
    asked_for = (seat.answer and seat.answer.uses) or ()
    seat.close()
    places = [sum(use.workers for use in uses) for uses in (whole, kept or (), again, alone, asked_for)]
    return {"places": places, "keeps_its_nodes": again[0].node == whole[0].node}


def lost_node(cluster: Cluster, node: Any) -> dict[str, Any]:
    """A node of a place goes; the job is told, asks again and hears what is wrong."""
    seat = seat_for("wide", 4)
    wait_until(lambda: has_place(seat), "the wide job's place")
    cluster.remove_node(node)
    wait_until(lambda: seat.answer is not None and seat.answer.lost_nodes, "the news of the lost node")
    seat.wait_again()
    # The queue itself may have been on that node: then another one has just started.
    wait_until(lambda: seat.answer is not None and seat.answer.reason not in ("", NOT_HEARD_YET), "a reason")
    reason = seat.answer and seat.answer.reason
    seat.close()
    return {"reason": reason}


def main() -> None:
    if len(sys.argv) > 1:
        ray.init(address=sys.argv[1], log_to_driver=False)
        seat = seat_for("doomed", 4)
        wait_until(lambda: has_place(seat), "the doomed job's place")
        print("placed", flush=True)
        time.sleep(600)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    second = cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False)
    ray.remote(QueueActor).options(
        name=NAME, namespace=NAMESPACE, lifetime="detached", num_cpus=0, max_restarts=-1
    ).remote(lease_s=LEASE_S, grace_s=GRACE_S, growth_pause_s=GROWTH_PAUSE_S)
    results: dict[str, Any] = {"preemption": preemption(), "killed_driver": killed_driver(cluster.address)}
    results["elasticity"] = elasticity()
    results["eight_jobs"] = eight_jobs()
    results["lost_node"] = lost_node(cluster, second)
    results["is_detached"] = open_queue() == ray.get_actor(NAME, namespace=NAMESPACE)
    print(json.dumps(results))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main()
