import json

import pytest

from cutmix_zoo.bench.cases import TASKS, Case
from cutmix_zoo.bench.mixing import bench_mixing, format_table
from cutmix_zoo.training.environment import versions


@pytest.fixture(scope="module")
def result() -> dict:
    return bench_mixing([Case(4, 8, repeats=2), Case(2, 6, repeats=2)], [Case(2, 8, repeats=2)])


def test_every_task_has_a_row_in_every_place(result: dict) -> None:
    assert json.loads(json.dumps(result)) == result
    assert set(result["environment"]) == {"device", *versions()}
    names = {(row["where"], row["per"], row["method"], row["batch_size"], row["size"]) for row in result["rows"]}
    places = [(where, *shape) for where in ("collate", "collate, buffer", "tensors") for shape in ((4, 8), (2, 6))]
    places += [(where, 2, 8) for where in ("2 workers", "2 workers, reuse")]
    assert names == {(where, task.per, task.method, *shape) for where, *shape in places for task in TASKS}
    assert len(result["rows"]) == len(names)


def test_rows_hold_quartiles_and_the_ratio(result: dict) -> None:
    for row in result["rows"]:
        assert row["ratio"] == pytest.approx(row["timm"]["median"] / row["ours"]["median"])
        peers = [name for name in ("timm", "ours", "copy", "torchvision") if name in row]
        assert all(0 < row[name]["low"] <= row[name]["median"] <= row[name]["high"] for name in peers)
        assert peers[:3] == ["timm", "ours", "copy"]
        # torchvision mixes batches alike only, and its mixup refuses the bytes of a collate
        known = row["per"] == "batch" and (row["where"], row["method"]) in (
            ("collate", "cutmix"),
            ("tensors", "cutmix"),
            ("tensors", "mixup"),
        )
        assert ("torchvision" in row) == known


def test_into_a_buffer_is_compared_with_timms_fresh_collate(result: dict) -> None:
    timm = {(row["where"], row["per"], row["method"], row["size"]): row["timm"] for row in result["rows"]}
    assert timm["collate, buffer", "sample", "mixup", 8] == timm["collate", "sample", "mixup", 8]


def test_the_table(result: dict) -> None:
    lines = format_table(result).splitlines()
    assert len(lines) == 2 + len(result["rows"])
    peers = ("timm", "ours", "copy", "torchvision")
    assert lines[1].split() == [word for peer in peers for word in (peer, "[ms]")] + ["timm/ours"]
    assert lines[2].startswith("collate, batch cutmix, 4 x 3x8x8")
    assert lines[2].endswith(f"{result['rows'][0]['ratio']:.2f}")
    assert " - " in lines[3]
