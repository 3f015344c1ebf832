"""What is published of a model: a folder with all files of its repository, made of a run or of an exported model."""

from __future__ import annotations

import json
import math
import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml
from huggingface_hub import ModelCard
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]
from safetensors import safe_open

from cutmix_zoo.data.settings import validation_name
from cutmix_zoo.errors import UserError, one_line, shown
from cutmix_zoo.hub.card import METRICS, CardFacts, eval_results, make_card
from cutmix_zoo.known import known_dataset
from cutmix_zoo.models.exported import CONFIG_FILE, load_exported, read_config
from cutmix_zoo.models.tags import is_foreign_tag
from cutmix_zoo.store import WEIGHTS_FILE, WEIGHTS_NAME, file_sha256
from cutmix_zoo.training.files import read_json
from cutmix_zoo.training.recipe import dump_recipe, load_recipe, make_recipe, public_recipe, recipe_dict
from cutmix_zoo.training.run import RunFolder
from cutmix_zoo.zoo import zoo_table

if TYPE_CHECKING:
    from pathlib import Path

    from cutmix_zoo.training.settings import Recipe
    from cutmix_zoo.zoo import ZooEntry

RESULTS_FILE = "results.json"
"""What was measured: numbers under the names of :data:`cutmix_zoo.hub.card.METRICS`."""
CARD_FILE = "README.md"
"""The card, as the Hub calls it."""
LICENSE_UNKNOWN = "unknown"
"""The Hub's identifier where nobody has said under which licence the weights are."""

PUBLISHED_FILES = (
    *(WEIGHTS_FILE, CONFIG_FILE, CARD_FILE, RESULTS_FILE),
    *("recipe.yaml", "metrics.jsonl", ".eval_results/accuracy.yaml", "plots/curves.png"),
)
"""All files that a publication may have."""

_NEEDED_METADATA = ("license", "library_name", "pipeline_tag", "tags", "metrics")
_TOKEN = re.compile(rb"hf_[A-Za-z0-9]{30,}")
"""What an access token of the Hub looks like."""


@dataclass(frozen=True)
class Bundle:
    """All files of a repository.

    Args:
        folder: holds them.
        facts: what its card was made of.
    """

    folder: Path
    facts: CardFacts

    @property
    def repo(self) -> str:
        """``OWNER/NAME``."""
        assert self.facts.repo is not None
        return self.facts.repo

    @property
    def card(self) -> str:
        """The text of the card."""
        return (self.folder / CARD_FILE).read_text(encoding="utf-8")

    def files(self) -> dict[str, Path]:
        """List the files by their names in the repository, sorted."""
        found = sorted(file for file in self.folder.rglob("*") if file.is_file())
        return {file.relative_to(self.folder).as_posix(): file for file in found}


def check_repo(repo: str) -> None:
    """Check that a repository's name is one.

    Raises:
        UserError: if it is not ``OWNER/NAME`` as the Hub takes it.
    """
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UserError(f"--repo: {one_line(error)}") from error
    if repo.count("/") != 1:
        raise UserError(f"--repo takes OWNER/NAME, got {shown(repo)}")


def make_bundle(source: Path, folder: Path, repo: str, license: str | None = None) -> Bundle:  # noqa: A002
    """Put together what is published of a model, and check all of it that can be checked on this machine.

    Of a run: weights, ``config.json``, card, recipe without the place of its data, metrics, results and curves. Its
    ``preview.png`` stays here: it shows training images, which may not be ours to publish.

    Args:
        source: the folder of a finished run, or one that :func:`~cutmix_zoo.models.export.export_model` wrote, in
            which ``results.json`` may say what was measured.
        folder: an empty folder that gets the files.
        repo: where it is to be published, ``OWNER/NAME``; NAME is what the card calls it.
        license: of the weights; None takes that of the zoo table or of ``config.json``, else ``unknown``.

    Raises:
        UserError: if something is missing, damaged, does not fit together or must not be published.
    """
    run = RunFolder(source)
    model = run.model if run.recipe_file.is_file() else source
    if run.recipe_file.is_file() and run.summary() is None:
        raise UserError(f"the run in {source} is not finished; finish it with --resume auto.")
    if not (model / CONFIG_FILE).is_file():
        raise UserError(
            f"there is no finished run and no exported model in {source}: {model / CONFIG_FILE} is missing."
        )
    config = _public(read_config(model / CONFIG_FILE))
    load_exported(model)
    name = repo.rpartition("/")[2]
    entry = _row_of(name, config, model / WEIGHTS_FILE)
    stated = config["pretrained_cfg"].get("license")
    license = license or (entry.license if entry else None) or stated or LICENSE_UNKNOWN  # noqa: A001
    config = _renamed(config, name, license)
    _check_weights_file(model / WEIGHTS_FILE)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(model / WEIGHTS_FILE, folder / WEIGHTS_FILE)
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    results = _run_results(run, config) if run.recipe_file.is_file() else _read_results(source / RESULTS_FILE, config)
    facts = CardFacts(name, config, results, license, repo, entry)
    _check_provenance(facts)
    if facts.recipe is not None:
        (folder / "recipe.yaml").write_text(dump_recipe(facts.recipe), encoding="utf-8")
    if run.recipe_file.is_file():
        _add_run(run, folder, facts)
    if results is not None:
        (folder / RESULTS_FILE).write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    entries = eval_results(facts)
    if entries:
        (folder / ".eval_results").mkdir()
        (folder / ".eval_results" / "accuracy.yaml").write_text(yaml.safe_dump(entries, sort_keys=False), "utf-8")
    (folder / CARD_FILE).write_text(make_card(facts), encoding="utf-8")
    bundle = Bundle(folder, facts)
    check_bundle(bundle)
    return bundle


def check_bundle(bundle: Bundle) -> None:
    """Check that the card is complete, and that no file holds an access token.

    Raises:
        UserError: naming what is wrong.
    """
    metadata = ModelCard(bundle.card).data.to_dict()
    missing = [key for key in _NEEDED_METADATA if not metadata.get(key)]
    if missing:
        raise UserError(f"the card lacks {', '.join(missing)}; complete config.json and results.json.")
    check_token(bundle)


def check_token(bundle: Bundle, token: str | None = None) -> None:
    """Check that no file holds an access token: this one, or what looks like one.

    Raises:
        UserError: naming the file.
    """
    for name, file in bundle.files().items():
        content = file.read_bytes()
        if _TOKEN.search(content) or (token and token.encode() in content):
            raise UserError(f"{name} holds what looks like an access token of the Hub; take it out first.")


def _renamed(config: dict[str, Any], name: str, license: str) -> dict[str, Any]:  # noqa: A002
    """Give a config the tag under which it is published, and its licence."""
    architecture = config["architecture"]
    tag = config["pretrained_cfg"].get("tag")
    if WEIGHTS_NAME.fullmatch(name):
        named, _, tag = name.partition(".")
        if named != architecture:
            raise UserError(f"{name} names the architecture {named}, but this model is {architecture}.")
    if tag and is_foreign_tag(f"{architecture}.{tag}"):
        raise UserError(f"{architecture}.{tag} is a tag of timm's own weights; publish yours under another name.")
    return {**config, "pretrained_cfg": {**config["pretrained_cfg"], "tag": tag, "license": license}}


def _public(config: dict[str, Any]) -> dict[str, Any]:
    """Take the places of this machine out of what a config says of its training."""
    provenance = config.get("provenance", {})
    if "recipe" not in provenance:
        return config
    recipe = public_recipe(make_recipe(provenance["recipe"], CONFIG_FILE))
    public = {"recipe": json.loads(json.dumps(recipe_dict(recipe)))}
    if "summary" in provenance:
        public["summary"] = _public_summary(provenance["summary"], recipe)
    return {**config, "provenance": {**provenance, **public}}


def _public_summary(summary: dict[str, Any], recipe: Recipe) -> dict[str, Any]:
    """Let a summary call its network what the public recipe calls it: a local one is called after its place."""
    return {**summary, "model": recipe.model.name}


def _row_of(name: str, config: dict[str, Any], weights: Path) -> ZooEntry | None:
    """Look up the row of the zoo table that these weights are of."""
    entry, provenance = zoo_table().get(name), config.get("provenance", {})
    if entry is None or entry.sha256 == file_sha256(weights):
        return entry
    # of the authors' checkpoints the table knows no hash: what was imported under this very name counts as such
    imported = "source" in provenance and "recipe" not in provenance
    if entry.sha256 is None and imported and config["pretrained_cfg"].get("tag") == entry.tag:
        return entry
    raise UserError(f"{name} is a row of the zoo table, and these are other weights; choose another name.")


def _check_weights_file(file: Path) -> None:
    with safe_open(file, "pt") as weights:
        metadata = weights.metadata() or {}
    if metadata.get("format") != "pt":
        raise UserError(f"{file} does not say that it is of torch (format: pt); write it with export_model.")


def _check_provenance(facts: CardFacts) -> None:
    """Check that what ``config.json`` says of its training is about this network."""
    recipe = facts.recipe
    if recipe is None or ":" in recipe.model.name:
        return
    trained = recipe.model.name.partition(".")[0]
    if trained != facts.config["architecture"]:
        raise UserError(
            f"config.json describes {facts.config['architecture']}, but its recipe trains {shown(trained)}."
        )


def _add_run(run: RunFolder, folder: Path, facts: CardFacts) -> None:
    """Add what only a run has, once it is what ``config.json`` tells of."""
    recipe = public_recipe(load_recipe(run.recipe_file))
    if facts.recipe != recipe or facts.summary != _public_summary(run.summary() or {}, recipe):
        raise UserError(f"recipe or summary of {run.path} are not what its model was exported with; train again.")
    shutil.copyfile(run.metrics_file, folder / "metrics.jsonl")
    curves = run.plots / "curves.png"
    if curves.is_file():
        (folder / "plots").mkdir()
        shutil.copyfile(curves, folder / "plots" / curves.name)


def _run_results(run: RunFolder, config: dict[str, Any]) -> dict[str, Any]:
    """Take the numbers of a run's last validation, which are those of the exported weights."""
    summary, data = run.summary() or {}, load_recipe(run.recipe_file).data
    names = {key: "val_loss" if key == "loss" else key for key in METRICS}
    # summaries of earlier versions have fewer
    numbers = {key: summary[name] for key, name in names.items() if name in summary}
    where = {"dataset": data.name, "split": validation_name(data)}
    return {"model": config["architecture"], **where, **numbers, "count": summary["val_images"]}


def _read_results(file: Path, config: dict[str, Any]) -> dict[str, Any] | None:
    """Read what was measured of an exported model; the place that it was measured at is left out."""
    if not file.is_file():
        return None
    try:
        results = read_json(file)
        numbers = {key: float(results[key]) for key in METRICS if key in results}
        dataset, split, count = str(results["dataset"]), str(results["split"]), int(results["count"])
        if not all(map(math.isfinite, numbers.values())):
            raise ValueError("a number is not finite")
    except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        raise UserError(f"{file} is not what cutmix-zoo evaluate writes: {one_line(error)}; measure again.") from error
    known = known_dataset(dataset)
    if known is not None and known.num_classes != config["num_classes"]:
        raise UserError(
            f"{file} is about {dataset}, which has {known.num_classes} classes, and the model {config['num_classes']}; "
            "measure again."
        )
    return {"model": config["architecture"], "dataset": dataset, "split": split, **numbers, "count": count}
