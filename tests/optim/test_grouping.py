"""Groups of parameters: who decays, who is adapted, whose rate is a multiple."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from orchestrator.core.collectives import Collectives
from orchestrator.core.errors import RecipeError
from orchestrator.engines.base import set_learning_rate
from orchestrator.optim.grouping import parameter_groups
from orchestrator.optim.lamb import Lamb, build_lamb
from orchestrator.spec.methods.optimizers import AdamW
from orchestrator.spec.methods.optimizers import Lamb as LambConfig


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 4)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)) for _ in range(2))
        self.head = nn.Linear(4, 2)


def groups(**options: object) -> dict[str, dict]:
    """The options of every parameter."""
    config = AdamW.model_validate({"name": "adamw", "weight_decay": 0.1, **options})
    return {
        name: {key: value for key, value in group.items() if key != "params"}
        for group in parameter_groups(Net(), config)
        for name, _ in group["params"]
    }


def test_biases_and_gains_do_not_decay_unless_asked() -> None:
    decays = {name: options["weight_decay"] for name, options in groups().items()}
    assert {name for name, decay in decays.items() if decay} == {
        "embedding.weight",
        "blocks.0.0.weight",
        "blocks.1.0.weight",
        "head.weight",
    }
    assert set(groups(decay_one_dimensional=True)["head.bias"].items()) >= {("weight_decay", 0.1)}


def test_a_group_is_chosen_by_name_by_module_and_by_class_the_first_wins() -> None:
    found = groups(
        param_groups=[
            {"match": ["blocks.0.*.weight"], "lr_multiplier": 0.5},
            {"match": ["blocks.*"], "lr_multiplier": 2.0, "weight_decay": 0.3},
            {"match": ["Embedding"], "weight_decay": 0.0},
        ]
    )
    assert found["blocks.0.0.weight"] == {"weight_decay": 0.1, "lr_multiplier": 0.5}
    assert found["blocks.0.0.bias"] == {"weight_decay": 0.3, "lr_multiplier": 2.0}
    assert found["blocks.1.0.weight"] == {"weight_decay": 0.3, "lr_multiplier": 2.0}
    assert found["embedding.weight"] == {"weight_decay": 0.0, "lr_multiplier": 1.0}
    assert found["head.weight"] == {"weight_decay": 0.1, "lr_multiplier": 1.0}


def test_every_trainable_parameter_is_in_one_group() -> None:
    net = Net()
    net.head.bias.requires_grad_(False)
    config = AdamW.model_validate({"name": "adamw", "param_groups": [{"match": ["head"], "lr_multiplier": 3.0}]})
    names = [name for group in parameter_groups(net, config) for name, _ in group["params"]]
    assert sorted(names) == sorted(name for name, p in net.named_parameters() if p.requires_grad)


def test_a_pattern_without_a_parameter_is_an_error_that_lists_them() -> None:
    with pytest.raises(
        RecipeError, match=r"optimizer\.param_groups\[1\]\.match: no trainable .* 'tail'.* head\.weight"
    ):
        groups(param_groups=[{"match": ["head"]}, {"match": ["tail"]}])


def test_the_rate_of_a_group_is_a_multiple_of_the_jobs() -> None:
    config = LambConfig.model_validate(
        {
            "name": "lamb",
            "param_groups": [
                {"match": ["head"], "lr_multiplier": 0.25},
                {"match": ["embedding"], "lr_multiplier": 0.0},
            ],
        }
    )
    net = Net()
    optimizer = build_lamb(config, net, Collectives())
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    set_learning_rate(optimizer, 0.08)
    optimizer.step()
    moved = {
        name: float((p.detach() - before[name]).norm() / before[name].norm()) for name, p in net.named_parameters()
    }
    assert moved["blocks.0.0.weight"] == pytest.approx(0.08, rel=1e-5)
    assert moved["head.weight"] == pytest.approx(0.02, rel=1e-5)
    assert moved["embedding.weight"] == 0.0


def test_a_group_may_be_adapted_against_the_rule() -> None:
    config = LambConfig.model_validate({"name": "lamb", "param_groups": [{"match": ["head"], "adapt": False}]})
    optimizer = build_lamb(config, Net(), Collectives())
    adapt = {name: group.get("adapt") for group in optimizer.param_groups for name in group["param_names"]}
    assert adapt["head.weight"] is False
    assert adapt["blocks.0.0.weight"] is None


def test_what_a_step_did_is_reported_by_layer() -> None:
    net = Net()
    config = LambConfig.model_validate({"name": "lamb", "lr": 0.1, "log_layers_every": 2})
    optimizer = build_lamb(config, net, Collectives())
    reports = []
    for step in range(2):
        norms = {name: float(p.detach().norm()) for name, p in net.named_parameters()}
        before = {name: p.detach().clone() for name, p in net.named_parameters()}
        for parameter in net.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(step))
        optimizer.step()
        moved = {name: float((p.detach() - before[name]).norm()) for name, p in net.named_parameters()}
        reports.append({name: float(value) for name, value in optimizer.report().items()})
    assert set(reports[0]) == {"trust_ratio/min", "trust_ratio/median", "trust_ratio/max"}
    for name in norms:
        assert reports[1][f"weight_norm/{name}"] == pytest.approx(norms[name], rel=1e-5)
        assert reports[1][f"update_norm/{name}"] == pytest.approx(moved[name], rel=1e-4)
    assert reports[1]["trust_ratio/head.bias"] == 1.0
    ratios = [value for key, value in reports[1].items() if key.startswith("trust_ratio/") and "." in key]
    assert (reports[1]["trust_ratio/min"], reports[1]["trust_ratio/max"]) == (min(ratios), max(ratios))
    assert optimizer.report() == {}


def test_the_moments_of_adam_are_taken_over() -> None:
    torch.manual_seed(0)
    parameter = nn.Parameter(torch.randn(5, 3))
    adam = torch.optim.AdamW([parameter], lr=0.01)
    for _ in range(4):
        parameter.grad = torch.randn(5, 3)
        adam.step()
    lamb = Lamb([parameter], lr=0.01)
    lamb.load_state_dict({**lamb.state_dict(), "state": adam.state_dict()["state"]})
    state = lamb.state[parameter]
    assert torch.equal(state["exp_avg"], adam.state[parameter]["exp_avg"])
    parameter.grad = torch.randn(5, 3)
    lamb.step()
    assert int(state["step"]) == 5
