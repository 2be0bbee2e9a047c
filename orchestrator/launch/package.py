"""What travels with a job: the files of the spec's folder, less what .gitignore and .rayignore leave out."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pathspec import GitIgnoreSpec

from orchestrator.core.errors import UsageError
from orchestrator.launch.store import PARTIAL_SUFFIX

MIB = 2**20
LARGEST_MIB = 512
"""Most that may travel, in MiB: Ray's own limit for a working directory."""
WARNING_MIB = 100
NUM_ENTRIES_SHOWN = 5
ALWAYS_LEFT_OUT = GitIgnoreSpec.from_lines([".git", ".venv/", "venv/", "__pycache__/", "*.pyc", "mlruns/"])
IGNORE_FILES = (".gitignore", ".rayignore")


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """The files that travel; nothing is copied yet."""

    folder: Path
    """The spec's folder, absolute."""
    files: tuple[str, ...]
    """Paths relative to the folder, with forward slashes, sorted."""
    num_bytes: int
    """Their total size in bytes."""
    links_left_out: tuple[str, ...]
    """Symbolic links that point out of the folder or nowhere; they do not travel."""

    @property
    def warning(self) -> str | None:
        """One sentence where the package is large enough to make every start slow."""
        if self.num_bytes <= WARNING_MIB * MIB:
            return None
        return f"{self.folder} holds {_mib(self.num_bytes)} in {len(self.files)} files; {_largest(self)} {_MEND}"


_MEND = "List what the job does not need in .rayignore."


def collect(folder: Path, storage: Path) -> Package:
    """List what travels. Symbolic links are followed only where they stay inside the folder.

    Patterns of .gitignore hold from the root of the git repository down, those of .rayignore from the folder down.

    Raises:
        UsageError: if the files are more than ``LARGEST_MIB``, or one cannot be read.
    """
    folder = Path(os.path.realpath(folder))
    walk = _Walk(folder, Path(os.path.realpath(storage)))
    try:
        files = sorted(walk.files())
        num_bytes = sum((folder / file).stat().st_size for file in files)
    except OSError as error:
        raise UsageError(f"{error.filename}: cannot be read: {error.strerror}. {_MEND}") from None
    package = Package(
        folder=folder, files=tuple(files), num_bytes=num_bytes, links_left_out=tuple(sorted(walk.links_left_out))
    )
    if num_bytes > LARGEST_MIB * MIB:
        raise UsageError(
            f"{folder} holds {_mib(num_bytes)}, and at most {LARGEST_MIB} MiB may travel with a job; "
            f"{_largest(package)} {_MEND}"
        )
    return package


def copy_into(package: Package, target: Path) -> None:
    """Copy the files with their times and permissions; linked files become files of their own.

    Raises:
        UsageError: if a file disappeared or became unreadable since it was listed.
    """
    target.mkdir(parents=True, exist_ok=True)
    for file in package.files:
        destination = target / file
        destination.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copy2(package.folder / file, destination)
        except FileNotFoundError:
            raise UsageError(f"{package.folder / file}: disappeared while the job was prepared; try again.") from None
        except PermissionError:
            raise UsageError(f"{package.folder / file}: cannot be read: Permission denied. {_MEND}") from None


class _Rules:
    """Ignore files of one kind, outermost first; the innermost pattern that says anything about a path decides."""

    def __init__(self, specs: tuple[tuple[Path, GitIgnoreSpec], ...] = ()) -> None:
        self.specs = specs

    def extended(self, folder: Path, file_name: str) -> _Rules:
        """These rules and those of the ignore file in the folder, where there is one."""
        path = folder / file_name
        if not path.is_file():
            return self
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        return _Rules((*self.specs, (folder, GitIgnoreSpec.from_lines(lines))))

    def leave_out(self, path: Path, *, is_folder: bool) -> bool:
        for root, spec in reversed(self.specs):
            verdict = spec.check_file(_relative(path, root, is_folder=is_folder)).include
            if verdict is not None:
                return verdict
        return False


class _Walk:
    """One pass over a folder."""

    def __init__(self, folder: Path, storage: Path) -> None:
        self.folder = folder
        self.storage = storage
        self.links_left_out: list[str] = []

    def files(self) -> Iterator[str]:
        return self._visit(self.folder, (_rules_above(self.folder), _Rules()), frozenset({self.folder}))

    def _visit(self, folder: Path, rules: tuple[_Rules, ...], real_ancestors: frozenset[Path]) -> Iterator[str]:
        rules = tuple(rule.extended(folder, name) for rule, name in zip(rules, IGNORE_FILES, strict=True))
        for entry in sorted(folder.iterdir()):
            is_folder = entry.is_dir()
            if self._is_left_out(entry, rules, is_folder=is_folder):
                continue
            real = Path(os.path.realpath(entry))
            # A broken link, a link out of the folder, or a link to a folder that it lies in itself.
            if entry.is_symlink() and (not real.is_relative_to(self.folder) or not real.exists()):
                self.links_left_out.append(_relative(entry, self.folder))
            elif is_folder:
                if real not in real_ancestors:
                    yield from self._visit(entry, rules, real_ancestors | {real})
            elif entry.is_file():
                yield _relative(entry, self.folder)

    def _is_left_out(self, entry: Path, rules: Iterable[_Rules], *, is_folder: bool) -> bool:
        if entry == self.storage or (entry.parent == self.storage and _is_run_directory(entry)):
            return True
        if ALWAYS_LEFT_OUT.match_file(_relative(entry, self.folder, is_folder=is_folder)):
            return True
        return any(rule.leave_out(entry, is_folder=is_folder) for rule in rules)


def _is_run_directory(path: Path) -> bool:
    """Whether the folder is a job, or was to become one; told apart only where the storage is the spec's own folder."""
    return (path / "state.json").is_file() or path.name.endswith(PARTIAL_SUFFIX)


def _rules_above(folder: Path) -> _Rules:
    """The .gitignore files from the repository's root to above the folder, unless they leave out the folder itself."""
    root = next((parent for parent in folder.parents if (parent / ".git").exists()), None)
    if root is None or (folder / ".git").exists():
        return _Rules()
    rules = _Rules()
    for parent in reversed(folder.parents):
        if not parent.is_relative_to(root):
            continue
        rules = rules.extended(parent, ".gitignore")
        # Somebody who submits a job from an ignored folder means that folder.
        step = parent / folder.relative_to(parent).parts[0]
        if rules.leave_out(step, is_folder=True):
            return _Rules()
    return rules


def _relative(path: Path, root: Path, *, is_folder: bool = False) -> str:
    return path.relative_to(root).as_posix() + ("/" if is_folder else "")


def _largest(package: Package) -> str:
    """The largest entries of the folder itself, as one sentence."""
    sizes: dict[str, int] = {}
    for file in package.files:
        top, slash, _ = file.partition("/")
        sizes[top + slash] = sizes.get(top + slash, 0) + (package.folder / file).stat().st_size
    largest = sorted(sizes.items(), key=lambda item: -item[1])[:NUM_ENTRIES_SHOWN]
    return "the largest entries are " + ", ".join(f"{name} ({_mib(size)})" for name, size in largest) + "."


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / MIB:,.1f} MiB"
