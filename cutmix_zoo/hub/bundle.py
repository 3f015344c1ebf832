"""What is published of a model: a folder with all files of its repository, made of a run or of an exported model."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml
from huggingface_hub import ModelCard
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]
from safetensors import safe_open

from cutmix_zoo.errors import UserError, one_line, shown
from cutmix_zoo.hub.card import METRICS, CardFacts, eval_results, make_card, method_of, shipped_difference
from cutmix_zoo.models.export import DATA_KEYS
from cutmix_zoo.models.exported import CONFIG_FILE, load_exported, read_config
from cutmix_zoo.models.tags import is_foreign_tag
from cutmix_zoo.store import WEIGHTS_FILE, WEIGHTS_NAME, file_sha256
from cutmix_zoo.training.files import read_json
from cutmix_zoo.training.recipe import dump_recipe, load_recipe, public_recipe, recipe_dict
from cutmix_zoo.training.run import RunFolder
from cutmix_zoo.zoo import zoo_table

if TYPE_CHECKING:
    from pathlib import Path

RESULTS_FILE = "results.json"
"""What was measured: numbers under the names of :data:`cutmix_zoo.hub.card.METRICS`."""
CARD_FILE = "README.md"
"""The card, as the Hub calls it."""
LICENSE_UNKNOWN = "unknown"
"""The Hub's identifier where nobody has said under which licence the weights are."""

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
    config = read_config(model / CONFIG_FILE)
    name = repo.rpartition("/")[2]
    entry = zoo_table().get(name)
    stated = config["pretrained_cfg"].get("license")
    license = license or (entry.license if entry else None) or stated or LICENSE_UNKNOWN  # noqa: A001
    config = _renamed(config, name, license)
    _check_weights_file(model / WEIGHTS_FILE, config)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(model / WEIGHTS_FILE, folder / WEIGHTS_FILE)
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    results = _run_results(run, config) if run.recipe_file.is_file() else _read_results(source / RESULTS_FILE)
    facts = CardFacts(name, config, results, license, repo, entry)
    _check_provenance(facts)
    if run.recipe_file.is_file():
        _add_run(run, folder, config)
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
    """Check that the files load, the card is complete, and no file holds an access token.

    Raises:
        UserError: naming what is wrong.
    """
    load_exported(bundle.folder)
    metadata = ModelCard(bundle.card).data.to_dict()
    missing = [key for key in _NEEDED_METADATA if not metadata.get(key)]
    if missing:
        raise UserError(f"the card lacks {', '.join(missing)}; complete config.json and results.json.")
    for name, file in bundle.files().items():
        if _TOKEN.search(file.read_bytes()):
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


def _check_weights_file(file: Path, config: dict[str, Any]) -> None:
    if not file.is_file():
        raise UserError(f"there are no weights at {file}; export the model again.")
    if config.get("sha256") not in (None, file_sha256(file)):
        raise UserError(f"{file} is damaged or was replaced: its sha256 is not that of config.json.")
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


def _add_run(run: RunFolder, folder: Path, config: dict[str, Any]) -> None:
    """Add what only a run has, once it is what ``config.json`` tells of."""
    recipe = public_recipe(load_recipe(run.recipe_file))
    provenance = config.get("provenance", {})
    for name, told, found in (
        ("recipe.yaml", provenance.get("recipe"), recipe_dict(recipe)),
        ("summary.json", provenance.get("summary"), run.summary()),
    ):
        if told != json.loads(json.dumps(found)):
            raise UserError(f"{name} of {run.path} is not what model/config.json was exported with; train again.")
    (folder / "recipe.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    shutil.copyfile(run.metrics_file, folder / "metrics.jsonl")
    curves = run.plots / "curves.png"
    if curves.is_file():
        (folder / "plots").mkdir()
        shutil.copyfile(curves, folder / "plots" / curves.name)


def _run_results(run: RunFolder, config: dict[str, Any]) -> dict[str, Any]:
    """Take the numbers of a run's last validation, which are those of the exported weights."""
    summary = run.summary() or {}
    data = config["provenance"]["recipe"]["data"]
    numbers = {key: summary["val_loss" if key == "loss" else key] for key in METRICS}
    count = summary["val_images"]
    return {
        "model": config["architecture"],
        "dataset": data["name"],
        "split": data["val_split"],
        **numbers,
        "count": count,
    }


def _read_results(file: Path) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    try:
        results = read_json(file)
        types = {"dataset": str, "split": str, "count": int, **dict.fromkeys(METRICS.keys() & results.keys(), float)}
        wrong = [key for key, kind in types.items() if not isinstance(results[key], kind)]
        if wrong:
            raise ValueError(f"{wrong[0]} is {results[wrong[0]]!r}")
    except (AttributeError, KeyError, OSError, ValueError) as error:
        raise UserError(f"{file} is not what cutmix-zoo evaluate writes; measure again.") from error
    return results


def zoo_row(bundle: Bundle, revision: str) -> dict[str, Any]:
    """Describe published weights as a row of the zoo table.

    Args:
        bundle: what was published.
        revision: the commit, 40 hexadecimal digits.
    """
    facts, weights = bundle.facts, bundle.folder / WEIGHTS_FILE
    described, recipe = facts.config["pretrained_cfg"], facts.recipe
    hub = {
        "repo": bundle.repo,
        "revision": revision,
        "size": weights.stat().st_size,
        "sha256": file_sha256(weights),
    }
    if facts.entry is not None:
        return hub
    return {
        "name": facts.name,
        "method": method_of(recipe),
        "dataset": facts.known.name if facts.known else None,
        # one that is shipped, and as it is shipped: it can be named
        "recipe": recipe.name if recipe and shipped_difference(recipe) == [] else None,
        **hub,
        "top1": facts.results and facts.results.get("top1"),
        "license": facts.license,
        "description": described.get("description") or f"{facts.name}.",
        "paper": "arXiv:1905.04899",
        **{key: described[key] for key in DATA_KEYS if key in ("interpolation", "crop_pct")},
    }
