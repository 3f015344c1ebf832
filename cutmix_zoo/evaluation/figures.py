"""What the figures of this package share: style, colours, panels, legends, files. matplotlib is inside."""

from __future__ import annotations

from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from cutmix_zoo.errors import UserError
from cutmix_zoo.evaluation.names import shortened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    Points = Iterable[tuple[float, float]]

P = ParamSpec("P")
T = TypeVar("T")

INK = "#010203"
"""The colour of text and axes: black to the eye, and to be found again by a page that has a colour of its own."""

COLOURS = ("#3a80d2", "#d2691e", "#2a9457", "#cf4458", "#8e66d0", "#15869a", "#a8703a", "#c9559a", "#7d7f22", "#7a7a7a")
"""Of the models in turn; each stands out from white and from nearly black."""

_MARKERS = "os^Dv<>Pph"

_WIDTH, _HEIGHT = 3.7, 2.9  # of a panel, in inches
_LONGEST_NAME = 44  # in characters, of a model in a legend or a title


@contextmanager
def plot_style() -> Iterator[None]:
    """Draw, and write what was drawn, in the style of this file, whatever the user's matplotlibrc says.

    Raises:
        UserError: if matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise UserError("pictures need matplotlib: pip install matplotlib") from error
    with mpl.rc_context():
        mpl.rcdefaults()
        inks = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "grid.color")
        mpl.rcParams.update(dict.fromkeys(inks, INK))
        mpl.rcParams.update(
            {
                "axes.axisbelow": True,
                "axes.facecolor": "none",
                "axes.grid": True,
                "axes.spines.right": False,
                "axes.spines.top": False,
                "figure.titlesize": 10,
                "font.sans-serif": ["DejaVu Sans"],
                "font.size": 9,
                "grid.alpha": 0.2,
                "legend.fontsize": 8.5,
                "legend.frameon": False,
                "lines.linewidth": 1.5,
                "lines.markersize": 4,
                "text.parse_math": False,  # a name may hold a dollar
            }
        )
        yield


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw in the style of this file."""

    @wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with plot_style():
            return draw(*args, **kwargs)

    return styled


def panel(title: str, width: float = _WIDTH, height: float = _HEIGHT) -> Figure:
    """Make an empty figure of so many inches, with a title."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title)
    return figure


def heading(what: str, name: str) -> str:
    """Write a name behind what is drawn of it, or below where the line would be too long for a figure."""
    (short,) = shortened([name], _LONGEST_NAME)
    return f"{what}: {short}" if len(what) + len(short) <= _LONGEST_NAME - 8 else f"{what}\n{short}"


def with_short_names(of_models: Mapping[str, T], most: int = _LONGEST_NAME) -> dict[str, T]:
    """Shorten the names of models to so many characters, and keep them apart."""
    return dict(zip(shortened(of_models, most), of_models.values(), strict=True))


def add_legend(figure: Figure, entries: Mapping[str, Any]) -> None:
    """Put a legend below the panel, a line an entry."""
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + 0.17 * len(entries))
    # a label that begins with an underscore would not be shown
    names = [f" {name}" if name.startswith("_") else name for name in shortened(entries, _LONGEST_NAME)]
    figure.legend(list(entries.values()), names, loc="outside lower left", labelspacing=0.2, borderpad=0.1)


def plot_curve(axis: Axes, points: Points, number: int, **style: Any) -> Any:
    """Draw the curve of a model, and return what stands for it in the legend."""
    x, y = zip(*points, strict=True)
    look: dict[str, Any] = {"color": COLOURS[number % len(COLOURS)], "marker": _MARKERS[number % len(_MARKERS)]}
    return axis.plot(x, y, **look, **style)[0]


def line_sample(linestyle: str) -> Any:
    """Make what stands for a style of lines in a legend."""
    from matplotlib.lines import Line2D

    return Line2D([], [], color=INK, linestyle=linestyle)


def count_whole(axis: Axes) -> None:
    """Put ticks on whole numbers of x alone."""
    from matplotlib.ticker import MaxNLocator

    axis.xaxis.set_major_locator(MaxNLocator("auto", integer=True))


def save_figures(figures: Mapping[str, Figure], folder: Path) -> list[Path]:
    """Write figures, by their names, as PNG files into a folder, which is made if it is missing.

    Returns:
        The files written.
    """
    files = []
    for name, figure in figures.items():
        file = folder / f"{name}.png"
        folder.mkdir(parents=True, exist_ok=True)
        with plot_style():
            figure.savefig(file, dpi=150)
        files.append(file)
    return files
