from lora_atelier.trainer.batches import BatchPlan, Sight, balanced_repeats
from lora_atelier.trainer.samples import parse

SQUARE, WIDE = (64, 64), (96, 48)


def plan(**changes):
    sights = [Sight(SQUARE, 2, 0.5, 0.5, batch_size=4)] * 5 + [Sight(WIDE, batch_size=4)] * 3
    return BatchPlan(**{"sights": sights, "seed": 1, **changes})


def test_an_epoch_shows_every_picture_as_often_as_it_repeats_in_batches_of_one_bucket():
    made = plan()
    batches = [made.batch(at) for at in range(made.batches_per_epoch)]

    shown = [place.index for batch in batches for place in batch]
    assert sorted(shown) == sorted([0, 1, 2, 3, 4] * 2 + [5, 6, 7])
    for batch in batches:
        assert len({made.sights[place.index].bucket for place in batch}) == 1
        assert 1 <= len(batch) <= 4


def test_each_dataset_has_batches_of_its_own_size_and_strength():
    near = [Sight(SQUARE, batch_size=3, dataset=0)] * 7
    far = [Sight(SQUARE, batch_size=2, dataset=1, multiplier=-1.0)] * 4
    made = plan(sights=[*near, *far])

    batches = [made.batch(at) for at in range(made.batches_per_epoch)]

    assert sorted(len(batch) for batch in batches) == [1, 2, 2, 3, 3]
    for at, batch in enumerate(batches):
        (dataset,) = {made.sights[place.index].dataset for place in batch}
        assert made.multiplier(at) == (1.0, -1.0)[dataset]


def test_a_batch_depends_on_its_number_alone():
    forward, backward = plan(), plan()
    numbers = range(12)

    assert [forward.batch(n) for n in numbers] == [backward.batch(n) for n in reversed(numbers)][::-1]
    assert [plan(seed=2).batch(n) for n in numbers] != [forward.batch(n) for n in numbers]


def test_chances_of_mirror_and_empty_caption_are_what_they_say():
    made = plan()
    places = [place for n in range(400) for place in made.batch(n) if place.index < 5]

    assert abs(sum(p.mirrored for p in places) / len(places) - 0.5) < 0.06
    assert abs(sum(p.without_caption for p in places) / len(places) - 0.5) < 0.06
    assert not any(p.mirrored for n in range(40) for p in made.batch(n) if p.index >= 5)


def test_regularisation_pictures_are_shown_about_as_often_as_the_others():
    assert balanced_repeats([10, 10, 1, 1], [False, False, True, True]) == [10, 10, 10, 10]
    assert balanced_repeats([1, 1, 1, 1], [False, True, True, True]) == [1, 1, 1, 1]
    assert balanced_repeats([3], [False]) == [3]


def test_a_sample_line_is_read_as_sd_scripts_reads_it():
    prompt = parse("a 桃, --- red --n bad, worse --w 640 --h 384 --d 42 --s 12 --l 6.5 --ss euler_a")

    assert (prompt.text, prompt.negative) == ("a 桃, --- red", "bad, worse")
    assert (prompt.width, prompt.height, prompt.seed, prompt.steps, prompt.cfg_scale) == (640, 384, 42, 12, 6.5)
    assert prompt.sampler == "euler_a"
    assert parse("just text").steps == 30
    assert parse("text --s many").steps == 30


def test_in_every_third_epoch_there_are_no_captions():
    made = plan(sights=[Sight((64, 64), caption_dropout_every_n_epochs=3, batch_size=4)] * 5)

    epochs = [{place.without_caption for at in range(2) for place in made.batch(epoch * 2 + at)} for epoch in range(6)]

    assert epochs == [{False}, {False}, {True}] * 2
