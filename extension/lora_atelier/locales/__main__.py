"""``python -m lora_atelier.locales [--sort]``: list the texts that lack a Japanese translation, or sort ``ja.json``."""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from .. import errors

PACKAGE = Path(__file__).parents[1]
JAVASCRIPT = Path(__file__).parents[3] / "javascript"
# Calls whose literal arguments are templates that a person will read.
_FIRST_ARGUMENT = {"message", "Message", "text", "_"}
_SECOND_ARGUMENT = {"problem"}
_PARTS = {"what", "why", "todo"}
_ERRORS = {name for name, cls in vars(errors).items() if isinstance(cls, type) and issubclass(cls, Exception)}
_JAVASCRIPT_CALL = re.compile(r"""\bt\(\s*("(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|`(?:[^`\\$]|\\.)*`)""")


def python_templates(source: str) -> Iterator[str]:
    """Every template that a Python source gives to an error, a message or a label."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
        if name in _SECOND_ARGUMENT:
            yield from _literals(node.args[1:2])
        elif name in _FIRST_ARGUMENT:
            yield from _literals(node.args[:1])
        elif name == "setting":
            yield from _literals(node.args[1:3])
        elif name in _ERRORS:
            yield from _literals(node.args[:1])
            yield from _literals([keyword.value for keyword in node.keywords if keyword.arg in _PARTS])


def _literals(nodes: list[ast.expr]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.strip("{} .") != "":
            yield node.value
        elif isinstance(node, ast.IfExp):
            yield from _literals([node.body, node.orelse])


def javascript_templates(source: str) -> Iterator[str]:
    """Every literal that a script gives to ``t(…)``."""
    for match in _JAVASCRIPT_CALL.finditer(source):
        literal = match.group(1)[1:-1]
        yield re.sub(r"\\(.)", lambda m: {"n": "\n"}.get(m.group(1), m.group(1)), literal)


def templates() -> dict[str, str]:
    """All templates of the package and its scripts, each with the file that says it."""
    found: dict[str, str] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.parent != Path(__file__).parent:
            for template in python_templates(path.read_text(encoding="utf-8")):
                found.setdefault(template, path.name)
    for path in sorted(JAVASCRIPT.glob("*.js")):
        for template in javascript_templates(path.read_text(encoding="utf-8")):
            found.setdefault(template, path.name)
    return found


def main() -> int:
    """List what is missing or no longer used; returns the number of missing translations, at most 1."""
    path = Path(__file__).with_name("ja.json")
    entries: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if "--sort" in sys.argv:
        text = json.dumps(entries, ensure_ascii=False, indent=2, sort_keys=True) + "\n"
        path.write_text(text, encoding="utf-8", newline="\n")
    said = templates()
    for template in sorted(said.keys() - entries.keys()):
        print(f"missing ({said[template]}): {json.dumps(template, ensure_ascii=False)}")
    for template in sorted(entries.keys() - said.keys()):
        print(f"unused: {json.dumps(template, ensure_ascii=False)}")
    return int(bool(said.keys() - entries.keys()))


if __name__ == "__main__":
    raise SystemExit(main())
