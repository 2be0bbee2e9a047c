"""Plain data-parallel training of a small net on 1,797 digit images, as one would start it with torchrun.

It runs under `orchestrator run`, `torchrun --nproc-per-node 2 train.py` and `python train.py`. Each rank takes its
share of every batch. Rank 0 logs to MLflow, into the run that MLFLOW_RUN_ID names where it is set, and keeps a
checkpoint, from which a restarted script goes on. That the checkpoint lies in the job's run directory, where there is
one, is all that the script knows of the orchestrator.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import mlflow
import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

NUM_TRAIN = 1500


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--global-batch", type=int, default=100, help="samples per step over all ranks")
    parser.add_argument("--lr", type=float, default=0.01)
    return parser.parse_args()


def load_data() -> tuple[Tensor, Tensor]:
    """All images, each 64 numbers from 0 to 1, and their digits."""
    bunch = load_digits()
    order = torch.randperm(len(bunch.target), generator=torch.Generator().manual_seed(0))
    return torch.tensor(bunch.data / 16, dtype=torch.float32)[order], torch.tensor(bunch.target)[order]


def checkpoint_file() -> Path:
    """Under the orchestrator in the job's run directory, which all attempts share; elsewhere in this folder."""
    return Path(os.environ.get("ORCHESTRATOR_RUN_DIRECTORY", ".")) / "checkpoint.pt"


def main() -> None:
    """Train, and leave one line of metrics per epoch in MLflow."""
    arguments = parse_arguments()
    # Without a launcher these are the variables of a group of one.
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}.items():
        os.environ.setdefault(name, value)
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if on_gpu else torch.device("cpu")
    dist.init_process_group("nccl" if on_gpu else "gloo")
    rank, world_size = dist.get_rank(), dist.get_world_size()

    images, digits = (tensor.to(device) for tensor in load_data())
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)).to(device)
    model = DistributedDataParallel(net)
    optimizer = torch.optim.AdamW(model.parameters(), lr=arguments.lr)
    first_epoch = restore(net, optimizer)
    if rank == 0:
        mlflow.start_run()
        print(f"epochs {first_epoch} to {arguments.epochs - 1} on {world_size} ranks", flush=True)

    for epoch in range(first_epoch, arguments.epochs):
        shuffled = torch.randperm(NUM_TRAIN, generator=torch.Generator().manual_seed(epoch))
        for batch in shuffled.split(arguments.global_batch):
            mine = batch[rank::world_size]
            loss = nn.functional.cross_entropy(model(images[mine]), digits[mine])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if rank == 0:
            with torch.no_grad():
                accuracy = (net(images[NUM_TRAIN:]).argmax(1) == digits[NUM_TRAIN:]).float().mean().item()
            mlflow.log_metrics({"loss": loss.item(), "eval_accuracy": accuracy}, step=epoch)
            print(f"epoch {epoch}  loss {loss.item():.4f}  eval_accuracy {accuracy:.4f}", flush=True)
            save(net, optimizer, epoch + 1)
    if rank == 0:
        mlflow.end_run()
    dist.destroy_process_group()


def save(net: nn.Module, optimizer: torch.optim.Optimizer, next_epoch: int) -> None:
    """Keep everything that the next epoch needs; a crash in between leaves the file before."""
    file = checkpoint_file()
    state = {"net": net.state_dict(), "optimizer": optimizer.state_dict(), "next_epoch": next_epoch}
    torch.save(state, file.with_suffix(".tmp"))
    os.replace(file.with_suffix(".tmp"), file)


def restore(net: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Take up the checkpoint where there is one; return the epoch to go on with."""
    if not checkpoint_file().exists():
        return 0
    state = torch.load(checkpoint_file(), weights_only=True)
    net.load_state_dict(state["net"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["next_epoch"])


if __name__ == "__main__":
    main()
