"""Groups of parameters: who decays, who is adapted, whose rate is a multiple."""

from __future__ import annotations

import copy

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
    # Of the layers that are adapted: a bias always has the ratio 1.
    ratios = [value for key, value in reports[1].items() if key.startswith("trust_ratio/") and "weight" in key]
    ratios = [value for value in ratios if value != 1.0]
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


def step_once(optimizer: Lamb, parameter: nn.Parameter, seed: int) -> None:
    parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
    optimizer.step()


def test_layers_are_recorded_by_the_number_of_the_step_after_a_resume_too() -> None:
    parameter = nn.Parameter(torch.ones(4, 3))
    optimizer = Lamb([("w", parameter)], log_layers_every=4)
    recorded = []
    for step in range(1, 10):
        step_once(optimizer, parameter, step)
        if step == 5:
            # What a resume does: state is made by a step that counts as the first, and read over.
            other = Lamb([("w", parameter)], log_layers_every=4)
            other.load_state_dict(optimizer.state_dict())
            optimizer = other
        if any("." not in key and key.endswith("/w") for key in optimizer.report()):
            recorded.append(step)
    assert recorded == [4, 8]


def test_what_made_room_for_loaded_state_is_not_reported() -> None:
    first, second = nn.Parameter(torch.ones(4, 3)), nn.Parameter(torch.ones(2, 2))
    optimizer = Lamb([first, second])
    for parameter in (first, second):
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # of all parameters at once, as when a checkpoint is loaded
    for state in optimizer.state.values():
        state["step"].fill_(7)
    # One after the other, as ZeRO steps.
    for parameter in (second, first):
        first.grad = second.grad = None
        step_once(optimizer, parameter, 1)
    report = optimizer.report()
    assert float(report["trust_ratio/max"]) < 50  # with a gradient of zeros it is 1 / weight_decay


def test_reports_that_nobody_asks_for_are_not_kept() -> None:
    parameter = nn.Parameter(torch.ones(4, 3))
    optimizer = Lamb([parameter])
    for step in range(5):
        step_once(optimizer, parameter, step)
    assert len(optimizer._last) == 1


def test_loaded_state_brings_groups_of_its_own() -> None:
    parameter = nn.Parameter(torch.ones(4, 3))
    optimizer = Lamb([parameter], lr=0.1)
    step_once(optimizer, parameter, 0)
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.param_groups[0]["lr"] = 0.0
    before = parameter.detach().clone()
    step_once(optimizer, parameter, 1)
    assert torch.equal(parameter, before)


def test_a_copy_is_refused_in_one_sentence() -> None:
    with pytest.raises(TypeError, match="Lamb cannot be copied: make another"):
        copy.deepcopy(Lamb([nn.Parameter(torch.ones(2, 2))]))


@pytest.mark.parametrize("wrong", [{"lr": -1.0}, {"betas": (0.9, 1.0)}, {"eps": -1e-8}, {"weight_decay": -0.1}])
def test_what_is_out_of_range_is_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="must be"):
        Lamb([nn.Parameter(torch.ones(2, 2))], **wrong)


def test_a_sparse_gradient_is_refused_at_every_step() -> None:
    parameter = nn.Parameter(torch.ones(4, 3))
    optimizer = Lamb([parameter])
    step_once(optimizer, parameter, 0)
    parameter.grad = torch.zeros(4, 3).to_sparse()
    with pytest.raises(RuntimeError, match="is sparse"):
        optimizer.step()
