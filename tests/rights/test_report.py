import json
import re

import pytest
from PIL import Image
from tests.rights.fixtures import picture, xmp

from lora_atelier import locales
from lora_atelier.datasets.items import Item
from lora_atelier.errors import RightsError
from lora_atelier.rights import (
    evidence,
    gate,
    guard_log,
    guide,
    memorisation,
    overview,
    report,
    report_html,
    report_sections,
    scanning,
)
from lora_atelier.rights import ledger as ledger_file
from lora_atelier.rights.guard import Finding, Near
from lora_atelier.rights.guard_log import LoraAt
from lora_atelier.rights.memorisation import Drawn, Report
from lora_atelier.rights.showings import Showings
from lora_atelier.rights.store import Store

pytestmark = pytest.mark.torchfree

NEVER = (
    "safe to use",
    "is safe",
    "is clean",
    "is legal",
    "compliant",
    "安全です",
    "合法です",
    "適法です",
    "クリーンです",
)


@pytest.fixture
def trained(tmp_path, write_header):
    """(run's directory, LoRA, data folder) with statements, a document, something left out and a guard's log."""
    folder, data_dir = tmp_path / "pictures", tmp_path / "data"
    run_dir = data_dir / "runs" / "20300101-momo"
    run_dir.mkdir(parents=True)
    folder.mkdir()
    for name, color in (("a.png", "red"), ("b.png", "blue"), ("<b>.png", "white")):
        (folder / name).write_bytes(picture("PNG", color=color))
    (folder / "no.png").write_bytes(picture("PNG", xmp("DMI-PROHIBITED"), color="green"))
    names = sorted(path.name for path in folder.iterdir())
    ledger = scanning.scan(folder, names, store=Store(data_dir))
    contract = evidence.seal(b"contract", data_dir, name="c.pdf", kind="contract", valid_until="2099-01-01")
    ledger.state({"basis": "licence", "licence": "CC-BY-4.0", "evidence": [contract], "note": "<script>"}, by="Ada")
    scanning.keep(ledger, folder, Store(data_dir))
    admitted = gate.admit([Item(folder / name, "", 32, 32) for name in names], run_dir, whose="permission")
    said = {**admitted.summary(), "memorisation": {"tested": 3, "hits": 1, "safe_weight": 0.6}}
    lora = write_header(data_dir / "momo.safetensors", {"a": (2,)}, {"atelier_rights": json.dumps(said)})
    (run_dir / "job.toml").write_text('name = "momo"\nwhose = "permission"\ncreated = 0.0\n', encoding="utf-8")
    (run_dir / "events.jsonl").write_text(
        json.dumps({"kind": "finished", "at": 1, "file": str(lora)}) + "\nnot json\n", encoding="utf-8"
    )
    log = guard_log.of(data_dir)
    near = Near(lora="momo", picture="a.png", at=0, look="whole", value=3.0, limit=57.0)
    pair = log.keep_pair("1", Image.new("RGB", (900, 300), "white"))
    log.add("1.png", Finding("copy-like", near, compared=3), [LoraAt("momo", "h", 0.8, 0.8)], pair=pair)
    log.add("2.png", Finding("nothing found", compared=3), [LoraAt("momo", "h", 0.5, 0.4)])
    log.add("3.png", None, [LoraAt("other", "h", 1.0, 1.0)])
    for name in ("1.png", "3.png"):
        log.decide(name, "kept")
    test = Drawn(name="a.png", gap=0.01, verdict="copy-like", near=near, agreement=2.0, safe_weight=0.6, pair="a.png")
    Report((test,), of=3, silent=0, seeds=4, steps=20, cfg_scale=3.0, seed=1, seconds=2.0).write(run_dir)
    (run_dir / memorisation.FOLDER).mkdir()
    Image.new("RGB", (800, 300), "black").save(run_dir / memorisation.FOLDER / "a.png")
    Showings(9, {record.sha256: 3 for record in ledger_file.read(run_dir / gate.LEDGER).values()}).write(run_dir)
    return run_dir, lora, data_dir


@pytest.mark.parametrize("by", ["lora", "run", "id", "beginning"])
def test_a_report_is_found_by_file_by_directory_and_by_id(trained, by):
    run_dir, lora, data_dir = trained
    target = {"lora": str(lora), "run": str(run_dir), "id": run_dir.name, "beginning": "20300101"}[by]

    assert report.find(target, data_dir) == (run_dir, lora)


def test_what_is_nothing_is_a_sentence(trained):
    with pytest.raises(RightsError, match="nothing to report"):
        report.find("else", trained[2])


def test_the_report_holds_data_bases_signals_measures_memorisation_and_the_guards_log(trained):
    said = report.gather(*trained)

    assert [one["name"] for one in said["pictures"]] == ["<b>.png", "a.png", "b.png"]
    assert {one["basis"] for one in said["pictures"]} == {"licence"}
    assert [(one["name"], one["rule"]) for one in said["left_out"]] == [("no.png", "reservation")]
    assert said["folders"][0]["evidence"][0]["problem"] is None
    assert [event["what"] for event in said["folders"][0]["history"]] == ["scanned", "stated"]
    assert said["memorisation"]["hits"] == 1
    assert [one["shown"] for one in said["pictures"]] == [3, 3, 3]
    test = said["memorisation_test"]
    assert [(one["name"], one["safe_weight"]) for one in test["tested"]] == [("a.png", 0.6)]
    assert [one["file"] for one in test["pairs"]] == ["a.png"]
    entries = said["guard"]["entries"]
    assert [(one["picture"], one["decision"]) for one in entries] == [("1.png", "kept"), ("2.png", None)]
    assert said["guard"]["checked"] == 2 and said["guard"]["verdicts"] == {"copy-like": 1, "nothing found": 1}
    assert [one["file"] for one in said["guard"]["pairs"]] == ["1.png"]
    assert all(one["url"].startswith("data:image/jpeg;base64,") for one in (*test["pairs"], *said["guard"]["pairs"]))
    assert str(trained[2].parent) not in json.dumps(said)  # no folder of this machine


def test_of_a_strangers_lora_only_what_the_file_says_is_reported(trained, tmp_path):
    _, lora, _ = trained
    found = report.find(str(lora), tmp_path / "elsewhere")
    said = report.gather(*found, tmp_path / "elsewhere")

    assert said["run"] is said["pictures"] is None and said["rights"]["pictures"] == 3
    assert "not on this machine" in report_html.render(said)


@pytest.mark.parametrize("lang", ["en", "ja"])
def test_the_page_says_first_that_it_is_a_record_loads_nothing_and_escapes_everything(trained, lang):
    page = report_html.render(report.gather(*trained), lang)

    text = re.sub(r"<[^>]*>", " ", page)
    assert page.count("<img ") == 2
    page = re.sub(r'src="data:image/jpeg;base64,[A-Za-z0-9+/=]*"', "", page)
    head = page[page.index("<h1>") : page.index("<h2>")]
    assert ("not advice" in head and "expert" in head) if lang == "en" else ("助言ではありません" in head)
    assert "<script" not in page and "<b>.png" not in page and "&lt;b&gt;.png" in page
    assert not re.search(r"(?:src|href)=|@import|url\(", page)
    assert "@media print" in page
    assert not any(word in text.lower() for word in NEVER)
    if lang == "ja":
        assert "This is" not in text and "Pictures that" not in text


def test_the_page_says_which_measures_were_taken_and_which_were_not(trained, tmp_path):
    run_dir, lora, data_dir = trained
    said = " ".join(str(one) for one in report_sections.measures(report.gather(run_dir, lora, data_dir)))
    for words in (
        "3 pictures were used and 1 left out, 1 of them for a prohibition",
        "0 pictures were used against a prohibition",
        "3 of 0 were drawn, 1 came back",
        "2 outputs were compared",
    ):
        assert words in said

    stranger = " ".join(str(one) for one in report_sections.measures(report.gather(None, lora, tmp_path / "elsewhere")))

    assert "No output of it was compared" in stranger and "pictures were used and" not in stranger


@pytest.mark.parametrize("broken", ["{", '{"tested": 3}', '{"tested": [{"pair": "../../secret.png"}]}', "[]"])
def test_a_damaged_test_or_log_leaves_out_no_more_than_itself(trained, broken):
    run_dir, lora, data_dir = trained
    (run_dir / memorisation.FILE).write_text(broken, encoding="utf-8")
    strange = {"schema": 1, "picture": "{x}", "finding": {"verdict": "{y}"}, "loras": [{"name": "momo"}], "pair": "no"}
    with (data_dir / "rights" / guard_log.FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(strange) + "\nnonsense\n")

    page = report_html.render(report.gather(run_dir, lora, data_dir), "ja")

    assert "{y}" in page and page.count("<img ") == 1


def test_no_sentence_of_ours_promises_what_nobody_knows():
    said = [*locales.catalogue("ja"), *locales.catalogue("ja").values()]
    promises = [word for word in NEVER if word != "is safe"]  # a file on a disk may well be

    assert [text for text in said if any(word in text.lower() for word in promises)] == []


def test_an_overview_counts_what_a_training_would_use_and_says_what_is_not_known(trained, tmp_path):
    folder = tmp_path / "pictures"
    ledger = scanning.scan(folder, sorted(path.name for path in folder.glob("*.png")))

    found = overview.overview(ledger, whose="permission")

    counts = found.counts()
    assert (counts["included"], counts["left_out"], counts["no_origin"]) == (3, 1, 3)
    assert found.permits()["attribution"] == "yes"
    assert "no information about their origin" in " ".join(map(str, found.sentences()))
    ledger.state({"targets_specific_creator": "yes", "relation_to_creator": "none"}, by="A")
    said = " ".join(map(str, overview.overview(ledger, whose="permission").sentences()))
    assert "Ask an expert" in said


def test_fifty_own_drawings_are_one_statement_and_nothing_else(tmp_path):
    for number in range(50):
        (tmp_path / f"{number}.png").write_bytes(picture("PNG", color=(number * 5, 0, 0)))

    found = overview.overview(scanning.scan(tmp_path, [f"{n}.png" for n in range(50)]), whose="mine")

    assert found.counts()["included"] == 50 and found.counts()["undecided"] == 0


@pytest.mark.parametrize("lang", ["en", "ja"])
def test_the_page_for_creators_is_there_in_both_languages_with_its_sources(lang):
    page = guide.page(lang)

    assert f'lang="{lang}"' in page and page.count("<h2>") >= 7
    assert page.count('href="https://') >= 5 and "<script" not in page
    # Each section of facts names dates.
    assert len(re.findall(r"20\d\d", page)) > 20
    assert not any(word in page.lower() for word in NEVER)


def test_markdown_becomes_html_and_nothing_slips_through():
    made = guide.markdown(
        "# A\n\nb **c** <script> [d](https://e.f/?a=1&b=2)\n\n- one\n  more\n- two\n\n| x | y |\n|---|---|\n| 1 | 2 |"
    )

    assert "<h1>A</h1>" in made and "<strong>c</strong>" in made and "&lt;script&gt;" in made
    assert '<a href="https://e.f/?a=1&amp;b=2" rel="noreferrer">d</a>' in made
    assert "<li>one more</li><li>two</li>" in made and "<td>2</td>" in made
