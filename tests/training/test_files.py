from pathlib import Path

import pytest

from cutmix_zoo.training.files import read_json, write_json, write_lines, write_text


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
