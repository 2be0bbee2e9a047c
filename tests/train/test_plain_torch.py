"""One worker, one micro-batch: the loop against a training loop written by hand with torch alone."""

from pathlib import Path

import pytest
import torch
from support import make_run_directory, tiny_spec, train_on, weights
from torch.nn import functional as F

from orchestrator.data.sampler import GlobalOrder

GROUPS = {"sgd": {"lr": 0.1, "momentum": 0.9}, "adamw": {"lr": 0.01, "weight_decay": 0.1}}


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("clip", [None, 0.5])
def test_weights_equal_those_of_a_hand_written_loop(tmp_path: Path, name: str, clip: float | None) -> None:
    spec = tiny_spec(
        optimizer={"name": name, **GROUPS[name]},
        train={"steps": 20, "clip_grad_norm": clip},
        schedule={"name": "polynomial"},
    )
    directory = make_run_directory(tmp_path / "run", spec)
    train_on(1, directory)

    from tiny import Digits  # the recipe, importable since the run above

    recipe = Digits()
    rows, _ = recipe.build_datasets()
    # Same initial weights: the framework seeds before build_model, and this is how.
    from orchestrator.core.seeding import seed_everything

    seed_everything(0)
    model = recipe.build_model()
    decayed = [p for p in model.parameters() if p.dim() > 1]
    undecayed = [p for p in model.parameters() if p.dim() <= 1]
    arguments = {k: v for k, v in GROUPS[name].items() if k != "weight_decay"}
    decay = GROUPS[name].get("weight_decay", 0.0)
    groups = [{"params": decayed, "weight_decay": decay}, {"params": undecayed, "weight_decay": 0.0}]
    optimizer = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[name](groups, **arguments)
    order = GlobalOrder(len(rows), 0)
    for step in range(20):
        for group in optimizer.param_groups:
            group["lr"] = GROUPS[name]["lr"] * (1 - step / 20)
        ids = order.take(step * 48, 48)
        images = torch.stack([rows[i]["image"] for i in ids])
        labels = torch.tensor([rows[i]["label"] for i in ids])
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
    for key, tensor in weights(directory).items():
        torch.testing.assert_close(tensor, model.state_dict()[key], rtol=0, atol=1e-6)
