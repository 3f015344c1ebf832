"""The main job at its full size, as a user starts it. Slow: each run takes minutes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Two runs of the quickstart under ``accelerate launch``: with images on the device, and with 2 loader workers."""
    folder = tmp_path_factory.mktemp("quickstart")
    for workers in (0, 2):
        launcher = (
            "--quiet --cpu --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no "
            "--num_cpu_threads_per_process 2 -m cutmix_zoo.train --config quickstart"
        )
        options = [*launcher.split(), "--data.workers", str(workers), "--output", str(folder / str(workers))]
        options += ["--data.resident", "true" if workers == 0 else "false"]
        subprocess.run(
            [sys.executable, "-m", "accelerate.commands.launch", *options],
            check=True,
            capture_output=True,
            env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},
        )
    return {workers: folder / str(workers) for workers in (0, 2)}


def test_resident_or_streamed_by_workers_it_is_the_same_to_the_bit(runs: dict[int, Path]) -> None:
    assert len({(folder / "model" / "model.safetensors").read_bytes() for folder in runs.values()}) == 1


def test_it_reaches_its_accuracy(runs: dict[int, Path]) -> None:
    summary = json.loads((runs[2] / "summary.json").read_text())
    assert summary["top1"] >= 87
    assert summary["top5"] > summary["top1"]
    assert summary["images_per_second"] > 0
