import csv
import io

from cutmix_zoo.evaluation.findings import Findings, csv_text


def test_a_record_has_the_head_first_and_the_table_last() -> None:
    record = Findings({"top1": 50.0}, [{"class": "ant"}]).record({"model": "m", "dataset": "d"})
    assert list(record.items()) == [("model", "m"), ("dataset", "d"), ("top1", 50.0), ("rows", [{"class": "ant"}])]


def test_a_table_comes_back_from_its_text() -> None:
    rows = [{"set": 'a, "b"', "auroc": 99.123456789012345}, {"set": "c", "auroc": None}]
    read = list(csv.DictReader(io.StringIO(csv_text(rows))))
    assert [row["set"] for row in read] == ['a, "b"', "c"]
    assert (float(read[0]["auroc"]), read[1]["auroc"]) == (99.123456789012345, "")
