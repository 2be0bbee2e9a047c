"""Fractional repetition: who computes what, when a round closes, and that any closed round gives the exact sum."""

from itertools import combinations

import numpy as np
import pytest
from coding_rounds import all_but, decoded_in_round, weight_matrix, workers

from orchestrator.core.coding.fractional import Fractional, spread_groups
from orchestrator.core.errors import UndecodableError


@pytest.mark.parametrize(
    ("num_workers", "stragglers", "num_chunks", "load"),
    [(4, 0, 4, 1 / 4), (4, 1, 4, 1 / 2), (5, 1, 2, 1 / 2), (5, 4, 5, 1.0), (256, 15, 256, 1 / 16), (256, 27, 9, 1 / 9)],
)
def test_chunks_and_load(num_workers: int, stragglers: int, num_chunks: int, load: float) -> None:
    scheme = Fractional(num_workers, stragglers=stragglers)
    scheme.begin(0, has_new_job=True)
    assert scheme.chunk_weights == (1,) * num_chunks
    assert scheme.load == pytest.approx(load)
    shares = [len(scheme.tasks(worker)[0].chunks) / num_chunks for worker in range(num_workers)]
    assert scheme.loads() == pytest.approx(shares)
    assert shares == pytest.approx([load] * num_workers)


def test_groups_hold_workers_that_are_equal_modulo_their_number() -> None:
    scheme = Fractional(6, stragglers=1)
    scheme.begin(0, has_new_job=True)
    assert [scheme.tasks(worker)[0].chunks for worker in range(6)] == [(0, 1), (2, 3), (4, 5)] * 2
    assert set(scheme.tasks(5)[0].coefficients) == {1.0}


@pytest.mark.parametrize(("num_workers", "stragglers"), [(4, 1), (5, 1), (6, 2), (7, 2), (8, 3)])
def test_every_set_of_stragglers_gives_the_exact_sum(num_workers: int, stragglers: int) -> None:
    scheme = Fractional(num_workers, stragglers=stragglers)
    for num_missing in range(stragglers + 1):
        for missing in combinations(range(num_workers), num_missing):
            decoded, weights = decoded_in_round(scheme, all_but(num_workers, missing))
            assert weights.tolist() == [1.0] * len(scheme.chunk_weights)
            assert (decoded.coverage, decoded.residual) == (1.0, 0.0)


def test_one_worker_of_each_group_is_enough() -> None:
    scheme = Fractional(9, stragglers=2)
    decoded, weights = decoded_in_round(scheme, workers(9, [2, 3, 7]))
    assert decoded.messages == ((3, 0), (7, 0), (2, 0))  # in the order of the groups
    assert weights.tolist() == [1.0] * 9


def test_of_several_in_a_group_one_is_used() -> None:
    decoded, _ = decoded_in_round(Fractional(6, stragglers=2), workers(6, [1, 2, 3, 4]))
    assert decoded.messages == ((2, 0), (1, 0))


def test_a_group_without_a_message_keeps_the_round_open() -> None:
    scheme = Fractional(6, stragglers=1)
    scheme.begin(0, has_new_job=True)
    arrived = all_but(6, [1, 4])
    assert not scheme.may_close(arrived)
    with pytest.raises(UndecodableError, match="Round 0 cannot close with the messages of 4 of 6 workers"):
        scheme.close(arrived)


def test_a_round_without_a_job_takes_no_work() -> None:
    scheme = Fractional(4, stragglers=1)
    scheme.begin(7, has_new_job=False)
    assert not scheme.loads().any()
    assert scheme.tasks(0) == ()
    assert scheme.close(workers(4, [])) == ()


def test_only_the_job_of_the_closed_round_is_decoded() -> None:
    scheme = Fractional(4, stragglers=1)
    decoded_in_round(scheme, all_but(4, []), round_index=3)
    with pytest.raises(UndecodableError, match="Job 2 is not one that the last round completed"):
        scheme.decode(2)
    scheme.begin(4, has_new_job=True)
    with pytest.raises(UndecodableError, match="Job 4"):
        scheme.decode(4)


def test_members_of_a_group_are_on_different_nodes() -> None:
    nodes = ["a", "b", "a", "c", "b", "c", "a", "b"]
    groups = spread_groups(8, 4, nodes)
    assert np.bincount(groups).tolist() == [2, 2, 2, 2]
    for group in range(4):
        names = [nodes[worker] for worker in np.flatnonzero(groups == group)]
        assert len(set(names)) == 2


def test_workers_numbered_node_by_node_survive_the_loss_of_a_node() -> None:
    nodes = [f"node-{worker // 4}" for worker in range(16)]
    scheme = Fractional(16, stragglers=3, nodes=nodes)
    for node in set(nodes):
        _, weights = decoded_in_round(scheme, all_but(16, [i for i in range(16) if nodes[i] == node]))
        assert weights.tolist() == [1.0] * 16


def test_more_workers_on_a_node_than_groups_share_a_group_evenly() -> None:
    groups = spread_groups(6, 2, ["a"] * 5 + ["b"])
    assert np.bincount(groups[:5]).tolist() == [3, 2]
    assert np.bincount(groups).tolist() == [3, 3]


def test_messages_of_a_group_are_the_same() -> None:
    scheme = Fractional(7, stragglers=1, nodes=["a", "a", "b", "b", "c", "c", "d"])
    scheme.begin(0, has_new_job=True)
    matrix = weight_matrix(scheme)
    for worker in range(7):
        assert matrix[worker].tolist() == matrix[scheme.groups == scheme.groups[worker]][0].tolist()


@pytest.mark.parametrize("stragglers", [-1, 4, True])
def test_stragglers_leave_a_worker(stragglers: int) -> None:
    message = rf"Invalid stragglers value: {stragglers}\. Must be an integer from 0 to 3\."
    with pytest.raises(ValueError, match=message):
        Fractional(4, stragglers=stragglers)


def test_every_worker_has_a_node() -> None:
    with pytest.raises(ValueError, match=r"Invalid nodes value: 1 names\. Must be one for each of 4 workers\."):
        Fractional(4, stragglers=1, nodes=["a"])


def test_messages_are_summed_in_the_order_of_the_groups_whoever_sent_them() -> None:
    scheme = Fractional(8, stragglers=1)
    scheme.begin(0, has_new_job=True)
    for missing in ([], [0], [0, 1, 6]):
        arrived = np.ones(8, dtype=bool)
        arrived[missing] = False
        scheme.close(arrived)
        groups = [scheme.groups[worker] for worker, _ in scheme.decode(0).messages]
        assert groups == [0, 1, 2, 3]
