"""What stands in the report for counsel, section by section, from the JSON that ``report`` gathers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from html import escape
from typing import Any

from ..errors import Message, message
from . import licences
from .report_html import UNKNOWN, Page
from .report_words import word

_RUN = {
    "name": message("Name"),
    "trigger": message("Trigger word"),
    "goal": message("Goal"),
    "whose": message("Whose pictures these are, as it was answered"),
    "engine": message("Engine"),
    "base_model": message("Base model"),
    "created": message("Begun"),
    "quality": message("Quality"),
    "id": message("Folder of the training"),
}
_STATED = {
    "profile": message("Rules"),
    "basis": message("Basis"),
    "licence": message("Licence"),
    "licence_url": message("Address of the licence"),
    "creators": message("Creators"),
    "copyright_notice": message("Copyright notice"),
    "copyright_owner": message("Copyright owner"),
    "copyright_status": message("Copyright status"),
    "source_type": message("Where they come from"),
    "source_url": message("Address of the source"),
    "permits": message("Permits"),
    "people": message("Persons in the pictures"),
    "evidence": message("Documents"),
    "purpose_statement": message("Purpose"),
    "targets_specific_creator": message("Aims at the works of one creator"),
    "relation_to_creator": message("Relation to that creator"),
    "jp_enjoyment": message("Purpose of enjoyment (Japan, article 30-4)"),
    "jp_rationale": message("Reasons for that"),
    "title": message("Title"),
    "maintainer": message("Who looks after it"),
    "contact": message("Contact"),
    "note": message("Note"),
}


def sections(page: Page, report: Mapping[str, Any]) -> Iterator[str]:
    """The page's parts in their order."""
    yield _head(page, report)
    yield from _lora(page, report)
    yield from _measures(page, report)
    yield from _run(page, report)
    yield from _pictures(page, report)
    yield from _left_out(page, report)
    yield from _folders(page, report)
    yield from _memorisation(page, report)
    yield from _guard(page, report)
    yield from _limits(page)
    yield from _settings(page, report)


def _head(page: Page, report: Mapping[str, Any]) -> str:
    lines = (
        message(
            "This is a record, not advice. It shows what was stated, found and done, and by whom; it does not say "
            "whether that was permitted."
        ),
        message("Unclear cases need an expert: a lawyer who knows copyright and data protection where you are."),
        message(
            "Statements are those of who trained the LoRA. A signature shows that nothing was changed since, not that "
            "it is true."
        ),
        message("Made {when} by {program}.", when=str(report.get("made", "")), program=str(report["made_by"])),
    )
    return f'<div class="head">{"".join(page.line(line) for line in lines)}</div>'


def _lora(page: Page, report: Mapping[str, Any]) -> Iterator[str]:
    yield page.title(message("The LoRA"))
    lora = report.get("lora")
    if not lora:
        yield page.line(message("There is no finished LoRA file of it on this machine."))
        return
    named = {"file": lora["name"], "sha256": lora["tensors_sha256"], "key": lora["key"] or UNKNOWN}
    names = {"file": message("File"), "sha256": message("SHA-256 of its tensors"), "key": message("Key (Ed25519)")}
    yield page.pairs(named, names)
    yield "".join(f"<p>{page.say_json(one)}</p>" for one in lora["said"])
    yield page.line(message("Rights in the data that the base model learned from: not known."))


def _measures(page: Page, report: Mapping[str, Any]) -> Iterator[str]:
    """What was done against uses that nobody permitted, as far as the record shows it."""
    yield page.title(message("Measures that were taken"))
    yield page.lines(measures(report))


def measures(report: Mapping[str, Any]) -> Iterator[Message]:
    """The measures, one a sentence; what was not done is said as well."""
    rights = report.get("rights") or {}
    pictures, left_out = report.get("pictures"), report.get("left_out")
    if pictures is not None and left_out is not None:
        rules = [one.get("rule") for one in left_out]
        yield message(
            "Before the training every file was read for prohibitions and against its record: {used} pictures were "
            "used and {left_out} left out, {forbidden} of them for a prohibition and {withdrawn} because they were "
            "withdrawn.",
            used=len(pictures),
            left_out=len(left_out),
            forbidden=rules.count("reservation"),
            withdrawn=rules.count("withdrawn"),
        )
        overridden = sum(bool(one.get("override")) for one in pictures)
        yield message(
            "{count} pictures were used against a prohibition; the record says who decided that and why.",
            count=overridden,
        )
        alike = sum(bool(one.get("nearly_same_as")) for one in pictures)
        yield message(
            "{count} pictures that are nearly the same as another one shared its repeats, so that none was learned "
            "more often for coming several times.",
            count=alike,
        )
    tested = report.get("memorisation") or {}
    if tested.get("tested"):
        yield message(
            "At the end it was tested which training pictures come back: {tested} of {of} were drawn, {hits} came "
            "back.",
            tested=_number(tested, "tested"),
            of=_number(tested, "of"),
            hits=_number(tested, "hits"),
        )
    else:
        yield message("No training picture was drawn to see whether it comes back.")
    guard = report.get("guard") or {}
    if guard.get("checked"):
        verdicts = guard.get("verdicts") or {}
        yield message(
            "{count} outputs were compared with the training pictures: {copies} copy-like, {close} close, the rest "
            "without a finding.",
            count=_number(guard, "checked"),
            copies=_number(verdicts, "copy-like"),
            close=_number(verdicts, "close"),
        )
    else:
        yield message("No output of it was compared with the training pictures on this machine.")
    if (report.get("lora") or {}).get("signature") == "signed":
        yield message("The file is signed, so that a change of its tensors or of what it says of rights shows.")
    if rights:
        yield message("The file holds counts only: no names, captions, file names or addresses that were not opted in.")


def _number(values: Mapping[str, Any], name: str) -> int:
    value = values.get(name, 0)
    return value if isinstance(value, int) else 0


def _run(page: Page, report: Mapping[str, Any]) -> Iterator[str]:
    run = report.get("run")
    yield page.title(message("The training"))
    if not run:
        yield page.line(message("The training is not on this machine; what follows is what the file says."))
        return
    yield page.pairs({name: value for name, value in run.items() if name != "settings"}, _RUN)


def _pictures(page: Page, report: Mapping[str, Any]) -> Iterator[str]:
    pictures = report.get("pictures")
    if pictures is None:
        return
    yield page.title(message("Pictures that were used: {count}", count=len(pictures)))
    head = (
        message("Picture"), message("Basis"), message("Licence"), message("Said about training"),
        message("Override"), message("Documents"), message("Times shown"),
    )  # fmt: skip
    rows = []
    for one in pictures:
        signals = "; ".join(f"{name} × {count}" for name, count in one.get("signals", {}).items())
        names = f"{one['name']} {one['sha256'][:16]}" + (" (reg)" if one.get("is_reg") else "")
        documents = ", ".join(sha256[:12] for sha256 in one.get("evidence", ()))
        said = [word(one["data_mining"]), signals] if signals else word(one["data_mining"])
        shown = UNKNOWN if one.get("shown") is None else str(one["shown"])
        basis, licence = word(one["basis"]), one.get("licence", "")
        rows.append((names, basis, licence, said, one.get("override", ""), documents, shown))
    yield page.table(head, rows)


def _left_out(page: Page, report: Mapping[str, Any]) -> Iterator[str]:
    left_out = report.get("left_out")
    if left_out is None:
        return
    yield page.title(message("Pictures that were left out: {count}", count=len(left_out)))
    if left_out:
        rows = ((one["name"], word(one["rule"])) for one in left_out)
        sentences = [page.say_json(one.get("why")) for one in left_out]
        yield page.table((message("Picture"), message("Rule"), message("Why")), rows, last=sentences)


def _folders(page: Page, report: Mapping[str, Any]) -> Iterator[str]:
    for folder in report.get("folders", ()):
        yield page.title(message("What is stated: {folder}", folder=str(folder.get("folder", ""))))
        if folder.get("problem"):
            yield page.line(Message("{problem}", {"problem": folder["problem"]}))
            continue
        if folder["statement"]:
            stated = {name: _stated(value) for name, value in folder["statement"].items() if name != "evidence"}
            yield page.pairs(stated, _STATED)
        if folder["exceptions"]:
            head = (message("Picture"), message("What is stated"), message("Override"))
            yield page.table(head, ((one["name"], one["said"], one["override"]) for one in folder["exceptions"]))
        if folder["evidence"]:
            columns = (message("Document"), message("Kind"), message("Holds until"), message("State"))
            kept = page.say(message("kept as it was sealed"))
            state = [page.say_json(one["problem"]) if one["problem"] else kept for one in folder["evidence"]]
            rows = ((one["sha256"], word(one["kind"]), one.get("valid_until", "")) for one in folder["evidence"])
            yield page.table(columns, rows, last=state)
        columns = (message("When"), message("Who"), message("What"), message("Hash"))
        yield page.table(columns, ((one["at"], one["by"], word(one["what"]), one["hash"]) for one in folder["history"]))


def _stated(value: Any) -> Any:
    """Creators by their names alone, permits in one line, single words in the reader's language."""
    if isinstance(value, list) and all(isinstance(one, Mapping) and "name" in one for one in value):
        return [one.get("credit_as") or one["name"] for one in value]
    if isinstance(value, Mapping) and set(value) <= set(licences.PERMITS):
        return ", ".join(f"{name} {answer}" for name, answer in value.items())
    return word(value) if isinstance(value, str) else value


def _memorisation(page: Page, report: Mapping[str, Any]) -> Iterator[str]:
    yield page.title(message("Memorisation test"))
    stamp, test = report.get("memorisation"), report.get("memorisation_test")
    if not stamp and not test:
        yield page.line(message("No test is recorded."))
        return
    if stamp:
        names = {
            "tested": message("Pictures that were drawn"),
            "of": message("Pictures in all"),
            "silent": message("Too plain or too much alike to compare"),
            "seeds": message("Seeds of each"),
            "hits": message("Came back"),
            "safe_weight": message("Weight up to which none came back in this test"),
            "compared": message("Compared by their loss"),
            "detector": message("Compared by"),
        }
        yield page.pairs({name: value for name, value in stamp.items() if name != "schema"}, names)
    if test and test.get("tested"):
        head = (
            message("Picture"), message("Found"), message("Nearest training picture"),
            message("Weight up to which none came back in this test"), message("Loss gap"),
        )  # fmt: skip
        yield page.table(head, (_tested(page, one) for one in test["tested"]))
        yield page.pictures(test.get("pairs", ()))
    yield page.line(message("This holds for the prompts and seeds of the test and says nothing of others."))


def _tested(page: Page, one: Mapping[str, Any]) -> tuple[Any, ...]:
    near = one.get("near") or {}
    weight, gap = one.get("safe_weight"), one.get("gap")
    return (
        one.get("name", ""),
        word(one.get("verdict", "")),
        near.get("picture", ""),
        UNKNOWN if weight is None else str(weight),
        f"{gap:.4f}" if isinstance(gap, int | float) else "",
    )


def _guard(page: Page, report: Mapping[str, Any]) -> Iterator[str]:
    guard = report.get("guard") or {}
    yield page.title(message("The guard's log: {count} outputs compared", count=_number(guard, "checked")))
    entries = guard.get("entries", ())
    if not entries:
        yield page.line(message("Nothing is recorded."))
        return
    head = (
        message("When"), message("Output"), message("LoRAs and weights"), message("Found"),
        message("Nearest training picture"), message("Decision"),
    )  # fmt: skip
    yield page.table(head, map(_logged, entries))
    yield page.pictures(guard.get("pairs", ()))


def _logged(one: Mapping[str, Any]) -> tuple[Any, ...]:
    finding = one.get("finding") or {}
    near = finding.get("near") or {}
    place = f"{near.get('picture', '')} ({near.get('lora', '')})" if near else ""
    return (
        one.get("time", ""),
        one.get("picture", ""),
        ", ".join(_weighed(each) for each in one.get("loras") or ()),
        word(finding.get("verdict", "")),
        place,
        word(one.get("decision") or ""),
    )


def _weighed(lora: Mapping[str, Any]) -> str:
    weights = dict.fromkeys(str(lora[name]) for name in ("te", "unet") if name in lora)
    return f"{lora.get('name', '')} {' / '.join(weights)}".strip()


def _settings(page: Page, report: Mapping[str, Any]) -> Iterator[str]:
    settings = (report.get("run") or {}).get("settings")
    if settings:
        yield page.title(message("Settings of the training"))
        yield f"<pre>{escape(str(settings))}</pre>"


def _limits(page: Page) -> Iterable[str]:
    yield page.title(message("What this record does not show"))
    yield page.lines(
        (
            message("Style and the likeness of persons or characters: the guard finds copies of compositions only."),
            message("Prohibitions that were lost: platforms often remove them, so that none found says little."),
            message("What the base model learned from."),
        )
    )
