"""Rows drawn: a table that never leaves the terminal, CSV, Markdown."""

import csv
import io
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDEST = 140
_GAP = 2
STYLES = {
    "fits": "bold green",
    "tight": "bold yellow",
    "offloads": "bold yellow",
    "streams from disk": "bold yellow",
    "does not fit": "bold red",
    "unsupported": "dim",
}


class Page:
    """Text for a terminal or a pipe, collected line by line."""

    def __init__(self, *, to_file: bool = False) -> None:
        self._buffer = io.StringIO()
        on_terminal = sys.stdout.isatty() and not to_file
        self.width = min(WIDEST, shutil.get_terminal_size((100, 24)).columns)
        self._console = Console(
            file=self._buffer, width=self.width, force_terminal=on_terminal, highlight=False, legacy_windows=False
        )

    def heading(self, text: str) -> None:
        """Add a line that answers."""
        self._console.print(Text(text, style="bold"))

    def blank(self) -> None:
        """Add an empty line."""
        self._console.print()

    def table(
        self, header: Sequence[str], rows: Sequence[Sequence[str]], *, left: frozenset[str] = frozenset()
    ) -> None:
        """Add a table, or the same cells one below the other where it is wider than the terminal."""
        widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
        if sum(widths) + _GAP * (len(header) - 1) > self.width:
            for row in rows:
                self.sentences((title, cell) for title, cell in zip(header, row, strict=True) if cell)
                self.blank()
            return
        table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="bold")
        for title in header:
            table.add_column(title, justify="left" if title in left else "right", no_wrap=True)
        for row in rows:
            table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
        self._console.print(table)

    def sentences(self, said: Iterable[tuple[str, str]]) -> None:
        """Add labels with their sentences, wrapped and indented."""
        print_sentences(self._console, said)

    def text(self) -> str:
        """Return all of it; nothing trails a line in a pipe."""
        return "\n".join(line.rstrip() for line in self._buffer.getvalue().splitlines()) + "\n"


def print_sentences(console: Console, said: Iterable[tuple[str, str]]) -> None:
    """Print labels with their sentences, wrapped and indented; a label too long for the indent has its own line."""
    pairs = list(said)
    longest = max((len(label) for label, _ in pairs), default=0)
    indent = min(longest + _GAP, console.width // 3) if longest else 0
    page = Text()  # printed at once: a print of rich's costs a fifth of a millisecond
    for label, text in pairs:
        if len(label) >= indent > 0:
            page.append(f"{label}\n", style="bold")
        for index, line in enumerate(textwrap.wrap(text, max(20, console.width - indent), break_on_hyphens=False)):
            start = f"{label if index == 0 and len(label) < indent else '':<{indent}}"
            page.append(start, style="bold").append(f"{line}\n")
    if page:
        console.print(page, soft_wrap=True, end="")


def render_csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return comma-separated values; nothing is an empty cell."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(["" if cell is None else cell for cell in row] for row in rows)
    return buffer.getvalue()


def render_markdown(header: Sequence[str], rows: Iterable[Sequence[str]], *, left: frozenset[str] = frozenset()) -> str:
    """Return a Markdown table."""
    lines = [header, ["---" if title in left else "---:" for title in header], *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in lines) + "\n"
