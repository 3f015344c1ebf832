import json
import pickle
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image

import cutmix_zoo.cli
from cutmix_zoo import __version__
from cutmix_zoo.cli import command
from cutmix_zoo.data.fashion_mnist import MINI_ROOT
from cutmix_zoo.data.idx import read_idx
from cutmix_zoo.errors import Preempted, SampleError, UserError, prepare_new_file, run_command
from cutmix_zoo.mixing import CANONICAL
from cutmix_zoo.training.recipe import find_recipe, load_recipe, shipped_recipes

SHIPPED = "cifar_resnet8.cutmix_fmnist_mini"


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )


def test_recipes_are_listed_with_their_first_line(capsys: pytest.CaptureFixture[str]) -> None:
    command(["recipes"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(shipped_recipes())
    assert "10,000 Fashion-MNIST images" in next(line for line in lines if line.startswith("quickstart"))


def test_a_recipe_is_copied_once_and_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command(["recipes", "--copy", "quickstart"])
    assert "cutmix-zoo train --config quickstart.yaml" in capsys.readouterr().out
    assert Path("quickstart.yaml").read_bytes() == find_recipe("quickstart").read_bytes()
    with pytest.raises(UserError, match="exists and is not overwritten"):
        command(["recipes", "--copy", "quickstart"])
    command(["recipes", "--copy", "imagenet_resnet50_cutmix", "--output", "mine.yaml"])
    assert load_recipe("mine.yaml").name == "mine"
    with pytest.raises(UserError, match="did you mean quickstart"):
        command(["recipes", "--copy", "quickstar"])


def test_train_evaluate_and_preview_are_wired(
    tiny_options: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = [part for key, value in tiny_options.items() for part in (f"--{key}", value)]
    config = ["--config", "quickstart", *overrides]
    folder = tmp_path / "run"
    command(["train", *config, "--output", str(folder), "--schedule.epochs=2"])
    out = capsys.readouterr().out
    assert "images/s" in out
    # the closing lines are Python that loads the model
    lines = [line.strip() for line in out.splitlines() if line.startswith("    ")]
    assert len(lines) == 3
    scope: dict[str, object] = {}
    exec("\n".join(lines), scope)
    assert not scope["model"].training  # type: ignore[attr-defined]
    # and the command that tries it
    (trial,) = re.findall(r"cutmix-zoo (predict .*) IMAGE_OR_FOLDER", out)
    command([*shlex.split(trial), str(folder / "plots" / "curves.png"), "--topk", "1"])
    assert "curves.png\n  " in capsys.readouterr().out
    command(["evaluate", str(folder), "--on", "fashion_mnist"])
    summary = json.loads((folder / "summary.json").read_text())
    assert f"top1 {summary['top1']:.4g}" in capsys.readouterr().out
    command(["preview", *config, "--output", str(tmp_path / "p.png")])
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def save_images(folder: Path) -> None:
    """Two test images of Fashion-MNIST, and between them a file that is no image."""
    images = read_idx(MINI_ROOT / "t10k-images-idx3-ubyte.gz")
    for number in (0, 2):
        Image.fromarray(images[number]).save(folder / f"{number}.png")
    (folder / "1.png").write_text("no image")


def test_predict_names_what_it_cannot_read_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_images(tmp_path)
    predict = ["predict", "--topk", "2", SHIPPED, str(tmp_path), "--batch-size=1"]
    command([*predict, "--format", "json", str(tmp_path / "2.png")])
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert [Path(one["file"]).name for one in found] == ["0.png", "1.png", "2.png", "2.png"]
    labels = read_idx(MINI_ROOT / "t10k-labels-idx1-ubyte.gz")
    assert [len(one["classes"]) for one in found] == [2, 0, 2, 2]
    assert [found[place]["classes"][0]["index"] for place in (0, 2)] == labels[[0, 2]].tolist()
    assert err == f"cutmix-zoo predict: {found[1]['error']}\n"
    command([*predict, "--format", "csv"])
    assert capsys.readouterr().out.startswith("file,rank,index,label,probability,error\n")
    command(predict)
    assert capsys.readouterr().out.startswith(f"{tmp_path / '0.png'}\n  ")


def test_predict_needs_an_image_that_can_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="no images in"):
        command(["predict", SHIPPED, str(tmp_path)])
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(UserError, match="nothing was predicted: none of 1 files could be read as an image"):
        command(["predict", SHIPPED, str(tmp_path), "--format", "json"])
    (only,) = json.loads(capsys.readouterr().out)
    assert "cannot identify image file" in only["error"]
    for option in ("--topk", "--batch-size"):
        with pytest.raises(SystemExit):
            command(["predict", SHIPPED, str(tmp_path), option, "0"])
        assert f"argument {option}: must be at least 1" in capsys.readouterr().err


def test_export_says_what_it_wrote_and_how_exact_it_is(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="the onnx extra is not installed")
    pytest.importorskip("onnxscript", reason="the onnx extra is not installed")
    file = tmp_path / "new" / "net.onnx"
    command(["export", SHIPPED, "--format", "onnx", "--output", str(file), "--opset", "19"])
    out, err = capfd.readouterr()
    assert re.fullmatch(rf"wrote {re.escape(str(file))}; .* differ from torch's by at most \d\.\de-\d\d\n", out)
    assert err == ""
    assert onnxruntime.InferenceSession(file).get_inputs()[0].shape[1:] == [1, 28, 28]


def test_export_wants_a_format_and_operators_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in [
        ([], "the following arguments are required: --format"),
        (["--format", "tflite"], "argument --format: invalid choice: 'tflite'"),
        (["--format", "onnx", "--opset", "17"], "argument --opset: must be at least 18, got 17"),
    ]:
        with pytest.raises(SystemExit):
            command(["export", SHIPPED, "--output", "x.onnx", *arguments])
        assert message in capsys.readouterr().err


def test_the_gallery_needs_no_recipe(
    figures: list[Figure], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command(["preview", "--gallery", "--output", "new/gallery.png"])
    assert capsys.readouterr().out == "wrote new/gallery.png\n"
    with Image.open("new/gallery.png") as picture:
        assert picture.format == "PNG"
    assert set(CANONICAL) <= {text.get_text() for text in figures[0].texts}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "one of the arguments --config --gallery is required"),
        (["--gallery", "--config", "quickstart"], "argument --config: not allowed with argument --gallery"),
    ],
)
def test_preview_draws_a_recipe_or_the_gallery(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        command(["preview", *arguments, "--output", str(tmp_path / "p.png")])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_gallery_takes_no_overrides(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--mix\.per overrides a key of a recipe, which --gallery has not"):
        command(["preview", "--gallery", "--mix.per", "sample", "--output", str(tmp_path / "p.png")])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "given"),
    [
        (["mixing"], [(), {}]),
        (["models"], [(["*"],), {"batch_size": 32, "device": None, "compiled": True, "seconds": 10.0}]),
        (
            ["models", "--models", "a*", "b", "--batch-size=2", "--device=cpu", "--no-compile", "--seconds=0.5"],
            [(["a*", "b"],), {"batch_size": 2, "device": "cpu", "compiled": False, "seconds": 0.5}],
        ),
        (["train"], [(None,), {"batch_size": 128, "repeats": 9}]),
        (
            ["train", "--model=cifar_resnet14", "--batch-size=64", "--repeats=3"],
            [("cifar_resnet14",), {"batch_size": 64, "repeats": 3}],
        ),
    ],
)
def test_bench_prints_a_table_and_writes_json(
    options: list[str],
    given: list[object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = {"train": "training"}.get(options[0], options[0])
    module = f"cutmix_zoo.bench.{name}"
    monkeypatch.setattr(f"{module}.bench_{name}", lambda *args, **settings: [args, settings])
    monkeypatch.setattr(f"{module}.format_table", lambda result: f"table of {result}")
    command(["bench", *options, "--json", str(tmp_path / "b.json")])
    assert capsys.readouterr().out == f"table of {given}\n"
    assert json.loads((tmp_path / "b.json").read_text()) == json.loads(json.dumps(given))


def test_measurements_that_cannot_be_written_are_an_error_with_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "b.json"
    monkeypatch.setattr("cutmix_zoo.bench.mixing.bench_mixing", lambda: [str(file.mkdir())])
    monkeypatch.setattr("cutmix_zoo.bench.mixing.format_table", lambda _: "the table")
    with pytest.raises(UserError, match=r"cannot write .*b\.json"):
        command(["bench", "mixing", "--json", str(file)])
    assert capsys.readouterr().out == "the table\n"


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in cutmix_zoo.cli.COMMANDS)])
def test_help_of_every_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command(arguments)
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("usage: cutmix-zoo")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command(["--version"])
    assert capsys.readouterr().out.strip() == f"cutmix_zoo {__version__}"


def test_mistakes_are_one_line_without_a_traceback_and_a_status(tmp_path: Path) -> None:
    for arguments, status, message in [
        (
            ["cutmix_zoo.cli", "train", "--config", "quickstart", "--optimizer.lrr", "1"],
            2,
            "did you mean optimizer.lr?",
        ),
        (["cutmix_zoo.train", "--config", "quickstart", "--data.name", "fashion_mnist"], 2, "data.root"),
        (
            ["cutmix_zoo.evaluate", "cifar_resnet8", "--on", "fashion_mnist_mini"],
            2,
            "no weights are known for cifar_resnet8",
        ),
    ]:
        done = run(*arguments, folder=tmp_path)
        assert done.returncode == status, done.stderr
        assert message in done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
        assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_what_is_the_users_is_one_line_and_what_is_ours_keeps_its_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(error: BaseException) -> object:
        def command(_: object) -> None:
            raise error

        return command

    assert run_command(fail(UserError("do this")), "prog", []) == 2  # type: ignore[arg-type]
    assert capsys.readouterr().err == "prog: error: do this\n"
    stop = pickle.loads(pickle.dumps(Preempted("saved", 15)))  # as between processes
    assert (str(stop), stop.signal) == ("saved", 15)
    assert run_command(fail(stop), "prog", []) == 143
    assert capsys.readouterr().err == "prog: saved\n"
    assert run_command(fail(KeyboardInterrupt()), "prog", []) == 130  # type: ignore[arg-type]
    assert capsys.readouterr().err == "prog: interrupted\n"
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert run_command(fail(UserError("once")), "prog", []) == 2  # type: ignore[arg-type]
    assert run_command(fail(SampleError("a broken image")), "prog", []) == 2  # type: ignore[arg-type]
    assert capsys.readouterr().err == "prog: error: a broken image\n"
    with pytest.raises(ZeroDivisionError):
        run_command(fail(ZeroDivisionError()), "prog", [])  # type: ignore[arg-type]
    seen: list[object] = []
    monkeypatch.setattr(sys, "argv", ["prog", "a", "b"])
    assert run_command(seen.extend, "prog") == 0
    assert seen == ["a", "b"]


def test_a_file_that_is_there_or_cannot_be_made_is_refused(tmp_path: Path) -> None:
    prepare_new_file(tmp_path / "new" / "file")
    assert (tmp_path / "new").is_dir()
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="exists and is not overwritten"):
        prepare_new_file(tmp_path / "file")
    with pytest.raises(UserError, match="cannot write"):
        prepare_new_file(tmp_path / "file" / "sub")


def test_no_command_overwrites_a_file(tmp_path: Path) -> None:
    mine = tmp_path / "mine.png"
    mine.write_text("precious")
    gallery = ["preview", "--gallery", "--output"]
    benches = [["bench", what, "--json"] for what in ("mixing", "models", "train")]
    export = ["export", "no_such_model", "--format", "onnx", "--output"]
    for arguments in (["preview", "--config", "quickstart", "--output"], gallery, *benches, export):
        with pytest.raises(UserError, match="exists and is not overwritten"):
            command([*arguments, str(mine)])
    assert mine.read_text() == "precious"
    for arguments in (["preview", "--config", "quickstart", "--output"], gallery):
        with pytest.raises(UserError, match=r"has no ending .* call it .*mine.png"):
            command([*arguments, str(tmp_path / "mine")])
        with pytest.raises(UserError, match=r"cannot write .*foo"):
            command([*arguments, str(tmp_path / "p.foo")])


def test_a_reader_that_stops_reading_is_no_error(tmp_path: Path) -> None:
    command = f"{sys.executable} -m cutmix_zoo.cli list | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("141\n", "")


@pytest.mark.parametrize("option", ["--private", "--create-pr"])
def test_a_row_of_the_zoo_is_of_what_everybody_can_load(option: str, tmp_path: Path) -> None:
    row = ["--zoo-json", str(tmp_path / "zoo.json"), option]
    with pytest.raises(UserError, match="it goes with neither --private nor --create-pr"):
        command(["publish", str(tmp_path), "--repo", "me/cifar_resnet8.mine", *row])
