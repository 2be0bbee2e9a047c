"""A picture of convergence: half-life over learning rates and momenta, one map for each delay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from orchestrator.cli.heat_rows import IN_ORDER, HeatMaps

SHOWN_HALF_LIVES = (1.0, 5.0)
"""Range of the colors, as powers of 10 in updates."""


def draw(file: Path, maps: HeatMaps) -> None:
    """Write a picture, whose kind the ending of the file's name tells; what does not converge is left white."""
    num_maps, grid = len(maps.by_delay), maps.grid
    figure = Figure(figsize=(1.5 + 3 * num_maps, 4.5), layout="constrained")
    axes = figure.subplots(1, num_maps, sharex=True, sharey=True, squeeze=False)[0]
    least, most = SHOWN_HALF_LIVES
    for ax, (delay, found) in zip(axes, maps.by_delay.items(), strict=True):
        half_lives = np.ma.masked_invalid(np.log10(found.half_life))
        image = ax.pcolormesh(1 - grid.momenta, grid.rates, half_lives, vmin=least, vmax=most, shading="nearest")
        ax.set(xscale="log", yscale="log", xlabel="1 - momentum")
        ax.set_title(f"delay {IN_ORDER if delay is None else delay}: {found.share:.0%} converge")
    axes[0].invert_xaxis()
    axes[0].set_ylabel("learning rate x largest curvature")
    figure.colorbar(image, ax=list(axes), label="half-life, updates (log10)")
    figure.savefig(file, dpi=120)
