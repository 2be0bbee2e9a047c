"""One chunk for each worker: waiting for all, going on without the last, and spare workers."""

from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from coding_rounds import all_but, decoded_in_round, weight_matrix

from orchestrator.core.coding.uncoded import Backup, Ignore, Uncoded
from orchestrator.core.errors import UndecodableError


def test_uncoded_waits_for_all() -> None:
    scheme = Uncoded(5)
    _, weights = decoded_in_round(scheme, all_but(5, []))
    assert weights.tolist() == [1.0] * 5
    assert scheme.load == 1 / 5
    scheme.begin(1, has_new_job=True)
    with pytest.raises(UndecodableError, match="Round 1 cannot close with the messages of 4 of 5 workers"):
        scheme.close(all_but(5, [3]))


def test_ignore_scales_what_arrived() -> None:
    scheme = Ignore(8, stragglers=2)
    decoded, weights = decoded_in_round(scheme, all_but(8, [1, 6]))
    assert sorted(weights.tolist()) == pytest.approx([0.0] * 2 + [8 / 6] * 6)
    assert decoded.coverage == 6 / 8
    assert decoded.residual == pytest.approx(np.sqrt(2))
    scheme.begin(1, has_new_job=True)
    assert not scheme.may_close(all_but(8, [1, 5, 6]))


def test_ignore_is_the_plain_sum_where_all_arrive() -> None:
    decoded, weights = decoded_in_round(Ignore(8, stragglers=2), all_but(8, []))
    assert weights.tolist() == [1.0] * 8
    assert (decoded.coverage, decoded.residual) == (1.0, 0.0)


@pytest.mark.parametrize("scheme", [Ignore(6, stragglers=1), Backup(6, backups=1)], ids=["ignore", "backup"])
def test_a_worker_that_is_always_late_loses_another_chunk_each_round(scheme: Ignore | Backup) -> None:
    lost = []
    for round_index in range(6):
        _, weights = decoded_in_round(scheme, all_but(6, [2]), round_index)
        lost += np.flatnonzero(weights == 0).tolist()
    assert sorted(lost) == list(range(6))


def test_backup_averages_the_first() -> None:
    scheme = Backup(6, backups=2)
    assert scheme.draw_factor == Fraction(6, 4)
    assert scheme.load == 1 / 4
    for missing in combinations(range(6), 2):
        decoded, weights = decoded_in_round(scheme, all_but(6, missing))
        assert sorted(weights.tolist()) == [0.0, 0.0, 1.0, 1.0, 1.0, 1.0]
        assert (decoded.coverage, decoded.residual) == (1.0, 0.0)
    assert not scheme.may_close(all_but(6, [0, 1, 2]))


def test_backup_averages_all_that_arrived() -> None:
    """Chunks are 1/4 of a batch each: five of them at 4/5 are one batch."""
    _, weights = decoded_in_round(Backup(6, backups=2), all_but(6, [5]))
    assert sorted(weights.tolist()) == pytest.approx([0.0] + [4 / 5] * 5)


def test_no_stragglers_and_no_backups_are_uncoded() -> None:
    for scheme in (Ignore(4, stragglers=0), Backup(4, backups=0)):
        scheme.begin(0, has_new_job=True)
        assert weight_matrix(scheme).tolist() == np.eye(4).tolist()
        assert not scheme.may_close(all_but(4, [0]))
        assert scheme.draw_factor == 1


def test_a_worker_is_left() -> None:
    with pytest.raises(ValueError, match=r"Invalid backups value: 4\. Must be an integer from 0 to 3\."):
        Backup(4, backups=4)
    with pytest.raises(ValueError, match=r"Invalid stragglers value: 4\. Must be an integer from 0 to 3\."):
        Ignore(4, stragglers=4)
    with pytest.raises(ValueError, match=r"Invalid num_workers value: 0\. Must be an integer at least 1\."):
        Uncoded(0)
