"""What is measured, and on what: a classifier, a dataset, and the processes that share the work."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from cutmix_zoo.data.datasets import dataset_size
from cutmix_zoo.data.keyed import Prepare
from cutmix_zoo.data.sampler import fixed_subset
from cutmix_zoo.data.transforms import eval_transform
from cutmix_zoo.errors import UserError
from cutmix_zoo.evaluation.samples import Samples
from cutmix_zoo.training.launch import progress_bar

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from accelerate import Accelerator
    from numpy.typing import NDArray
    from torch import Tensor
    from tqdm import tqdm

    from cutmix_zoo.data.settings import DataSettings
    from cutmix_zoo.data.transforms import Transform
    from cutmix_zoo.evaluation.classifier import Classifier

Rows = dict[str, "NDArray[Any]"]
"""What was found of each image: arrays (N, ...) in the order of ``index`` (N,), the same in every process."""


@dataclass(frozen=True)
class Subject:
    """A classifier, the data it is measured on, and this process's place among those that share the work.

    Args:
        classifier: what is measured.
        dataset: an opened split: indexable, gives (PIL image, label).
        settings: the data section of a recipe, with the classifier's preprocessing.
        accelerator: this process's place in the launch.
        batch_size: images of a forward pass.
        limit: how many images the suites that are costly measure; ``None`` for all.
        skip_unreadable: leave out images that cannot be read, instead of stopping.
    """

    classifier: Classifier
    dataset: Any
    settings: DataSettings
    accelerator: Accelerator
    batch_size: int = 250
    limit: int | None = None
    skip_unreadable: bool = False

    @property
    def size(self) -> int:
        """How many images the split has."""
        return dataset_size(self.dataset)

    @property
    def limited_size(self) -> int:
        """How many of them the suites that are costly measure, if all can be read."""
        return self.size if self.limit is None else min(self.size, self.limit)

    def samples(
        self,
        indices: Sequence[int] | NDArray[Any] | None = None,
        *,
        dataset: Any = None,
        transform: Transform | None = None,
        num_classes: int | None = None,
    ) -> Samples:
        """Choose images to measure on.

        Args:
            indices: places in the dataset; ``None`` for all.
            dataset: a dataset of (PIL image, label); ``None`` for the subject's own.
            transform: from a PIL image to uint8 (C, H, W); ``None`` for the one that the classifier asks for.
            num_classes: labels have to lie in [0, num_classes); ``None`` for the classifier's.

        Returns:
            This process's share of them.
        """
        dataset = self.dataset if dataset is None else dataset
        places = range(dataset_size(dataset)) if indices is None else [int(index) for index in indices]
        prepare = Prepare(transform or eval_transform(self.settings), num_classes or self.classifier.num_classes)
        return Samples(
            dataset,
            prepare,
            places,
            batch_size=self.batch_size,
            workers=self.settings.workers,
            rank=self.accelerator.process_index,
            world_size=self.accelerator.num_processes,
        )

    def gather(self, samples: Samples, parts: Iterable[Mapping[str, Tensor]], name: str) -> Rows:
        """Go through what is found batch by batch, with a progress bar, and collect it from all processes.

        Args:
            samples: what the parts are made of.
            parts: made while one iterates over ``samples``: for each batch its ``index`` (B,) and anything else as
                tensors (B, ...). The parts of all processes have the same keys, and no image comes twice.
            name: what the progress bar says.

        Returns:
            All rows, sorted by ``index``, the same in every process.

        Raises:
            UserError: if images could not be read and ``skip_unreadable`` is False, or none could be, or the dataset
                does not have the images that it says.
        """
        return self.gather_readable(samples, parts, name)[0]

    def gather_readable(
        self, samples: Samples, parts: Iterable[Mapping[str, Tensor]], name: str
    ) -> tuple[Rows, tuple[str, ...]]:
        """Do what :meth:`gather` does, with images of which nobody knows whether they can be read.

        Args:
            samples: as for :meth:`gather`.
            parts: likewise.
            name: likewise.

        Returns:
            The rows, and why images were left out, one message an image, sorted; the same in every process.

        Raises:
            UserError: as :meth:`gather`.
        """
        from accelerate.utils import gather_object

        found: list[dict[str, NDArray[Any]]] = []
        with self.progress(-(-len(samples) // self.accelerator.num_processes), name, " images") as bar:
            for part in parts:
                found.append({key: value.detach().cpu().numpy() for key, value in part.items()})
                bar.update(len(part["index"]))
        shares = gather_object([(found, samples.unreadable)])
        unreadable = tuple(sorted(message for _, messages in shares for message in messages))
        self._check_read(unreadable, len(samples))
        everything = [part for share, _ in shares for part in share]
        rows = {key: np.concatenate([part[key] for part in everything]) for key in everything[0]}
        _check_complete(rows["index"], len(samples) - len(unreadable), name)
        order = np.argsort(rows["index"], kind="stable")
        return {key: values[order] for key, values in rows.items()}, unreadable

    def progress(self, total: int, name: str, unit: str) -> tqdm[Any]:
        """Make a progress bar, which the first process alone shows.

        Args:
            total: where it ends.
            name: what it says.
            unit: what it counts, with a space in front.
        """
        return progress_bar(self.accelerator, total=total, desc=name, unit=unit)

    def _check_read(self, unreadable: Sequence[str], size: int) -> None:
        if not unreadable or (self.skip_unreadable and len(unreadable) < size):
            return
        shown = "; ".join(unreadable[:10]) + ("; ..." if len(unreadable) > 10 else "")
        advice = "" if len(unreadable) == size else " --skip-unreadable leaves them out."
        raise UserError(f"{len(unreadable)} of {size} images cannot be read: {shown}.{advice}")

    @cached_property
    def _seen(self) -> tuple[Rows, tuple[str, ...]]:
        samples = self.samples()
        parts = (
            {
                "index": batch.index,
                "labels": batch.labels,
                "logits": self.classifier.logits(self.classifier.to_input(batch.images)),
            }
            for batch in samples
        )
        rows, unreadable = self.gather_readable(samples, parts, "clean")
        bad = int((~np.isfinite(rows["logits"])).any(1).sum())
        if bad:
            raise UserError(
                f"the logits of {bad} of {len(rows['index'])} images of {self.settings.name} are not finite: "
                "the weights may be damaged."
            )
        return rows, unreadable

    @property
    def clean(self) -> Rows:
        """``logits`` (N, K) float32 and ``labels`` (N,) of every image that can be read, unchanged.

        Raises:
            UserError: as :meth:`gather`, and if logits are not finite.
        """
        return self._seen[0]

    @property
    def unreadable(self) -> tuple[str, ...]:
        """Why images were left out, one message an image."""
        return self._seen[1]

    def chosen(self, *, limited: bool = True) -> NDArray[np.int64]:
        """Choose images: all of them, or ``limit`` that depend on nothing but their number.

        Args:
            limited: whether ``limit`` counts.

        Returns:
            The places in the dataset of those that can be read, in rising order.

        Raises:
            UserError: if none can be read.
        """
        chosen = fixed_subset(self.size, self.limit if limited else None)
        readable = chosen[np.isin(chosen, self.clean["index"])]
        if not len(readable):
            raise UserError(f"none of the {len(chosen)} images that are to be measured can be read; measure more.")
        return readable

    def with_data(self, dataset: Any, settings: DataSettings) -> Subject:
        """Measure the same classifier on other data."""
        return replace(self, dataset=dataset, settings=settings)


def _check_complete(index: NDArray[np.int64], expected: int, name: str) -> None:
    """Check that each image was seen once."""
    seen = len(np.unique(index))
    if seen != expected or seen != len(index):
        raise UserError(
            f"{name}: saw {seen} images of {expected}, {len(index) - seen} of them twice: the dataset does not hold "
            "what it says."
        )
