import json
import logging
from pathlib import Path
from typing import Any

import pytest

from cutmix_zoo.errors import UserError
from cutmix_zoo.training.recipe import load_recipe
from cutmix_zoo.training.settings import Recipe
from cutmix_zoo.training.splits import CLEAN_IMAGES, open_splits
from tests.conftest import leaves_files_open, png_bytes, random_image, write_tar

pytestmark = leaves_files_open


def stream_recipe(root: Path, **changes: Any) -> Recipe:
    pytest.importorskip("webdataset")
    image = {"data.input_size": "[3,8,8]", "data.mean": "[0.5,0.5,0.5]", "data.std": "[0.5,0.5,0.5]"}
    options = {"data.name": "wds/", "data.root": str(root), "model.num_classes": "3", **image}
    return load_recipe("quickstart", options | {f"data.{key}": value for key, value in changes.items()})


@pytest.mark.parametrize("key", ["png", "jpg;png"])
def test_the_unmixed_images_of_a_stream_are_its_first(key: str, webdataset_folder: Path) -> None:
    splits = open_splits(stream_recipe(webdataset_folder, input_key=key))
    assert len(splits.clean) == 24 < CLEAN_IMAGES
    assert [(image.getpixel((0, 0)), label) for image, label in splits.clean] == [
        ((place, 2 * place, 3 * place), place % 3) for place in range(24)
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_key": "image"}, r"^no image of split 'train' of wds/ in .* can be read: check data.input_key$"),
        ({"target_key": "kind"}, r"^cannot read the next sample of the dataset: Target key.*'kind'.* json sidecar"),
    ],
)
def test_a_wrong_key_of_a_stream_is_said(
    changes: dict[str, str], message: str, webdataset_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR), pytest.raises(UserError, match=message):
        open_splits(stream_recipe(webdataset_folder, **changes))


def test_a_field_beside_the_images_holds_the_labels(tmp_path: Path) -> None:
    files = {}
    for place in range(4):
        files |= {
            f"{place}.png": png_bytes(random_image(place, 8, 8)),
            f"{place}.json": json.dumps({"kind": 3 - place}),
        }
    files = {name: content if isinstance(content, bytes) else content.encode() for name, content in files.items()}
    write_tar(tmp_path / "all-0.tar", files)
    every = "all-{0..0}.tar|4"
    recipe = stream_recipe(tmp_path, target_key="kind", train_split=every, val_split=every, batch_size="4")
    assert [label for _, label in open_splits(recipe).clean] == [3, 2, 1, 0]
