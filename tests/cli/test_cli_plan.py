"""What `orchestrator plan` says of memory."""

import json
from pathlib import Path

from orchestrator.cli.figures import size

TEXT = Path(__file__).parents[2] / "jobs" / "text" / "job.yaml"
OVERRIDES = (
    "recipe.args={width: 64, depth: 2, max_bytes: 300000}",
    "resources.workers=4",
    "optimizer=adamw",
    "engine={name: fsdp2, mesh: {replicate: 2}}",
)
COLUMNS = ["ddp", "fsdp2", "deepspeed 0", "deepspeed 1", "deepspeed 2", "deepspeed 3"]


def test_the_memory_of_a_worker_by_engine_and_number_of_workers(cli, storage: Path) -> None:
    arguments = ["plan", TEXT, "--storage", storage, *(part for value in OVERRIDES for part in ("--set", value))]
    memory = json.loads(cli(*arguments, "--json").out)["memory"]
    peak = memory["peak"]
    parts = ["parameters", "gradients", "optimizer", "activations", "communication"]
    assert sum(peak[part] for part in parts) == peak["total"] > 2**20
    chosen = next(row for row in memory["rows"] if row["is_chosen"])
    assert chosen["workers"] == 4
    assert list(chosen["peaks"]) == COLUMNS
    assert chosen["peaks"]["fsdp2"] == peak

    out = cli(*arguments).out
    assert f"{size(peak['total'])} of host memory per worker at the peak" in out
    assert f"activations {size(peak['activations'])}, communication {size(peak['communication'])}\n" in out
    assert f"{size(memory['checkpoint_copy'])} of host memory for asynchronous checkpoints" in out
    title, header, *rows = out[out.index("peak memory per worker") :].split("\n\n")[0].splitlines()
    assert [column.strip().lower() for column in header.split("  ") if column.strip()] == ["workers", *COLUMNS]
    assert [row.removeprefix(">").split()[0] for row in rows] == [str(workers) for workers in range(1, 9)]
    assert [row.split()[1] for row in rows if row.startswith(">")] == ["4"]
    # Two replica groups take an even number of workers.
    assert [" - " in row for row in rows] == [True, False] * 4
    assert max(map(len, (title, header, *rows))) <= 100


def test_what_a_coded_exchange_adds(cli, storage: Path) -> None:
    job = TEXT.parents[1] / "digits" / "coded.yaml"
    out = cli("plan", job, "--storage", storage).out
    assert "pack; 1 shard with 0.5 CPUs each. A worker computes up to 0.5 of a batch per step, 2 times its share" in out
    served = json.loads(cli("plan", job, "--storage", storage, "--json").out)["served"]
    assert served == {"shards": 1, "cpus_per_shard": 0.5, "load": 0.5}


def test_the_phases_of_a_training(cli, storage: Path) -> None:
    small = "recipe.args={width: 32, depth: 1, max_bytes: 300000, sequence_length: 64, max_length: 256}"
    sde = ("scaling.rule=sde", "optimizer={name: adamw, lr: 0.004, eps: 1e-6}", "schedule.warmup={fraction: 0.1}")
    overrides = (part for value in (small, *sde) for part in ("--set", value))
    out = cli("plan", TEXT.with_name("phases.yaml"), "--storage", storage, *overrides).out
    assert "length         120 steps, 12,480 samples\n" in out
    assert "memory per worker at the peak of the first phase" in out
    header, first, second = out[out.index("PHASE") :].splitlines()[:3]
    split = [[cell for cell in line.split("  ") if cell] for line in (header, first, second)]
    cells = [[cell.strip() for cell in line] for line in split]
    assert cells == [
        ["PHASE", "LENGTH", "BATCH", "BACKWARDS PER STEP", "PEAK LR", "WARMUP", "BETAS", "EPS"],
        ["1", "90 steps, 11,520 samples", "128", "1", "0.005657", "1,152 samples (9 steps)", "0.8, 0.998", "7.071e-07"],
        ["2", "30 steps, 960 samples", "32", "1", "0.002828", "160 samples (5 steps)", "0.95, 0.9995", "1.414e-06"],
    ]
