"""The command ``rights``: what is stated about pictures, and what a LoRA says of them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import cli_rights_files
from .cli_rights_console import Console as Console
from .cli_rights_console import read_bytes
from .errors import DataError, RightsError, message


def add_commands(parser: argparse.ArgumentParser, console: Callable[[argparse.Namespace], Console]) -> None:
    """The commands below ``rights``; ``console`` is asked when one of them runs."""
    commands = parser.add_subparsers(dest="rights_command", required=True)

    def command(name: str, text: str, run: Callable[[argparse.Namespace, Console], int]) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=text, description=text)
        one.add_argument("--data-dir", type=Path, metavar="DIR", help="where LoRAs, trainings and pictures are kept")
        one.set_defaults(run=lambda options: run(options, console(options)))
        return one

    scan = command("scan", "look through a folder of pictures, and say what a training would do", _scan)
    scan.add_argument("folder", type=Path)
    scan.add_argument("--whose", default="mine", help="mine, permission, open-licence, studio or experiment")
    scan.add_argument("--json", action="store_true", help="for programs")

    state = command("state", "state something about a folder, or about single pictures of it", _state)
    state.add_argument("folder", type=Path)
    _pictures(state)
    state.add_argument("--basis", help="owner, licence, written_permission, public_domain …")
    state.add_argument("--licence", help="as you write it: CC BY 4.0, an address, a name of your own")
    state.add_argument("--creator", action="append", help="a creator's name (again for more)")
    state.add_argument("--credit", action="store_true", help="the creators' names may stand in the LoRA file")
    state.add_argument("--profile", help="own-work, open-licence, studio or experiment")
    state.add_argument("--contact", help="an address that may stand in the LoRA file")
    state.add_argument("--json", metavar="OBJECT", help="anything else, as the record has it: '{\"people\": …}'")

    override = command("override", "use pictures against a prohibition; needs a name and a reason", _override)
    override.add_argument("folder", type=Path)
    _pictures(override, required=True)
    override.add_argument("--reason", required=True)

    withdraw = command("withdraw", "take pictures out for good", _withdraw)
    withdraw.add_argument("folder", type=Path)
    _pictures(withdraw, required=True)

    attach = command("evidence", "attach a contract, mail, licence page, release or invoice", _evidence)
    attach.add_argument("folder", type=Path)
    attach.add_argument("file", type=Path)
    attach.add_argument("--kind", default="other", help="contract, mail, licence_page, release, invoice or other")
    attach.add_argument("--from", dest="valid_from", default="", metavar="YYYY-MM-DD")
    attach.add_argument("--until", dest="valid_until", default="", metavar="YYYY-MM-DD")
    _pictures(attach)

    approve = command("approve", "note the files as they are now: a training of others stops", _approve)
    approve.add_argument("folder", type=Path)
    approve.add_argument("--by", default="", help="who says so")

    strip = command("strip", "copy the pictures without personal data; --undo takes the copies away", _strip)
    strip.add_argument("folder", type=Path)
    strip.add_argument("--output", type=Path, metavar="DIR", help="default: beside the folder")
    strip.add_argument("--undo", action="store_true", help="the folder is one of such copies: delete it")

    show = command("show", "say what a LoRA says of the rights of its pictures", cli_rights_files.show)
    show.add_argument("lora", type=Path)
    show.add_argument("--json", action="store_true", help="for programs")

    verify = command("verify", "check a LoRA's signature, a proof, or a folder's record", cli_rights_files.verify)
    verify.add_argument("target", type=Path, help="a LoRA file or a folder of pictures")
    verify.add_argument("--proof", type=Path, metavar="JSON", help="a proof that `prove` made")
    verify.add_argument("--picture", type=Path, help="the picture that the proof shall be of")

    prove = command("prove", "make a proof that a picture is among those of a LoRA", cli_rights_files.prove)
    prove.add_argument("lora", type=Path)
    prove.add_argument("picture", type=Path)
    prove.add_argument("--output", type=Path, metavar="JSON", help="default: on the console")

    contains = command(
        "contains", "say whether a picture is among those of a LoRA that was trained here", cli_rights_files.contains
    )
    contains.add_argument("lora", type=Path)
    contains.add_argument("picture", type=Path)

    report = command("report", "make one report for counsel", cli_rights_files.report)
    report.add_argument("target", metavar="RUN_OR_LORA")
    report.add_argument("--output", type=Path, metavar="FILE", help=".html or .json (rights-report.html)")


def _pictures(parser: argparse.ArgumentParser, *, required: bool = False) -> None:
    parser.add_argument(
        "--picture", action="append", default=[], required=required, help="a file's name (again for more)"
    )
    parser.add_argument("--by", default="", help="who says so")


# ------------------------------------------------------------------------------------------------ folders


def _ledger(folder: Path, at: Console) -> tuple[Any, Any]:
    """The folder's ledger after a fresh look, and the store. Raises RightsError, DataError."""
    from .datasets.captions import read_caption
    from .datasets.headers import PICTURE_SUFFIXES
    from .jobs.helper_process import Helper
    from .rights import scanning
    from .rights.signals_verified import Verifier
    from .rights.store import Store

    try:
        names = sorted(path.name for path in folder.resolve().iterdir() if path.suffix.lower() in PICTURE_SUFFIXES)
    except OSError as error:
        raise DataError(
            "The folder {folder} can't be read.",
            why="{reason}.",
            todo="Check that it is there and may be read.",
            folder=str(folder),
            reason=error.strerror or str(error),
        ) from error
    if not names:
        raise DataError("There is no picture in {folder}.", todo="Name the folder that holds them.", folder=str(folder))
    store = Store(at.data_dir)
    helper = Helper()
    try:
        ledger = scanning.scan(
            folder.resolve(),
            names,
            store=store,
            captions=lambda path: read_caption(path, ".txt") or "",
            verifier=Verifier.of(helper.ask, at.data_dir),
        )
    finally:
        helper.close()
    return ledger, store


def _keep(at: Console, ledger: Any, folder: Path, store: Any) -> int:
    from .rights import scanning

    if not scanning.keep(ledger, folder.resolve(), store):
        at.say(message("The folder can't be written to; its record is kept in the data folder alone."))
    return 0


def _ids(ledger: Any, names: list[str]) -> list[str]:
    missing = next((name for name in names if name not in ledger.names), None)
    if missing is not None:
        raise RightsError(
            "There is no picture “{name}”.", todo="Write its file name as it is in the folder.", name=missing
        )
    return [ledger.names[name] for name in names]


def _by(options: argparse.Namespace) -> str:
    from .rights.scanning import NOBODY

    return options.by.strip() or NOBODY


def _scan(options: argparse.Namespace, at: Console) -> int:
    from .rights.ledger import BASES
    from .rights.overview import overview

    if options.whose not in BASES:
        raise RightsError("“{whose}” is none of: {answers}.", whose=options.whose, answers=", ".join(BASES))
    ledger, store = _ledger(options.folder, at)
    _keep(at, ledger, options.folder, store)
    found = overview(ledger, whose=options.whose)
    if options.json:
        rows = [{**row.to_json(), "why": str(row.decision.why) if row.decision.why else ""} for row in found.rows]
        print(json.dumps({"counts": found.counts(), "permits": found.permits(), "pictures": rows}, ensure_ascii=False))
        return 0
    for sentence in found.sentences():
        at.say(sentence)
    for row in found.rows:
        if not row.decision.included:
            at.say(row.decision.why)
    return 0


def _state(options: argparse.Namespace, at: Console) -> int:
    from .rights.licences import normalise

    values: dict[str, Any] = {}
    if options.json:
        try:
            values = json.loads(options.json)
        except ValueError as error:
            raise RightsError("--json holds no JSON: {reason}.", reason=str(error)) from error
        if not isinstance(values, dict):
            raise RightsError("--json holds no object.", todo="Write an object in braces.")
    values |= {name: getattr(options, name) for name in ("basis", "profile", "contact") if getattr(options, name)}
    if options.licence:
        values["licence"] = normalise(options.licence) or options.licence
    if options.creator:
        values["creators"] = [{"name": name, "credit_optin": bool(options.credit)} for name in options.creator]
    ledger, store = _ledger(options.folder, at)
    if options.picture:
        ledger.except_(_ids(ledger, options.picture), values, by=_by(options))
    else:
        ledger.state(values, by=_by(options))
    return _keep(at, ledger, options.folder, store)


def _override(options: argparse.Namespace, at: Console) -> int:
    ledger, store = _ledger(options.folder, at)
    ledger.override(_ids(ledger, options.picture), by=options.by, reason=options.reason)
    return _keep(at, ledger, options.folder, store)


def _withdraw(options: argparse.Namespace, at: Console) -> int:
    ledger, store = _ledger(options.folder, at)
    ledger.withdraw(_ids(ledger, options.picture), by=_by(options))
    return _keep(at, ledger, options.folder, store)


def _evidence(options: argparse.Namespace, at: Console) -> int:
    from .rights import evidence

    sealed = evidence.seal(
        read_bytes(options.file),
        at.data_dir,
        name=options.file.name,
        kind=options.kind,
        valid_from=options.valid_from,
        valid_until=options.valid_until,
    )
    ledger, store = _ledger(options.folder, at)
    if options.picture:
        ledger.except_(_ids(ledger, options.picture), {"evidence": [sealed]}, by=_by(options))
    else:
        ledger.state({"evidence": [sealed]}, by=_by(options))
    return _keep(at, ledger, options.folder, store)


def _approve(options: argparse.Namespace, at: Console) -> int:
    ledger, store = _ledger(options.folder, at)
    ledger.approve({name: item.removeprefix("sha256:") for name, item in ledger.names.items()}, by=_by(options))
    return _keep(at, ledger, options.folder, store)


def _strip(options: argparse.Namespace, at: Console) -> int:
    from .rights import stripping

    folder = options.folder.resolve()
    if options.undo:
        at.say(message("The copies are gone; the originals are in {folder}.", folder=str(stripping.undo(folder))))
        return 0
    ledger, _ = _ledger(folder, at)
    target = (options.output or folder.with_name(f"{folder.name} stripped")).resolve()
    made = stripping.strip_folder(folder, target, ledger.names)
    at.say(
        message(
            "{changed} of {count} pictures lost personal or other data; the copies are in {folder}.",
            changed=made.changed,
            count=made.pictures,
            folder=str(made.folder),
        )
    )
    return 0
