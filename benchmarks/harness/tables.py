"""Tables of texts, on the terminal and in Markdown."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


def print_table(
    head: Sequence[str],
    rows: Iterable[Iterable[str]],
    title: str,
    caption: str | None = None,
    *,
    left: Collection[str] = (),
    **style: Any,
) -> None:
    """Prints a table, in which the columns with a name in `left` are aligned to the left."""
    table = Table(title=title, caption=caption, **style)
    for column in head:
        table.add_column(column, justify="left" if column in left else "right")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def markdown_table(head: Sequence[str], rows: Iterable[Iterable[str]]) -> str:
    """Formats a table in Markdown.

    >>> print(markdown_table(["task", "ours"], [["sinusoid", "0.5"]]))
    | task | ours |
    | --- | --- |
    | sinusoid | 0.5 |
    """
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def interval(value: dict[str, float | None], scale: float, decimals: int) -> str:
    """A mean and its 95% confidence interval, which a study of one seed does not have."""
    if value["mean"] is None:
        return "diverged"
    numbers = [scale * x for x in (value["mean"], value["ci95"]) if x is not None]
    shape = f".{decimals}f" if max(map(abs, numbers)) < 1e4 else ".0e"
    return " ± ".join(format(x, shape) for x in numbers)


def quantity(number: int, thing: str) -> str:
    """A number with its noun, in the singular or the plural.

    >>> quantity(1, "seed"), quantity(5, "seed")
    ('1 seed', '5 seeds')
    """
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
