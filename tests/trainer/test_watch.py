"""Trouble is noticed within 20 steps of its beginning, said once, and what is usual is not called trouble."""

import math

import pytest

from lora_atelier.errors import DataError
from lora_atelier.trainer.watch import LOOK_EVERY, Look, Watch

pytestmark = pytest.mark.torchfree


def usual(step):
    """A step of a run that goes well: its numbers jump about as those of real runs do."""
    return {"loss": 0.1 + 0.08 * math.sin(step * 12.9), "norm": 0.05 * 10 ** math.sin(step * 7.1), "seconds": 0.2}


def follow(steps, trouble=None, *, begins=0, watch=None, still=False):
    """What a watch says of a run whose steps from ``begins`` on are changed by ``trouble``: (step, template)."""
    watch, said, unread = watch or Watch(), [], []
    for step in range(1, steps + 1):
        unread.append({**usual(step), **(trouble(step) if trouble and step > begins else {})})
        if step % LOOK_EVERY == 0:
            look = Look(
                step=step,
                losses=[each["loss"] for each in unread],
                norms=[each["norm"] for each in unread],
                seconds=[each["seconds"] for each in unread],
                moved=not (still and step > begins + LOOK_EVERY),
            )
            said += [(step, message.template) for message in watch.look(look)]
            for message in watch.look(Look(step=step, losses=[], norms=[])):
                said.append((step, message.template))
            unread = []
    return said


def test_nothing_is_said_of_a_run_that_goes_well():
    assert follow(1000) == []


@pytest.mark.parametrize("begins", [0, 47, 100])
@pytest.mark.parametrize(
    ("trouble", "word"),
    [
        (lambda step: {"norm": 0.0}, "all gradients are zero"),
        (lambda step: {"norm": 5e3 + step}, "become very large"),
        (lambda step: {"seconds": 2.0}, "A step takes"),
    ],
    ids=["zero", "exploding", "slow"],
)
def test_trouble_is_noticed_within_twenty_steps_and_said_once(trouble, word, begins):
    if "A step" in word and begins == 0:
        pytest.skip("a run that was always slow has not become slow")

    said = follow(300, trouble, begins=begins)

    assert [template for _, template in said if word in template] == [said[0][1]]
    assert begins < said[0][0] <= begins + 20


def test_gradients_that_grow_to_a_multiple_of_what_they_were_are_noticed_though_they_are_small():
    said = follow(200, lambda step: {"norm": 40 * usual(step)["norm"]}, begins=100)

    assert len(said) == 1 and said[0][0] <= 120 and "become very large" in said[0][1]


def test_weights_that_stay_the_same_are_noticed_after_twenty_steps():
    said = follow(100, still=True)

    assert len(said) == 1 and said[0][0] == 20 and "has not changed" in said[0][1]


def test_steps_that_a_loss_scale_skips_are_no_trouble():
    assert follow(60, lambda step: {"norm": None}, still=True) == []


@pytest.mark.parametrize("what", ["loss", "norm"])
def test_a_number_that_is_none_ends_the_run_and_names_the_last_good_checkpoint(what):
    with pytest.raises(DataError) as caught:
        follow(60, lambda step: {what: math.nan}, begins=33, watch=Watch(kept=20))

    assert caught.value.what.values["step"] == 40
    assert "The checkpoint of step 20 is good" in str(caught.value)


def test_a_sample_that_was_always_one_colour_is_the_vaes_fault_and_a_later_one_the_trainings():
    (at_first,) = Watch().sampled("a.png", "momo", 0.5)
    watch = Watch()
    assert list(watch.sampled("a.png", "momo", 60.0)) == list(watch.sampled("b.png", "momo", 30.0)) == []
    (later,) = watch.sampled("c.png", "momo", 9.0)

    assert "VAE" in at_first.template and "goes too far" in later.template
    assert list(watch.sampled("d.png", "momo", 1.0)) == []


def test_a_sample_that_is_asked_to_be_plain_is_no_fault():
    watch = Watch()

    assert [list(watch.sampled("a.png", "a yellow background", plain)) for plain in (1.4, 2.0, 30.0)] == [[], [], []]
    (blank,) = watch.sampled("b.png", "a yellow background", 0.1)
    assert "goes too far" in blank.template


def test_a_heldout_loss_that_does_not_move_is_said_and_one_that_rises_or_falls_is_not():
    still, falling, rising = Watch(), Watch(), Watch()

    said = [message for step in range(6) for message in still.measured(step, 0.1 + 1e-6 * step)]

    assert len(said) == 1 and "has not moved" in said[0].template
    assert not [m for step in range(6) for m in falling.measured(step, 0.1 - 1e-3 * step)]
    assert not [m for step in range(6) for m in rising.measured(step, 0.1 + 1e-3 * step)]
    with pytest.raises(DataError):
        list(still.measured(7, math.inf))


def test_a_loss_that_can_not_move_at_this_pace_is_said_at_the_first_look():
    look = Look(step=10, losses=[0.1] * 10, norms=[0.05] * 10, reach=1e-6)

    (said,) = Watch().look(look)

    assert "The loss will not move" in said.template and "Raise the learning rate" in said.template
    assert list(Watch().look(Look(step=10, losses=[0.1] * 10, norms=[0.05] * 10, reach=10.0))) == []
    assert list(Watch().look(Look(step=10, losses=[0.1] * 10, norms=[0.05] * 10))) == []
