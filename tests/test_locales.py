import json
import string
from pathlib import Path

import pytest

from lora_atelier import locales
from lora_atelier.locales import __main__ as scan

pytestmark = pytest.mark.torchfree

JA = json.loads((Path(locales.__file__).with_name("ja.json")).read_text(encoding="utf-8"))


def holes(template):
    return {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}


def test_every_text_that_a_person_can_see_is_translated():
    missing = sorted(scan.templates().keys() - JA.keys())

    assert missing == []


def test_a_translation_has_the_holes_of_its_english():
    wrong = [english for english, japanese in JA.items() if holes(english) != holes(japanese)]

    assert wrong == []


def test_templates_are_found_in_errors_messages_problems_and_scripts():
    python = 'raise JobError("A.", why="B." if x else "C.", todo="D.")\nproblem("f", "E.")\nraise ValueError("not")'

    assert list(scan.python_templates(python)) == ["A.", "B.", "C.", "D.", "E."]
    assert list(scan.javascript_templates('t(\'F {n}\', {n: 1}); t("G"); format("no")')) == ["F {n}", "G"]
