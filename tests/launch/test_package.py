"""What travels with a job."""

import os
from pathlib import Path

import pytest

from orchestrator.core.errors import UsageError
from orchestrator.launch import package as package_module
from orchestrator.launch.package import collect, copy_into


def write(folder: Path, **files: str) -> Path:
    """Files by name; `__` in a name is a slash and a leading `dot_` a dot."""
    for name, text in files.items():
        path = folder / name.replace("dot_", ".").replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.fixture
def job(tmp_path):
    folder = tmp_path / "job"
    folder.mkdir()
    (folder / "recipe.py").write_text("x = 1\n")
    return folder


def files_of(folder: Path, storage: Path | None = None) -> list[str]:
    return list(collect(folder, storage or folder.parent / "runs").files)


def test_files_are_counted_and_sorted(job):
    write(job, b="12345", a__deep__c="678")
    package = collect(job, job / "runs")
    assert package.files == ("a/deep/c", "b", "recipe.py")
    assert package.num_bytes == 5 + 3 + 6
    assert package.warning is None


@pytest.mark.parametrize("left_out", [".git/config", ".venv/x", "venv/x", "a/__pycache__/x.pyc", "m.pyc", "mlruns/0/x"])
def test_default_exclusions(left_out, job):
    (job / left_out).parent.mkdir(parents=True, exist_ok=True)
    (job / left_out).write_text("x")
    assert files_of(job) == ["recipe.py"]


def test_a_git_file_of_a_worktree_is_left_out(job):
    write(job, dot_git="gitdir: elsewhere")
    assert files_of(job) == ["recipe.py"]


def test_the_storage_inside_the_folder_is_left_out(job):
    write(job, out__runs__old__state="{}", out__kept="x")
    assert files_of(job, job / "out" / "runs") == ["out/kept", "recipe.py"]


def test_jobs_are_left_out_where_the_storage_is_the_folder_itself(job):
    (job / "old").mkdir()
    (job / "old" / "state.json").write_text("{}")
    (job / ".new.0.partial").mkdir()
    (job / ".new.0.partial" / "job.yaml").write_text("{}")
    assert files_of(job, job) == ["recipe.py"]


@pytest.mark.parametrize("ignore_file", [".gitignore", ".rayignore"])
def test_ignore_files_with_negation_and_nesting(ignore_file, job):
    write(job, a="", b="", data__big="", data__keep__c="", sub__a="", sub__b="")
    (job / ignore_file).write_text("a\n/data/*\n!/data/keep/\n")
    (job / "sub" / ignore_file).write_text("!a\nb\n")
    assert files_of(job) == [ignore_file, "b", "data/keep/c", "recipe.py", f"sub/{ignore_file}", "sub/a"]


def test_a_file_is_left_out_if_either_kind_of_ignore_file_says_so(job):
    write(job, a="", dot_gitignore="a\n", dot_rayignore="!a\n")
    assert "a" not in files_of(job)


def test_a_folder_that_is_left_out_is_not_searched(job):
    write(job, data__keep="", dot_gitignore="data/\n!data/keep\n")
    assert "data/keep" not in files_of(job)


def test_the_repository_above_has_its_say(tmp_path):
    write(tmp_path, dot_git__HEAD="", dot_gitignore="*.log\n", jobs__dot_gitignore="/digits/data\n")
    write(tmp_path / "jobs" / "digits", **{"recipe.py": "", "x.log": "", "data__x": ""})
    assert files_of(tmp_path / "jobs" / "digits", tmp_path / "runs") == ["recipe.py"]


def test_without_a_repository_folders_above_have_no_say(tmp_path):
    write(tmp_path, dot_gitignore="*.log\n")
    write(tmp_path / "digits", **{"x.log": ""})
    assert files_of(tmp_path / "digits") == ["x.log"]


@pytest.mark.parametrize("pattern", ["scratch/\n", "/scratch/digits\n", "scratch/*\n"])
def test_a_job_in_an_ignored_folder_travels_all_the_same(pattern, tmp_path):
    write(tmp_path, dot_git__HEAD="", dot_gitignore=pattern)
    write(tmp_path / "scratch" / "digits", **{"recipe.py": ""})
    assert files_of(tmp_path / "scratch" / "digits", tmp_path / "runs") == ["recipe.py"]


def test_links_stay_inside_the_folder(job, tmp_path):
    write(job, real__a="inside")
    (tmp_path / "secret").write_text("outside")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "x").write_text("outside")
    (job / "file_out").symlink_to(tmp_path / "secret")
    (job / "folder_out").symlink_to(tmp_path / "folder")
    (job / "broken").symlink_to(job / "nothing")
    (job / "file_in").symlink_to(job / "real" / "a")
    (job / "folder_in").symlink_to("real")
    (job / "real" / "loop").symlink_to(job)
    package = collect(job, tmp_path / "runs")
    assert package.files == ("file_in", "folder_in/a", "real/a", "recipe.py")
    assert package.links_left_out == ("broken", "file_out", "folder_out")


def test_a_linked_spec_folder_is_followed(job, tmp_path):
    (tmp_path / "link").symlink_to(job)
    (job / "same").symlink_to("recipe.py")
    assert files_of(tmp_path / "link") == ["recipe.py", "same"]


def test_what_is_no_file_is_left_out(job):
    os.mkfifo(job / "pipe")
    assert files_of(job) == ["recipe.py"]


def test_copies_are_whole_executable_and_independent(job, tmp_path):
    write(job, sub__tool="#!/bin/sh\n")
    (job / "sub" / "tool").chmod(0o755)
    (job / "linked").symlink_to("sub/tool")
    copy_into(collect(job, tmp_path / "runs"), tmp_path / "code")
    assert (tmp_path / "code" / "sub" / "tool").stat().st_mode & 0o111
    assert not (tmp_path / "code" / "linked").is_symlink()
    assert (tmp_path / "code" / "linked").read_text() == "#!/bin/sh\n"


def test_a_file_that_disappears_meanwhile_is_named(job, tmp_path):
    package = collect(job, tmp_path / "runs")
    (job / "recipe.py").unlink()
    with pytest.raises(UsageError, match=r"job/recipe.py: disappeared"):
        copy_into(package, tmp_path / "code")


def sparse(path: Path, size_mib: int) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as stream:
        stream.truncate(size_mib * package_module.MIB)


def test_too_much_is_refused_with_the_largest_entries(job):
    sparse(job / "data" / "a", 300)
    sparse(job / "data" / "b", 200)
    sparse(job / "model.bin", 20)
    with pytest.raises(UsageError, match=r"520\.0 MiB.*512 MiB.*data/ \(500\.0 MiB\), model\.bin \(20\.0.*\.rayignore"):
        collect(job, job / "runs")


def test_much_is_warned_about(job):
    sparse(job / "data" / "a", 101)
    warning = collect(job, job / "runs").warning
    assert warning is not None
    assert "101.0 MiB in 2 files; the largest entries are data/ (101.0 MiB)" in warning
