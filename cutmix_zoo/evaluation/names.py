"""Names, folders and commands as they are shown to readers: all of it visible, short, and no two names alike."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

# control characters, halves of characters as in names of files that are no UTF-8, and what is no character
_INVISIBLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")

_ABSOLUTE_PATH = re.compile(r"([^/]*[=:]|file://)?(/(?!/).*)", re.DOTALL)
"""An argument that is one, or has one behind something, as in ``NAME=/folder``; not a URL."""


def visible(text: str) -> str:
    r"""Write characters that cannot be shown, and that SVG and fonts do not take, as Python escapes them.

    Example:
        >>> visible("a\0b\n\udcff")
        'a\\x00b\\n\\udcff'
    """
    return _INVISIBLE.sub(lambda found: ascii(found[0])[1:-1], text)


def shortened(names: Iterable[str], most: int) -> list[str]:
    """Shorten long names so that those that differ go on to differ.

    Args:
        names: any texts.
        most: characters that a name may have, at least 12.

    Returns:
        In their order: names that are short enough, made :func:`visible`, and of the others their beginnings and ends,
        with a piece between them where names that differ would else become the same. If no piece at one place tells all
        of them apart, each begins with its number.

    Example:
        >>> shortened(["resnet20_cutmix_alpha_1_epochs_200", "resnet20_cutmix_alpha_2_epochs_200"], 16)
        ['resn…ha_1…_200', 'resn…ha_2…_200']
    """
    every = list(names)
    different = list(dict.fromkeys(every))
    short = dict(zip(different, _shorten(list(map(visible, different)), most), strict=True))
    return [short[name] for name in every]


def _shorten(texts: Sequence[str], most: int) -> list[str]:
    longest = max(map(len, texts), default=0)
    first: list[str] = []
    for pieces in _ways_to_cut(most, longest):
        short = [text if len(text) <= most else _cut(text, pieces) for text in texts]
        first = first or short
        short = [new if first.count(old) > 1 else old for old, new in zip(first, short, strict=True)]
        if len(set(short)) == len(short):
            return short
    numbered = [f"{number}: {text}" for number, text in enumerate(texts, start=1)]
    return [text if len(text) <= most else f"{text[: most - 1]}…" for text in numbered]


def _ways_to_cut(most: int, longest: int) -> Iterator[tuple[slice, ...]]:
    """List what to keep of a long name: beginning and end, best of all alike, then a piece between them too."""
    half, quarter, third = most // 2 - 1, most // 4, (most - 2) // 3
    for head in sorted(range(quarter, most - quarter), key=lambda head: abs(head - half)):
        yield slice(head), slice(head + 1 - most, None)
    for start in range(third, longest - third):
        yield slice(third), slice(start, start + third), slice(-third, None)


def _cut(text: str, pieces: Iterable[slice]) -> str:
    return "…".join(filter(None, (text[piece] for piece in pieces)))


def distinct_end(folder: Path, others: Sequence[Path]) -> str:
    """Write a folder as the shortest end of its path that no other one has.

    Args:
        folder: it need not exist.
        others: different ones.

    Example:
        >>> distinct_end(Path("runs/a/evaluation"), [Path("runs/b/evaluation"), Path("c")])
        'a/evaluation'
    """
    path, *paths = (each.resolve().parts for each in (folder, *others))
    ends = (path[-count:] for count in range(1, len(path) + 1))
    own = next(end for end in ends if all(other[-len(end) :] != end for other in paths))
    return visible(str(Path(*own)))


def public_command(command: str) -> str:
    """Write a command line without where things lie on this machine.

    Args:
        command: words as a shell takes them.

    Returns:
        The same, with absolute paths beneath the current folder relative to it, and of other absolute paths only the
        last part, behind an ellipsis. Relative paths stay as they are.

    Example:
        >>> public_command("cutmix-zoo evaluate runs/a --ood textures=/data/sets/textures")
        'cutmix-zoo evaluate runs/a --ood textures=…/textures'
    """
    try:
        words = shlex.split(command)
    except ValueError:  # no shell would take it
        words = command.split()
    return " ".join(map(_public_word, words))


def _public_word(word: str) -> str:
    found = _ABSOLUTE_PATH.fullmatch(word)
    if found is None:
        return shlex.quote(word)
    before, path, here = found[1] or "", Path(os.path.normpath(found[2])), Path.cwd()
    if path.is_relative_to(here) and here.name:  # everything is beneath the root
        return shlex.quote(f"{before}{path.relative_to(here)}")
    return "…/".join(shlex.quote(part) if part else "" for part in (before, path.name))
