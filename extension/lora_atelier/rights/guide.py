"""The page for creators: ``docs/creators.md`` and its Japanese, as HTML. Knows the little Markdown that they use."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

from .report_html import STYLE

_HERE = Path(__file__).resolve()
# In a checkout, and where the package is installed (pyproject.toml puts them there).
_FOLDERS = (_HERE.parents[3] / "docs", _HERE.parents[1] / "docs")
_LINK = re.compile(r"&lt;(https?://[^\s&]+(?:&amp;[^\s&]+)*)&gt;|\[([^\]]+)\]\((https?://[^)\s]+)\)")


def page(lang: str) -> str:
    """The whole page in ``lang``; in English where there is no other."""
    text = _text(f"creators.{lang}.md" if lang != "en" else "creators.md") or _text("creators.md")
    title = next((line[2:] for line in text.splitlines() if line.startswith("# ")), "LoRA Atelier")
    return (
        f'<!doctype html>\n<html lang="{escape(lang)}"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head><body>\n{markdown(text)}\n</body></html>\n"
    )


def _text(name: str) -> str:
    for folder in _FOLDERS:
        try:
            return (folder / name).read_text(encoding="utf-8")
        except OSError:
            continue
    return ""


def markdown(text: str) -> str:
    """Headings, paragraphs, lists, tables, bold and links as HTML; everything else is text."""
    made: list[str] = []
    for block in re.split(r"\n\s*\n", text.strip()):
        lines = [line.rstrip() for line in block.splitlines()]
        if match := re.match(r"(#{1,3}) (.*)", lines[0]):
            level = len(match.group(1))
            made.append(f"<h{level}>{_inline(match.group(2))}</h{level}>")
            lines = lines[1:]
        if not lines:
            continue
        if lines[0].startswith("|"):
            made.append(_table(lines))
        elif lines[0].startswith("- "):
            items = re.split(r"\n- ", "\n" + "\n".join(lines))[1:]
            made.append("<ul>" + "".join(f"<li>{_inline(' '.join(item.split()))}</li>" for item in items) + "</ul>")
        else:
            made.append(f"<p>{_inline(' '.join(line.strip() for line in lines))}</p>")
    return "\n".join(made)


def _table(lines: list[str]) -> str:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    head = "".join(f"<th>{_inline(cell)}</th>" for cell in rows[0])
    cells = ("".join(f"<td>{_inline(cell)}</td>" for cell in row) for row in rows[2:])
    body = "".join(f"<tr>{row}</tr>" for row in cells)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _inline(text: str) -> str:
    def link(match: re.Match[str]) -> str:
        address, words = match.group(1) or match.group(3), match.group(2) or match.group(1)
        return f'<a href="{address}" rel="noreferrer">{words}</a>'

    found = _LINK.sub(link, escape(text, quote=True))
    found = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", found)
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", found)
