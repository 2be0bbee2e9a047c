"""The law on public curves of language models, if they are at hand: github.com/thu-yao-01-luo/MultiPowerLaw (MIT).

ORCHESTRATOR_PUBLIC_CURVES names the folder that holds csv_25, csv_100 and csv_400 of its loss_curve_repo.
"""

import os
from pathlib import Path

import numpy as np
import pytest

from orchestrator.launch.curves import CurveReader
from orchestrator.simulate.annealing_law import fit

VARIABLE = "ORCHESTRATOR_PUBLIC_CURVES"
FITTED = ("cosine_24000", "constant_24000")
UNSEEN = (
    "constant_72000",
    "cosine_72000",
    "wsd_20000_24000",
    "wsdld_20000_24000",
    "wsdcon_3",
    "wsdcon_9",
    "wsdcon_18",
)


@pytest.mark.skipif(VARIABLE not in os.environ, reason=f"{VARIABLE} names no folder of public curves")
@pytest.mark.parametrize(
    ("millions", "momentum", "percent"),
    [
        (25, 0.999, 0.158),
        (100, 0.999, 0.147),
        (400, 0.999, 0.224),
        (25, 0.99, 0.153),
        (100, 0.99, 0.159),
        (400, 0.99, 0.257),
    ],
)
def test_unseen_schedules_are_predicted_as_in_an_earlier_fit(
    millions: int, momentum: float, percent: float, tmp_path: Path
) -> None:
    folder = Path(os.environ[VARIABLE]) / f"csv_{millions}"
    reader = CurveReader(tmp_path, warmup_steps=2160)
    curves = {name: reader.curve(str(folder / f"{name}.csv")) for name in (*FITTED, *UNSEEN)}
    law = fit([curves[name] for name in FITTED], momentum=momentum)
    errors = [law.relative_errors(curves[name]).mean() for name in UNSEEN]
    assert 100 * np.mean(errors) == pytest.approx(percent, abs=0.05)
