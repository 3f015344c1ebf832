"""The cards of the zoo's own weights: ``python -m cutmix_zoo.hub.zoo_cards hub_cards`` writes them all again."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cutmix_zoo.errors import UserError, run_command
from cutmix_zoo.hub.bundle import CARD_FILE, RESULTS_FILE
from cutmix_zoo.hub.card import CardFacts, make_card
from cutmix_zoo.models.exported import CONFIG_FILE, read_config
from cutmix_zoo.training.files import read_json, write_text
from cutmix_zoo.zoo import zoo_table

if TYPE_CHECKING:
    from collections.abc import Sequence


def zoo_card(folder: Path) -> str:
    """Make the card of a model of the zoo table.

    Args:
        folder: is called after the model, and holds ``config.json`` and ``results.json``.

    Raises:
        UserError: if the table has no such model.
    """
    entry = zoo_table().get(folder.name)
    if entry is None:
        raise UserError(f"{folder.name} is not a row of the zoo table.")
    config, results = read_config(folder / CONFIG_FILE), read_json(folder / RESULTS_FILE)
    return make_card(CardFacts(entry.name, config, results, entry.license, entry.repo, entry))


def command(arguments: Sequence[str]) -> None:
    """Write the cards of all models in a folder."""
    parser = argparse.ArgumentParser(prog="python -m cutmix_zoo.hub.zoo_cards", description=command.__doc__)
    parser.add_argument("folder", type=Path, help="holds a folder for each model")
    for config in sorted(parser.parse_args(arguments).folder.glob(f"*/{CONFIG_FILE}")):
        write_text(config.with_name(CARD_FILE), zoo_card(config.parent))


if __name__ == "__main__":
    sys.exit(run_command(command, "zoo_cards"))
