"""No sentence of ours calls a picture, a LoRA or an output what nobody can know (rights.md, section 6).

The memorisation test's number is called ``safe_weight`` in code and in files only, as rights.md names the key; people
read "the weight up to which none came back in this test".
"""

import re
from pathlib import Path

import pytest

import lora_atelier
from lora_atelier import locales
from lora_atelier.locales.__main__ import javascript_templates, python_templates

pytestmark = pytest.mark.torchfree

PACKAGE = Path(lora_atelier.__file__).parent
ROOT = PACKAGE.parents[1]
PROMISES = re.compile(
    r"\b(safe(ly)?|copyright[- ]safe|legal(ly)?|lawful(ly)?|legit(imate)?|compliant|compliance|complies|clean"
    r"|non-infringing|infringe[sd]?|royalty[- ]free)\b",
    re.IGNORECASE,
)
PROMISES_JA = re.compile(
    "安全|安心|合法|適法|準拠|遵守|クリーン|権利(上)?の問題は(あり|ござい)ません|侵害しません|侵害していません"
)
# What the words are said of, where it is not a picture, a LoRA or an output.
EXCEPTIONS = {
    "the LoRA itself is safe in the LoRA folder": "a file on a disk",
    "Limits the weight of nearly clean steps": "steps with little noise, as the field calls them",
    "hardly train the clean ones": "the same",
}
# Of laws and of what decides: the page for creators speaks of them, and says that no program can.
OF_LAWS = (
    "Whether something infringes is decided by people",
    "lawful basis",
    "適法な根拠",
)


def promises(text, words, exceptions):
    """What remains of a text's promises when the exceptions are taken out of it."""
    for each in exceptions:
        text = text.replace(each, "")
    found = words.search(text)
    return found.group() if found else None


@pytest.fixture(scope="module")
def templates():
    """(file's name, sentence) of everything that a person can be told in English."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        found += [(path.name, said) for said in python_templates(path.read_text(encoding="utf-8"))]
    for path in sorted((ROOT / "javascript").glob("*.js")):
        found += [(path.name, said) for said in javascript_templates(path.read_text(encoding="utf-8"))]
    return found


def test_no_sentence_promises_what_nobody_knows(templates):
    assert len(templates) > 1000  # else nothing was looked at
    assert [(name, said) for name, said in templates if promises(said, PROMISES, EXCEPTIONS)] == []


def test_no_translation_promises_it_either():
    said = locales.catalogue("ja")

    assert len(said) > 1000
    assert {key: text for key, text in said.items() if promises(text, PROMISES_JA, ())} == {}


@pytest.mark.parametrize("name", ["docs/creators.md", "README.md", "docs/creators.ja.md", "README.ja.md"])
def test_no_page_promises_it(name):
    text = " ".join((ROOT / name).read_text(encoding="utf-8").split())

    assert promises(text, PROMISES, OF_LAWS) is None and promises(text, PROMISES_JA, OF_LAWS) is None


@pytest.mark.parametrize(
    ("text", "is_promise"),
    [
        ("This LoRA is copyright-safe.", True),
        ("Your output is clean", True),
        ("The picture complies with the law", True),
        ("No copy was found. Style and likeness can't be seen this way.", False),
        ("この LoRA は安全です。", True),
        ("著作権法に準拠しています", True),
        ("複製は見つかりませんでした。", False),
    ],
)
def test_the_words_are_known(text, is_promise):
    assert bool(promises(text, PROMISES, ()) or promises(text, PROMISES_JA, ())) is is_promise


def test_the_guard_and_the_test_say_their_limits(templates):
    said = [text for _, text in templates]

    assert any("Style and likeness can't be seen this way" in text for text in said)
    assert any("none did in this test" in text for text in said)
