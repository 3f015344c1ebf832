import shlex
from pathlib import Path

import pytest

from cutmix_zoo.evaluation.names import distinct_end, public_command, shortened, visible

CONTROLS = ["\x00", "\x01", "\t", "\n", "\r", "\x1b", "\x7f", "\x85", "\x9b", "\ud800", "\udcff", "\ufffe", "\uffff"]


@pytest.mark.parametrize("character", CONTROLS)
def test_what_cannot_be_shown_is_written_as_python_writes_it(character: str) -> None:
    shown = visible(f"a{character}b")
    assert shown == f"a{character}b".encode("unicode_escape").decode()
    assert shown.isprintable()
    assert visible(shown) == shown


@pytest.mark.parametrize("text", ["", "plain", "<b> $5$ \\n", "Käse", "猫", "\N{CAT FACE}", "a\N{NO-BREAK SPACE}b"])
def test_what_can_be_shown_is_left_alone(text: str) -> None:
    assert visible(text) == text


def test_a_short_name_stays_and_a_long_one_keeps_its_beginning_and_end() -> None:
    short, long = shortened(["short", "a" * 30 + "b" * 30], 20)
    assert short == "short"
    assert long == "a" * 9 + "…" + "b" * 10


@pytest.mark.parametrize("most", [12, 16, 20, 44])
@pytest.mark.parametrize("place", range(0, 121, 8))
def test_the_difference_of_long_names_is_shown_wherever_it_is(place: int, most: int) -> None:
    names = [f"{'abcdefgh' * 15}"[:place] + seed + f"{'ABCDEFGH' * 15}"[place:] for seed in ("017", "291", "340")]
    short = shortened(names, most)
    assert len(set(short)) == 3
    assert all(len(name) <= most for name in short)
    # a piece of each, and its own
    for name, shown in zip(names, short, strict=True):
        pieces = shown.split("…")
        assert all(piece in name for piece in pieces)
        assert not any(all(piece in other for piece in pieces) for other in names if other != name)


def test_a_name_that_no_other_resembles_is_cut_as_if_it_were_alone() -> None:
    long = "a" * 30 + "b" * 30
    alike = ["x" * 25 + which + "y" * 25 for which in "12"]
    assert shortened([*alike, long], 20)[2:] == shortened([long], 20)


def test_a_shortened_name_is_not_that_of_a_short_one() -> None:
    long = "a" * 30 + "b" * 30
    (likely,) = shortened([long], 20)
    assert len(set(shortened([likely, long], 20))) == 2


def test_names_that_differ_here_and_there_are_numbered() -> None:
    names = ["x" * place + "y" + "x" * (99 - place) for place in range(0, 100, 3)]
    short = shortened(names, 12)
    assert len(set(short)) == len(names)
    assert all(len(name) <= 12 for name in short)
    assert short[0] == "1: yxxxxxxx…"


def test_names_that_look_the_same_are_numbered_and_equal_ones_stay_equal() -> None:
    assert shortened(["a\n", "a\\n", "a\n"], 12) == ["1: a\\n", "2: a\\n", "1: a\\n"]
    assert shortened(["crane", "crane"], 12) == ["crane", "crane"]
    assert shortened([], 12) == []


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (["/x/a", "/x/b"], ["a", "b"]),
        (["/x/a/evaluation", "/x/b/evaluation"], ["a/evaluation", "b/evaluation"]),
        (["/one/y/z/a", "/two/y/z/a", "/two/y/z/b"], ["one/y/z/a", "two/y/z/a", "b"]),
        (["/a", "/x/a"], ["/a", "x/a"]),
        (["/x/a", "/x/a/a"], ["x/a", "a/a"]),
        (["/x/a/../b", "/y/a"], ["b", "a"]),
        (["/x/a\n", "/y/b"], ["a\\n", "b"]),
    ],
)
def test_a_folder_is_told_by_the_shortest_end_that_no_other_has(folders: list[str], expected: list[str]) -> None:
    paths = [Path(folder) for folder in folders]
    ends = [distinct_end(path, [other for other in paths if other is not path]) for path in paths]
    assert ends == expected


def test_a_folder_is_told_by_its_own_name_not_by_how_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    assert distinct_end(Path(), [tmp_path / "b"]) == "a"
    assert distinct_end(Path("../c"), [Path()]) == "c"


HERE = "/home/somebody/project"


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "cwd", lambda: Path(HERE))


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("word", "expected"),
    [
        *(
            (word, word)
            for word in ("evaluate", "runs/a", "../a", "resnet50.a1_in1k", "hf-hub:owner/name", "a,b", "--on")
        ),
        *((word, word) for word in ("https://example.com/a", "--lr=0.1", "textures=sets/textures", "a=b:c/d")),
        (f"{HERE}/runs/a", "runs/a"),
        (f"{HERE}/runs/../a", "a"),
        (HERE, "."),
        (f"{HERE}2/runs/a", "…/a"),
        (f"{HERE}/../other", "…/other"),
        ("/tmp/pytest-0/evaluations/a/", "…/a"),
        ("/home/somebody/data", "…/data"),
        ("/", "…/"),
        ("textures=/data/textures", "textures=…/textures"),
        (f"textures={HERE}/sets/a", "textures=sets/a"),
        ("--root=/data/images", "--root=…/images"),
        ("local-dir:/home/somebody/model", "local-dir:…/model"),
        ("file:///data/x", "file://…/x"),
        ("/data/a=b/c:/d", "…/d"),
    ],
)
def test_absolute_paths_are_relative_or_their_last_part(word: str, expected: str) -> None:
    assert public_command(f"cutmix-zoo {word} --end") == f"cutmix-zoo {expected} --end"


@pytest.mark.usefixtures("here")
def test_words_stay_words() -> None:
    words = ["cutmix-zoo", "a b", "/data/my images", "x y=/data/it's", f"{HERE}/a b", "", "--note=$HOME"]
    shown = public_command(shlex.join(words))
    assert shlex.split(shown) == ["cutmix-zoo", "a b", "…/my images", "x y=…/it's", "a b", "", "--note=$HOME"]
    assert "…/'my images'" in shown


def test_at_the_root_nothing_is_beneath_the_current_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "cwd", lambda: Path("/"))
    assert public_command("cutmix-zoo evaluate /home/somebody/model") == "cutmix-zoo evaluate …/model"


@pytest.mark.usefixtures("here")
def test_a_line_that_no_shell_takes_is_written_without_paths_too() -> None:
    assert "somebody" not in public_command("cutmix-zoo 'evaluate /home/somebody/model")
