from functools import partial
from pathlib import Path

import pytest

from cutmix_zoo.training.files import read_json, write_json, write_lines, write_text
from tests.processes import start, wait


def test_round_trips(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": [1, 0.1, None]})
    assert read_json(tmp_path / "a.json") == {"x": [1, 0.1, None]}
    write_lines(tmp_path / "b.jsonl", [{"epoch": 1}, {"epoch": 2}])
    assert (tmp_path / "b.jsonl").read_text() == '{"epoch": 1}\n{"epoch": 2}\n'
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.json", "b.jsonl"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.txt"
    write_text(file, "old")

    def fail(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_text(file, "new")
    assert file.read_text() == "old"


def write_often(file: Path) -> None:
    for length in range(200):
        write_json(file, ["x" * length])


def test_of_several_processes_the_last_one_is_right(tmp_path: Path) -> None:
    file = tmp_path / "status.json"
    processes = [start(partial(write_often, file)) for _ in range(3)]
    while any(process.is_alive() for process in processes):
        assert not file.exists() or read_json(file)[0].strip("x") == ""
    assert wait(processes) == [0, 0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]
