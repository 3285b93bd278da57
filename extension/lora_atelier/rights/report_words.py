"""The record's own words as people read them; any other word, of a newer version or a foreign file, stays as it is."""

from __future__ import annotations

from typing import Any

from ..errors import message

# A basis and a profile may have the same word as a licence or a kind of document; it means the same then.
_WORDS = {
    # what the guard and the memorisation test found, and what was decided
    "copy-like": message("copy-like"),
    "close": message("close"),
    "nothing found": message("nothing found"),
    "kept": message("kept"),
    "discarded": message("discarded"),
    "drawn again": message("drawn again"),
    "weight lowered": message("weight lowered"),
    # bases
    "owner": message("own work"),
    "licence": message("licence"),
    "written_permission": message("permission"),
    "public_domain": message("public domain"),
    "jp_30_4": message("Japan, Article 30-4"),
    "eu_tdm_art4": message("EU, text and data mining (Article 4)"),
    "eu_tdm_art3": message("EU, scientific research (Article 3)"),
    "us_fair_use_claim": message("US, fair use claimed"),
    "none": message("not stated"),
    # what is said about training
    "prohibited": message("prohibited"),
    "allowed": message("allowed"),
    "none_found": message("none found"),
    # why a picture was left out
    "reservation": message("asks not to be trained on"),
    "permits": message("training not permitted"),
    "expired": message("expired"),
    "basis": message("not stated"),
    "evidence": message("document missing"),
    "approval": message("not approved"),
    "consent": message("consent missing"),
    "unread": message("can't be read"),
    "withdrawn": message("withdrawn"),
    # events
    "scanned": message("looked through"),
    "stated": message("stated"),
    "excepted": message("stated for single pictures"),
    "overridden": message("used against a prohibition"),
    "override lifted": message("no longer used against it"),
    "approved": message("approved"),
    # documents
    "contract": message("contract"),
    "mail": message("mail"),
    "licence_page": message("page with the licence"),
    "release": message("release"),
    "invoice": message("invoice"),
    "other": message("other"),
    # answers
    "yes": message("yes"),
    "no": message("no"),
    "unknown": message("not known"),
    # rules
    "own-work": message("own work"),
    "open-licence": message("open licence"),
    "studio": message("studio"),
    "experiment": message("experiment"),
}


def word(said: Any) -> Any:
    """A message for a word of the record, else the word itself."""
    return _WORDS.get(str(said), said)
