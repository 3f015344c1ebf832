"""The README's Python blocks run as they stand."""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import ImageDataset
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from cutmix_zoo import mixing
from cutmix_zoo.train import train
from cutmix_zoo.training.recipe import load_recipe

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
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


def _zeros(module: nn.Module) -> nn.Module:
    """Let all logits be 0, so that every cross-entropy is the logarithm of the number of classes."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


@pytest.fixture
def at_hand(dataset: Dataset, tmp_path: Path) -> Any:
    """What the blocks take for granted, by what they say."""
    masks = torch.arange(4 * 32 * 32).view(4, 32, 32) % 22
    masks[masks == 21] = 255
    linear = _zeros(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10)))
    plain = TensorDataset(torch.rand(6, 3, 32, 32), torch.arange(6))
    return {
        "runs/quickstart": {},
        "create_loader": {"dataset": dataset},
        "v2.Compose": {"dataset": dataset},
        "for images, labels in loader": {
            "loader": DataLoader(plain, batch_size=3),
            "model": linear,
            "optimizer": torch.optim.SGD(linear.parameters(), lr=0.1),
        },
        "apply_masks": {
            # an image that shows its mask
            "images": (masks.float() / 255).unsqueeze(1).repeat(1, 3, 1, 1),
            "masks": masks,
            "model": _zeros(nn.Conv2d(3, 21, 1)),
        },
    }


@pytest.mark.parametrize("block", [block for block in BLOCKS if "transformers" not in block])
def test_block(
    block: str,
    at_hand: dict[str, dict[str, Any]],
    tiny_options: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    if "runs/quickstart" in block:
        train(load_recipe("quickstart", tiny_options | {"schedule.epochs": "2"}))
    scope: dict[str, Any] = {}
    for words, values in at_hand.items():
        if words in block:
            scope |= values
    torch.manual_seed(0)
    exec(block, scope)
    if "DataLoader(" in block or "create_loader(" in block:
        images, targets = next(iter(scope["loader"]))
        assert images.shape[1:] == (3, 32, 32)
        assert targets.sum(1).allclose(targets.new_ones(len(images)))
        assert "criterion" not in scope or scope["criterion"](targets, targets).isfinite()
    if "for images, labels in loader" in block:
        assert scope["targets"].shape == (3, 10)
        assert scope["loss"].isfinite()
        assert all(parameter.any() for parameter in scope["model"].parameters())
    if "apply_masks" in block:
        assert torch.equal(scope["images"][:, 0], scope["masks"].float() / 255)
        assert not torch.equal(scope["masks"], at_hand["apply_masks"]["masks"])
        assert scope["loss"].item() == pytest.approx(math.log(21))


@pytest.mark.usefixtures("own_accelerator")
def test_block_of_transformers(tmp_path: Path) -> None:
    from transformers import TrainingArguments, ViTConfig, ViTForImageClassification

    (block,) = [block for block in BLOCKS if "transformers" in block]
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    model = ViTForImageClassification(ViTConfig(image_size=32, patch_size=16, num_labels=10, **sizes))
    _zeros(model.classifier)
    samples = [{"pixel_values": torch.rand(3, 32, 32), "labels": i % 10} for i in range(12)]
    arguments = TrainingArguments(
        str(tmp_path),
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        max_steps=1,
        learning_rate=0.0,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    seen: list[Tensor] = []
    scope = {"model": model, "arguments": arguments, "train_set": samples, "validation_set": samples}
    handle = model.register_forward_pre_hook(
        lambda _, __, inputs: seen.append(inputs["pixel_values"]), with_kwargs=True
    )
    exec(block, scope)
    trainer = scope["trainer"]
    # one step over two micro-batches: a mean over all their images
    assert trainer.state.log_history[-1]["train_loss"] == pytest.approx(math.log(10), rel=1e-4)
    originals = torch.stack([sample["pixel_values"] for sample in samples])
    assert [len(images) for images in seen] == [4, 4]
    assert not any(_is_one_of(image, originals) for image in torch.cat(seen))
    # evaluation sees the images as they are, and hard labels
    seen.clear()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(math.log(10), rel=1e-4)
    assert torch.equal(torch.cat(seen), originals)
    handle.remove()
    # what the README says of a classifier that is left alone
    model(originals, labels=torch.full((12, 10), 0.1))
    assert model.config.problem_type == "multi_label_classification"


def _is_one_of(image: Tensor, images: Tensor) -> bool:
    return bool((image == images).flatten(1).all(1).any())


def test_the_readme_lists_the_methods() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \|", README, flags=re.MULTILINE)
    assert {name: getattr(mixing, method, None) for name, method in rows} == mixing.METHODS


PAGES = ("README.md", "recipes/README.md", "results/README.md")


def test_the_readme_names_every_command() -> None:
    from cutmix_zoo.cli import COMMANDS

    assert set(re.findall(r"cutmix-zoo (\w+)", README)) - {"COMMAND"} == set(COMMANDS)


@pytest.mark.parametrize("page", PAGES)
def test_the_keys_of_recipes_that_a_page_names_exist(page: str) -> None:
    from cutmix_zoo.training.recipe_keys import recipe_keys

    text = (ROOT / page).read_text(encoding="utf-8")
    keys = set(re.findall(r"--(?:set )?([a-z]+\.[a-z_]+)", text))
    assert keys
    assert keys <= set(recipe_keys())


@pytest.mark.parametrize("page", PAGES)
def test_links_within_the_project_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)]+)\)", text):
        if not link.startswith("https://"):
            place, _, anchor = link.partition("#")
            target = (ROOT / page).parent / place if place else ROOT / page
            assert target.is_file(), link
            assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), link


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}
