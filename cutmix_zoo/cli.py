"""``cutmix-zoo ...``: wiring only; the work is done by the modules that the commands name."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import HfApi

from cutmix_zoo import __version__, evaluate, sweep, train
from cutmix_zoo.bench import mixing, models, training
from cutmix_zoo.checks import positive_number, whole_number
from cutmix_zoo.data.gallery import draw_every_method
from cutmix_zoo.data.image_files import find_images
from cutmix_zoo.errors import UserError, prepare_new_file, run_command, write_errors
from cutmix_zoo.evaluation import report
from cutmix_zoo.evaluation.loading import load_network
from cutmix_zoo.evaluation.predict import predict as predict_files
from cutmix_zoo.evaluation.prediction_text import PREDICTION_FORMATS, format_predictions
from cutmix_zoo.hub.bundle import LICENSE_UNKNOWN, check_repo, make_bundle
from cutmix_zoo.hub.importer import import_checkpoint
from cutmix_zoo.hub.listing import FORMATS, format_weights, list_weights
from cutmix_zoo.hub.publish import Wishes, check_here
from cutmix_zoo.hub.publish import publish as upload
from cutmix_zoo.hub.zoo_row import extended, zoo_row
from cutmix_zoo.models.onnx_export import LOWEST_OPSET, export_onnx
from cutmix_zoo.training.files import write_json, write_text
from cutmix_zoo.training.launch import make_accelerator
from cutmix_zoo.training.network import complete_input
from cutmix_zoo.training.overrides import split_overrides
from cutmix_zoo.training.preview import draw_preview
from cutmix_zoo.training.recipe import find_shipped, load_recipe, shipped_recipes
from cutmix_zoo.training.splits import open_splits, resolve

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cutmix_zoo.evaluation.predict import Prediction


def _print(text: str) -> None:
    print(text)  # noqa: T201  this module is what talks to the terminal


def recipes(arguments: Sequence[str]) -> None:
    """List the shipped recipes, or write one into the current folder."""
    parser = argparse.ArgumentParser(prog="cutmix-zoo recipes", description="List the shipped recipes, or copy one.")
    parser.add_argument("--copy", metavar="NAME", help="write this recipe into a file")
    parser.add_argument("--output", type=Path, metavar="FILE", help="the file to write (default: ./NAME.yaml)")
    options = parser.parse_args(arguments)
    if options.copy is None:
        shipped = shipped_recipes()
        width = max(map(len, shipped), default=0)
        for name, file in shipped.items():
            headline = file.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
            _print(f"{name:{width}} {headline}")
        return
    source = find_shipped(options.copy)
    target: Path = options.output or Path(f"{options.copy}.yaml")
    prepare_new_file(target)
    with write_errors(target):
        target.write_bytes(source.read_bytes())
    _print(f"wrote {target}; train it with: cutmix-zoo train --config {target}")


def preview(arguments: Sequence[str]) -> None:
    """Draw the first mixed batch of a recipe, or what every method makes of the same images."""
    parser = argparse.ArgumentParser(
        prog="cutmix-zoo preview",
        description="Draw a grid of mixed training images with their boxes, label names and shares.",
        epilog="Every key of the recipe can be overridden, such as --mix.per sample.",
        allow_abbrev=False,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--config", metavar="RECIPE", help="a recipe file, or a shipped recipe's name")
    what.add_argument("--gallery", action="store_true", help="every mixing method on the same images, without a recipe")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE.png", help="the picture to write")
    options, rest = parser.parse_known_args(arguments)
    overrides = split_overrides(rest)
    recipe = None if options.gallery else load_recipe(options.config, overrides)
    if recipe is None and overrides:
        raise UserError(f"--{next(iter(overrides))} overrides a key of a recipe, which --gallery has not; leave it out")
    if not options.output.suffix:
        raise UserError(f"{options.output} has no ending that names a picture's format; call it {options.output}.png")
    prepare_new_file(options.output)
    if recipe is None:
        draw_every_method(options.output)
    else:
        recipe = complete_input(recipe)
        splits = open_splits(recipe)
        draw_preview(resolve(recipe, splits.classes), splits, options.output)
    _print(f"wrote {options.output}")


def bench(arguments: Sequence[str]) -> None:
    """Run a benchmark and print its table."""
    parser = argparse.ArgumentParser(
        prog="cutmix-zoo bench", description="Compare our speed with the peers' in one run; the ratios are what counts."
    )
    what = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    abouts = {
        "mixing": "collates, plans and loaders",
        "models": "our networks, eager and compiled",
        "train": "the trainer, next to a bare step and a loop like timm's",
    }
    parts = {name: what.add_parser(name, help=about, description=f"Measure {about}.") for name, about in abouts.items()}
    for part in parts.values():
        part.add_argument("--json", type=Path, metavar="FILE", help="also write the measurements to this file")
    add = parts["models"].add_argument
    add("--models", nargs="+", default=["*"], metavar="NAME", help="which, such as 'cifar_resnet*' (default: all)")
    add("--batch-size", type=whole_number(1), default=32, metavar="N", help="images of a batch (default: %(default)s)")
    add("--device", choices=["cpu", "cuda"], help="default: a GPU if there is one")
    add("--no-compile", action="store_true", help="leave out what torch.compile makes: minutes for a deep network")
    add(
        "--seconds",
        type=positive_number,
        default=models.SECONDS,
        metavar="S",
        help="of each candidate (default: %(default)g)",
    )
    add = parts["train"].add_argument
    add("--model", metavar="NAME", help="default: cifar_resnet20 on a GPU, else cifar_resnet8")
    add("--batch-size", type=whole_number(1), default=128, metavar="N", help="images of a batch (default: %(default)s)")
    add("--repeats", type=whole_number(2), default=training.REPEATS, metavar="N", help="turns (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.json:
        prepare_new_file(options.json)
    if options.what == "mixing":
        result = mixing.bench_mixing()
        table = mixing.format_table(result)
    elif options.what == "train":
        result = training.bench_training(options.model, batch_size=options.batch_size, repeats=options.repeats)
        table = training.format_table(result)
    else:
        result = models.bench_models(
            options.models,
            batch_size=options.batch_size,
            device=options.device,
            compiled=not options.no_compile,
            seconds=options.seconds,
        )
        table = models.format_table(result)
    _print(table)
    if options.json:
        with write_errors(options.json):
            write_json(options.json, result)


def import_(arguments: Sequence[str]) -> None:
    """Import a checkpoint into the local store."""
    parser = argparse.ArgumentParser(
        prog="cutmix-zoo import",
        description="Check a checkpoint of torch and put its weights into the local store "
        "(CUTMIX_ZOO_HOME; by default cutmix_zoo in the user's cache folder). Nothing in it is executed.",
        epilog="Afterwards timm.create_model(NAME, pretrained=True) loads them, offline.",
    )
    parser.add_argument("path", type=Path, help="a .pth, .pt or .pth.tar file, or a folder or zip that holds one")
    parser.add_argument(
        "--as", dest="name", required=True, metavar="NAME", help="a name of cutmix-zoo list, or ARCHITECTURE.TAG"
    )
    parser.add_argument("--dataset", help="for a tag of your own: what it was trained on, such as cifar100")
    options = parser.parse_args(arguments)
    folder = import_checkpoint(options.path, options.name, options.dataset)
    _print(f"wrote {folder}\n    timm.create_model({options.name!r}, pretrained=True)")


def list_(arguments: Sequence[str]) -> None:
    """List the weights that are known, and where they are."""
    parser = argparse.ArgumentParser(
        prog="cutmix-zoo list", description="List the weights of the zoo and of the local store, and where they are."
    )
    parser.add_argument("pattern", nargs="?", default="*", help="which names, such as 'resnet50.*' (default: all)")
    parser.add_argument("--format", choices=FORMATS, default="table", help="csv and json say more (default: table)")
    options = parser.parse_args(arguments)
    _print(format_weights(list_weights(options.pattern), options.format))


def predict(arguments: Sequence[str]) -> None:
    """Say what a model takes images for."""
    parser = argparse.ArgumentParser(
        prog="cutmix-zoo predict",
        description="Name the likeliest classes of images, prepared as cutmix-zoo evaluate prepares them.",
        epilog="A file that cannot be read is named on stderr; the others go on.",
    )
    parser.add_argument("model", metavar="MODEL", help="a timm name, the folder of a run, or a Hub id OWNER/NAME")
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE_OR_FOLDER", help="folders with all below them")
    parser.add_argument("--topk", type=whole_number(1), default=5, metavar="N", help="classes (default: %(default)s)")
    parser.add_argument("--format", choices=PREDICTION_FORMATS, default="table", help="default: table")
    parser.add_argument(
        "--batch-size",
        type=whole_number(1),
        default=32,
        metavar="N",
        help="images a forward pass (default: %(default)s)",
    )
    options = parser.parse_intermixed_args(arguments)
    files = find_images(options.images)
    predictions = predict_files(
        load_network(options.model),
        files,
        topk=options.topk,
        batch_size=options.batch_size,
        device=make_accelerator().device,
    )
    unread = 0

    def named() -> Iterator[Prediction]:
        nonlocal unread
        for prediction in predictions:
            if prediction.error is not None:
                unread += 1
                sys.stderr.write(f"cutmix-zoo predict: {prediction.error}\n")
            yield prediction

    for text in format_predictions(named(), options.format):
        _print(text)
    if unread == len(files):
        raise UserError(f"nothing was predicted: none of {unread} files could be read as an image; name other files.")


def export(arguments: Sequence[str]) -> None:
    """Write a model in another format."""
    parser = argparse.ArgumentParser(
        prog="cutmix-zoo export",
        description="Write a model as an ONNX file for batches of any size, with label names and preprocessing in its "
        "metadata, and check with onnxruntime that it computes the same.",
    )
    parser.add_argument("model", metavar="MODEL", help="a timm name, the folder of a run, or a Hub id OWNER/NAME")
    parser.add_argument("--format", choices=["onnx"], required=True, help="what to write")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.onnx", help="the file to write")
    parser.add_argument(
        "--opset",
        type=whole_number(LOWEST_OPSET),
        metavar="N",
        help="version of the operators (default: torch's choice)",
    )
    options = parser.parse_args(arguments)
    prepare_new_file(options.output)  # before anything is loaded
    difference = export_onnx(load_network(options.model), options.output, opset=options.opset)
    _print(f"wrote {options.output}; onnxruntime's logits differ from torch's by at most {difference:.1e}")


def publish(arguments: Sequence[str]) -> None:
    """Publish a model to the Hugging Face Hub."""
    parser = argparse.ArgumentParser(
        prog="cutmix-zoo publish",
        description="Check a model, upload it to a repository of the Hugging Face Hub, read it back, compare, and make "
        "it public; a new repository is private until then. An interrupted publication goes on with the same command.",
        epilog="The access token is the one that `hf auth login` keeps, or HF_TOKEN.",
    )
    parser.add_argument("source", type=Path, metavar="RUN_OR_MODEL_DIR", help="the folder of a run or exported model")
    parser.add_argument("--repo", required=True, metavar="OWNER/NAME", help="where; best ARCHITECTURE.TAG as NAME")
    parser.add_argument("--license", metavar="ID", help="of the weights, such as apache-2.0 (default: what is stated)")
    parser.add_argument("--private", action="store_true", help="leave the repository private")
    parser.add_argument("--dry-run", action="store_true", help="check, show the card and the files, upload nothing")
    parser.add_argument("--create-pr", action="store_true", help="open a pull request in a repository that exists")
    parser.add_argument("--tag", metavar="NAME", help="a name for the commit, such as v1.0")
    parser.add_argument("--zoo-json", type=Path, metavar="PATH", help="write the row of the zoo table into this file")
    options = parser.parse_args(arguments)
    check_repo(options.repo)
    wishes = Wishes(options.private, options.create_pr, options.tag)
    if options.zoo_json and (options.private or options.create_pr):
        raise UserError("--zoo-json pins what everybody can load: it goes with neither --private nor --create-pr")
    with tempfile.TemporaryDirectory() as folder:
        bundle = make_bundle(options.source, Path(folder), options.repo, options.license)
        name = bundle.facts.name
        if options.zoo_json:
            extended(options.zoo_json, zoo_row(bundle, ""), name)  # before anything is uploaded
        check_here(bundle)
        if options.dry_run:
            _print(bundle.card)
        for file, path in bundle.files().items():
            _print(f"{path.stat().st_size:>12,} {file}")
        if bundle.facts.license == LICENSE_UNKNOWN:
            _print("licence: unknown; state it with --license")
        if options.dry_run:
            _print(f"{options.repo}: checked; nothing was uploaded")
            return
        commit = upload(bundle, wishes, HfApi())
        row = zoo_row(bundle, commit)
    done = "proposed to" if options.create_pr else "published"
    _print(f"{done} {options.repo} at {commit}\n{json.dumps(row, indent=2)}")
    if options.zoo_json:
        with write_errors(options.zoo_json):
            write_text(options.zoo_json, extended(options.zoo_json, row, name))
        _print(f"wrote {options.zoo_json}")


COMMANDS = {
    "recipes": (recipes, "list the shipped recipes, or copy one"),
    "train": (train.command, "train a recipe"),
    "sweep": (sweep.command, "train a recipe with several values and seeds"),
    "evaluate": (evaluate.command, "measure a model on a dataset"),
    "report": (report.command, "set what was measured side by side on one page"),
    "predict": (predict, "name the likeliest classes of images"),
    "export": (export, "write a model as an ONNX file, checked"),
    "publish": (publish, "publish a model to the Hugging Face Hub"),
    "list": (list_, "list the weights that are known, and where they are"),
    "import": (import_, "import a checkpoint, such as the authors', for timm.create_model"),
    "preview": (preview, "draw the mixed images of a recipe, or of every method"),
    "bench": (bench, "compare our speed with the peers' in one run"),
}


def command(arguments: Sequence[str]) -> None:
    """Hand the arguments to the command that the first one names."""
    listing = "\n".join(f"  {name:10} {text}" for name, (_, text) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="cutmix-zoo",
        description="CutMix for timm: train, evaluate and look.",
        epilog=f"commands:\n{listing}\n\ncutmix-zoo COMMAND --help says more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"cutmix_zoo {__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...")
    options = parser.parse_args(arguments)
    run, _ = COMMANDS[options.command]
    run(options.arguments)


def main() -> int:
    """Run ``cutmix-zoo``."""
    return run_command(command, f"cutmix-zoo {sys.argv[1]}" if len(sys.argv) > 1 else "cutmix-zoo")


if __name__ == "__main__":
    sys.exit(main())
