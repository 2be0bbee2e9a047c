"""Schemes by their names, and what all of them have in common."""

from typing import Any

import numpy as np
import pytest
from coding_rounds import all_but, workers

from orchestrator.core.coding.build import SCHEMES, build_scheme
from orchestrator.core.coding.cyclic import Cyclic
from orchestrator.core.coding.fractional import Fractional
from orchestrator.core.errors import UndecodableError

CASES: list[tuple[str, dict[str, Any]]] = [
    ("uncoded", {}),
    ("ignore", {"stragglers": 2}),
    ("backup", {"backups": 2}),
    ("fractional", {"stragglers": 2}),
    ("fractional", {"stragglers": 3}),
    ("cyclic", {"stragglers": 2}),
    ("cyclic", {"stragglers": 2, "strict": True}),
    ("approximate", {"stragglers": 2, "replicas": 2, "placement": "fractional"}),
    ("approximate", {"stragglers": 2, "replicas": 2, "placement": "cyclic"}),
    ("stochastic", {"stragglers": 2, "replicas": 2}),
    ("sr_sgc", {"burst": 2, "window": 3, "max_stragglers": 4}),
    ("m_sgc", {"burst": 2, "window": 3, "max_stragglers": 2}),
    ("m_sgc", {"burst": 1, "window": 2, "max_stragglers": 6}),
]
each_scheme = pytest.mark.parametrize(("name", "parameters"), CASES, ids=str)


def test_every_scheme_is_tested() -> None:
    assert {name for name, _ in CASES} == set(SCHEMES)


@each_scheme
def test_without_stragglers_the_sum_is_exact(name: str, parameters: dict[str, Any]) -> None:
    """The limit in which every scheme is an ordinary sum; where weights of chunks are added up, all are 1."""
    num_jobs = 4
    scheme = build_scheme(name, 6, **parameters)
    messages: dict[tuple[int, int, int], np.ndarray] = {}
    decoded_jobs = []
    for round_index in range(num_jobs + scheme.delay):
        scheme.begin(round_index, has_new_job=round_index < num_jobs)
        for worker in range(6):
            tasks = scheme.tasks(worker)
            assert len(tasks) <= scheme.num_messages
            assert bool(tasks) == (scheme.loads()[worker] > 0)
            for task in tasks:
                weights = np.zeros(len(scheme.chunk_weights))
                weights[list(task.chunks)] = task.coefficients
                messages[task.job, worker, task.slot] = weights
        for job in scheme.close(all_but(6, [])):
            decoded = scheme.decode(job)
            assert (decoded.job, decoded.coverage) == (job, 1.0)
            assert decoded.residual < 1e-9
            assert len(decoded.messages) == len(decoded.coefficients)
            rows = [messages[job, worker, slot] for worker, slot in decoded.messages]
            expected = np.full(len(scheme.chunk_weights), 1 / scheme.draw_factor, dtype=np.float64)
            assert decoded.coefficients @ rows == pytest.approx(expected, abs=1e-9)
            decoded_jobs.append(job)
    assert decoded_jobs == list(range(num_jobs))


@each_scheme
def test_loads_are_shares_of_a_batch(name: str, parameters: dict[str, Any]) -> None:
    scheme = build_scheme(name, 6, **parameters)
    batch = sum(scheme.chunk_weights) / scheme.draw_factor
    for round_index in range(6):
        scheme.begin(round_index, has_new_job=True)
        for worker in range(6):
            own = sum(scheme.chunk_weights[chunk] for task in scheme.tasks(worker) for chunk in task.chunks)
            assert scheme.loads()[worker] == pytest.approx(float(own / batch))
            assert scheme.loads()[worker] <= scheme.load * (1 + 1e-12)
        scheme.close(all_but(6, []))


@each_scheme
def test_more_arrivals_never_hurt(name: str, parameters: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    scheme = build_scheme(name, 6, **parameters)
    for round_index in range(30):
        scheme.begin(round_index, has_new_job=True)
        order = rng.permutation(6)
        verdicts = [scheme.may_close(workers(6, order[:size])) for size in range(7)]
        assert verdicts == sorted(verdicts)
        assert verdicts[-1]
        scheme.close(workers(6, order[: verdicts.index(True)]))


@pytest.mark.parametrize(("name", "parameters"), CASES[:-1], ids=str)
def test_a_round_that_may_not_close_does_not(name: str, parameters: dict[str, Any]) -> None:
    """The last case is left out: its parameters let a first round close without anybody."""
    scheme = build_scheme(name, 6, **parameters)
    scheme.begin(0, has_new_job=True)
    with pytest.raises(UndecodableError, match="Round 0 cannot close with the messages of 0 of 6 workers"):
        scheme.close(workers(6, []))


def test_nodes_and_the_seed_reach_the_schemes_that_use_them() -> None:
    nodes = ["a", "a", "a", "b", "b", "b"]
    scheme = build_scheme("fractional", 6, nodes=nodes, stragglers=1)
    assert isinstance(scheme, Fractional)
    assert scheme.groups.tolist() == [0, 1, 2, 0, 1, 2]
    codes = [build_scheme("cyclic", 6, nodes=nodes, seed=seed, stragglers=1) for seed in (0, 0, 1)]
    first, again, other = (code.decoder.code.matrix.tolist() for code in codes if isinstance(code, Cyclic))
    assert first == again != other


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("raid", {}, r"Invalid scheme value: 'raid'\. Must be one of uncoded, ignore, backup, fractional, cyclic, "),
        ("uncoded", {"stragglers": 1}, r"Invalid parameter of scheme uncoded: 'stragglers'\. Must be one of: none\."),
        ("sr_sgc", {"burst": 1}, r"Missing parameter of scheme sr_sgc: 'window'\. It needs: burst, window, max_strag"),
        ("cyclic", {}, r"Missing parameter of scheme cyclic: 'stragglers'"),
        ("backup", {"backups": 6}, r"Invalid backups value: 6\. Must be an integer from 0 to 5\."),
        ("ignore", {"stragglers": "2"}, r"Invalid stragglers value: '2'\. Must be an integer from 0 to 5\."),
    ],
)
def test_mistakes_are_one_sentence(name: str, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_scheme(name, 6, **parameters)
