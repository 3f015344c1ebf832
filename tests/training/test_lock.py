import errno
import fcntl
import subprocess
import sys
from pathlib import Path
from typing import TextIO

import pytest

from cutmix_zoo.errors import UserError
from cutmix_zoo.training.lock import InUseError, locked
from cutmix_zoo.training.run import RunFolder, check_unused

OTHER_LAUNCH = """
import sys
from pathlib import Path
from cutmix_zoo.errors import UserError
from cutmix_zoo.training.lock import locked
from cutmix_zoo.training.run import RunFolder
try:
    with locked(RunFolder(Path(sys.argv[1]))):
        print("in", flush=True)
        sys.stdin.read()
except UserError as error:
    print(error, flush=True)
"""


def other_launch(path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", OTHER_LAUNCH, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_one_launch_at_a_time_is_in_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "run"
    with locked(RunFolder(path)), other_launch(path) as other:
        said, _ = other.communicate(timeout=60)
        assert said.startswith(f"another launch is training in {path}; wait for its end")
        assert said.endswith(f"rm {path / '.lock'}\n")
    assert list(tmp_path.iterdir()) == [], "no trace is left"
    with other_launch(path) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "in\n"
        with pytest.raises(InUseError, match="another launch is training in"), locked(RunFolder(path)):
            pass
        other.kill()
    assert [file.name for file in path.iterdir()] == [".lock"]
    check_unused(RunFolder(path))
    with locked(RunFolder(path)):  # a killed launch stops nobody
        pass


def test_a_lock_that_its_owner_has_just_removed_is_taken_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, original, calls = RunFolder(tmp_path), fcntl.lockf, 0

    def late(stream: TextIO, operation: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            folder.lock_file.unlink()
        original(stream, operation)

    monkeypatch.setattr(fcntl, "lockf", late)
    with locked(folder):
        assert folder.lock_file.exists()
    assert calls == 2


def test_a_disk_without_locks_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with (
        pytest.warns(UserWarning, match=r"cannot be locked .*No locks available.*no second launch"),
        locked(RunFolder(tmp_path)),
    ):
        pass


def test_what_was_there_stays(tmp_path: Path) -> None:
    """Folders that were there, or that something was written into, and a lock of somebody else."""
    with locked(RunFolder(tmp_path)):
        pass
    with locked(RunFolder(tmp_path / "runs" / "run")) as _:
        (tmp_path / "runs" / "other").touch()
    assert [file.name for file in (tmp_path / "runs").iterdir()] == ["other"]
    folder = RunFolder(tmp_path / "used")
    with locked(folder):
        folder.lock_file.unlink()
        folder.lock_file.touch()
    assert folder.lock_file.exists()


def test_a_disk_that_is_gone_hides_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", gone)
    with pytest.raises(UserError, match="of the run"), locked(RunFolder(tmp_path)):
        raise UserError("of the run")
