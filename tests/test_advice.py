"""The advice of the results: which alpha, which probability, how many epochs; its tables are made of the runs kept."""

import re
import shlex
import statistics
from pathlib import Path
from typing import Any

import pytest

from cutmix_zoo.evaluation.report_seeds import paired_difference
from cutmix_zoo.sweep import Trial, make_parser, make_trials, parse_axis
from cutmix_zoo.train import make_parser as make_train_parser
from cutmix_zoo.training.files import read_json
from cutmix_zoo.training.overrides import split_overrides
from cutmix_zoo.training.recipe import load_recipe, recipe_dict, recipe_difference
from cutmix_zoo.training.run import LEFT_TO_DATA, MAY_DIFFER
from cutmix_zoo.training.settings import Recipe
from tests.results_text import marked_interval

RESULTS = Path(__file__).parents[1] / "results"
TEXT = (RESULTS / "README.md").read_text(encoding="utf-8")
FINE_TUNING = ("finetune-1000", "finetune-10000")
CASES = ("scratch-1000", *FINE_TUNING)
METHODS = ("baseline", "cutmix")


def command_of(module: str, folder: str) -> str:
    """Find the arguments of the command that stands in the text and makes a folder."""
    lines = re.sub(r"\\\n *", "", TEXT)
    (command,) = re.findall(rf"^.*-m cutmix_zoo\.{module} (.* advice/{folder})$", lines, re.MULTILINE)
    return str(command)


def trials_of(sweep: str) -> list[Trial]:
    """List the runs of a folder, as the command that stands in the text would make them."""
    command = command_of("sweep", sweep)
    options, rest = make_parser().parse_known_args(shlex.split(command))
    return make_trials(options.config, dict(map(parse_axis, options.axes)), options.seeds, split_overrides(rest))


def top1(sweep: str) -> dict[tuple[str, ...], dict[int, float]]:
    """Return the accuracies of a folder: by the point of the grid, then by the seed."""
    found: dict[tuple[str, ...], dict[int, float]] = {}
    for trial in trials_of(sweep):
        summary = read_json(RESULTS / "advice" / sweep / trial.name / "summary.json")
        found.setdefault(tuple(trial.setting.values()), {})[trial.recipe.seed] = summary["top1"]
    return found


def mean_and_spread(by_seed: dict[int, float]) -> str:
    return f"{statistics.mean(by_seed.values()):.2f} \N{PLUS-MINUS SIGN} {statistics.stdev(by_seed.values()):.2f}"


def advice_lines(case: str) -> list[str]:
    """Write the rows of a case's table as they stand in the text; bold where the interval excludes zero."""
    baseline, mixed = top1(f"{case}-baseline"), top1(f"{case}-cutmix")
    lengths = list(baseline)
    lines = [f"| baseline | | {' | '.join(mean_and_spread(baseline[length]) for length in lengths)} |"]
    for alpha, prob in dict.fromkeys(point[:2] for point in mixed):
        cells = []
        for length in lengths:
            by_seed = mixed[alpha, prob, *length]
            difference = paired_difference(baseline[length], by_seed)
            assert difference is not None
            cells.append(f"{mean_and_spread(by_seed)}, {marked_interval(difference)}")
        lines.append(f"| {alpha} | {prob} | {' | '.join(cells)} |")
    return lines


def test_every_folder_is_of_a_case() -> None:
    folders = {folder.name for folder in (RESULTS / "advice").iterdir()}
    assert folders == {"pretrained", *(f"{case}-{method}" for case in CASES for method in METHODS)}


@pytest.mark.parametrize("case", CASES)
def test_the_table_is_made_of_the_runs(case: str) -> None:
    assert "\n".join(advice_lines(case)) in TEXT


def test_the_readme_says_what_little_data_gained() -> None:
    baseline, mixed = top1("scratch-1000-baseline"), top1("scratch-1000-cutmix")
    gains = [paired_difference(baseline["200",], values) for (*_, epochs), values in mixed.items() if epochs == "200"]
    assert len(gains) == 6
    assert all(gain is not None and abs(gain.mean) < gain.half_width for gain in gains)  # no interval excludes zero
    low, high = (choose(gain.mean for gain in gains if gain is not None) for choose in (min, max))
    readme = (RESULTS.parent / "README.md").read_text(encoding="utf-8")
    assert f"CutMix was {low:.1f} to {high:.1f} points" in readme.replace("\n  ", " ")


def test_the_readme_says_what_fine_tuning_lost() -> None:
    losses: dict[tuple[str, ...], float] = {}
    for case in FINE_TUNING:
        baseline = top1(f"{case}-baseline")
        for (alpha, prob, epochs), values in top1(f"{case}-cutmix").items():
            difference = paired_difference(baseline[epochs,], values)
            assert difference is not None
            losses[case, alpha, prob, epochs] = -difference.mean
    assert len(losses) == 24
    for (case, alpha, prob, epochs), loss in losses.items():
        if prob == "1":
            assert loss > losses[case, alpha, "0.5", epochs]
        if epochs == "40":
            assert loss < losses[case, alpha, prob, "20"]
    readme = (RESULTS.parent / "README.md").read_text(encoding="utf-8")
    said = f"{min(losses.values()):.1f} to {max(losses.values()):.1f} points worse with CutMix in all {len(losses)} "
    assert readme.replace("\n  ", " ").replace("\n>   ", " ").count(said) == 1


@pytest.mark.parametrize("sweep", [f"{case}-{method}" for case in CASES for method in METHODS])
def test_the_runs_are_those_of_the_command(sweep: str) -> None:
    trials = {trial.name: trial.recipe for trial in trials_of(sweep)}
    assert trials.keys() == {folder.name for folder in (RESULTS / "advice" / sweep).iterdir()}
    for name, recipe in trials.items():
        summary = check_run(RESULTS / "advice" / sweep / name, recipe)
        assert f"{summary['val_images']:,} images that are held out" in TEXT


def check_run(folder: Path, recipe: Recipe) -> dict[str, Any]:
    """Check that a run is of a recipe, and return its summary."""
    trained = load_recipe(folder / "recipe.yaml")
    assert not recipe_difference(recipe_dict(recipe), recipe_dict(trained), (*MAY_DIFFER, *LEFT_TO_DATA))
    summary = read_json(folder / "summary.json")
    assert (summary["epochs"], summary["mixed_precision"]) == (recipe.schedule.epochs, "bf16")
    return summary


def test_what_is_fine_tuned_is_the_network_of_the_command() -> None:
    options, rest = make_train_parser().parse_known_args(shlex.split(command_of("train", "pretrained")))
    folder = RESULTS / "advice" / "pretrained"
    summary = check_run(folder, load_recipe(options.config, split_overrides(rest)))
    assert f"with {summary['top1']:.2f} % top-1:" in TEXT
