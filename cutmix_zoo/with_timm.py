"""Run timm's own training script, unchanged, with our models and our collate in place.

``python -m cutmix_zoo.with_timm train.py ARGUMENTS`` is ``python train.py ARGUMENTS``, except that our models are
registered and that ``timm.data.FastCollateMixup`` is ours: it takes any batch size, never writes into the dataset's
arrays, and ``--mixup-off-epoch`` reaches workers that are already running. With ``--no-prefetcher``
timm mixes on the device, by its own ``Mixup``, which stays as it is.
"""

from __future__ import annotations

import os
import runpy
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import timm.data
import timm.data.mixup

from cutmix_zoo.errors import UserError, run_command
from cutmix_zoo.mixing import MixCollate
from cutmix_zoo.mixing.timm_args import settings_from_timm

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_USAGE = "python -m cutmix_zoo.with_timm SCRIPT.py ARGUMENTS: runs timm's train.py with our models and our collate"


class FastCollateMixup(MixCollate):
    """Stands for ``timm.data.FastCollateMixup``: its arguments and its defaults, our collate.

    The arguments are those of :meth:`~cutmix_zoo.mixing.MixCollate.from_timm`. Labels are smoothed by 0.1 unless
    another number is given, as a script that was written for timm expects.

    Raises:
        UserError: if the arguments do not fit.
    """

    def __init__(  # noqa: PLR0913, PLR0917 (timm's)
        self,
        mixup_alpha: float = 1.0,
        cutmix_alpha: float = 0.0,
        cutmix_minmax: Sequence[float] | None = None,
        prob: float = 1.0,
        switch_prob: float = 0.5,
        mode: str = "batch",
        correct_lam: bool = True,
        label_smoothing: float = 0.1,
        num_classes: int = 1000,
        multi_label: bool = False,
    ) -> None:
        try:
            settings = settings_from_timm(
                mixup_alpha=mixup_alpha,
                cutmix_alpha=cutmix_alpha,
                cutmix_minmax=cutmix_minmax,
                prob=prob,
                switch_prob=switch_prob,
                mode=mode,
                correct_lam=correct_lam,
                label_smoothing=label_smoothing,
                num_classes=num_classes,
                multi_label=multi_label,
            )
            super().__init__(*settings)
        except ValueError as error:  # they come from the script's command line
            raise UserError(str(error)) from error

    @classmethod
    def from_timm(cls, **mixup_args: Any) -> Self:
        """Make it from timm's arguments; labels are smoothed if that is asked for, as by the method of MixCollate."""
        return cls(**{"label_smoothing": 0.0, **mixup_args})


@contextmanager
def patched_timm() -> Iterator[None]:
    """Let scripts find our :class:`FastCollateMixup` wherever they may import it from, until the block ends.

    ``timm.data.loader`` keeps timm's own, of which ours is a subclass: that is how the loader's switch finds it.
    """
    modules = timm.data, timm.data.mixup
    before = [module.FastCollateMixup for module in modules]
    for module in modules:
        module.FastCollateMixup = FastCollateMixup
    try:
        yield
    finally:
        for module, original in zip(modules, before, strict=True):
            module.FastCollateMixup = original


@contextmanager
def _command_line(script: Path, arguments: Sequence[str]) -> Iterator[None]:
    """Let ``sys.argv`` and ``sys.path`` be those of ``python SCRIPT ARGUMENTS``."""
    argv, path = sys.argv, sys.path
    sys.argv = [str(script), *arguments]
    if not sys.flags.safe_path:  # else Python names no folder of its own there
        sys.path = [os.path.realpath(script.parent), *path[1:]]
    try:
        yield
    finally:
        sys.argv, sys.path = argv, path


def run_script(script: str | Path, arguments: Sequence[str] = ()) -> None:
    """Run a script as ``python SCRIPT ARGUMENTS`` would, with our collate in place of timm's.

    Args:
        script: a Python file, such as a copy of timm's ``train.py``.
        arguments: what follows its name.

    Raises:
        UserError: if there is no such file.
    """
    script = Path(script)
    if not script.is_file():
        raise UserError(
            f"there is no script {script}: give a Python file, such as a copy of timm's train.py, "
            "which is in its repository and not in its package"
        )
    with patched_timm(), _command_line(script, arguments):
        runpy.run_path(str(script), run_name="__main__")


def command(arguments: Sequence[str]) -> None:
    """Run the script that the first argument names with the others."""
    if not arguments:
        raise UserError(f"usage: {_USAGE}")
    script, *rest = arguments
    if script in ("-h", "--help"):
        print(f"usage: {_USAGE}")  # noqa: T201
        return
    run_script(script, rest)


def main() -> int:
    """Run ``python -m cutmix_zoo.with_timm``."""
    return run_command(command, "cutmix_zoo.with_timm")


if __name__ == "__main__":
    # the script becomes __main__, but spawned workers must find the class of their collate: in the module's true name
    from cutmix_zoo import with_timm  # noqa: PLW0406

    sys.exit(with_timm.main())
