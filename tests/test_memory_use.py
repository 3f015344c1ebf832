"""What a run holds on to: nothing that grows with its length, or with that of its data."""

import gc
import resource
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from PIL import Image
from torch.utils.data import Dataset

import cutmix_zoo.train
from cutmix_zoo.data.loaders import train_loader
from cutmix_zoo.data.settings import DataSettings
from cutmix_zoo.mixing import collate_samples
from cutmix_zoo.train import train
from cutmix_zoo.training.settings import Recipe
from tests.processes import start, wait
from tests.stand_ins import without_pictures

MIB = 1 << 20


def memory() -> int:
    """Bytes of this process that are in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def train_for_long(recipe: Recipe, folder: Path) -> None:
    patch, measure, seen = pytest.MonkeyPatch(), cutmix_zoo.train.evaluate_accuracy, []

    def watched(*arguments: object, **options: object) -> object:
        gc.collect()
        seen.append((memory(), len(gc.get_objects())))
        return measure(*arguments, **options)

    without_pictures(patch)
    patch.setattr(cutmix_zoo.train, "evaluate_accuracy", watched)
    train(recipe, folder)
    per_epoch = seen[::2]
    assert len(per_epoch) == 50
    (bytes_then, objects_then), (bytes_now, objects_now) = per_epoch[9], per_epoch[-1]
    # an epoch leaves its line of metrics, a dict
    assert objects_now - objects_then < 40 * 20, per_epoch
    assert bytes_now - bytes_then < 8 * MIB, per_epoch


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read as Linux tells it")
@pytest.mark.parametrize("resident", [True, False])
def test_memory_does_not_grow_over_epochs(resident: bool, tiny_recipe: Recipe, tmp_path: Path) -> None:
    data = replace(tiny_recipe.data, resident=resident, workers=0 if resident else 1)
    recipe = replace(tiny_recipe, data=data, schedule=replace(tiny_recipe.schedule, epochs=50))
    assert wait([start(partial(train_for_long, recipe, tmp_path / "run"))], 400) == [0]


class Grey(Dataset):
    """As many images of 100 KiB as one likes, made when they are asked for."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.new("L", (320, 320), index % 256), index % 10


def read_an_epoch(size: int, file: Path) -> None:
    settings = DataSettings("x", input_size=(1, 320, 320), mean=(0.5,), std=(0.5,), batch_size=20, workers=0)
    loader = train_loader(Grey(size), settings, collate_fn=collate_samples, num_classes=10, seed=0)
    most = max(memory() for _ in loader.epoch(0))
    file.write_text(str(most))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read as Linux tells it")
def test_memory_of_streamed_images_does_not_grow_with_their_number(tmp_path: Path) -> None:
    sizes = (100, 10_000)
    assert wait([start(partial(read_an_epoch, size, tmp_path / str(size))) for size in sizes]) == [0, 0]
    few, many = (int((tmp_path / str(size)).read_text()) for size in sizes)
    assert many - few < 20 * MIB, "of 1 GiB of pixels"
