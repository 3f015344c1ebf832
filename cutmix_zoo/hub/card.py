"""Model cards: made of what is known of a model, and of nothing else."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from huggingface_hub import EvalResult, EvalResultEntry, ModelCard, ModelCardData, eval_result_entries_to_yaml
from timm.models import get_pretrained_cfg, is_model, model_entrypoint

from cutmix_zoo.errors import UserError
from cutmix_zoo.hub.method import method_of, mix_settings, other_settings
from cutmix_zoo.known import FOLDERS, dataset_title, known_dataset, whole_validation
from cutmix_zoo.training.launch import launch_command
from cutmix_zoo.training.recipe import (
    find_shipped,
    load_recipe,
    make_recipe,
    recipe_dict,
    recipe_difference,
    recipe_head,
)
from cutmix_zoo.training.run import LEFT_TO_DATA, MAY_DIFFER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cutmix_zoo.known import KnownDataset
    from cutmix_zoo.training.settings import Recipe
    from cutmix_zoo.zoo import ZooEntry

METRICS = {
    "top1": ("accuracy", "top-1 accuracy", "%"),
    "top5": ("top_5_accuracy", "top-5 accuracy", "%"),
    "balanced_accuracy": ("balanced_accuracy", "balanced accuracy", "%"),
    "macro_f1": ("f1", "macro-averaged F1", "%"),
    "loss": ("loss", "cross-entropy", "nats"),
}
"""What ``results.json`` may hold: the Hub's name of the metric, what it is called, its unit."""

_IN_THE_PACKAGE = ("fashion_mnist_mini",)
"""Datasets that need no folder."""

_HUB_READERS = ("hfds", "hfids")
"""Prefixes of datasets that timm reads from the Hub: what follows is their identifier there."""

_CITATION = """@inproceedings{yun2019cutmix,
  title = {CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features},
  author = {Yun, Sangdoo and Han, Dongyoon and Oh, Seong Joon and Chun, Sanghyuk and Choe, Junsuk and Yoo, Youngjoon},
  booktitle = {IEEE/CVF International Conference on Computer Vision (ICCV)},
  year = {2019}
}"""


@dataclass(frozen=True)
class CardFacts:
    """What a card is made of.

    Args:
        name: what the model is called, ``architecture.tag`` for one of the zoo.
        config: its ``config.json``; of ``provenance``, ``recipe`` and ``summary`` are used.
        results: its ``results.json``: numbers under the names of :data:`METRICS`, with ``dataset``, ``split`` and
            ``count``; None if nothing was measured.
        license: of the weights, by the Hub's identifier.
        repo: where it is on the Hub, ``OWNER/NAME``; None if it ships with the package only.
        entry: its row in the zoo table, if it has one.
    """

    name: str
    config: dict[str, Any]
    results: dict[str, Any] | None
    license: str
    repo: str | None = None
    entry: ZooEntry | None = None

    @property
    def provenance(self) -> dict[str, Any]:
        """What the export says of where the weights come from."""
        return self.config.get("provenance", {})

    @property
    def summary(self) -> dict[str, Any]:
        """What the training run came to; empty if it is not known."""
        return self.provenance.get("summary", {})

    @property
    def recipe(self) -> Recipe | None:
        """What it was trained by, if that is known."""
        values = self.provenance.get("recipe")
        return None if values is None else make_recipe(values, f"config.json of {self.name}")

    @property
    def dataset(self) -> str | None:
        """What it was trained on, by the name that a recipe gave it, if that is known."""
        return self.recipe.data.name if self.recipe else self.entry.dataset if self.entry else None

    @property
    def known(self) -> KnownDataset | None:
        """The constants of that dataset, if it is in the table."""
        return known_dataset(self.dataset) if self.dataset else None

    @property
    def loads_as(self) -> str:
        """What ``timm.create_model`` is called with."""
        return f"hf-hub:{self.repo}" if self.repo else self.name

    @property
    def needs_import(self) -> bool:
        """Whether ``import cutmix_zoo`` has to come first, because timm lacks the architecture or the tag."""
        return self.repo is None or _is_ours(self.config["architecture"])


def make_card(facts: CardFacts) -> str:
    """Write the card of a model as Markdown with its metadata in front, as ``README.md`` of a Hub repository.

    Raises:
        UserError: if the recipe in ``config.json`` is not one.
    """
    parts = [
        f"# {facts.name}\n\n{_what_it_is(facts)}",
        f"## Numbers\n\n{_numbers(facts)}",
        f"## Use\n\n{_use(facts)}",
        f"## Training\n\n{_training(facts)}",
        f"## Limits and intended use\n\n{_limits(facts)}",
        f"## Citation\n\n```bibtex\n{_CITATION}\n```",
    ]
    text = "\n\n".join(parts)
    return str(ModelCard(f"---\n{_metadata(facts).to_yaml()}\n---\n\n{text}\n", ignore_metadata_errors=False))


def eval_results(facts: CardFacts) -> list[dict[str, Any]]:
    """List the measured top-1 accuracy in the format of ``.eval_results/*.yaml``; empty if there is none to list."""
    data = facts.results and _benchmark(facts.results)
    if not facts.results or not data or "top1" not in facts.results:
        return []
    entry = EvalResultEntry(
        dataset_id=data.hub_id,
        task_id="image-classification",
        value=facts.results["top1"],
        notes=f"{data.title}, {data.validation_split}, {facts.results['count']:,} images; measured with cutmix_zoo",
    )
    return eval_result_entries_to_yaml([entry])


def shipped_difference(recipe: Recipe) -> list[str] | None:
    """Compare a recipe with the shipped one of the same name, in all that its numbers depend on but the seed.

    Returns:
        One line for each key that differs; None if none of that name is shipped.
    """
    try:
        shipped = load_recipe(find_shipped(recipe.name))
    except UserError:
        return None
    known = known_dataset(shipped.data.name)
    if known is not None:  # what a recipe leaves to the data, a run has filled in
        shipped, recipe = _filled_in(shipped, known), _filled_in(recipe, known)
    ignored = (*MAY_DIFFER, "seed", *(() if known else LEFT_TO_DATA))
    return recipe_difference(recipe_dict(shipped), recipe_dict(recipe), ignored)


def _filled_in(recipe: Recipe, known: KnownDataset) -> Recipe:
    data = {key: getattr(recipe.data, key) or getattr(known, key) for key in ("input_size", "mean", "std")}
    return replace(
        recipe,
        data=replace(recipe.data, **data),
        model=replace(
            recipe.model,
            in_chans=recipe.model.in_chans or known.input_size[0],
            num_classes=recipe.model.num_classes or known.num_classes,
        ),
    )


def _metadata(facts: CardFacts) -> ModelCardData:
    method = _method(facts) or ""
    base = _base_model(facts.recipe)
    relation: dict[str, Any] = {"base_model_relation": "finetune"} if base else {}
    return ModelCardData(
        license=facts.license,
        library_name="timm",
        pipeline_tag="image-classification",
        tags=["image-classification", "timm", "cutmix_zoo", *(["cutmix"] if "CutMix" in method else [])],
        datasets=[hub_id] if (hub_id := _hub_id(facts)) else None,
        metrics=["accuracy"],
        base_model=base,
        model_name=facts.name,
        eval_results=_eval_results(facts) or None,
        **relation,
    )


def _method(facts: CardFacts) -> str | None:
    """Say what the network was trained with, if that is known."""
    return method_of(facts.recipe) if facts.recipe else facts.entry.method if facts.entry else None


def _hub_id(facts: CardFacts) -> str | None:
    """Name what it was trained on, if it is on the Hub."""
    if facts.known:
        return facts.known.hub_id
    reader, _, name = (facts.dataset or "").partition("/")
    return name or None if reader in _HUB_READERS else None


def _base_model(recipe: Recipe | None) -> str | None:
    """Name what was fine-tuned, if it is on the Hub."""
    if recipe is None or not recipe.model.pretrained:
        return None
    name = recipe.model.name
    if name.startswith(("hf-hub:", "hf_hub:")):
        return name.partition(":")[2].partition("@")[0]
    config = get_pretrained_cfg(name) if is_model(name) else None
    return config.hf_hub_id.partition("@")[0] if config is not None and config.hf_hub_id else None


def _is_ours(name: str) -> bool:
    return model_entrypoint(name.partition(".")[0]).__module__.startswith("cutmix_zoo.")


def _eval_results(facts: CardFacts) -> list[EvalResult]:
    results = facts.results
    if not results:
        return []
    benchmark, name = _benchmark(results), results["dataset"]
    return [
        EvalResult(
            task_type="image-classification",
            # what the Hub's own tools call a folder of images
            dataset_type=benchmark.hub_id if benchmark else "imagefolder" if name in FOLDERS else name,
            dataset_name=dataset_title(name),
            dataset_split=_split(results),
            metric_type=metric,
            metric_name=title,
            metric_value=results[key],
        )
        for key, (metric, title, _) in METRICS.items()
        if key in results
    ]


def _benchmark(results: Mapping[str, Any]) -> KnownDataset | None:
    """Say of which dataset of the Hub the results are; not of one of which they are a part."""
    return whole_validation(results["dataset"], results["split"], results["count"])


def _split(results: Mapping[str, Any]) -> str:
    """Name the images, as the dataset's owners do where it is theirs."""
    benchmark = _benchmark(results)
    return benchmark.validation_split if benchmark else str(results["split"])


def _what_it_is(facts: CardFacts) -> str:
    count, size = facts.config["num_classes"], facts.config["pretrained_cfg"]["input_size"]
    known, recipe = facts.known, facts.recipe
    data = f"[{known.title}]({known.homepage})" if known else dataset_title(facts.dataset or "unknown data")
    method = _method(facts) or "an unknown method"
    how = "without mixing" if method == "none" else f"with {method}"
    base = (
        f", starting from the pretrained weights of `{recipe.model.name}`" if recipe and recipe.model.pretrained else ""
    )
    shape = " x ".join(map(str, size))
    text = (
        f"An image classifier: `{facts.config['architecture']}` for {count} classes and images of {shape}, trained on "
        f"{data} {how}{base}."
    )
    described = facts.entry.description if facts.entry else facts.config["pretrained_cfg"].get("description")
    names = facts.config.get("label_names")
    if described and not recipe:  # of our own, the first sentence and the table say it
        text += f" {described}"
    if facts.entry is not None and facts.entry.page is not None:
        text += f" Its authors published it at {facts.entry.page}."
    if names and len(names) <= 20:
        text += f"\n\nClasses: {', '.join(names)}."
    return text


def _numbers(facts: CardFacts) -> str:
    results = facts.results
    if not results:
        return f"Accuracy: not measured by us.\n\n{_others(facts)}"
    rows = [
        f"| {title} | {results[key]:.2f} % |" if unit == "%" else f"| {title} | {results[key]:.4f} {unit} |"
        for key, (_, title, unit) in METRICS.items()
        if key in results
    ]
    protocol = (
        f"Measured on the split `{_split(results)}` of {dataset_title(results['dataset'])}: {results['count']:,} "
        f"images, in one view each, with the preprocessing of `config.json`{_seeds(facts)}."
    )
    table = "\n".join(["| metric | value |", "|---|---|", *rows])
    missing = "This card has no numbers on calibration, robustness and transfer."
    return f"{table}\n\n{protocol}\n\n{_others(facts)}\n\n{missing}"


def _seeds(facts: CardFacts) -> str:
    summary = facts.summary
    if not summary:
        return ""
    best = ""
    if "best_top1" in summary:
        best = f"; the best epoch, number {summary['best_epoch']}, had {summary['best_top1']:.2f} % top-1"
    return f"; one run, seed {summary['seed']}, weights after the last epoch, number {summary['epochs']}{best}"


def _others(facts: CardFacts) -> str:
    """Say what the paper or the authors have for the same setting, and only for the same."""
    if facts.entry is not None and facts.entry.published_error is not None:
        return f"Its authors state a top-1 error of {facts.entry.published_error:.2f} % ({facts.entry.page})."
    recipe = facts.recipe
    difference = None if recipe is None else shipped_difference(recipe)
    if recipe is None or difference is None:
        return "No number of the paper is known for this setting."
    head = recipe_head(recipe.name)
    if head["Paper"].startswith("none"):
        return "The paper has no number for this setting."
    if difference:
        return f"The paper has no number for this setting: it differs from `{recipe.name}` in {'; '.join(difference)}."
    return f"In this setting (recipe `{recipe.name}`): {head['Expected']}"


def _use(facts: CardFacts) -> str:
    channels = facts.config["pretrained_cfg"]["input_size"][0]
    label = "model.pretrained_cfg['label_names'][index]" if facts.config.get("label_names") else "int(index)"
    ours = "import cutmix_zoo  # registers the model with timm\n" if facts.needs_import else ""
    need = (
        "It needs the package `cutmix_zoo`, which registers the model with timm:"
        if facts.needs_import
        else "It needs timm alone:"
    )
    return f"""{need}

```python
import timm
import torch
from PIL import Image
{ours}
model = timm.create_model("{facts.loads_as}", pretrained=True).eval()
config = timm.data.resolve_model_data_config(model)
transform = timm.data.create_transform(**config, is_training=False)
image = Image.open("image.png").convert("{"L" if channels == 1 else "RGB"}")
with torch.inference_mode():
    probabilities = model(transform(image)[None]).softmax(dim=1)[0]
for probability, index in zip(*probabilities.topk(min(5, len(probabilities)))):
    print(f"{{probability:.1%}} {{{label}}}")
```

For features: `model.forward_features(images)`, or `timm.create_model(..., num_classes=0)`. On the command line:
`cutmix-zoo predict {facts.repo or facts.name} image.png`."""


def _training(facts: CardFacts) -> str:
    summary, recipe = facts.summary, facts.recipe
    if recipe is None or not summary:
        source = facts.provenance.get("source")
        come = (
            f" The file it was imported from, {source['file']}, has the sha256 `{source['sha256']}`." if source else ""
        )
        repeat = f" The recipe `{facts.entry.recipe}` repeats the setting." if facts.entry else ""
        return f"How it was trained is not recorded.{come}{repeat}"
    minutes = summary["train_seconds"] / 60
    time = f"{minutes / 60:.1f} hours" if minutes >= 90 else f"{minutes:.1f} minutes"
    versions = ", ".join(f"{name} {version}" for name, version in summary["versions"].items())
    rows = {
        "recipe": f"`{recipe.name}`: {recipe.schedule.epochs} epochs, batch {recipe.data.batch_size}, "
        f"{recipe.optimizer.name}, learning rate {recipe.optimizer.lr:g} ({recipe.schedule.name}), weight decay "
        f"{recipe.optimizer.weight_decay:g}",
        "mixing": mix_settings(recipe),
        **({"regularizers": others} if (others := other_settings(recipe)) else {}),
        "hardware": f"{summary['device']}; processes: {summary['processes']}; precision: {_precision(summary)}",
        "time": f"{time}, {summary['images_per_second']:.0f} training images a second",
        "parameters": f"{summary['parameters']:,}",
        "versions": versions,
    }
    table = "\n".join(["| | |", "|---|---|", *(f"| {key} | {_cell(value)} |" for key, value in rows.items())])
    if recipe.model.name.startswith("local-dir:"):
        return f"{table}\n\nThe weights that the training started from are not published, so it cannot be repeated."
    kept = "`recipe.yaml` in this repository is the whole recipe: " if facts.repo else ""
    return f"{table}\n\n{kept}`{_training_command(facts, recipe)}` trains it again; {_how_exactly(summary)}."


def _how_exactly(summary: Mapping[str, Any]) -> str:
    commit = summary["versions"].get("commit")
    if not summary["device"].startswith("CPU"):
        return "on a GPU, so the numbers may differ in their last digits"
    if commit is None or commit.endswith("-dirty"):
        return "its exact code is not on record, so the numbers may differ in their last digits"
    return "on the same processor, with the same versions, to the bit"


def _training_command(facts: CardFacts, recipe: Recipe) -> str:
    """Write the command that repeats the training, with as many processes and the same precision."""
    summary = facts.summary
    threads = re.match(r"CPU, (\d+) thread", summary["device"])
    launch = launch_command(summary["processes"], summary["mixed_precision"], int(threads[1]) if threads else None)
    config = "recipe.yaml" if facts.repo else f"{recipe.name} --seed {recipe.seed}"
    reader = recipe.data.name.partition("/")[0]
    data = "" if recipe.data.name in _IN_THE_PACKAGE or reader in _HUB_READERS else " --data.root FOLDER"
    return f"{launch} -m cutmix_zoo.train --config {config}{data}"


def _precision(summary: dict[str, Any]) -> str:
    return "float32" if summary["mixed_precision"] == "no" else f"mixed, {summary['mixed_precision']}"


def _limits(facts: CardFacts) -> str:
    known = facts.known
    lines = [
        "It tells its own classes apart, and always names one of them: an image of anything else gets one of their "
        "names too, and perhaps a high probability.",
        "Accuracy on images from other sources than the test images above is not measured and can be much lower. It is "
        "meant for research and as a starting point for fine-tuning; it was not examined for decisions about people.",
    ]
    if known:
        lines.append(f"Licence of the training data, as its owners state it: {known.licence}.")
    return "\n".join(f"- {line}" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
