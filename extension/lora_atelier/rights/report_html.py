"""The report for counsel as one HTML file: nothing is loaded, nothing runs, and it prints on A4 as it stands."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from .. import locales
from ..errors import Message, message

STYLE = """
body { font: 11pt/1.5 "Noto Sans", "Noto Sans JP", "Hiragino Sans", "Yu Gothic", sans-serif; max-width: 60rem;
       margin: 2rem auto; padding: 0 1rem; color: #111; background: #fff; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2rem; border-bottom: 1px solid #999; }
.head { border: 2px solid #111; padding: .6rem 1rem; }
table { border-collapse: collapse; width: 100%; font-size: 9pt; margin: .6rem 0; }
th, td { border: 1px solid #bbb; padding: .2rem .4rem; text-align: left; vertical-align: top; }
.long { overflow-wrap: anywhere; }
.pairs th { width: 30%; font-weight: normal; color: #333; }
thead { display: table-header-group; } tr { break-inside: avoid; }
code, pre { font-family: ui-monospace, monospace; font-size: 8.5pt; overflow-wrap: anywhere; white-space: pre-wrap; }
figure { margin: .8rem 0; break-inside: avoid; } figure img { max-width: 100%; border: 1px solid #bbb; }
figcaption { font-size: 9pt; color: #333; }
@media print { body { margin: 0; max-width: none; font-size: 10pt; } h2 { break-after: avoid; }
               @page { size: A4; margin: 15mm; } }
"""
UNKNOWN = "–"
_LONG = re.compile(r"\S{24}")


def render(report: Mapping[str, Any], lang: str = "en") -> str:
    """The whole page in ``lang``."""
    from .report_sections import sections

    page = Page(lang)
    body = "\n".join(sections(page, report))
    title = page.say(message("Record of a LoRA's rights"))
    return (
        f'<!doctype html>\n<html lang="{lang}"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">"
        f"<style>{STYLE}</style></head><body><h1>{title}</h1>\n{body}\n</body></html>\n"
    )


class Page:
    """The pieces of a page in one language; everything that comes from elsewhere is escaped."""

    def __init__(self, lang: str) -> None:
        self.lang = lang

    def say(self, said: Message) -> str:
        return escape(locales.sentence(said, self.lang))

    def say_json(self, said: Any) -> str:
        """A message that crossed as JSON; what is damaged is shown as it is."""
        try:
            return self.say(Message.from_json(said))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError):
            return escape(str(said))

    def title(self, said: Message) -> str:
        return f"<h2>{self.say(said)}</h2>"

    def line(self, said: Message) -> str:
        return f"<p>{self.say(said)}</p>"

    def lines(self, said: Iterable[Message]) -> str:
        return "<ul>" + "".join(f"<li>{self.say(one)}</li>" for one in said) + "</ul>"

    def pairs(self, values: Mapping[str, Any], names: Mapping[str, Message] | None = None) -> str:
        """Names and values below each other; ``names`` says the names for people."""
        rows = []
        for name, value in values.items():
            said = (names or {}).get(name)
            rows.append(
                f"<tr><th>{self.say(said) if said else escape(str(name))}</th><td>{self.value(value)}</td></tr>"
            )
        return f'<table class="pairs">{"".join(rows)}</table>'

    def table(self, head: Iterable[Message], rows: Iterable[Iterable[Any]], last: list[str] | None = None) -> str:
        """A table; ``last`` is a column of finished HTML."""
        top = "".join(f"<th>{self.say(one)}</th>" for one in head)
        lines = []
        for number, row in enumerate(rows):
            cells = [self.value(cell) for cell in row] + ([last[number]] if last is not None else [])
            lines.append(f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
        return f"<table><thead><tr>{top}</tr></thead><tbody>{''.join(lines)}</tbody></table>"

    def pictures(self, listed: Iterable[Any]) -> str:
        """Pictures that the report holds itself; an address of any other kind is left out."""
        found = []
        for one in listed:
            url, name = str(one.get("url", "")), escape(str(one.get("file", "")))
            if url.startswith("data:image/jpeg;base64,"):
                found.append(f'<figure><img src="{escape(url)}" alt="{name}"><figcaption>{name}</figcaption></figure>')
        return "".join(found)

    def value(self, value: Any) -> str:
        """A value as people read it: lists and small tables in words rather than as JSON."""
        if isinstance(value, Message):
            return self.say(value)
        if value in (None, "", {}, []):
            return UNKNOWN
        if isinstance(value, bool):
            return self.say(message("yes") if value else message("no"))
        if isinstance(value, Mapping):
            return "; ".join(f"{escape(str(name))}: {self.value(one)}" for name, one in value.items())
        if isinstance(value, list | tuple):
            return "<br>".join(self.value(one) for one in value)
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        # Hashes and addresses may be broken anywhere; words may not.
        return f'<span class="long">{escape(text)}</span>' if _LONG.search(text) else escape(text)
