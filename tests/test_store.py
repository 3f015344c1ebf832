from dataclasses import replace
from pathlib import Path

import pytest

import cutmix_zoo.store
from cutmix_zoo.errors import UserError
from cutmix_zoo.store import check_weights, weights_file
from cutmix_zoo.zoo import zoo_table


def test_missing_and_damaged_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = zoo_table()["cifar_resnet8.cutmix_fmnist_mini"]
    check_weights(entry)
    content = bytearray(weights_file(entry).read_bytes())
    monkeypatch.setattr(cutmix_zoo.store, "PACKAGE_WEIGHTS", tmp_path)
    with pytest.raises(UserError, match=r"are not at .*install cutmix_zoo again"):
        check_weights(entry)
    content[-1] ^= 1
    weights_file(entry).write_bytes(content)
    with pytest.raises(UserError, match="is damaged or was replaced"):
        check_weights(entry)
    with pytest.raises(UserError, match="expected 00"):
        check_weights(replace(entry, sha256="00"))
