import json
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_importing_registers_models_and_loads_nothing_heavy() -> None:
    code = (
        "import sys, timm; before = set(timm.list_models()); import cutmix_zoo; "
        "new = set(timm.list_models()) - before; "
        "heavy = {'accelerate', 'matplotlib', 'jsonargparse', 'tensorboard', 'cutmix_zoo.cli'} & set(sys.modules); "
        "print(*sorted(new)); print(before - set(timm.list_models()), heavy)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    new, rest = done.stdout.splitlines()
    assert set(new.split()) == networks_of_the_readme()
    assert rest == "set() set()"


def networks_of_the_readme() -> set[str]:
    """Read the names in the first column of its table of networks; a bare number stands for another depth."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    cells = re.findall(r"^\| (`.*?`) \|", text.partition("## Networks")[2].partition("###")[0], flags=re.MULTILINE)
    names: set[str] = set()
    for cell in cells:
        first, *others = re.findall(r"`(\w+)`", cell)
        stem = first.rstrip("0123456789")
        names |= {first, *(f"{stem}{other}" if other.isdecimal() else other for other in others)}
    return names


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment outside the checkout that holds our wheel and borrows the dependencies of this one."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "env", with_pip=False)
    python = folder / "env" / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "env")}))
    # a path file does not run the path files of the folder that it names, so the checkout stays out of sight
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def test_the_wheel_works_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    program = installed / "env" / "bin" / "cutmix-zoo"

    def run(*arguments: str) -> str:
        done = subprocess.run([program, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = [str(installed / "env" / "bin" / "python"), "-c", "import cutmix_zoo; print(cutmix_zoo.__file__)"]
    assert str(installed) in subprocess.run(where, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    listed = [line.split()[0] for line in run("recipes").splitlines()]
    assert listed == sorted(file.stem for file in (ROOT / "recipes").glob("*.yaml"))
    run("recipes", "--copy", "quickstart")
    assert (tmp_path / "quickstart.yaml").read_bytes() == (ROOT / "recipes" / "quickstart.yaml").read_bytes()
    # by name, on the images in the wheel: one large batch an epoch keeps it short
    short = ["--schedule.epochs", "1", "--schedule.warmup_epochs", "0", "--data.batch_size", "1000"]
    run("train", "--config", "quickstart", *short)
    summary = json.loads((tmp_path / "runs" / "quickstart" / "summary.json").read_text())
    assert (summary["dataset"], summary["val_images"]) == ("fashion_mnist_mini", 2000)


def test_the_wheel_holds_recipes_data_and_licences(installed: Path) -> None:
    from zipfile import ZipFile

    (wheel,) = installed.glob("*.whl")
    names = ZipFile(wheel).namelist()
    for name in ("recipes/quickstart.yaml", "data/fashion_mnist_mini/LICENSE", "zoo.json", "py.typed"):
        assert f"cutmix_zoo/{name}" in names
    assert sum(name.endswith("-ubyte.gz") for name in names) == 4
    for name in ("cifar_resnet8.cutmix_fmnist_mini", "cifar_resnet20.cutmix_fmnist"):
        assert f"cutmix_zoo/weights/{name}.safetensors" in names
    for name in ("LICENSE", "cutmix_zoo/data/fashion_mnist_mini/LICENSE"):
        assert any(each.endswith(f".dist-info/licenses/{name}") for each in names)
    assert not any(name.startswith(("tests/", "recipes/")) for name in names)
