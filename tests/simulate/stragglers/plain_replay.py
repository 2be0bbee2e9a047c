"""Schemes replayed in plain loops over lists, written without the code that is tested."""

from collections.abc import Callable, Sequence

Matrix = Sequence[Sequence[float]]


def plain_total_s(
    factors_s: Matrix,
    work: Matrix,
    parts: Callable[[int, int], Sequence[int]],
    share: float,
    closes: Callable[[list[float]], float],
    *,
    fixed_s: float = 0.0,
    carry_over: bool = False,
) -> float:
    """Seconds of one job for each row, each decoded in its own round.

    Args:
        factors_s: [rounds][workers] seconds for one part of ordinary work.
        work: [rounds][parts] relative work of the parts of each round's batch.
        parts: By round and worker: the parts that it computes.
        share: How many times a part is as large as one of num_workers.
        closes: By the times of all workers: when the round ends.
        fixed_s: Seconds of each worker's round.
        carry_over: Whether a late worker begins its next round only when it is done.
    """
    now, free_at = 0.0, [0.0] * len(factors_s[0])
    for t, factors in enumerate(factors_s):
        times = []
        for worker, factor in enumerate(factors):
            start = max(now, free_at[worker]) if carry_over else now
            done = start + fixed_s + factor * share * sum(work[t][part] for part in parts(t, worker))
            free_at[worker] = done
            times.append(done - now)
        now += closes(times)
    return now


def last_but(num_missing: int) -> Callable[[list[float]], float]:
    """The end with so many workers missing."""
    return lambda times: sorted(times)[len(times) - 1 - num_missing]


def every_group(num_groups: int) -> Callable[[list[float]], float]:
    """The end when some worker of each group of workers that are equal modulo ``num_groups`` has arrived."""
    return lambda times: max(min(times[group::num_groups]) for group in range(num_groups))


def exhaustive(factors_s: Matrix, work: Matrix, *, fixed_s: float, carry_over: bool) -> dict[str, float]:
    """Total seconds of every scheme that advice for one model is about, by the text of its setting."""
    num_workers = len(factors_s[0])
    settings: dict[str, tuple[Callable[[int, int], Sequence[int]], float, Callable[[list[float]], float]]] = {
        "uncoded": (lambda t, worker: [worker], 1.0, max),
    }
    for copies in range(2, num_workers + 1):
        if num_workers % copies == 0:
            num_groups = num_workers // copies

            def group(t: int, worker: int, copies: int = copies, num_groups: int = num_groups) -> Sequence[int]:
                first = copies * (worker % num_groups)
                return range(first, first + copies)

            settings[f"fractional:stragglers={copies - 1}"] = (group, 1.0, every_group(num_groups))
    for stragglers in range(1, num_workers):

        def ring(t: int, worker: int, stragglers: int = stragglers) -> Sequence[int]:
            return [(worker + step) % num_workers for step in range(stragglers + 1)]

        settings[f"cyclic:stragglers={stragglers}"] = (ring, 1.0, last_but(stragglers))
    for missing in range(1, max(1, num_workers // 10) + 1):

        def turn(t: int, worker: int) -> Sequence[int]:
            return [(worker + t) % num_workers]

        settings[f"ignore:stragglers={missing}"] = (turn, 1.0, last_but(missing))
        settings[f"backup:backups={missing}"] = (turn, num_workers / (num_workers - missing), last_but(missing))
    return {
        name: plain_total_s(factors_s, work, parts, share, closes, fixed_s=fixed_s, carry_over=carry_over)
        for name, (parts, share, closes) in settings.items()
    }
