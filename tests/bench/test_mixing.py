import json

import pytest

from cutmix_zoo.bench.mixing import Case, bench_mixing, format_table


def test_rows_and_table() -> None:
    result = bench_mixing([Case(4, 8, repeats=2), Case(2, 6, repeats=2)])
    assert json.loads(json.dumps(result)) == result
    assert set(result["environment"]) == {"python", "torch", "timm", "threads"}
    names = [(row["where"], row["method"], row["batch_size"], row["size"]) for row in result["rows"]]
    assert names == [
        (where, method, batch_size, size)
        for batch_size, size in ((4, 8), (2, 6))
        for where in ("collate", "tensors")
        for method in ("batch cutmix", "sample cutmix")
    ]
    for row in result["rows"]:
        assert row["ratio"] == pytest.approx(row["timm"]["median"] / row["ours"]["median"])
        assert all(row[name]["low"] <= row[name]["median"] <= row[name]["high"] for name in ("timm", "ours", "copy"))

    lines = format_table(result).splitlines()
    assert len(lines) == 2 + len(result["rows"])
    assert lines[1].split() == ["timm", "[ms]", "ours", "[ms]", "copy", "[ms]", "timm/ours"]
    assert lines[2].startswith("collate, batch cutmix, 4 x 3x8x8")
    assert lines[2].endswith(f"{result['rows'][0]['ratio']:.2f}")
