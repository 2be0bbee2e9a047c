"""Whether workers fit, node by node."""

import pytest

from orchestrator.schedule.cluster import Fits, Waits, admit
from orchestrator.spec.job import Resources

TWO_NODES = [{"CPU": 3.0, "GPU": 1.0}, {"CPU": 2.0}]


@pytest.mark.parametrize(
    ("resources", "fits"),
    [
        (Resources(workers=5), True),
        (Resources(workers=6), False),
        (Resources(workers=2, cpus_per_worker=2), True),
        (Resources(workers=3, cpus_per_worker=2), False),  # 5 CPUs in all, but 1 + 0 are left over
        (Resources(workers=1, gpus_per_worker=1), True),
        (Resources(workers=2, gpus_per_worker=1), False),
        (Resources(workers=2, placement="strict_spread"), True),
        (Resources(workers=3, placement="strict_spread"), False),
        (Resources(workers=3, placement="strict_pack"), True),
        (Resources(workers=4, placement="strict_pack"), False),
        (Resources(workers=10, cpus_per_worker=0.3), True),  # 10 on the first node: 3.0 / 0.3 must not lose one
    ],
)
def test_whole_workers_per_node(resources: Resources, fits: bool) -> None:
    assert isinstance(admit(resources, TWO_NODES), Fits if fits else Waits)


def test_a_waiting_job_is_told_why() -> None:
    answer = admit(Resources(workers=8, gpus_per_worker=1), TWO_NODES)
    assert isinstance(answer, Waits)
    assert answer.reason == ("needs 8 workers of 1 CPUs and 1 GPUs (pack); 1 fit now, 5 CPUs and 1 GPUs are free")
