"""Writing a spec and loading it."""

from pathlib import Path

from orchestrator.spec.load import LoadedSpec, load_spec

FULL = (Path(__file__).parent / "full.yaml").read_text(encoding="utf-8")
"""The example of the public contract, every section written out."""


def load(folder: Path, text: str, *overrides: str, **bases: str) -> LoadedSpec:
    """Write ``job.yaml`` (and bases, by their stem) into a folder with a recipe, and load it."""
    for name, base in bases.items():
        (folder / f"{name}.yaml").write_text(base, encoding="utf-8")
    (folder / "job.yaml").write_text(text, encoding="utf-8")
    return load_spec(folder / "job.yaml", overrides)
