"""What a memorisation test says, writes and warns of; the test itself is in tests/trainer/test_memorising.py."""

import dataclasses
import json

import pytest

from lora_atelier.rights import credentials, memorisation_cost, safe_weight
from lora_atelier.rights.guard import Near
from lora_atelier.rights.memorisation import WEIGHTS, Compared, Drawn, Report, TooShort, safest
from lora_atelier.rights.memorisation_cost import seconds_of

pytestmark = pytest.mark.torchfree

NEAR = Near("momo", "secret name.png", 0, "whole", 20.0, 54.0)


def report(*safe_weights, clear=2):
    hits = [Drawn(f"secret {n}.png", 0.5, "copy-like", NEAR, 10.0, safe) for n, safe in enumerate(safe_weights)]
    others = [Drawn(f"other {n}.png", 0.1, "nothing found", NEAR, 90.0, 1.0) for n in range(clear)]
    return Report((*hits, *others), of=20, silent=3, seeds=4, steps=20, cfg_scale=3.0, seed=1, seconds=2.0)


@pytest.mark.parametrize("limit", [0.0, 0.1, 0.2, 0.35, 0.4, 0.6, 0.79, 0.8, 0.9])
def test_halving_finds_the_largest_free_weight_in_at_most_four_drawings(limit):
    asked = []

    found = safest(lambda weight: asked.append(weight) or weight <= limit)

    assert found == max((weight for weight in WEIGHTS if weight <= limit), default=0.0)
    assert len(asked) <= 4


def test_when_time_runs_out_only_what_is_known_to_be_free_counts():
    assert safest(lambda weight: None) is None
    answers = iter([True, None])
    assert safest(lambda weight: next(answers)) == 0.5
    answers = iter([False, None])
    assert safest(lambda weight: next(answers)) == 0.0


def test_the_loras_safe_weight_is_that_of_its_worst_picture():
    assert report(0.8, 0.4).safe_weight == 0.4
    assert report(0.8, None).safe_weight == 0.0
    assert report().safe_weight is None


def test_the_stamp_has_numbers_and_no_names():
    stamp = report(0.6).stamp()

    assert stamp.items() >= {"tested": 3, "of": 20, "silent": 3, "seeds": 4, "hits": 1, "safe_weight": 0.6}.items()
    assert "secret" not in json.dumps(stamp)
    assert "safe_weight" not in report().stamp()


def test_the_report_stays_with_the_run_and_has_the_names(tmp_path):
    report(0.6).write(tmp_path)

    said = json.loads((tmp_path / "memorisation.json").read_text(encoding="utf-8"))
    assert said["safe_weight"] == 0.6
    assert [each["name"] for each in said["tested"]] == ["secret 0.png", "other 0.png", "other 1.png"]


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (
            report(0.6),
            "1 of 3 tested pictures come back at weight 1, the first is “secret 0.png”; up to weight 0.6 none",
        ),
        (report(0.0), "at every weight that was tried"),
        (report(), "none of 2 tested pictures came back, of 20 in all, with 4 seeds each"),
        (report(clear=0), "no picture was tested; 3 of 20"),
    ],
)
def test_the_result_is_said_with_its_limits(made, said):
    assert said in str(made.said)


@pytest.mark.parametrize(
    ("weight", "warns"), [(0.6, False), (0.61, True), (1.0, True), (-1.0, True), (0.0, False), (-0.3, False)]
)
def test_a_weight_above_the_tested_one_is_warned_of(weight, warns):
    metadata = {"atelier_rights": json.dumps({"memorisation": report(0.6).stamp()})}

    said = safe_weight.above("momo", safe_weight.read(metadata), weight)

    assert bool(said) == warns
    assert not warns or "above 0.6" in str(said)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"memorisation": 3}', '{"memorisation": {"safe_weight": "x"}}', "[" * 100_000,
     '{"memorisation": {"safe_weight": true}}', '{"memorisation": {"safe_weight": -3}}',
     '{"memorisation": {"safe_weight": NaN}}'],
)  # fmt: skip
def test_what_is_damaged_says_nothing(text):
    assert safe_weight.read({"atelier_rights": text}) is None


def short(*names):
    compared = tuple(Compared(name, 0.5) for name in names)
    why = TooShort(needed_s=312.4, share_s=8.04, percent=10.0, least_steps=1200)
    return dataclasses.replace(report(clear=0), compared=compared, too_short=why)


def test_a_training_too_short_for_the_test_says_what_it_would_take_and_what_to_do():
    assert str(short("a.png", "b.png").said) == (
        "Memorisation: no picture was drawn, as one takes about 312 s and the test has 10.0 % of the training's time, "
        "8.0 s. Of 2 compared by their loss, “a.png” is remembered best. Train 1200 steps or more, or give the test a "
        "larger share (atelier_memorisation)."
    )
    assert str(short().said).startswith("Memorisation: nothing was tested, as one picture takes about 312 s")


def test_a_file_whose_pictures_were_not_drawn_does_not_read_as_one_whose_pictures_did_not_come_back():
    said = [str(each) for each in credentials.sentences({"memorisation": short("a.png").stamp()})]

    assert "Memorisation: no picture was drawn to see whether it comes back." in said
    assert not any("came back" in each for each in said)


def test_how_long_a_test_took_is_read_from_its_report(tmp_path):
    assert seconds_of(tmp_path) == 0.0
    report(0.6).write(tmp_path)
    assert seconds_of(tmp_path) == 2.0


@pytest.mark.parametrize("share_s", [0.0, 10.0, 50.0, 200.0, 400.0, 1e6])
def test_what_is_foretold_keeps_to_the_share_and_needs_no_more_than_there_are_pictures(share_s):
    found = memorisation_cost.foretell(share_s, [1.0, 2.0, 1.0, 1.5])

    assert found.seconds <= share_s and found.drawn <= found.compared <= 4
    expected = {0.0: (0, 0), 10.0: (0, 0), 50.0: (2, 0), 200.0: (1, 1), 400.0: (4, 1), 1e6: (4, 4)}
    assert (found.compared, found.drawn) == expected[share_s]


def test_a_training_of_the_least_steps_has_the_time_for_a_picture():
    needed = memorisation_cost.COMPARING + memorisation_cost.DRAWING

    steps = memorisation_cost.least_steps(30, 0.1 * 30 * 2, needed)

    assert memorisation_cost.foretell(0.1 * steps * 2, [1.0]).drawn == 1
    assert memorisation_cost.foretell(0.1 * 0.8 * steps * 2, [1.0]).drawn == 0
