import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, f1_score, log_loss, top_k_accuracy_score

from cutmix_zoo.errors import UserError
from cutmix_zoo.evaluation.accuracy import evaluate_accuracy, measure_accuracy, scores, tally
from tests.evaluation.subjects import Lookup, lookup_subject, numbered_images


def batches(labels: torch.Tensor, size: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    images = torch.arange(len(labels), dtype=torch.uint8)[:, None, None, None]
    return list(zip(images.split(size), labels.split(size), strict=True))


@pytest.mark.parametrize("num_classes", [3, 9])
def test_agrees_with_scikit_learn_whatever_the_batches(num_classes: int) -> None:
    rng = torch.Generator().manual_seed(1)
    table = torch.randn(47, num_classes, generator=rng)
    labels = torch.randint(num_classes, (47,), generator=rng)
    results = [
        evaluate_accuracy(
            Lookup(table),
            batches(labels, size),
            prepare=lambda images: images,
            num_classes=num_classes,
        )
        for size in (1, 10, 47)
    ]
    assert all(result == pytest.approx(results[0], rel=1e-14) for result in results)
    scores, names = table.double().numpy(), np.arange(num_classes)
    probabilities = table.double().softmax(1).numpy()
    top5 = 1.0 if num_classes <= 5 else top_k_accuracy_score(labels, scores, k=5, labels=names)
    assert results[0]["top1"] == pytest.approx(100 * top_k_accuracy_score(labels, scores, k=1, labels=names))
    assert results[0]["top5"] == pytest.approx(100 * top5)
    assert results[0]["loss"] == pytest.approx(log_loss(labels, probabilities, labels=names))
    assert results[0]["count"] == 47


def test_whoever_is_first_is_among_five_also_where_many_are_alike() -> None:
    found = scores(tally(torch.zeros(200, 100), torch.zeros(200, dtype=torch.long)))
    assert (found["top1"], found["top5"]) == (100.0, 100.0)


def test_numbers_of_classes_are_those_of_scikit_learn() -> None:
    rng = torch.Generator().manual_seed(2)
    table = torch.randn(200, 6, generator=rng)
    # class 5 is nobody's label, class 4 nobody's prediction, class 3 neither
    table[:, 3:5] = -100.0
    labels = torch.tensor([0, 1, 1, 2, 2, 2, 2, 4]).repeat(25)
    found = evaluate_accuracy(Lookup(table), batches(labels, 33), prepare=lambda images: images, num_classes=6)
    predictions = table.argmax(1)
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        expected = balanced_accuracy_score(labels, predictions)
    assert found["balanced_accuracy"] == pytest.approx(100 * expected)
    assert found["macro_f1"] == pytest.approx(100 * f1_score(labels, predictions, average="macro"))


def test_shares_of_two_processes_add_up() -> None:
    table, labels = torch.eye(4), torch.tensor([0, 1, 2, 0])
    model = Lookup(table).train()
    parts = batches(labels, 1)
    seen: list[torch.Tensor] = []

    def share(rank: int) -> None:
        found = evaluate_accuracy(
            model,
            parts[rank::2],
            prepare=lambda images: images,
            num_classes=4,
            reduce=lambda sums: seen.append(sums) or sums,
        )
        assert found["count"] == 2

    share(0)
    share(1)
    whole = evaluate_accuracy(
        model, parts[::2], prepare=lambda images: images, num_classes=4, reduce=lambda sums: sums + seen[1]
    )
    assert (whole["top1"], whole["count"]) == (75.0, 4)
    assert model.training


def test_prepare_is_applied_and_labels_outside_the_classes_are_named() -> None:
    labels = torch.tensor([1, 0])
    result = evaluate_accuracy(
        Lookup(torch.eye(2)), batches(labels, 2), prepare=lambda images: 1 - images, num_classes=2
    )
    assert result["top1"] == 100.0
    for bad in (2, -1):
        with pytest.raises(UserError, match=f"outside the model's 2 classes: {bad}"):
            evaluate_accuracy(
                Lookup(torch.eye(2)), batches(torch.tensor([0, bad]), 2), prepare=lambda images: images, num_classes=2
            )


def test_a_split_that_gives_nothing() -> None:
    with pytest.raises(UserError, match="no image to evaluate"):
        evaluate_accuracy(Lookup(torch.eye(2)), [], prepare=lambda images: images, num_classes=2)


def test_the_suite_agrees_with_scikit_learn_class_by_class() -> None:
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    rng = torch.Generator().manual_seed(3)
    table = torch.randn(60, 4, generator=rng)
    labels = torch.randint(3, (60,), generator=rng)
    table[:, 2] = -100.0  # never predicted, and class 3 is nobody's label
    found = measure_accuracy(lookup_subject(table, numbered_images(labels), batch_size=7), ["a", "b", "c", "d"])
    predictions = table.argmax(1)
    with pytest.warns(UserWarning, match="ill-defined"):
        expected = precision_recall_fscore_support(labels, predictions, labels=range(4), average=None)
    assert found.numbers["confusion"] == confusion_matrix(labels, predictions, labels=range(4)).tolist()
    assert found.numbers["classes"] == [row["class"] for row in found.rows] == ["a", "b", "c", "d"]
    assert [row["count"] for row in found.rows] == expected[3].tolist()
    for key, values in zip(("precision", "recall", "f1"), expected, strict=False):
        assert [row[key] or 0 for row in found.rows] == pytest.approx(100 * values)
    assert found.rows[2]["precision"] is None
    assert found.rows[3]["recall"] is None
    same = evaluate_accuracy(Lookup(table), batches(labels, 9), prepare=lambda images: images, num_classes=4)
    assert {key: found.numbers[key] for key in same} == pytest.approx(same, rel=1e-14)


def test_classes_without_names_are_called_by_their_numbers_and_those_that_do_not_occur_left_out() -> None:
    found = measure_accuracy(lookup_subject(torch.eye(2, 5), numbered_images([0, 1])))
    assert [row["class"] for row in found.rows] == ["0", "1"]
    assert found.numbers["top1"] == 100.0


def test_a_confusion_of_very_many_classes_is_left_out() -> None:
    found = measure_accuracy(lookup_subject(torch.eye(2, 201), numbered_images([0, 1])))
    assert found.numbers["confusion"] is None
