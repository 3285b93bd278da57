"""No sentence of ours calls a picture or a LoRA what nobody can know (rights.md, section 6)."""

import re
from pathlib import Path

import pytest

import lora_atelier
from lora_atelier.locales.__main__ import javascript_templates, python_templates

pytestmark = pytest.mark.torchfree

PACKAGE = Path(lora_atelier.__file__).parent
PROMISES = re.compile(
    r"\b(copyright[- ]safe|legal(ly)?|legit(imate)?|compliant|compliance|non-infringing|infringe[sd]?"
    r"|clean (pictures?|LoRAs?|files?))\b",
    re.IGNORECASE,
)
SAFE = re.compile(r"\bsafe\b", re.IGNORECASE)


@pytest.fixture(scope="module")
def templates():
    """(file's name, sentence) of the parts that speak of rights, and of the page."""
    found = []
    parts = [path for part in ("rights", "hosts", "web", "loader") for path in sorted((PACKAGE / part).rglob("*.py"))]
    for path in [*parts, PACKAGE / "trainer" / "memorising.py", PACKAGE / "embedded" / "app.py"]:
        found += [(path.name, said) for said in python_templates(path.read_text(encoding="utf-8"))]
    for path in sorted((PACKAGE.parents[1] / "javascript").glob("*.js")):
        found += [(path.name, said) for said in javascript_templates(path.read_text(encoding="utf-8"))]
    return found


def test_no_sentence_promises_what_is_legal(templates):
    # What is said of laws and lawyers in the page for creators is not said of a picture.
    found = [(name, said) for name, said in templates if PROMISES.search(said) and "guide" not in name]

    assert [each for each in found if "not advice" not in each[1] and "lawyer" not in each[1]] == []


def test_no_sentence_calls_pictures_safe(templates):
    """ "Safe" is said of files and weights on a disk only."""
    found = [said for name, said in templates if SAFE.search(said) and "picture" in said.casefold()]

    assert [said for said in found if "disk" not in said and "folder" not in said] == []


def test_the_guard_and_the_test_say_their_limits(templates):
    said = [text for _, text in templates]

    assert any("Style and likeness can't be seen this way" in text for text in said)
    assert any("none did in this test" in text for text in said)
