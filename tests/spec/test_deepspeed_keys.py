"""The table of DeepSpeed's keys is that of the DeepSpeed that is installed: a key that an upgrade adds turns it red."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from deepspeed.comm.config import CommsLoggerConfig
from deepspeed.monitor.config import CometConfig, CSVConfig, TensorBoardConfig, WandbConfig
from deepspeed.runtime import config as runtime_config
from deepspeed.runtime.config_utils import DeepSpeedConfigModel
from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
from deepspeed.runtime.zero.offload_config import DeepSpeedZeroOffloadOptimizerConfig, DeepSpeedZeroOffloadParamConfig
from deepspeed.utils.config import DeepSpeedThroughputTimerConfig

from orchestrator.spec.deepspeed_keys import DEEPSPEED_KEYS
from orchestrator.spec.foreign_keys import Refused, value_at

MODELS: dict[str, type[DeepSpeedConfigModel]] = {
    "zero_optimization": DeepSpeedZeroConfig,
    "zero_optimization.offload_optimizer": DeepSpeedZeroOffloadOptimizerConfig,
    "zero_optimization.offload_param": DeepSpeedZeroOffloadParamConfig,
    "fp16": DeepSpeedFP16Config,
    "bf16": DeepSpeedBF16Config,
    "bfloat16": DeepSpeedBF16Config,
    "comms_logger": CommsLoggerConfig,
    "tensorboard": TensorBoardConfig,
    "csv_monitor": CSVConfig,
    "wandb": WandbConfig,
    "comet": CometConfig,
    "timers.throughput": DeepSpeedThroughputTimerConfig,
}
"""Sections that DeepSpeed declares by a model; it asks for the keys of all others one by one."""
READ_ELSEWHERE = {"sequence_parallel_size", "data_parallel_size"}
"""Read before the rest, where processes are connected."""


class Recorder(dict[str, Any]):
    """A section that keeps which keys it was asked for."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__(values)
        self.asked: set[str] = set()

    def __copy__(self) -> Recorder:
        return self

    def __contains__(self, key: object) -> bool:
        self.asked.add(str(key))
        return super().__contains__(key)

    def __getitem__(self, key: str) -> Any:
        self.asked.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)

    def keys(self) -> Any:
        return self


def sections(keys: Mapping[str, Any], prefix: str = "") -> dict[str, Mapping[str, Any]]:
    """Every section of the table by its dotted path."""
    found = {f"{prefix}{key}": entry for key, entry in keys.items() if isinstance(entry, Mapping)}
    return found | {path: inner for key, entry in found.items() for path, inner in sections(entry, f"{key}.").items()}


@pytest.fixture(scope="module")
def read() -> Recorder:
    """An empty configuration with an empty section for each that has no model, as DeepSpeed has read it."""

    def empty(keys: Mapping[str, Any], prefix: str) -> Recorder:
        inner = {key: f"{prefix}{key}" for key, entry in keys.items() if isinstance(entry, Mapping)}
        return Recorder({key: empty(keys[key], f"{path}.") for key, path in inner.items() if path not in MODELS})

    configuration = empty(DEEPSPEED_KEYS, "")
    configuration["train_batch_size"] = 1
    runtime_config.DeepSpeedConfig(configuration)
    return configuration


def test_the_root_has_the_keys_that_deepspeed_asks_for(read: Recorder) -> None:
    assert read.asked == set(DEEPSPEED_KEYS) - READ_ELSEWHERE


@pytest.mark.parametrize("path", [path for path in sections(DEEPSPEED_KEYS) if path not in MODELS])
def test_a_section_has_the_keys_that_deepspeed_asks_for(path: str, read: Recorder) -> None:
    section = value_at(read, path)
    assert section.asked == set(value_at(DEEPSPEED_KEYS, path))


@pytest.mark.parametrize("path", MODELS)
def test_a_section_has_the_fields_of_its_model(path: str) -> None:
    fields = {name for field, info in MODELS[path].model_fields.items() for name in (field, info.alias or field)}
    removed = set(runtime_config._REMOVED_ZERO_CONFIG_KEYS) if path == "zero_optimization" else set()
    assert fields | removed == set(value_at(DEEPSPEED_KEYS, path))


def test_what_deepspeed_has_removed_is_refused() -> None:
    assert all(isinstance(DEEPSPEED_KEYS[key], Refused) for key in runtime_config._REMOVED_TOP_LEVEL_CONFIG_KEYS)
