"""The cyclic code: the worked examples, every set of stragglers of few workers, and how rounding errors grow."""

from itertools import combinations

import numpy as np
import pytest
from coding_rounds import all_but, decoded_in_round, weight_matrix, workers
from numpy.typing import NDArray

from orchestrator.core.coding import cyclic_code as module
from orchestrator.core.coding.cyclic import Cyclic
from orchestrator.core.coding.cyclic_code import (
    CyclicCode,
    CyclicDecoder,
    cyclic_code,
    null_space_matrix,
)
from orchestrator.core.coding.decoding import nearest_vector
from orchestrator.core.coding.fractional import Fractional
from orchestrator.core.errors import UndecodableError

Floats = NDArray[np.float64]
ROOT = np.array([[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1], [1, 0, 0, 1]], dtype=np.float64)
NULL_SPACE = np.array([[1, -1 / 2, 0, 0], [0, 1, 1 / 2, 0], [0, 0, 1, 4], [-1, 0, 0, 1]])


def random_sets(num_workers: int, num_stragglers: int, num_sets: int) -> list[list[int]]:
    rng = np.random.default_rng(5)
    return [rng.choice(num_workers, num_stragglers, replace=False).tolist() for _ in range(num_sets)]


def rounded(values: Floats, dtype: str) -> Floats:
    """Values rounded to a type and back; bfloat16 is the upper half of a float32, to nearest even."""
    if dtype != "bf16":
        return values.astype({"fp64": np.float64, "fp32": np.float32, "fp16": np.float16}[dtype]).astype(np.float64)
    bits = values.astype(np.float32).view(np.uint32)
    bits = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return (bits & np.uint32(0xFFFF0000)).view(np.float32).astype(np.float64)


def relative_error(scheme: Fractional | Cyclic, missing: list[int], dtype: str) -> float:
    """Of the decoded sum of random gradients, where messages are rounded to a type."""
    gradients = np.random.default_rng(7).standard_normal((len(scheme.chunk_weights), 200))
    scheme.begin(0, has_new_job=True)
    matrix = weight_matrix(scheme)
    scheme.close(all_but(scheme.num_workers, missing))
    decoded = scheme.decode(0)
    used = [worker for worker, _ in decoded.messages]
    found = decoded.coefficients @ rounded(matrix[used] @ gradients, dtype)
    exact = gradients.sum(axis=0)
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


def test_the_null_space_form_of_the_worked_example() -> None:
    assert null_space_matrix(np.array([[1.0, 2.0, -4.0, 1.0]])) == pytest.approx(NULL_SPACE)


@pytest.mark.parametrize(
    ("matrix", "present", "expected"),
    [
        (ROOT, [0, 1, 2], [1, 0, 1]),
        (ROOT, [1, 2, 3], [1, 0, 1]),
        (ROOT, [0, 2, 3], [1, 1, 0]),
        (ROOT, [0, 1, 3], [0, 1, 1]),
        (NULL_SPACE, [0, 1, 2], [1, 3 / 2, 1 / 4]),
    ],
)
def test_decode_vectors_of_the_worked_examples(matrix: Floats, present: list[int], expected: list[float]) -> None:
    left, sizes, right = np.linalg.svd(matrix)
    code = CyclicCode(matrix, 1, left[:, :3] @ (right[:3].sum(axis=1) / sizes[:3]), left[:, 3:], 1.0, 1.0)
    missing = np.array([[worker for worker in range(4) if worker not in present]])
    vector = module.decode_vectors(code, missing)[0]
    assert vector[present] == pytest.approx(expected, abs=1e-12)
    nearest = nearest_vector(matrix, workers(4, present))
    assert nearest.workers.tolist() == [worker for worker, value in zip(present, expected, strict=True) if value]
    assert nearest.coefficients == pytest.approx([value for value in expected if value])
    assert nearest.coefficients @ (matrix @ [1, 2, 3, 4])[nearest.workers] == pytest.approx(10)


def test_rows_are_cyclic_and_begin_with_one() -> None:
    code = cyclic_code(7, 2, 0)
    for worker in range(7):
        chunks, coefficients = code.row(worker)
        assert set(chunks) == {worker, (worker + 1) % 7, (worker + 2) % 7}
        assert list(chunks) == sorted(chunks)
        assert coefficients[chunks.index(worker)] == 1


@pytest.mark.parametrize(
    ("num_workers", "num_stragglers"),
    [(1, 0), (2, 1), (3, 2), (4, 0), (5, 2), (8, 1), (8, 2), (8, 7), (11, 5), (16, 1), (16, 3), (16, 15)],
)
def test_every_set_of_stragglers_decodes(num_workers: int, num_stragglers: int) -> None:
    decoder = CyclicDecoder(num_workers, num_stragglers, seed=0)
    matrix = decoder.code.matrix
    for missing in combinations(range(num_workers), num_stragglers):
        vector = decoder.vector(all_but(num_workers, missing))
        assert not set(vector.workers.tolist()) & set(missing)
        assert np.linalg.norm(vector.coefficients @ matrix[vector.workers] - 1) < 1e-9


def test_256_workers_decode_without_15() -> None:
    decoder = CyclicDecoder(256, 15, seed=0)
    matrix = decoder.code.matrix
    adjacent = [list(range(start, start + 15)) for start in (0, 100, 241)]
    for missing in random_sets(256, 15, 100) + adjacent:
        vector = decoder.vector(all_but(256, missing))
        assert np.linalg.norm(vector.coefficients @ matrix[vector.workers] - 1) < 1e-7


def test_the_vector_is_that_of_least_squares() -> None:
    decoder = CyclicDecoder(12, 4, seed=3)
    for missing in random_sets(12, 4, 20):
        vector = decoder.vector(all_but(12, missing))
        expected = nearest_vector(decoder.code.matrix, all_but(12, missing))
        assert vector.workers.tolist() == expected.workers.tolist()
        assert vector.coefficients == pytest.approx(expected.coefficients, rel=1e-9)


@pytest.mark.parametrize(
    ("num_workers", "stragglers", "limits"),
    [
        (8, 1, {"fp64": 1e-9, "fp32": 2e-7, "bf16": 6e-3, "fp16": 8e-4}),
        (16, 3, {"fp64": 1e-9, "fp32": 6e-7, "bf16": 3e-2, "fp16": 4e-3}),
        (64, 7, {"fp64": 1e-9, "fp32": 1e-5, "bf16": 0.4, "fp16": 5e-2}),
        (256, 15, {"fp64": 1e-9, "fp32": 1.2e-4, "bf16": 10.0, "fp16": 1.2}),
    ],
)
def test_the_decoded_sum_is_the_plain_sum(num_workers: int, stragglers: int, limits: dict[str, float]) -> None:
    """For the median set of stragglers. Codes of other seeds differ by a factor of about three."""
    scheme = Cyclic(num_workers, stragglers=stragglers)
    for dtype, limit in limits.items():
        errors = [relative_error(scheme, missing, dtype) for missing in random_sets(num_workers, stragglers, 11)]
        assert np.median(errors) < limit


def test_amplification_is_what_rounding_shows() -> None:
    for num_workers, stragglers in ((8, 2), (16, 3), (24, 5)):
        scheme = Cyclic(num_workers, stragglers=stragglers)
        uncoded = relative_error(Fractional(num_workers, stragglers=0), [], "bf16")
        errors = [relative_error(scheme, missing, "bf16") for missing in random_sets(num_workers, stragglers, 101)]
        amplification = scheme.decoder.code.amplification
        assert np.median(errors) / uncoded == pytest.approx(amplification, rel=0.25)


def test_the_best_of_several_draws_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[CyclicCode] = []
    draw = module._drawn_code
    monkeypatch.setattr(module, "_drawn_code", lambda *arguments: drawn.append(draw(*arguments)) or drawn[-1])
    best = cyclic_code.__wrapped__(16, 3, 4)
    assert len(drawn) == 64
    assert best.worst_amplification == min(code.worst_amplification for code in drawn) < drawn[0].worst_amplification
    drawn.clear()
    best = cyclic_code.__wrapped__(17, 3, 5)
    assert len(drawn) == 8
    assert best.amplification == min(code.amplification for code in drawn) < drawn[0].amplification


def test_few_workers_get_codes_without_large_coefficients() -> None:
    assert cyclic_code(4, 1, 0).worst_amplification < 1.5
    assert cyclic_code(8, 2, 0).worst_amplification < 6
    assert abs(cyclic_code(8, 2, 0).matrix).max() < 10


def test_a_code_is_alike_for_equal_seeds_and_another_for_others() -> None:
    assert cyclic_code.__wrapped__(8, 2, 1).matrix.tolist() == cyclic_code(8, 2, 1).matrix.tolist()
    assert cyclic_code(8, 2, 2).matrix.tolist() != cyclic_code(8, 2, 1).matrix.tolist()


def test_a_code_that_does_not_decode_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.MAX_CODE_RESIDUAL, True, 0.0)
    with pytest.raises(ValueError, match=r"Invalid stragglers value: 3\. Must be less for a cyclic code of 16 workers"):
        cyclic_code.__wrapped__(16, 3, 0)


@pytest.mark.parametrize("stragglers", [-1, 8, 9])
def test_stragglers_leave_a_worker(stragglers: int) -> None:
    with pytest.raises(ValueError, match=rf"Invalid stragglers value: {stragglers}\. Must be an integer from 0 to 7\."):
        Cyclic(8, stragglers=stragglers)
    with pytest.raises(ValueError, match="Invalid stragglers value"):
        cyclic_code(8, stragglers, 0)


def test_no_decoding_with_a_message_too_few() -> None:
    scheme = Cyclic(8, stragglers=2)
    scheme.begin(0, has_new_job=True)
    with pytest.raises(UndecodableError, match="Round 0 cannot close with the messages of 5 of 8 workers"):
        scheme.close(all_but(8, [1, 4, 6]))
    with pytest.raises(UndecodableError, match="needs the messages of 6 of 8 workers; 5 are there"):
        scheme.decoder.vector(all_but(8, [1, 4, 6]))


def test_no_decoding_with_a_large_residual(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = CyclicCode(np.eye(8), 2, np.ones(8), np.eye(8)[:, :2], 1.0, 1.0)
    monkeypatch.setattr(module, "cyclic_code", lambda *_: broken)
    with pytest.raises(UndecodableError, match=r"give the sum with a residual of 1\.4e\+00; at most 1e-06"):
        CyclicDecoder(8, 2, seed=0).vector(all_but(8, [0, 1]))


def test_an_ill_conditioned_set_is_decoded_by_least_squares(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = CyclicDecoder(8, 2, seed=0)
    monkeypatch.setattr(module, "decode_vectors", lambda code, stragglers: np.ones((1, 8)))
    assert decoder.vector(all_but(8, [0, 1])).residual < 1e-9


def test_more_arrivals_than_needed_use_the_first() -> None:
    decoded, weights = decoded_in_round(Cyclic(8, stragglers=2), all_but(8, [3]))
    assert weights == pytest.approx(np.ones(8))
    assert (7, 0) not in decoded.messages
    assert decoded.residual < 1e-9
    assert decoded.coverage == 1


def test_strict_closes_with_fewer_than_s_missing() -> None:
    scheme = Cyclic(8, stragglers=2, strict=True)
    scheme.begin(0, has_new_job=True)
    assert scheme.may_close(all_but(8, [0]))
    assert not scheme.may_close(all_but(8, [0, 5]))
    assert scheme.load == 3 / 8
    with pytest.raises(ValueError, match="Invalid stragglers value: 0"):
        Cyclic(8, stragglers=0, strict=True)


def test_asking_when_a_round_closes_draws_no_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "cyclic_code", lambda *_: pytest.fail("a code was drawn"))
    scheme = Cyclic(8, stragglers=2)
    scheme.begin(0, has_new_job=True)
    assert scheme.loads().tolist() == [3 / 8] * 8
    assert scheme.close(all_but(8, [0, 5])) == (0,)
