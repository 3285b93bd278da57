"""The report for counsel as one HTML file: nothing is loaded, nothing runs, and it prints on A4 as it stands."""

from __future__ import annotations

import json
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
th, td { border: 1px solid #bbb; padding: .2rem .4rem; text-align: left; vertical-align: top; overflow-wrap: anywhere; }
thead { display: table-header-group; } tr { break-inside: avoid; }
code, pre { font-family: ui-monospace, monospace; font-size: 8.5pt; overflow-wrap: anywhere; white-space: pre-wrap; }
@media print { body { margin: 0; max-width: none; } h2 { break-after: avoid; } @page { size: A4; margin: 15mm; } }
"""
_UNKNOWN = "–"


def render(report: Mapping[str, Any], lang: str = "en") -> str:
    """The whole page in ``lang``."""
    page = _Page(lang)
    body = "\n".join(page.sections(report))
    title = page.say(message("Record of a LoRA's rights"))
    return (
        f'<!doctype html>\n<html lang="{lang}"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<style>{STYLE}</style></head><body><h1>{title}</h1>\n{body}\n</body></html>\n"
    )


class _Page:
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

    def sections(self, report: Mapping[str, Any]) -> Iterable[str]:
        yield self._head(report)
        yield from self._lora(report)
        yield from self._run(report)
        yield from self._pictures(report)
        yield from self._left_out(report)
        yield from self._folders(report)
        yield from self._memorisation(report)
        yield from self._guard(report)
        yield from self._limits()

    def _head(self, report: Mapping[str, Any]) -> str:
        lines = (
            message(
                "This is a record, not advice. It shows what was stated, found and done, and by whom; it does not say "
                "whether that was permitted."
            ),
            message("Unclear cases need an expert: a lawyer who knows copyright and data protection where you are."),
            message("Statements are those of who trained the LoRA. A signature shows that nothing was changed since, "
                    "not that it is true."),
            message("Made {when} by {program}.", when=str(report.get("made", "")), program=str(report["made_by"])),
        )  # fmt: skip
        return f'<div class="head">{"".join(f"<p>{self.say(line)}</p>" for line in lines)}</div>'

    def _lora(self, report: Mapping[str, Any]) -> Iterable[str]:
        yield self._title(message("The LoRA"))
        lora = report.get("lora")
        if not lora:
            yield self._none(message("There is no finished LoRA file of it on this machine."))
            return
        yield self._pairs({"": lora["name"], "sha256": lora["tensors_sha256"], "Ed25519": lora["key"] or _UNKNOWN})
        yield "".join(f"<p>{self.say_json(one)}</p>" for one in lora["said"])
        yield f"<p>{self.say(message('Rights in the data that the base model learned from: not known.'))}</p>"

    def _run(self, report: Mapping[str, Any]) -> Iterable[str]:
        run = report.get("run")
        yield self._title(message("The training"))
        if not run:
            yield self._none(message("The training is not on this machine; what follows is what the file says."))
            return
        yield self._pairs({name: value for name, value in run.items() if name != "settings"})
        if run.get("settings"):
            yield f"<details open><summary>config.toml</summary><pre>{escape(run['settings'])}</pre></details>"

    def _pictures(self, report: Mapping[str, Any]) -> Iterable[str]:
        pictures = report.get("pictures")
        if pictures is None:
            return
        yield self._title(message("Pictures that were used: {count}", count=len(pictures)))
        head = (
            message("Picture"), message("Basis"), message("Licence"), message("Said about training"),
            message("Override"), message("Documents"),
        )  # fmt: skip
        rows = []
        for one in pictures:
            signals = "; ".join(f"{name} × {count}" for name, count in one.get("signals", {}).items())
            names = f"{one['name']} {one['sha256'][:16]}" + (" (reg)" if one.get("is_reg") else "")
            documents = ", ".join(sha256[:12] for sha256 in one.get("evidence", ()))
            said = one["data_mining"] + (f" ({signals})" if signals else "")
            rows.append((names, one["basis"], one.get("licence", ""), said, one.get("override", ""), documents))
        yield self._table(head, rows)

    def _left_out(self, report: Mapping[str, Any]) -> Iterable[str]:
        left_out = report.get("left_out")
        if left_out is None:
            return
        yield self._title(message("Pictures that were left out: {count}", count=len(left_out)))
        if left_out:
            rows = ((one["name"], one["rule"]) for one in left_out)
            sentences = [self.say_json(one.get("why")) for one in left_out]
            head = (message("Picture"), message("Rule"), message("Why"))
            yield self._table(head, rows, last=sentences)

    def _folders(self, report: Mapping[str, Any]) -> Iterable[str]:
        for folder in report.get("folders", ()):
            yield self._title(message("What is stated: {folder}", folder=str(folder.get("folder", ""))))
            if folder.get("problem"):
                yield self._none(Message("{problem}", {"problem": folder["problem"]}))
                continue
            yield self._pairs(folder["statement"])
            if folder["exceptions"]:
                head = (message("Picture"), message("What is stated"), message("Override"))
                rows = ((one["name"], _text(one["said"]), _text(one["override"])) for one in folder["exceptions"])
                yield self._table(head, rows)
            if folder["evidence"]:
                columns = (message("Document"), message("Kind"), message("Holds until"), message("State"))
                kept = self.say(message("kept as it was sealed"))
                state = [self.say_json(one["problem"]) if one["problem"] else kept for one in folder["evidence"]]
                rows3 = ((one["sha256"], one["kind"], one.get("valid_until", "")) for one in folder["evidence"])
                yield self._table(columns, rows3, last=state)
            columns = (message("When"), message("Who"), message("What"), message("Hash"))
            yield self._table(columns, ((one["at"], one["by"], one["what"], one["hash"]) for one in folder["history"]))

    def _memorisation(self, report: Mapping[str, Any]) -> Iterable[str]:
        yield self._title(message("Memorisation test"))
        if report.get("memorisation"):
            yield self._pairs(report["memorisation"])
            yield self._none(message("This holds for the prompts and seeds of the test and says nothing of others."))
        else:
            yield self._none(message("No test is recorded."))

    def _guard(self, report: Mapping[str, Any]) -> Iterable[str]:
        guard = report.get("guard") or {}
        yield self._title(message("The guard's log: {count} outputs compared", count=int(guard.get("checked", 0))))
        entries = guard.get("entries", ())
        if not entries:
            yield self._none(message("Nothing is recorded."))
            return
        head = (message("When"), message("Output"), message("Found"), message("Decision"))
        rows = (
            (one.get("time", ""), one.get("picture", ""), _text(one.get("finding")), str(one.get("decision") or ""))
            for one in entries
        )
        yield self._table(head, rows)

    def _limits(self) -> Iterable[str]:
        yield self._title(message("What this record does not show"))
        for line in (
            message("Style and the likeness of persons or characters: the guard finds copies of compositions only."),
            message("Prohibitions that were lost: platforms often remove them, so that none found says little."),
            message("What the base model learned from."),
        ):
            yield f"<p>{self.say(line)}</p>"

    def _title(self, said: Message) -> str:
        return f"<h2>{self.say(said)}</h2>"

    def _none(self, said: Message) -> str:
        return f"<p>{self.say(said)}</p>"

    def _pairs(self, values: Mapping[str, Any]) -> str:
        rows = "".join(f"<tr><th>{escape(str(k))}</th><td>{escape(_text(v))}</td></tr>" for k, v in values.items())
        return f"<table>{rows}</table>"

    def _table(self, head: Iterable[Message], rows: Iterable[Iterable[Any]], last: list[str] | None = None) -> str:
        """A table; ``last`` is a column of finished HTML."""
        top = "".join(f"<th>{self.say(one)}</th>" for one in head)
        lines = []
        for number, row in enumerate(rows):
            cells = [escape(str(cell)) for cell in row] + ([last[number]] if last is not None else [])
            lines.append(f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
        return f"<table><thead><tr>{top}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _text(value: Any) -> str:
    if value in (None, "", {}, []):
        return _UNKNOWN
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
