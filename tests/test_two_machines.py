"""Two machines on one: network namespaces that reach each other by a virtual cable and share nothing but the disk."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PORT = 29500


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def machines() -> Iterator[dict[str, str]]:
    """Names of two namespaces to their addresses; the tests are skipped where nobody may make them."""
    names = [f"machine{number}-{os.getpid()}" for number in (0, 1)]
    cables = [f"mix{number}-{os.getpid() % 100_000}" for number in (0, 1)]
    addresses = ["10.77.0.1", "10.77.0.2"]
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", "name", cables[0], "type", "veth", "peer", "name", cables[1])
        for name, cable, address in zip(names, cables, addresses, strict=True):
            ip("link", "set", cable, "netns", name)
            ip("-n", name, "addr", "add", f"{address}/24", "dev", cable)
            for link in (cable, "lo"):
                ip("-n", name, "link", "set", link, "up")
        yield dict(zip(names, addresses, strict=True))
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespaces can be made here: {getattr(error, 'stderr', error)}")
    finally:
        for name in names:  # takes its end of the cable along
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def launch(machines: dict[str, str], arguments: list[str], folder: Path) -> list[subprocess.Popen[str]]:
    """Start one process on each machine with the command that README gives."""
    processes, main = [], next(iter(machines.values()))
    for rank, name in enumerate(machines):
        place = f"--num_machines 2 --num_processes 2 --machine_rank {rank} --main_process_ip {main}"
        options = f"--multi_gpu {place} --main_process_port {PORT} --mixed_precision no --dynamo_backend no"
        command = ["ip", "netns", "exec", name, sys.executable, "-m", "accelerate.commands.launch"]
        command += [*options.split(), "--num_cpu_threads_per_process", "1", "-m", "cutmix_zoo.train", *arguments]
        # the machine's name stands for an address that the namespace has not
        cable = f"mix{rank}-{os.getpid() % 100_000}"
        environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "GLOO_SOCKET_IFNAME": cable}
        processes.append(
            subprocess.Popen(
                command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        )
    return processes


def ends(processes: list[subprocess.Popen[str]]) -> list[str]:
    """Wait for processes, and return what each printed."""
    outputs = [process.communicate(timeout=240)[0] for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output
    return outputs


@pytest.mark.slow
def test_two_machines_train_as_two_processes_of_one(
    machines: dict[str, str], tiny_options: dict[str, str], tmp_path: Path
) -> None:
    keys = {**tiny_options, "data.resident": "false", "data.workers": "1"}
    arguments = ["--config", "quickstart", *(word for key, value in keys.items() for word in (f"--{key}", value))]
    outputs = ends(launch(machines, [*arguments, "--output", "two"], tmp_path))
    assert ["after epoch 3" in output for output in outputs] == [True, False]

    two = (
        "--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no --main_process_port 0"
    )
    command = [sys.executable, "-m", "accelerate.commands.launch", *two.split(), "--num_cpu_threads_per_process", "1"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true"}
    subprocess.run(
        [*command, "-m", "cutmix_zoo.train", *arguments, "--output", "one"],
        cwd=tmp_path,
        env=environment,
        check=True,
        capture_output=True,
        timeout=240,
    )
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("one", "two")]
    assert weights[0] == weights[1]

    # the epoch after the second once more, on two machines
    checkpoint = ["--resume", "two/checkpoints/epoch-0002", "--output", "again"]
    ends(launch(machines, [*arguments, *checkpoint], tmp_path))
    assert (tmp_path / "again" / "model" / "model.safetensors").read_bytes() == weights[0]
    assert json.loads((tmp_path / "again" / "summary.json").read_text())["processes"] == 2
