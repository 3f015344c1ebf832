import inspect
import json
import os
import pickle
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import timm.data
import timm.data.loader
import timm.data.mixup
import torch

from cutmix_zoo import with_timm
from cutmix_zoo.errors import UserError, run_command
from cutmix_zoo.mixing import MixCollate
from cutmix_zoo.mixing.timm_args import method_from_timm
from cutmix_zoo.with_timm import FastCollateMixup, command, patched_timm, run_script

TIMMS = timm.data.FastCollateMixup

# what timm's train.py does with the names that it imports, for a few epochs on the CPU; then it says what it saw
TRAIN = """
import argparse
import json
import os
import pickle
import sys

import torch

from timm.data import create_dataset, create_loader, resolve_data_config, Mixup, FastCollateMixup, AugMixDataset
from timm.loss import SoftTargetCrossEntropy
from timm.models import create_model

import helper_beside_the_script

parser = argparse.ArgumentParser()
parser.add_argument('data_dir')
parser.add_argument('--model', default='resnet50')
parser.add_argument('--num-classes', type=int, default=None)
parser.add_argument('-b', '--batch-size', type=int, default=128)
parser.add_argument('-j', '--workers', type=int, default=4)
parser.add_argument('--epochs', type=int, default=300)
parser.add_argument('--mixup', type=float, default=0.0)
parser.add_argument('--cutmix', type=float, default=0.0)
parser.add_argument('--cutmix-minmax', type=float, nargs='+', default=None)
parser.add_argument('--mixup-prob', type=float, default=1.0)
parser.add_argument('--mixup-switch-prob', type=float, default=0.5)
parser.add_argument('--mixup-mode', type=str, default='batch')
parser.add_argument('--mixup-off-epoch', default=0, type=int)
parser.add_argument('--smoothing', type=float, default=0.1)
parser.add_argument('--no-prefetcher', action='store_true', default=False)
parser.add_argument('--output', default='')


def train_one_epoch(epoch, model, loader, optimizer, loss_fn, args):
    if args.mixup_off_epoch and epoch >= args.mixup_off_epoch:
        if args.prefetcher and loader.mixup_enabled:
            loader.mixup_enabled = False
    images, targets = [], []
    for input, target in loader:
        optimizer.zero_grad()
        loss = loss_fn(model(input), target)
        loss.backward()
        optimizer.step()
        images += [image.mul(255).round().int().flatten().tolist() for image in input]
        targets += target.tolist()
    return images, targets


def main():
    args = parser.parse_args()
    args.prefetcher = not args.no_prefetcher
    device = torch.device('cpu')
    torch.manual_seed(0)
    model = create_model(args.model, num_classes=args.num_classes)
    data_config = resolve_data_config(vars(args), model=model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    dataset_train = create_dataset('', root=args.data_dir, split='train', is_training=True)
    collate_fn = None
    mixup_active = args.mixup > 0 or args.cutmix > 0. or args.cutmix_minmax is not None
    if mixup_active:
        mixup_args = dict(
            mixup_alpha=args.mixup,
            cutmix_alpha=args.cutmix,
            cutmix_minmax=args.cutmix_minmax,
            prob=args.mixup_prob,
            switch_prob=args.mixup_switch_prob,
            mode=args.mixup_mode,
            label_smoothing=args.smoothing,
            num_classes=args.num_classes
        )
        if args.prefetcher:
            collate_fn = FastCollateMixup(**mixup_args)
        else:
            mixup_fn = Mixup(**mixup_args)
    loader_train = create_loader(
        dataset_train,
        input_size=data_config['input_size'],
        batch_size=args.batch_size,
        is_training=True,
        use_prefetcher=args.prefetcher,
        no_aug=True,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        num_workers=args.workers,
        collate_fn=collate_fn,
        device=device,
    )
    train_loss_fn = SoftTargetCrossEntropy()
    epochs = [
        train_one_epoch(epoch, model, loader_train, optimizer, train_loss_fn, args) for epoch in range(args.epochs)
    ]
    loader_eval = create_loader(
        dataset_train, input_size=data_config['input_size'], batch_size=12, no_aug=True, is_training=True,
        mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), num_workers=0, device=device, persistent_workers=False)
    plain = [image.mul(255).round().int().flatten().tolist() for input, _ in loader_eval for image in input]
    with open(args.output, 'w') as f:
        json.dump({
            'epochs': epochs,
            'plain': plain,
            'persistent': loader_train.loader.persistent_workers,
            'known': isinstance(collate_fn, FastCollateMixup) and isinstance(collate_fn, Mixup),
            'collate': f'{type(collate_fn).__module__}.{type(collate_fn).__qualname__}',
            'pickled': type(pickle.loads(pickle.dumps(collate_fn))) is type(collate_fn),
            'argv': sys.argv,
            'path': sys.path[0],
            'file': __file__,
            'helper': helper_beside_the_script.__file__,
            'cwd': os.getcwd(),
        }, f)


if __name__ == '__main__':
    main()
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    folder = tmp_path / "copy of timm"
    folder.mkdir()
    (folder / "helper_beside_the_script.py").write_text("")
    (folder / "train.py").write_text(TRAIN)
    return folder / "train.py"


def _arguments(image_folder: Path, output: Path, **options: str) -> list[str]:
    given = {"model": "cifar_resnet8", "num-classes": "3", "batch-size": "4", "workers": "2", "output": str(output)}
    given |= {name.replace("_", "-"): value for name, value in options.items()}
    return [str(image_folder), *(part for name, value in given.items() for part in (f"--{name}", value))]


@pytest.fixture
def as_before() -> Any:
    """Check that nothing stays behind: not in timm, not in sys, and in torch's and NumPy's generators."""
    argv, path, main, state = sys.argv, sys.path, sys.modules["__main__"], torch.get_rng_state()
    kept = list(argv), list(path)
    yield
    torch.set_rng_state(state)  # the script seeds it, as scripts do
    sys.modules.pop("helper_beside_the_script", None)
    assert sys.argv is argv
    assert sys.path is path
    assert (argv, path) == kept
    assert sys.modules["__main__"] is main
    assert timm.data.FastCollateMixup is timm.data.mixup.FastCollateMixup is TIMMS


def _is_mixed(target: list[float]) -> bool:
    """Whether more than one of three classes is above the floor, a third of the smoothing of 0.1."""
    return sum(share > 0.1 / 3 + 1e-4 for share in target) > 1


def _check_epochs(report: dict[str, Any], off_from: int) -> None:
    plain = report["plain"]
    for epoch, (images, targets) in enumerate(report["epochs"]):
        assert len(images) == len(targets) == 12
        assert all(abs(sum(target) - 1) < 1e-5 for target in targets)
        if epoch < off_from:
            assert sum(image not in plain for image in images) >= 6
            assert sum(_is_mixed(target) for target in targets) >= 4
            # each image has a lambda of its own
            assert len({round(max(target), 4) for target in targets}) >= 5
        else:
            assert sorted(images) == sorted(plain)
            floor = 0.1 / 3
            assert all(sorted(target) == pytest.approx([floor, floor, 0.9 + floor]) for target in targets)


# timm's reader does not close the files it opens
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.usefixtures("as_before")
def test_timms_script_mixes_each_sample_and_stops_in_persistent_workers(
    script: Path, image_folder: Path, tmp_path: Path
) -> None:
    output = tmp_path / "report.json"
    arguments = _arguments(
        image_folder, output, epochs="4", mixup="1.0", cutmix="1.0", mixup_mode="elem", mixup_off_epoch="2"
    )
    command([str(script), *arguments])
    report = json.loads(output.read_text())
    assert report["persistent"]
    assert report["known"]
    assert report["argv"] == [str(script), *arguments]
    assert report["file"] == str(script)
    assert report["path"] == str(script.parent.resolve())
    assert report["helper"] == str(script.parent.resolve() / "helper_beside_the_script.py")
    _check_epochs(report, off_from=2)


def test_as_a_program(script: Path, image_folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    # what lies in the folder of the terminal is not in the way of what lies beside the script
    (elsewhere / "helper_beside_the_script.py").write_text("raise RuntimeError")
    name = os.path.relpath(script, elsewhere)
    arguments = _arguments(
        image_folder, tmp_path / "report.json", epochs="2", cutmix="1.0", mixup_mode="elem", mixup_off_epoch="1"
    )
    subprocess.run(
        [sys.executable, "-m", "cutmix_zoo.with_timm", name, *arguments],
        cwd=elsewhere,
        check=True,
        timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["argv"] == [name, *arguments]
    assert report["path"] == str(script.parent.resolve())
    assert report["helper"] == str(script.parent.resolve() / "helper_beside_the_script.py")
    assert report["cwd"] == str(elsewhere.resolve())
    # the program's own module is called __main__, under which no spawned worker would find the class
    assert report["collate"] == "cutmix_zoo.with_timm.FastCollateMixup"
    assert report["pickled"]
    _check_epochs(report, off_from=1)


@pytest.mark.usefixtures("as_before")
def test_nothing_stays_behind_when_the_script_fails_or_exits(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("import sys, timm.data\nprint(timm.data.FastCollateMixup)\nsys.exit(int(sys.argv[1]))")
    with pytest.raises(SystemExit) as caught:
        run_script(script, ["3"])
    assert caught.value.code == 3
    with pytest.raises(ValueError, match="invalid literal"):
        run_script(str(script), ["three"])


@pytest.mark.usefixtures("as_before")
def test_ours_is_found_wherever_a_script_may_look_and_timms_where_the_loader_looks() -> None:
    with patched_timm():
        places: dict[str, Any] = {}
        for module in ("timm.data", "timm.data.mixup"):
            exec(f"from {module} import FastCollateMixup", places)
            assert places["FastCollateMixup"] is FastCollateMixup
        assert timm.data.loader.FastCollateMixup is TIMMS
        assert issubclass(FastCollateMixup, TIMMS)
        with pytest.raises(RuntimeError), patched_timm():
            raise RuntimeError
        assert timm.data.FastCollateMixup is FastCollateMixup


def test_the_signature_is_timms() -> None:
    ours, timms = (inspect.signature(kind.__init__).parameters.values() for kind in (FastCollateMixup, TIMMS))
    assert [(p.name, p.default, p.kind) for p in ours] == [(p.name, p.default, p.kind) for p in timms]


def test_every_argument_arrives() -> None:
    mixing = {
        "mixup_alpha": 0.3,
        "cutmix_alpha": 0.7,
        "prob": 0.8,
        "switch_prob": 0.4,
        "mode": "elem",
        "correct_lam": False,
    }
    collate_fn = FastCollateMixup(**mixing, label_smoothing=0.2, num_classes=5)
    assert isinstance(collate_fn, MixCollate)
    assert collate_fn.plans.mix == method_from_timm(**mixing)
    assert (collate_fn.plans.smoothing, collate_fn.plans.num_classes) == (0.2, 5)
    minmax = FastCollateMixup(0.0, 0.0, [0.2, 0.8])
    assert minmax.plans.mix == method_from_timm(0.0, cutmix_minmax=[0.2, 0.8])
    assert (minmax.plans.smoothing, minmax.plans.num_classes) == (0.1, 1000)
    assert type(pickle.loads(pickle.dumps(minmax))) is FastCollateMixup


def test_it_is_made_from_timms_arguments_as_its_parent_is() -> None:
    arguments = {"mixup_alpha": 0.3, "cutmix_alpha": 0.7, "mode": "elem", "num_classes": 5}
    ours, parent = FastCollateMixup.from_timm(**arguments), MixCollate.from_timm(**arguments)
    assert type(ours) is FastCollateMixup
    assert ours.plans.mix == parent.plans.mix
    for plans in (ours.plans, parent.plans):
        assert (plans.smoothing, plans.num_classes) == (0.0, 5)
    assert FastCollateMixup.from_timm(label_smoothing=0.2).plans.smoothing == 0.2


def test_several_labels_an_image() -> None:
    samples = [(torch.zeros(3, 8, 8, dtype=torch.uint8), torch.eye(4)[i] + torch.eye(4)[0]) for i in (1, 2, 3, 1)]
    collate_fn = FastCollateMixup(1.0, mode="elem", label_smoothing=0.0, num_classes=4, multi_label=True)
    _, targets = collate_fn(samples)
    assert torch.equal(targets[:, 0], torch.ones(4))
    torch.testing.assert_close(targets.sum(1), torch.full((4,), 2.0))
    assert bool(((targets > 0) & (targets < 1)).any())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"multi_label": True}, "label_smoothing of several labels .* towards 0.5"),
        ({"mode": "half"}, "mode='half'"),
        ({"mixup_alpha": 0.0}, "nothing to mix"),
        ({"label_smoothing": 2.0}, "smoothing must be a number from 0 to 1"),
        ({"num_classes": 0}, "num_classes must be a whole number of at least 1"),
    ],
)
def test_refused_arguments_are_the_users(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        FastCollateMixup(**arguments)


def test_help_and_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--help"], ["-h"]):
        assert run_command(command, "prog", arguments) == 0
        printed = capsys.readouterr()
        assert printed.out.startswith("usage: python -m cutmix_zoo.with_timm SCRIPT.py ARGUMENTS")
        assert (printed.out.count("\n"), printed.err) == (1, "")
    for arguments, message in (
        ([], "usage: python -m cutmix_zoo.with_timm SCRIPT.py"),
        ([str(tmp_path / "train.py"), "--help"], "there is no script .*train.py: give a Python file"),
        ([str(tmp_path)], "there is no script"),
    ):
        assert run_command(command, "prog", arguments) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.count("\n") == 1
        with pytest.raises(UserError, match=message):
            command(arguments)


def test_main_reads_the_command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["with_timm.py"])
    assert with_timm.main() == 2
    assert capsys.readouterr().err.startswith("cutmix_zoo.with_timm: error: usage: ")


@pytest.mark.parametrize("safe", [True, False])
def test_a_safe_path_stays_as_it_is(safe: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "flags", types.SimpleNamespace(safe_path=safe))
    monkeypatch.setattr(sys, "path", ["first", *sys.path])
    (tmp_path / "train.py").write_text("import pathlib, sys\npathlib.Path(sys.argv[1]).write_text(sys.path[0])")
    run_script(tmp_path / "train.py", [str(tmp_path / "seen")])
    assert (tmp_path / "seen").read_text() == ("first" if safe else str(tmp_path.resolve()))
