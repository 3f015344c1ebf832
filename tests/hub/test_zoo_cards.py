import shutil
from pathlib import Path

import pytest

from cutmix_zoo.errors import UserError
from cutmix_zoo.hub.zoo_cards import command, zoo_card

CARDS = Path(__file__).parents[2] / "hub_cards"


def cards(folder: Path) -> dict[str, str]:
    return {file.parent.name: file.read_text(encoding="utf-8") for file in folder.glob("*/README.md")}


def test_the_cards_are_what_the_command_writes(tmp_path: Path) -> None:
    shutil.copytree(CARDS, tmp_path, dirs_exist_ok=True)
    for config in tmp_path.glob("*/config.json"):
        config.with_name("README.md").write_text("of an earlier version")
    command([str(tmp_path)])
    assert cards(tmp_path) == cards(CARDS), "python -m cutmix_zoo.hub.zoo_cards hub_cards"


def test_what_is_not_in_the_table_has_no_card(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^{tmp_path.name} is not a row of the zoo table"):
        zoo_card(tmp_path)
