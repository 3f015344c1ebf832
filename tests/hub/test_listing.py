import csv
import io
import json
from pathlib import Path

import pytest
import timm
import torch

from cutmix_zoo.cli import command
from cutmix_zoo.errors import UserError
from cutmix_zoo.hub.importer import import_checkpoint
from cutmix_zoo.hub.listing import FORMATS, ListedWeights, format_weights, list_weights
from cutmix_zoo.zoo import zoo_table
from tests.hub import official

SHIPPED = "cifar_resnet8.cutmix_fmnist_mini"
RESULTS = json.loads((Path(__file__).parents[2] / "hub_cards" / SHIPPED / "results.json").read_text())


def of(name: str) -> ListedWeights:
    (row,) = list_weights(name)
    return row


def put(tmp_path: Path, name: str, num_classes: int) -> None:
    weights = timm.create_model(name.partition(".")[0], num_classes=num_classes).state_dict()
    torch.save(weights, tmp_path / "x.pth")
    import_checkpoint(tmp_path / "x.pth", name)


def test_every_entry_is_listed_with_what_is_known_of_it() -> None:
    rows = list_weights()
    assert [row.name for row in rows] == list(zoo_table())
    row = of("cifar_pyramidnet200_a240.cutmix_c100")
    assert (row.method, row.dataset, row.published_error) == ("CutMix", "cifar100", 14.23)
    with torch.device("meta"):
        theirs = official.PyramidNet(200, 240, 100)
    assert row.parameters == sum(parameter.numel() for parameter in theirs.parameters())
    assert (row.license, row.where, row.own) == ("mit", None, False)
    assert "Krizhevsky" in row.data_license
    shipped = of("cifar_resnet8.*")
    assert (shipped.name, shipped.published_error, shipped.where) == (SHIPPED, None, "package")
    assert shipped.measured_error == pytest.approx(100 - RESULTS["top1"])
    assert shipped.parameters == 77_754  # of one channel and ten classes


def test_imported_weights_are_in_the_store_and_own_ones_come_last(store: Path, tmp_path: Path) -> None:
    put(tmp_path, "resnet50.cutmix_in1k", 1000)
    put(tmp_path, "cifar_resnet20.mine", 100)
    assert of("resnet50.cutmix_in1k").where == "store"
    rows = list_weights()
    assert [row.name for row in rows] == [*zoo_table(), "cifar_resnet20.mine"]
    own = rows[-1]
    assert (own.own, own.dataset, own.where, own.parameters) == (True, None, "store", 278_324)
    assert (own.method, own.license, own.published_error, own.page) == (None, None, None, None)
    lines = format_weights(rows, "table").splitlines()
    assert next(line for line in lines if "cifar_resnet20.mine" in line).split() == [
        "cifar_resnet20.mine", "your", "own", "-", "-", "store",
    ]  # fmt: skip


def test_a_config_that_somebody_edited_is_listed(store: Path, tmp_path: Path) -> None:
    put(tmp_path, "cifar_resnet8.edited", 10)
    file = store / "cifar_resnet8.edited" / "config.json"
    config = json.loads(file.read_text())
    config["pretrained_cfg"] |= {"license": ["mit"], "description": 3, "origin_url": {}}
    file.write_text(json.dumps(config))
    for how in FORMATS:
        assert "mit" in format_weights(list_weights("*.edited"), how)


def test_patterns() -> None:
    assert {row.name for row in list_weights("resnet*.cutmix_in1k")} == {
        f"{network}.cutmix_in1k" for network in ("resnet50", "resnet101", "resnet152")
    }
    with pytest.raises(
        UserError, match=r"no weights are called 'resnet50\.cutmix'; did you mean resnet50\.cutmix_in1k\?"
    ):
        list_weights("resnet50.cutmix")


def test_the_table_fits_a_terminal_of_100_columns() -> None:
    text = format_weights(list_weights(), "table")
    assert max(map(len, text.splitlines())) <= 100
    assert "resnet50 on imagenet, 25.6 M parameters" in text
    assert "0.08 M parameters" in text
    line = next(line for line in text.splitlines() if "resnet50.cutmix_in1k" in line)
    assert line.split() == ["resnet50.cutmix_in1k", "CutMix", "21.40", "mit", "import"]
    assert f"{100 - RESULTS['top1']:.2f}*" in text
    assert "imagenet: ImageNet terms of access" in text
    assert "https://github.com/clovaai/CutMix-PyTorch#experiments" in text
    only_shipped = format_weights(list_weights("cifar_resnet8.*"), "table")
    assert "--as NAME" not in only_shipped
    assert "imagenet" not in only_shipped


def test_csv_and_json_have_every_field() -> None:
    rows = list_weights()
    expected = [vars(row) for row in rows]
    assert json.loads(format_weights(rows, "json")) == expected
    read = list(csv.DictReader(io.StringIO(format_weights(rows, "csv"))))
    assert [row.keys() for row in read] == [row.keys() for row in expected]
    assert [row["published_error"] for row in read][:3] == ["", "", "16.45"]
    assert [row["name"] for row in read] == list(zoo_table())


def test_the_commands(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for how in FORMATS:
        command(["list", "resnet50.*", "--format", how])
        assert "resnet50.feature_cutmix_in1k" in capsys.readouterr().out
    torch.save(timm.create_model("cifar_resnet8", num_classes=10).state_dict(), tmp_path / "x.pth")
    command(["import", str(tmp_path / "x.pth"), "--as", "cifar_resnet8.imported", "--dataset", "cifar10"])
    out = capsys.readouterr().out
    assert out.startswith(f"wrote {store / 'cifar_resnet8.imported'}")
    # the closing line is Python that loads the model
    model = eval(out.splitlines()[1], {"timm": timm})
    assert model.pretrained_cfg["label_names"][0] == "airplane"
