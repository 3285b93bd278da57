import dataclasses
from pathlib import Path

import pytest
from tests.jobs.fake_webui import make_site_packages, make_venv, webui

from lora_atelier import locales
from lora_atelier.jobs import doctor, host_torch, machine, setup
from lora_atelier.jobs.doctor import Facts, findings, worst
from lora_atelier.jobs.host_torch import Link

pytestmark = pytest.mark.torchfree

LINK = Link("/webui/site-packages", "2.9.0+cu128", ("torch",))
WELL = Facts(
    root="/extensions/atelier",
    exists=True,
    python=(3, 12),
    complete=True,
    current=True,
    requirements=("torch>=2.6", "diffusers>=0.35", "numpy"),
    installed={"diffusers": "0.36.0", "numpy": "2.2.0"},
    torch=machine.Torch("2.13.0+cu130", "cu130", Path("/x"), available=True),
    card="cuda 580.95",
    card_expected=True,
    free_bytes=50_000_000_000,
)


def problems(**changes):
    """What is wrong with what was well but for ``changes``, each with how to mend it."""
    found = findings(dataclasses.replace(WELL, **changes))
    return [(str(each.said), str(each.mend)) for each in found if each.level != "ok"]


def test_nothing_is_wrong_where_all_is_there():
    found = findings(WELL)

    assert worst(found) == "ok"
    assert "PyTorch 2.13.0+cu130 sees the graphics card." in [str(each.said) for each in found]


@pytest.mark.parametrize(
    ("changes", "said", "mend"),
    [
        ({"exists": False, "python": None, "complete": False}, "environment is missing", "install.py trainer"),
        ({"python": None}, "does not start", "doctor --rebuild"),
        ({"python": (3, 10)}, "Python 3.10, which is too old", "doctor --rebuild"),
        ({"complete": False}, "was not completed", "install.py trainer"),
        ({"current": False}, "was updated since", "install.py trainer"),
        ({"installed": {"diffusers": "0.36.0"}}, "package numpy is missing", "install.py trainer"),
        ({"installed": {"diffusers": "0.30.1", "numpy": "2"}}, "diffusers is 0.30.1; 0.35 or newer", "trainer"),
        ({"torch": None}, "PyTorch is missing or can't be imported", "doctor --rebuild"),
        ({"torch": machine.Torch("2.5.1", "cpu", Path(), True)}, "PyTorch is 2.5.1, which is too old", "--rebuild"),
        (
            {"torch": machine.Torch("2.13.0+cpu", "cpu", Path(), False)},
            "2.13.0+cpu does not see the graphics card (cuda 580.95)",
            "doctor --rebuild",
        ),
        ({"link": LINK}, "is no longer in /webui/site-packages", "doctor --rebuild"),
        ({"link": LINK, "link_version": "2.10.0"}, "was 2.9.0+cu128 and is now 2.10.0", "doctor --rebuild"),
        ({"windows": True, "root": "C:/" + "x" * 90}, "93 characters long", "nearer to the top"),
        ({"complete": False, "free_bytes": 3_000_000_000}, "3.0 GB left", "Make room"),
        ({"sd_scripts": "/sd-scripts"}, "without a Python of its own", "install.py sd-scripts"),
    ],
)
def test_each_thing_that_is_wrong_has_its_sentence_and_its_remedy(changes, said, mend):
    found = problems(**changes)

    assert any(said in one and mend in other for one, other in found), found


def test_an_update_of_the_webuis_torch_leaves_the_link_good_as_long_as_it_is_the_same():
    assert problems(link=LINK, link_version=LINK.version) == []


def test_a_webui_whose_torch_is_broken_is_told_apart_from_ours():
    broken = machine.Webui(machine.Python(("python",), (3, 10)), None)

    assert problems(webui=broken) == [
        ("The webui's Python is 3.10; its PyTorch is missing or broken.", "Start the webui once, then look again.")
    ]


def test_the_report_has_a_line_for_each_finding_in_the_terminals_language():
    found = findings(dataclasses.replace(WELL, complete=False))

    english = doctor.report(found, locales.sentence)
    japanese = doctor.report(found, lambda said: locales.sentence(said, "ja"))

    assert "XX  The trainer's environment was not completed.\n      -> Type  python install.py trainer" in english
    assert len(japanese.splitlines()) == len(english.splitlines())
    assert "The trainer's" not in japanese


def test_what_lies_on_the_disk_is_seen(tmp_path, monkeypatch):
    venv = make_venv(tmp_path / ".venv", stamp={"trainer": "x"})
    host = make_site_packages(tmp_path / "host")
    host_torch.link(host, setup.site_packages(venv))
    python = machine.Python(("python",), (3, 12), torch="2.9.0+cu128")
    torch = machine.Torch("2.9.0+cu128", "cu128", host, True)
    monkeypatch.setattr(machine, "about", lambda command: python)
    monkeypatch.setattr(machine, "about_torch", lambda command: torch)

    facts = doctor.look(tmp_path, requirements=("torch>=2.6",), current=True, webui=webui(host, available=True))

    assert (facts.complete, facts.python, facts.torch, facts.card_expected) == (True, (3, 12), torch, True)
    assert facts.link.folder == str(host) and facts.link_version == "2.9.0+cu128"
    assert facts.installed["torch"] == "2.9.0+cu128"
    assert worst(findings(facts)) == "ok"


def test_nothing_at_all_is_seen_as_that(tmp_path):
    facts = doctor.look(tmp_path, requirements=(), current=False, webui=None)

    assert not facts.exists and worst(findings(facts)) == "problem"
