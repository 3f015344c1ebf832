import json
from dataclasses import replace
from pathlib import Path

import pytest

import cutmix_zoo.zoo
from cutmix_zoo.errors import UserError
from cutmix_zoo.hub.bundle import Bundle
from cutmix_zoo.hub.zoo_row import extended, zoo_row
from cutmix_zoo.store import file_sha256
from cutmix_zoo.zoo import read_table, zoo_table
from tests.hub.conftest import REPO


def test_a_row_completes_the_one_that_is_there_or_is_a_new_one(bundle: Bundle, tmp_path: Path) -> None:
    table = tmp_path / "zoo.json"
    original = json.loads(Path(cutmix_zoo.zoo.__file__).with_name("zoo.json").read_text(encoding="utf-8"))
    table.write_text(json.dumps(original))
    commit = "0123456789" * 4
    name = "resnet50.cutmix_in1k"
    known = replace(bundle, facts=replace(bundle.facts, name=name, entry=zoo_table()[name], repo=f"tester/{name}"))
    table.write_text(extended(table, zoo_row(known, commit), name))
    changed = read_table(json.loads(table.read_text()))[name]
    sha256 = file_sha256(bundle.folder / "model.safetensors")
    assert changed == replace(zoo_table()[name], repo=f"tester/{name}", revision=commit, sha256=sha256)
    row = {**zoo_row(bundle, commit), "recipe": "quickstart"}
    for _ in range(2):
        table.write_text(extended(table, row, bundle.facts.name))
    rows = json.loads(table.read_text())["weights"]
    assert len(rows) == len(original["weights"]) + 1
    new = read_table(json.loads(table.read_text()))["cifar_resnet8.mine"]
    assert (new.repo, new.revision, new.dataset, new.method) == (REPO, commit, "fashion_mnist", "CutMix")
    assert new.top1 == bundle.facts.summary["top1"]


@pytest.mark.parametrize(
    ("change", "name", "message"),
    [
        ({}, "mine", "call the repository ARCHITECTURE.TAG"),
        ({"dataset": None}, "cifar_resnet8.mine", "its dataset, its preprocessing or its recipe"),
        ({"recipe": None}, "cifar_resnet8.mine", "its dataset, its preprocessing or its recipe"),
    ],
)
def test_what_the_table_cannot_have_is_refused(
    change: dict[str, None], name: str, message: str, bundle: Bundle, tmp_path: Path
) -> None:
    row = {**zoo_row(bundle, "0" * 40), "recipe": "quickstart", **change}
    with pytest.raises(UserError, match=message):
        extended(tmp_path / "zoo.json", row, name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "is not a zoo table: .*No such file or directory"),
        ("[]", "is not a zoo table: list indices must be integers"),
        ("{", "is not a zoo table: Expecting property name"),
        ("{}", "is not a zoo table: 'weights'"),
        ('{"weights": [], "sources": {}}', "has no row cifar_resnet8.mine, which the installed table has"),
    ],
)
def test_another_file_is_no_table(text: str | None, message: str, tmp_path: Path) -> None:
    table = tmp_path / "zoo.json"
    if text is not None:
        table.write_text(text)
    with pytest.raises(UserError, match=f"^{table} {message}"):
        extended(table, {"repo": REPO}, "cifar_resnet8.mine")
