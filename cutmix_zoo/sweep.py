"""A small grid of runs, one after the other: ``cutmix-zoo sweep RECIPE --set optimizer.lr=0.1,0.25 --seeds 3``."""

from __future__ import annotations

import argparse
import hashlib
import re
import statistics
import sys
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from cutmix_zoo.checks import whole_number
from cutmix_zoo.errors import UserError, run_command, write_errors
from cutmix_zoo.train import train
from cutmix_zoo.training.files import write_json
from cutmix_zoo.training.launch import is_first_process, is_launched, leave, process_count, say
from cutmix_zoo.training.lock import InUseError
from cutmix_zoo.training.overrides import split_overrides
from cutmix_zoo.training.preemption import stop_with_launcher
from cutmix_zoo.training.recipe import load_recipe
from cutmix_zoo.training.run import SWEEP_FILE, read_sweep
from cutmix_zoo.training.settings import VALIDATED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cutmix_zoo.training.settings import Recipe

METRICS = (*VALIDATED, "best_top1")
"""Numbers of a summary that a table may be of."""


@dataclass(frozen=True)
class Trial:
    """One run of a sweep.

    Args:
        setting: the point of the grid: dotted keys to YAML text.
        recipe: what is trained.
        name: of its folder.
    """

    setting: dict[str, str]
    recipe: Recipe
    name: str


def parse_axis(text: str) -> tuple[str, list[str]]:
    """Read an axis of the grid.

    Args:
        text: a dotted key, an equals sign, and values as YAML text with commas between them; those within brackets
            belong to a value.

    Returns:
        The key and its values.

    Raises:
        UserError: if the text is something else, or names a value twice.

    Example:
        >>> parse_axis("optimizer.lr=0.1,0.25")
        ('optimizer.lr', ['0.1', '0.25'])
        >>> parse_axis("schedule.milestones=[0.5,0.75],[0.3]")
        ('schedule.milestones', ['[0.5,0.75]', '[0.3]'])
    """
    key, separator, rest = text.partition("=")
    values = _split(rest)
    if not key or not separator or not values:
        raise UserError(f"--set takes KEY=VALUE,VALUE, such as optimizer.lr=0.1,0.25, got {text!r}")
    if len(set(values)) < len(values):
        raise UserError(f"--set {text} names a value twice")
    return key, values


def _split(text: str) -> list[str]:
    """Part the items of a list as YAML does; no items if it is none."""
    listed = f"[{text}]"
    try:
        node = yaml.compose(listed, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        return []
    assert node is not None
    values = [listed[item.start_mark.index : item.end_mark.index].strip() for item in node.value]
    return values if ",".join(values).replace(" ", "") == text.replace(" ", "") else []


def make_trials(
    config: str | Path, axes: Mapping[str, Sequence[str]], seeds: int, overrides: Mapping[str, str]
) -> list[Trial]:
    """List the runs of a sweep: every point of the grid with every seed.

    Args:
        config: a recipe file, or the name of a shipped recipe.
        axes: dotted keys to the values they take.
        seeds: how many, from the recipe's own on.
        overrides: dotted keys to YAML text, for all runs.

    Raises:
        UserError: if a recipe is not valid, or a key is given twice.
    """
    for key in axes:
        if key in overrides or key == "seed":
            raise UserError(f"--set {key} and {'--seeds' if key == 'seed' else f'--{key}'} are for the same; give one")
    first = load_recipe(config, overrides).seed
    trials = []
    for values in product(*axes.values()):
        setting = dict(zip(axes, values, strict=True))
        for seed in range(first, first + seeds):
            recipe = load_recipe(config, {**overrides, **setting, "seed": str(seed)})
            name = ",".join(f"{key}={value}" for key, value in {**setting, "seed": seed}.items())
            trials.append(Trial(setting, recipe, _folder_name(name)))
    return trials


def _folder_name(name: str) -> str:
    """Make a name that a folder can have; where something of the name is lost, a hash keeps it apart from others."""
    plain = re.sub(r"[^\w.,=+-]", "_", name)[:150]
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def sweep(trials: Sequence[Trial], folder: Path) -> list[dict[str, Any]]:
    """Train the runs of a sweep, and go on where an earlier sweep in the folder stopped.

    Args:
        trials: the runs.
        folder: gets a folder for each, and ``sweep.json`` after each, which keeps the runs of earlier sweeps as long as
            their folders are there.

    Returns:
        For each run what ``sweep.json`` holds: ``name``, ``setting``, ``seed``, its ``summary``, and where it failed
        ``None`` and the ``error``. In the file a summary is not replaced by a failure, such as that of another recipe.

    Raises:
        Preempted: if a signal has stopped a run; the same sweep goes on from there.
        UserError: if ``sweep.json`` cannot be written, or is not one, or another launch is training one of the runs; of
            several processes, also if a run fails.
    """
    done = []
    file = folder / SWEEP_FILE
    earlier = read_sweep(folder) if is_first_process() else None
    rows = {row["name"]: row for row in earlier or [] if (folder / row["name"]).is_dir()}
    for number, trial in enumerate(trials, start=1):
        say(f"run {number} of {len(trials)}: {trial.name}")
        summary, reason = None, None
        try:
            summary = train(trial.recipe, folder / trial.name, resume="auto")
        except InUseError:  # by another launch of this sweep, which would be met again and again
            raise
        except UserError as error:  # such as a learning rate that is too high: the others may still be of use
            if process_count() > 1:  # one process may have met it alone, and would begin the next run alone
                raise
            reason = str(error)
            say(f"{trial.name} failed: {reason}")
        row = {"name": trial.name, "setting": trial.setting, "seed": trial.recipe.seed}
        done.append({**row, "summary": summary, "error": reason})
        if summary is not None or rows.get(trial.name, {}).get("summary") is None:
            rows[trial.name] = done[-1]
        if is_first_process():
            with write_errors(file):
                folder.mkdir(parents=True, exist_ok=True)
                write_json(file, list(rows.values()))
    return done


def format_table(done: Sequence[dict[str, Any]], metric: str = "top1") -> str:
    """Tabulate mean and spread of each point of the grid over its seeds, as Markdown.

    Args:
        done: what :func:`sweep` returned.
        metric: one of :data:`METRICS`.

    Example:
        >>> runs = [{"setting": {"optimizer.lr": "0.1"}, "summary": {"top1": value}} for value in (88.0, 89.0)]
        >>> print(format_table([*runs, {"setting": {"optimizer.lr": "9"}, "summary": None}]))
        | optimizer.lr | runs | top1 | standard deviation | from | to |
        | --- | --- | --- | --- | --- | --- |
        | 0.1 | 2 | 88.50 | 0.71 | 88.00 | 89.00 |
        | 9 | 0 of 1 | - | - | - | - |
    """
    points: dict[tuple[str, ...], list[float | None]] = {}
    for run in done:
        value = None if run["summary"] is None else run["summary"][metric]
        points.setdefault(tuple(run["setting"].values()), []).append(value)
    head = [*done[0]["setting"], "runs", metric, "standard deviation", "from", "to"]
    lines = [head, ["---"] * len(head)]
    for setting, values in points.items():
        good = [value for value in values if value is not None]
        count = str(len(good)) if len(good) == len(values) else f"{len(good)} of {len(values)}"
        spread = statistics.stdev(good) if len(good) > 1 else None
        numbers = [statistics.mean(good), spread, min(good), max(good)] if good else [None] * 4
        lines.append([*setting, count, *("-" if number is None else f"{number:.2f}" for number in numbers)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the command; every option that it does not know overrides a key of the recipe."""
    parser = argparse.ArgumentParser(
        prog="cutmix-zoo sweep",
        description="Train a recipe with every combination of some values, one run after the other, and tabulate mean "
        "and spread. The same command goes on where it was stopped.",
        epilog="Every key of the recipe can be overridden for all runs, such as --schedule.epochs 2.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "config", metavar="RECIPE", help="a recipe file, or a shipped recipe's name; before all options"
    )
    parser.add_argument(
        "--set",
        dest="axes",
        action="append",
        default=[],
        metavar="KEY=VALUE,VALUE",
        help="values of a key of the recipe; may be given several times",
    )
    parser.add_argument(
        "--seeds", type=whole_number(1), default=1, metavar="N", help="runs of each setting (default: %(default)s)"
    )
    parser.add_argument(
        "--metric", choices=METRICS, default="top1", help="the number of a summary to tabulate (default: %(default)s)"
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="the sweep's folder (default: sweeps/<recipe name>)")
    return parser


def command(arguments: Sequence[str]) -> None:
    """Sweep as the command line says."""
    options, rest = make_parser().parse_known_args(arguments)
    axes = [parse_axis(text) for text in options.axes]
    keys = [key for key, _ in axes]
    if len(set(keys)) < len(keys):
        raise UserError(f"--set names a key twice: {', '.join(keys)}")
    trials = make_trials(options.config, dict(axes), options.seeds, split_overrides(rest))
    if is_launched():
        stop_with_launcher()
    folder: Path = options.output or Path("sweeps", trials[0].recipe.name)
    done = sweep(trials, folder)
    leave()
    say(f"\n{format_table(done, options.metric)}\n\nEverything is in {folder}.")
    if not any(run["summary"] for run in done):
        raise UserError(f"every run failed; the last one: {done[-1]['error']}")


def main() -> int:
    """Run ``python -m cutmix_zoo.sweep``."""
    return run_command(command, "cutmix-zoo sweep")


if __name__ == "__main__":
    sys.exit(main())
