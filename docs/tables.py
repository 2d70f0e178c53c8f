"""Tables of the documentation that are made from the code, so that they cannot grow old."""

import inspect
import re
import sys
from collections.abc import Callable

import definetti_np
from definetti_np import ops


def arguments_table(function: Callable) -> str:
    """Markdown: each argument of a function with its default and the first sentence about it in the docstring."""
    meanings = documented_arguments(function)
    lines = ["| argument | default | meaning |", "|---|---|---|"]
    for name, parameter in inspect.signature(function).parameters.items():
        default = "" if parameter.default is parameter.empty else f"`{parameter.default!r}`"
        lines.append(f"| `{name}` | {default} | {first_sentence(meanings[name])} |")
    return "\n".join(lines)


def documented_arguments(function: Callable) -> dict[str, str]:
    """What the section Parameters of a docstring says, by argument, each on one line."""
    section = inspect.getdoc(function).split("Parameters\n----------\n")[1].split("\n\n")[0]
    return {name: " ".join(lines.split()) for name, lines in re.findall(r"^(\w+)((?:\n +.*)+)", section, re.MULTILINE)}


def operations_tables() -> str:
    """Markdown: a table for each file of `definetti_np.ops`, with a line for each operation."""
    by_file = {}
    for name in ops.__all__:
        by_file.setdefault(getattr(ops, name).__module__, []).append(name)
    tables = []
    for file, names in by_file.items():
        about = inspect.getdoc(sys.modules[file]).splitlines()[0]
        lines = [about, "", "| operation | what it computes |", "|---|---|"]
        for name in names:
            operation = getattr(ops, name)
            parameters = ", ".join(inspect.signature(operation).parameters)
            link = f"{{py:func}}`{name}({parameters}) <definetti_np.ops.{name}>`"
            lines.append(f"| {link} | {first_sentence(inspect.getdoc(operation))} |")
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


def first_sentence(text: str) -> str:
    """The first sentence of a text that may go over many lines, with code as Markdown writes it."""
    paragraph = " ".join(text.split("\n\n")[0].split())
    sentence = paragraph.split(". ")[0].rstrip(".")
    return sentence.replace("``", "`").replace("|", "\\|") + "."


def public_names() -> list[str]:
    """All names that a user may import, with their modules: "definetti_np.train", "definetti_np.layers.Conv", ..."""
    names = []
    for name in definetti_np.__all__:
        value = getattr(definetti_np, name)
        inside = [f"{name}.{part}" for part in value.__all__] if inspect.ismodule(value) else [name]
        names += [f"definetti_np.{part}" for part in inside]
    return names
