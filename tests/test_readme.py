"""The README's Python blocks run as they stand."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from timm.data import ImageDataset
from torch.utils.data import Dataset

from cutmix_zoo.train import train
from cutmix_zoo.training.recipe import load_recipe

README = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """What a reader of the README has: a folder of images, opened with timm."""
    rng = np.random.default_rng(0)
    for number in range(130):
        folder = tmp_path / "images" / f"class{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / f"{number}.png")
    return ImageDataset(str(tmp_path / "images"))


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_block(
    number: int, dataset: Dataset, tiny_options: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if "runs/quickstart" in BLOCKS[number]:
        train(load_recipe("quickstart", tiny_options | {"schedule.epochs": "2"}))
    scope = {"dataset": dataset}
    exec(BLOCKS[number], scope)
    if "loader" in scope:
        images, targets = next(iter(scope["loader"]))
        assert images.shape == (128, 3, 32, 32)
        assert targets.sum(1).allclose(targets.new_ones(128))
        assert scope["criterion"](targets, targets).isfinite()


def test_the_readme_names_every_command_and_recipe_key_it_uses() -> None:
    from cutmix_zoo.cli import COMMANDS
    from cutmix_zoo.training.recipe import recipe_keys

    used = set(re.findall(r"cutmix-zoo (\w+)", README)) - {"COMMAND"}
    assert used == set(COMMANDS)
    keys = set(re.findall(r"--([a-z]+\.[a-z_]+)", README))
    assert keys
    assert keys <= set(recipe_keys())
