import os
import platform
import subprocess
from pathlib import Path

import accelerate
import pytest
import timm
import torch
import torchvision

import cutmix_zoo
from cutmix_zoo.training.environment import device_name, environment, source_commit, versions


def test_versions_are_those_that_are_installed() -> None:
    modules = (cutmix_zoo, accelerate, timm, torch, torchvision)
    found = versions()
    found.pop("commit", None)
    assert found.pop("python") == platform.python_version()
    # a build may have a suffix of its own, such as +cu130
    assert {name: found[name].partition("+")[0] for name in found} == {
        module.__name__: module.__version__.partition("+")[0] for module in modules
    }


def test_a_device_is_named_so_that_a_reader_can_find_another() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert device_name(torch.device("cpu")) == "CPU, 2 threads"
        assert environment(torch.device("cpu")) == {**versions(), "device": "CPU, 2 threads"}
        torch.set_num_threads(1)
        assert device_name(torch.device("cpu")) == "CPU, 1 thread"
    finally:
        torch.set_num_threads(before)


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=Test", "-c", "user.email=test@example.com")
    # nothing of whoever runs the tests: not their signatures, and not the repository that a hook is in
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    environment |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout.strip()


def test_the_commit_is_that_of_the_clone_and_says_when_files_were_changed(tmp_path: Path) -> None:
    file = tmp_path / "package" / "module.py"
    file.parent.mkdir()
    file.write_text("x = 1\n")
    assert source_commit(file) is None  # no repository
    git(tmp_path, "init", "--quiet")
    assert source_commit(file) is None  # somebody else's repository: the file is not tracked there
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    git(tmp_path, "tag", "v1")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert source_commit(file) == commit
    file.write_text("x = 2\n")
    assert source_commit(file) == f"{commit}-dirty"


def test_the_commit_of_a_package_installed_from_a_repository_is_the_installer_s(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Installed:
        def read_text(self, name: str) -> str:
            assert name == "direct_url.json"
            return '{"url": "https://example.com/x.git", "vcs_info": {"vcs": "git", "commit_id": "0123abcd"}}'

    monkeypatch.setattr("cutmix_zoo.training.environment.distribution", lambda name: Installed())
    assert source_commit(tmp_path / "module.py") == "0123abcd"
    assert versions()["commit"] == "0123abcd"


def test_without_git_no_commit_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert source_commit(Path(__file__)) is None


def test_a_gpu_is_named_by_its_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"model of {device}")
    assert device_name(torch.device("cuda", 1)) == "model of cuda:1"
