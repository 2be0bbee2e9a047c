"""The text recipe: whole files are held out, the model is causal and deterministic, and it learns."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import datasets
import pytest
import torch
from safetensors.torch import save_file

from orchestrator.spec.load import load_spec

FOLDER = Path(__file__).parents[2] / "jobs" / "text"
SMALL = {"width": 16, "depth": 2, "num_heads": 2, "sequence_length": 32, "max_bytes": 300_000}


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("text_recipe", FOLDER / "recipe.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def write(folder: Path, **texts: str) -> None:
    for name, text in texts.items():
        path = folder / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_sources_are_python_files_in_order_without_tests(recipe: ModuleType, tmp_path: Path) -> None:
    write(tmp_path, b="bb", a="a", c__d="dddd", test__x="x", c__tests__y="y", encodings__cp0="t")
    write(tmp_path, **{"site-packages__z": "z", "_sysconfigdata_linux": "s"})
    (tmp_path / "notes.txt").write_text("not Python")
    assert recipe.read_sources(tmp_path, 1000) == {"a.py": b"a", "b.py": b"bb", "c/d.py": b"dddd"}


def test_reading_stops_at_max_bytes(recipe: ModuleType, tmp_path: Path) -> None:
    write(tmp_path, a="a", b="bb", c="c")
    assert list(recipe.read_sources(tmp_path, 3)) == ["a.py", "b.py"]
    assert list(recipe.read_sources(tmp_path, 2)) == ["a.py"]
    with pytest.raises(ValueError, match="max_bytes value: 0"):
        recipe.read_sources(tmp_path, 0)


def test_a_twentieth_of_the_files_is_held_out_by_name(recipe: ModuleType) -> None:
    texts = {f"{index}.py": f"text {index}".encode() for index in range(100)}
    train, held_out = recipe.split_files(texts)
    assert len(held_out) == 5
    assert not train.keys() & held_out.keys()
    assert train | held_out == texts
    changed = {name: text + b" changed" for name, text in texts.items()}
    assert recipe.split_files(changed)[1].keys() == held_out.keys()
    assert [len(part) for part in recipe.split_files({"a.py": b"a", "b.py": b"b"})] == [1, 1]


def test_sequences_are_the_text_itself(recipe: ModuleType) -> None:
    sequences = recipe.cut_into_sequences([b"abcd", b"efghi"], 4)
    assert [bytes(row.tolist()) for row in sequences[:]["bytes"]] == [b"abcd", b"\x00efg"]
    with pytest.raises(ValueError, match="too few for sequences of 5"):
        recipe.cut_into_sequences([b"abcd"], 5)


def test_evaluation_is_spread_over_the_held_out_text(recipe: ModuleType) -> None:
    _, everything = recipe.Text(**SMALL, num_evaluation_sequences=10**9).build_datasets()
    train, few = recipe.Text(**SMALL, num_evaluation_sequences=10).build_datasets()
    assert len(train) > len(everything) > 100
    starts = [index * len(everything) // 10 for index in range(10)]
    assert torch.equal(few[:]["bytes"], torch.stack([everything[start]["bytes"] for start in starts]))


def test_validation_never_shows_a_held_out_file(recipe: ModuleType) -> None:
    def texts(*parts: datasets.Dataset) -> list[set[bytes]]:
        return [{bytes(row.tolist()) for row in part[:]["bytes"]} for part in parts]

    size = SMALL | {"sequence_length": 128, "num_evaluation_sequences": 10**9}
    train, held_out = texts(*recipe.Text(**size).build_datasets())
    kept, validation = texts(*recipe.Text(**size, validation=True).build_datasets())
    assert len(kept) < len(train)
    assert len(validation) > 10
    assert not validation & (held_out | kept)
    assert not kept & held_out


def test_logits_depend_on_the_past_only(recipe: ModuleType) -> None:
    torch.manual_seed(0)
    model = recipe.Text(**SMALL).build_model()
    inputs = torch.randint(256, (2, 32))
    changed = inputs.clone()
    changed[:, 20] = (changed[:, 20] + 1) % 256
    before, after = model(inputs), model(changed)
    assert torch.equal(before[:, :20], after[:, :20])
    assert not torch.allclose(before[:, 20:], after[:, 20:])
    assert torch.equal(before, model(inputs))


class Successor(torch.nn.Module):
    """Predicts that every byte is followed by the next larger one."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return 100.0 * torch.nn.functional.one_hot(inputs + 1, 256).float()


def test_the_loss_asks_for_the_next_byte(recipe: ModuleType) -> None:
    loss, metrics = recipe.Text(**SMALL).loss(Successor(), {"bytes": torch.arange(66).view(2, 33)})
    assert float(loss) == 0.0
    assert float(metrics["bits_per_byte"]) == 0.0


def test_the_model_learns(recipe: ModuleType, tmp_path: Path) -> None:
    text = recipe.Text(**SMALL)
    train, _ = text.build_datasets()
    torch.manual_seed(0)
    model = text.build_model()
    batch = train[:32]
    with torch.no_grad():
        untrained = text.evaluate(model, batch)
    assert float(untrained["bits_per_byte"]) == pytest.approx(8.0, abs=0.1)
    assert float(untrained["loss"]) == pytest.approx(8.0 * 0.6931, abs=0.1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(30):
        loss, _ = text.loss(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        assert float(text.evaluate(model, batch)["bits_per_byte"]) < 5.0
    save_file(model.state_dict(), tmp_path / "model.safetensors")  # refuses tied weights


def test_the_spec_trains_this_recipe() -> None:
    spec = load_spec(FOLDER / "job.yaml").spec
    assert (spec.name, spec.recipe.target) == ("text-lamb", "recipe.py:Text")


def test_a_model_for_longer_sequences_takes_those_of_every_phase(recipe: ModuleType) -> None:
    short = recipe.Text(**SMALL, max_length=64)
    long = recipe.Text(**{**SMALL, "sequence_length": 64}, max_length=64)
    model = short.build_model()
    assert model.position_embedding.weight.shape == (64, 16)
    for text, length in ((short, 32), (long, 64)):
        batch = text.build_datasets()[0][:2]
        assert batch["bytes"].shape == (2, length + 1)
        assert text.loss(model, batch)[0].isfinite()
    with pytest.raises(ValueError, match=r"sequence_length value: 65\. Must be at most 64"):
        recipe.Text(sequence_length=65, max_length=64)


def test_without_a_longest_sequence_the_model_is_what_it_was(recipe: ModuleType) -> None:
    torch.manual_seed(0)
    expected = recipe.ByteTransformer(16, 2, 2, 32).state_dict()
    torch.manual_seed(0)
    got = recipe.Text(**SMALL).build_model().state_dict()
    assert all(torch.equal(got[name], tensor) for name, tensor in expected.items())


def test_values_out_of_range_are_refused(recipe: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"width value: 10\. Must be a multiple of num_heads \(4\)"):
        recipe.Text(width=10, num_heads=4)
    with pytest.raises(ValueError, match=r"depth value: 0\. Must be at least 1"):
        recipe.Text(depth=0)
