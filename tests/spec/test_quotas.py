"""``queue.yaml``: what it may say, and one clear line for whatever else it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.spec.problems import SpecError
from orchestrator.spec.quotas import OwnerQuota, read_quotas


def test_a_storage_without_the_file_limits_nobody(tmp_path: Path) -> None:
    assert read_quotas(tmp_path) == {}


def test_quotas_by_owner(tmp_path: Path) -> None:
    (tmp_path / "queue.yaml").write_text(
        "quotas:\n  ann: {gpus: 4}\n  bob: {cpus: 64, gpus: null}\n  eve: {cpus: 0.5}\n"
    )
    assert read_quotas(tmp_path) == {
        "ann": OwnerQuota(gpus=4),
        "bob": OwnerQuota(cpus=64.0),
        "eve": OwnerQuota(cpus=0.5),
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("quota: {}\n", r"queue\.yaml:1: quota = {}: unknown key. Legal: quotas"),
        ("quotas: {ann: {gpu: 4}}\n", r"queue\.yaml:1: quotas\.ann\.gpu = 4: unknown key. Legal: gpus, cpus"),
        ("quotas:\n  ann: {gpus: -1}\n", r"queue\.yaml:2: quotas\.ann\.gpus = -1: not legal. Legal: a number >= 0"),
        ("quotas: {ann: {gpus: 1.5}}\n", r"quotas\.ann\.gpus = 1\.5: not legal. Legal: a number >= 0, whole for gpus"),
        ("quotas: {ann: {cpus: many}}\n", r'quotas\.ann\.cpus = "many": not legal'),
        ("quotas: {ann: {cpus: true}}\n", r"quotas\.ann\.cpus = true: not legal"),
        ("quotas: {ann: 4}\n", r"quotas\.ann = 4: not a mapping. Legal: quotas: {OWNER: {gpus: 4, cpus: 64}}"),
        ("quotas: [ann]\n", r"quotas = .*not a mapping"),
        ("", "is empty"),
        ("quotas: {ann: {gpus: 1, gpus: 2}}\n", "gpus"),
    ],
)
def test_one_clear_error(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "queue.yaml").write_text(text)
    with pytest.raises(SpecError, match=words) as caught:
        read_quotas(tmp_path)
    assert len(caught.value.problems) == 1
