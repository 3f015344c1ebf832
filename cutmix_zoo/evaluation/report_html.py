"""Pieces of a page that needs nothing beside itself: tables, figures, folded parts, and the page around them.

Text becomes HTML by :func:`escaped` and nowhere else; what is called ``html`` has gone through it.
"""

from __future__ import annotations

import re
from html import escape
from typing import TYPE_CHECKING

from cutmix_zoo.evaluation.names import visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --ink: #1b1f24; --soft: #59636e; --line: #d4d9df; --tint: #f3f5f8; }
@media (prefers-color-scheme: dark) {
  :root { --page: #14171b; --ink: #e4e8ec; --soft: #a0aab4; --line: #343b43; --tint: #1d2227; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 78rem; padding: 1rem; background: var(--page); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0.5rem 0; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 0.4rem; padding-top: 0.8rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.2rem 0 0.3rem; }
p, ul { max-width: 46rem; margin: 0.4rem 0; }
ul { padding-left: 1.2rem; }
.soft, figcaption { color: var(--soft); font-size: 0.9rem; }
.scroll { overflow-x: auto; margin: 0.6rem 0; max-width: 100%; }
.scroll:focus-visible, summary:focus-visible { outline: 2px solid #3a80d2; outline-offset: 2px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.92rem; }
th, td { padding: 0.28rem 0.7rem; text-align: right; vertical-align: top; border-bottom: 1px solid var(--line);
  max-width: 15rem; overflow-wrap: normal; }
thead th { vertical-align: bottom; font-weight: 600; background: var(--tint); min-width: 5.5rem; }
th[scope=row] { text-align: left; font-weight: 400; background: var(--page); position: sticky; left: 0;
  min-width: 8rem; max-width: 18rem; }
thead th:first-child { text-align: left; position: sticky; left: 0; }
td.text { min-width: 7rem; overflow-wrap: anywhere; }
td small { display: block; color: var(--soft); font-size: 0.85em; }
.figures { display: flex; flex-wrap: wrap; gap: 1rem 1.6rem; margin: 0.8rem 0; }
figure { margin: 0; max-width: 100%; min-width: 0; }
svg { display: block; max-width: 100%; height: auto; stroke-linejoin: round; stroke-linecap: butt; }
details { margin: 0.5rem 0; }
summary { cursor: pointer; padding: 0.3rem 0; }
pre { overflow-x: auto; background: var(--tint); padding: 0.7rem; margin: 0.4rem 0;
  font-size: 0.82rem; line-height: 1.4; }
code { font-family: ui-monospace, monospace; font-size: 0.9em; }
@media (max-width: 36rem) {
  body { padding: 0.8rem; }
  th[scope=row], thead th:first-child { min-width: 7rem; max-width: 38vw; }
  th, td { padding: 0.28rem 0.5rem; }
}
@media print { details > * { display: block; } }
""".strip()

# nothing is loaded and nothing is run, whatever a name holds
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def escaped(text: object) -> str:
    r"""Turn text into HTML that shows it, safe between tags and within a quoted attribute.

    Example:
        >>> escaped("<b> & co\0")
        '&lt;b&gt; &amp; co\\x00'
    """
    return escape(visible(str(text)))


def paragraph(text: str, kind: str = "") -> str:
    """Make a paragraph of a text; ``kind`` is ``soft`` for what is said aside."""
    return f'<p class="{kind}">{escaped(text)}</p>' if kind else f"<p>{escaped(text)}</p>"


def bullets(texts: Iterable[str]) -> str:
    """Make a list of texts."""
    return f"<ul>{''.join(f'<li>{escaped(text)}</li>' for text in texts)}</ul>"


def heading(text: str, level: int = 2) -> str:
    """Make a heading of a text."""
    return f"<h{level}>{escaped(text)}</h{level}>"


def preformatted(text: str) -> str:
    """Show a text as it is, line by line."""
    lines = "\n".join(map(escaped, text.split("\n")))
    return f"<pre>{lines}</pre>"


def folded(summary: str, html: str, *, unfolded: bool = False) -> str:
    """Put HTML behind a line of text that folds it away and back."""
    return f"<details{' open' if unfolded else ''}><summary>{escaped(summary)}</summary>{html}</details>"


def _breakable(text: str) -> str:
    """Turn a name into HTML that may go on in the next line after its underscores, slashes and dots, but no number."""
    return re.sub(r"([_/]|\.(?=[^\d.]))", r"\1<wbr>", escaped(text))


def cell(value: str, *, beside: str = "", strong: bool = False) -> str:
    """Make a cell of a number or a word.

    Args:
        value: the number.
        beside: what stands smaller below it.
        strong: whether it is bold.
    """
    html = f"<b>{_breakable(value)}</b>" if strong else _breakable(value)
    return f"<td>{html}<small>{escaped(beside)}</small></td>" if beside else f"<td>{html}</td>"


def text_cell(text: str) -> str:
    """Make a cell of a text that may be broken anywhere, such as a checksum."""
    return f'<td class="text">{escaped(text)}</td>'


def table(about: str, columns: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]]) -> str:
    """Make a table that scrolls in a box of its own where the page is narrow.

    Args:
        about: what it is, for those who do not see it.
        columns: headings as text, that of the rows' names first.
        rows: their names as text, and their cells as HTML, such as of :func:`cell`.
    """
    head = "".join(f'<th scope="col">{_breakable(column)}</th>' for column in columns)
    body = "".join(f'<tr><th scope="row">{escaped(name)}</th>{"".join(cells)}</tr>' for name, cells in rows)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escaped(about)}">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def figures(svgs: Iterable[str]) -> str:
    """Put figures side by side as far as there is room."""
    html = "".join(f"<figure>{svg}</figure>" for svg in svgs)
    return f'<div class="figures">{html}</div>' if html else ""


def page(title: str, html: str) -> str:
    """Make the page around its content."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f"<title>{escaped(title)}</title>\n<style>\n{_STYLE}\n</style>\n</head>\n"
        f"<body>\n<main>\n{html}\n</main>\n</body>\n</html>\n"
    )
