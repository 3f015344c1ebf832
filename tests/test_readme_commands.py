"""The shell blocks of the READMEs: our commands run on small data; what is launched is read by its parsers."""

import re
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from accelerate.commands.launch import launch_command_parser

from cutmix_zoo.cli import command
from cutmix_zoo.hub.publish import Wishes
from cutmix_zoo.training.overrides import split_overrides
from cutmix_zoo.training.recipe import load_recipe
from tests.conftest import random_image

ROOT = Path(__file__).parents[1]
PAGES = [(ROOT / page).read_text(encoding="utf-8") for page in ("README.md", "recipes/README.md")]
BLOCKS = [block for page in PAGES for block in re.findall(r"```sh\n(.*?)```", page, flags=re.DOTALL)]


def commands_of(block: str) -> list[list[str]]:
    """Part a block into commands, and those into words, without comments and variables in front."""
    lines = (shlex.split(line, comments=True) for line in block.replace("\\\n", " ").splitlines())
    commands = ([word for word in words if not re.match(r"[A-Z_]+=", word)] for words in lines)
    return [words for words in commands if words]


COMMANDS = [words for block in BLOCKS for words in commands_of(block)]
OURS = [words[1:] for words in COMMANDS if words[0] == "cutmix-zoo"]
LAUNCHED = [words[1:] for words in COMMANDS if words[0] == "accelerate"]
ELSEWHERE = {
    "make": "tests/test_quickstart.py trains it; make test runs this",
    "python": "timm's script is not in its package: tests/test_with_timm.py has one that imports the same",
    "torchrun": "likewise",
    "export": "needs Slurm",
    "srun": "needs Slurm",
    "pip": "installs packages",
}
"""Why commands of other programs do not run here."""


def test_every_command_is_run_or_left_out_for_a_reason() -> None:
    others = {words[0] for words in COMMANDS} - {"cutmix-zoo", "accelerate"}
    assert others <= set(ELSEWHERE)
    assert OURS
    assert LAUNCHED


@pytest.mark.parametrize("words", LAUNCHED, ids=" ".join)
def test_what_is_launched_is_a_recipe_that_the_launcher_takes(words: list[str]) -> None:
    assert words[0] == "launch"
    options = launch_command_parser().parse_args(words[1:])
    assert options.module
    assert options.training_script == "cutmix_zoo.train"
    assert options.mixed_precision in ("no", "bf16")
    arguments = dict(split_overrides(options.training_script_args))
    recipe = load_recipe(arguments.pop("config"), {key: value for key, value in arguments.items() if key != "resume"})
    assert recipe.runtime.mix_on == "device"


SMALL = "cifar_resnet8"
"""What is fine-tuned instead of a ResNet-50."""


def write_images(folder: Path, per_class: int) -> None:
    for label in range(2):
        (folder / f"class{label}").mkdir(parents=True)
        for number in range(per_class):
            random_image(10 * label + number, 28, 28, "L").save(folder / f"class{label}" / f"{number}.png")


def write_authors_checkpoint(file: Path) -> None:
    state = {f"module.{key}": value for key, value in timm.create_model("resnet50").state_dict().items()}
    torch.save({"epoch": 300, "arch": "resnet", "state_dict": state, "best_err1": 21.4, "best_err5": 5.9}, file)


def small(words: list[str], data: Path, options: dict[str, str]) -> list[str]:
    """Add what makes a command cheap, and name the data that a reader has."""
    words = [
        str(data) if word == "DATA" else word.replace("resnet50.my_images", f"{SMALL}.my_images") for word in words
    ]
    if words[0] == "evaluate":
        tiny = " ".join(words).replace("--on fashion_mnist_mini", f"--on fashion_mnist --root {data}").split()
        return [*tiny, "--samples", "20", "--pgd-steps", "1", "--budgets", "0,8", "--pgd-budgets", "8"]
    if words[0] not in ("train", "sweep", "preview") or "--gallery" in words:
        return words
    if "finetune_folder" in words:
        options = {
            **{key: value for key, value in options.items() if key not in ("data.name", "data.root")},
            "model.name": f"{SMALL}.cutmix_fmnist_mini",
            "schedule.epochs": "2",
            "schedule.warmup_epochs": "1",
        }
    given = {word.removeprefix("--") for word in words} | {word.partition("=")[0] for word in words}
    return [*words, *(word for key, value in options.items() if key not in given for word in (f"--{key}", value))]


SESSIONS = [block for block in BLOCKS if "cutmix-zoo" in block and "my_images" not in block]
PUBLISHED = "\n".join(block for block in BLOCKS if "my_images" in block)
"""What is published was fine-tuned before."""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to run commands in, with what they take for granted."""
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "IMAGES", 1)
    write_images(tmp_path / "MY_IMAGES", 10)
    return tmp_path


def ours(block: str) -> list[list[str]]:
    return [words[1:] for words in commands_of(block) if words[0] == "cutmix-zoo"]


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("block", SESSIONS)
def test_our_commands_run_one_after_the_other(
    block: str, place: Path, tiny_data: Path, tiny_options: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    if "model_best.pth.tar" in block:
        write_authors_checkpoint(place / "model_best.pth.tar")
    for words in ours(block):
        command(small(words, tiny_data, tiny_options))
        assert capsys.readouterr().out
        for option, file in pairwise(words):
            assert option not in ("--output", "--csv") or (place / file).exists(), file


def test_what_was_fine_tuned_is_published(
    place: Path, tiny_data: Path, tiny_options: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    published: list[tuple[Any, Wishes]] = []

    def upload(bundle: Any, wishes: Wishes, api: object) -> str:
        published.append((bundle, wishes))
        return "0" * 40

    monkeypatch.setattr("cutmix_zoo.cli.upload", upload)
    for words in ours(PUBLISHED):
        command(small(words, tiny_data, tiny_options))
    ((bundle, wishes),) = published  # the other one was a dry run
    assert bundle.facts.name == f"{SMALL}.my_images"
    assert wishes.tag == "v1.0"
    assert (place / "runs" / "my_images" / "summary.json").exists()
