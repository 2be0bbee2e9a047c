"""The tiny job at two paces, so that a test has the time to do something to it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from tiny import Digits


class Paced(Digits):
    """Slow until a file is there.

    Args:
        go: the file.
        slow_s: added to each step before.
        fast_s: and after.
    """

    def __init__(self, go: str, slow_s: float = 0.5, fast_s: float = 0.0) -> None:
        super().__init__()
        self.go, self.slow_s, self.fast_s = Path(go), slow_s, fast_s

    def loss(self, model: Any, batch: Any) -> Any:
        time.sleep(self.fast_s if self.go.exists() else self.slow_s)
        return super().loss(model, batch)
