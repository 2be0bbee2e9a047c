import platform
import subprocess

from orchestrator.tracking.environment import describe_environment


def test_versions_and_machine_are_named():
    facts = describe_environment()
    assert facts["python"] == platform.python_version()
    assert {"torch", "ray", "mlflow", "numpy", "platform", "cpu_count"} <= facts.keys()
    assert all(isinstance(value, str) for value in facts.values())
    assert "git_commit" not in facts


def test_the_commit_of_a_repository_says_whether_files_differ_from_it(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    assert "git_commit" not in describe_environment(tmp_path)
    git("init", "--quiet")
    (tmp_path / "recipe.py").write_text("a = 1\n")
    git("add", "recipe.py")
    git("commit", "--quiet", "-m", "first")
    git("tag", "v1")
    commit = git("rev-parse", "HEAD")
    assert describe_environment(tmp_path)["git_commit"] == commit
    (tmp_path / "recipe.py").write_text("a = 2\n")
    assert describe_environment(tmp_path)["git_commit"] == f"{commit}-dirty"
