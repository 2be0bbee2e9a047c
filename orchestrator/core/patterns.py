"""Names with wildcards, as a spec chooses modules and parameters by them."""

from __future__ import annotations

import re


def matches(pattern: str, name: str) -> bool:
    """Whether a dotted name is of the pattern, where ``*`` stands for one or more characters of one part."""
    return re.fullmatch(r"[^.]+".join(re.escape(part) for part in pattern.split("*")), name) is not None
