"""The commands below ``rights`` that are about LoRA files: what they say, what is proved of them, what is reported."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from .cli_rights_console import Console, asked, read_bytes, write
from .errors import RightsError, message


def show(options: argparse.Namespace, at: Console) -> int:
    from .rights import credentials, signature

    said, verdict = asked(lambda: (credentials.read(options.lora), signature.verify(options.lora)))
    if options.json:
        print(json.dumps({"rights": said, "signature": verdict.state, "key": verdict.key}, ensure_ascii=False))
        return 0
    for sentence in credentials.sentences(said):
        at.say(sentence)
    at.say(verdict.said)
    return 0


def verify(options: argparse.Namespace, at: Console) -> int:
    from .rights import credentials, evidence, signature
    from .rights.folder_ledger import FolderLedger
    from .rights.merkle import Proof

    if options.target.is_dir():
        ledger = FolderLedger.read(options.target)
        if ledger is None:
            raise RightsError("There is no record of rights in {folder}.", folder=str(options.target))
        documents = [*ledger.statement.get("evidence", ())]
        documents += [one for entry in ledger.entries.values() for one in entry.said.get("evidence", ())]
        broken = [said for one in documents if (said := evidence.broken(one, at.data_dir)) is not None]
        for said in broken:
            at.say(said)
        if not broken:
            at.say(message("The record is as it was written: {count} events.", count=len(ledger.events)))
        return int(bool(broken))
    if options.proof:
        try:
            proof = Proof.from_json(json.loads(read_bytes(options.proof)))
        except ValueError as error:
            raise RightsError("This is no proof that can be read.", why="{reason}.", reason=str(error)) from error
        holds = asked(lambda: credentials.proof_holds(options.target, proof, options.picture))
        at.say(
            message("The proof holds: the picture {sha256} is among those of the LoRA.", sha256=proof.sha256)
            if holds
            else message("The proof does not hold for this LoRA and picture.")
        )
        return int(not holds)
    verdict = asked(lambda: signature.verify(options.target))
    at.say(verdict.said)
    return int(verdict.state == "broken")


def prove(options: argparse.Namespace, at: Console) -> int:
    from .rights import credentials

    proof = asked(lambda: credentials.prove(options.lora, options.picture, at.data_dir)).to_json()
    if options.output is None:
        print(json.dumps(proof))
    else:
        write(at, options.output, json.dumps(proof) + "\n")
    return 0


def contains(options: argparse.Namespace, at: Console) -> int:
    from .rights import credentials

    found = asked(lambda: credentials.contains(options.lora, options.picture, at.data_dir))
    if found.answer == "contained" and found.how == "file":
        at.say(message("The picture is among those of the LoRA."))
    elif found.answer == "contained":
        at.say(message("The very same pixels, in another file, are among those of the LoRA."))
    elif found.answer == "not contained":
        at.say(message("Neither this file nor another one of the same pixels is among those of the LoRA."))
    else:
        at.say(message("It can't be told: the training of this LoRA is not on this machine."))
    return {"contained": 0, "not contained": 1, "cannot tell": 2}[found.answer]


def report(options: argparse.Namespace, at: Console) -> int:
    from .rights import report, report_html

    run_dir, lora = asked(lambda: report.find(options.target, at.data_dir))
    said = asked(lambda: report.gather(run_dir, lora, at.data_dir))
    output = options.output or Path("rights-report.html")
    if output.suffix.lower() == ".json":
        write(at, output, json.dumps(said, ensure_ascii=False, indent=2) + "\n")
    else:
        write(at, output, report_html.render(said, at.lang))
    return 0
