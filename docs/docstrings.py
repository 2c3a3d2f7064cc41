"""Brings docstrings into the form that the API reference reads, without a change to the library."""

import re
from typing import Any

from griffe import Extension, Object

EXAMPLE = re.compile(r"^>>> .*\n(?:.+(?:\n|$))*", re.MULTILINE)
SHARED = re.compile(r"^ {4}(\w+(?:, \w+)+)(:.*\n(?: {8}.*\n)*)", re.MULTILINE)


class Docstrings(Extension):
    """Shows doctests as code, and gives arguments that share a line a line each."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Edits the docstring of one object."""
        if obj.docstring:
            text = SHARED.sub(separate, obj.docstring.value + "\n")
            obj.docstring.value = EXAMPLE.sub(fenced, text).rstrip()


def separate(line: re.Match[str]) -> str:
    """The line of several arguments as one line for each."""
    return "".join(f"    {name}{line[2]}" for name in line[1].split(", "))


def fenced(example: re.Match[str]) -> str:
    """An example between fences."""
    return f"```pycon\n{example[0].rstrip()}\n```\n"
