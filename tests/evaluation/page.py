"""Readers of reports and of their parts."""

from html.parser import HTMLParser

_VOID = ("meta", "wbr")


class Markup(HTMLParser):
    """Collects tags, attributes and text, and complains of tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in _VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


class Page(Markup):
    """Collects tables too, as rows of texts, by their labels, and what is bold or drawn."""

    def __init__(self, text: str) -> None:
        self.tables: dict[str, list[list[str]]] = {}
        self.bold: list[str] = []
        self.drawn: list[str] = []
        self._rows: list[list[str]] = []
        super().__init__(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        super().handle_starttag(tag, attrs)
        values = dict(attrs)
        if values.get("role") == "region":
            self._rows = self.tables.setdefault(str(values["aria-label"]), [])
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("th", "td"):
            self._rows[-1].append("")
        elif tag == "small":
            self._rows[-1][-1] += " "

    def handle_data(self, data: str) -> None:
        super().handle_data(data)
        if "td" in self._open or "th" in self._open:
            self._rows[-1][-1] += data
        if "text" in self._open:
            self.drawn.append(data)
        if "b" in self._open:
            self.bold.append(data)

    def row(self, table: str, name: str) -> list[str]:
        (row,) = (row[1:] for row in self.tables[table] if row[0] == name)
        return row
