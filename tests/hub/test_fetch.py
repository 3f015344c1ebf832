"""Weights from the Hub, as somebody loads them: in processes of their own, with the client and timm as they are."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from cutmix_zoo.store import file_sha256
from cutmix_zoo.zoo import zoo_table
from tests.hub.server import Fault, Hub, client_environment, serve

NAME = "cifar_resnet20.cutmix_fmnist"
REPO = f"tester/{NAME}"
TAG = "cifar_resnet20.hub_fmnist"
ROOT = Path(__file__).parents[2]
WEIGHTS = ROOT / "cutmix_zoo" / "weights" / f"{NAME}.safetensors"
CONFIG = ROOT / "hub_cards" / NAME / "config.json"

# a row of the table whose weights are on the Hub and do not ship; every line of `out` is what an attempt came to
PRELUDE = """
import json, sys
import timm, cutmix_zoo, cutmix_zoo.zoo
from cutmix_zoo.evaluation.loading import load_network
from cutmix_zoo.models import refresh_tags
cutmix_zoo.zoo._TABLE = __import__("pathlib").Path(sys.argv[1])
cutmix_zoo.zoo.zoo_table.cache_clear()
refresh_tags()
out = []

def attempt(load, *arguments, **options):
    try:
        model = load(*arguments, **options)
        out.append(["loaded", model.fc.bias[0].item(), model.pretrained_cfg["label_names"][9]])
    except Exception as error:
        out.append([type(error).__name__, str(error)])
"""
TIMM = f'attempt(timm.create_model, "{TAG}", pretrained=True)'
OURS = f'attempt(load_network, "{REPO}")'


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve() as server:
        server.add_repo(REPO, {"model.safetensors": WEIGHTS.read_bytes(), "config.json": CONFIG.read_bytes()})
        yield server


@pytest.fixture
def table(tmp_path: Path, hub: Hub) -> Path:
    row = json.loads(Path(ROOT, "cutmix_zoo", "zoo.json").read_text())["weights"][1]
    assert row["name"] == NAME
    row |= {"name": TAG, "repo": REPO, "revision": hub.head(REPO)}
    file = tmp_path / "table.json"
    file.write_text(json.dumps({"version": 1, "sources": {}, "weights": [row]}))
    return file


def attempts(hub: Hub, table: Path, script: str, **environment: str) -> list[list[Any]]:
    home = table.parent / "home"
    home.mkdir(exist_ok=True)
    where = {**client_environment(hub, home, None), "OMP_NUM_THREADS": "1", **environment}
    code = f"{PRELUDE}\n{script}\nprint(json.dumps(out))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(table)],
        env=where,
        cwd=home,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def loaded() -> list[Any]:
    return ["loaded", load_file(WEIGHTS)["fc.bias"][0].item(), "Ankle boot"]


def test_a_tag_is_fetched_once_at_its_commit_and_loads_offline_then(hub: Hub, table: Path) -> None:
    # the branch moves on after the row was written
    hub.add_repo(REPO, {"model.safetensors": b"other weights", "config.json": CONFIG.read_bytes()})
    assert attempts(hub, table, TIMM) == [loaded()]
    assert all(
        f"/resolve/{json.loads(table.read_text())['weights'][0]['revision']}/" in each.path
        for each in hub.requests(origin="hub")
    )
    assert len(hub.requests("GET", origin="cdn")) == 1
    hub.reset_log()
    listed = f'{TIMM}\nout.append([timm.is_model_pretrained("{TAG}")])'
    assert attempts(hub, table, listed) == [loaded(), [True]]
    assert attempts(hub, table, listed, HF_HUB_OFFLINE="1") == [loaded(), [True]]
    assert hub.log == [], "what is pinned is not asked for again"


def test_wrong_bytes_are_thrown_away_fetched_once_more_and_then_refused(hub: Hub, table: Path) -> None:
    def flip(content: bytes) -> bytes:
        return content[:-9] + bytes([content[-9] ^ 64]) + content[-8:]

    hub.corrupt, hub.corrupt_times = {"model.safetensors": flip}, {"model.safetensors": 1}
    assert attempts(hub, table, TIMM) == [loaded()]
    assert len(hub.requests("GET", origin="cdn")) == 2
    for file in (table.parent / "home").rglob("*"):
        if file.is_file() and file.stat().st_size == WEIGHTS.stat().st_size:
            assert file_sha256(file) == zoo_table()[NAME].sha256
            # what is damaged on this machine is found as well
            if not file.is_symlink():
                file.chmod(0o644)
                file.write_bytes(flip(WEIGHTS.read_bytes()))
    hub.corrupt_times = {}
    (refused,) = attempts(hub, table, TIMM)
    assert refused[0] == "UserError"
    assert "cannot be had from tester/cifar_resnet20.cutmix_fmnist on the Hugging Face Hub (tried twice)" in refused[1]
    assert not [
        file for file in (table.parent / "home").rglob("*") if file.is_file() and file.stat().st_size > 1_000_000
    ]


def test_a_truncated_download_is_refused(hub: Hub, table: Path) -> None:
    hub.corrupt = {"model.safetensors": lambda content: content[:5000]}
    (refused,) = attempts(hub, table, TIMM)
    assert refused[0] == "UserError"
    assert "tried twice" in refused[1]


def test_a_dead_network_is_asked_once(hub: Hub, table: Path) -> None:
    hub.faults = lambda request: "drop"
    found = attempts(hub, table, f"{TIMM}\n{OURS}")
    assert [kind for kind, _ in found] == ["UserError"] * 2
    assert all("from the Hugging Face Hub: " in text for _, text in found)
    assert len(hub.log) == 2, "the client by itself would go on for most of a minute"


def test_a_repository_is_loaded_by_its_name_and_offline_then(hub: Hub, table: Path) -> None:
    names = (REPO, f"hf-hub:{REPO}", f"{REPO}@main")
    script = "\n".join(f'attempt(load_network, "{name}")' for name in names)
    assert attempts(hub, table, script) == [loaded()] * 3
    assert attempts(hub, table, script, HF_HUB_OFFLINE="1") == [loaded()] * 3
    # a server that fails is not a reason to fail where everything is here
    hub.faults = [Fault(number, 503) for number in range(20)]
    assert attempts(hub, table, OURS) == [loaded()]


def as_bytes(content: bytes | str | dict[str, Any]) -> bytes:
    if isinstance(content, bytes):
        return content
    return (content if isinstance(content, str) else json.dumps(content)).encode()


def test_hostile_repositories_are_refused(hub: Hub, table: Path) -> None:
    config = json.loads(CONFIG.read_text())
    weights = WEIGHTS.read_bytes()
    marker = table.parent / "executed"
    pickle = f"cos\nsystem\n(S'touch {marker}'\ntR.".encode()
    elsewhere = {**config, "pretrained_cfg": {**config["pretrained_cfg"], "url": "http://127.0.0.1:9/x"}}
    twice = '{"architecture": "resnet18", ' + CONFIG.read_text().strip()[1:]
    hostile = {
        "pickle": ({"config.json": config, "pytorch_model.bin": pickle}, "cannot get model.safetensors"),
        "renamed": ({"config.json": config, "model.safetensors": pickle}, "is not a sound safetensors file"),
        "architecture": ({"config.json": {**config, "architecture": "resnet18"}}, "expected cifar_resnet20"),
        "twice": ({"config.json": twice}, "it has a key twice"),
        "flipped": ({"config.json": config, "model.safetensors": weights[:-1] + b"\x7f"}, "its sha256 is not that"),
        "absurd": ({"config.json": {**config, "model_args": {"depth": 10**8}}}, "model_args has"),
        "elsewhere": ({"config.json": elsewhere}, "pretrained_cfg has 'url'"),
        "paths": ({"config.json": config, "../../evil": b"evil"}, None),
    }
    for kind, (files, _) in hostile.items():
        sound = {} if "pytorch_model.bin" in files else {"model.safetensors": weights}
        contents = {name: as_bytes(content) for name, content in (sound | files).items()}
        hub.add_repo(f"tester/cifar_resnet20.{kind}", contents)
    script = "\n".join(f'attempt(load_network, "tester/cifar_resnet20.{kind}")' for kind in hostile)
    for (kind, (_, message)), outcome in zip(hostile.items(), attempts(hub, table, script), strict=True):
        if message is None:
            assert outcome == loaded() or outcome[0] == "UserError", kind
        else:
            assert outcome[0] == "UserError", (kind, outcome)
            assert message in outcome[1], kind
    assert not marker.exists()
    assert not [file for file in table.parent.rglob("evil*") if file.is_file()]
