"""Runs that are counted in epochs, and what they leave."""

from tests.trainer.test_resume import make, told

from lora_atelier import events
from lora_atelier.config import OutputConfig, SamplingConfig, ScheduleConfig, ValidationConfig
from lora_atelier.trainer.run import FAILED, FINISHED, run

PROMPT = "momo --w 64 --h 64 --s 1"


def test_a_run_of_epochs_shows_each_picture_as_often_and_does_at_their_ends_what_is_asked(
    tmp_path, tiny_model_folder, pictures
):
    """Nine pictures, two held out; five of one shape and two of another, three at once: three batches an epoch."""
    made = make(
        tmp_path / "run",
        tiny_model_folder,
        pictures,
        schedule=ScheduleConfig(max_train_epochs=3, seed=5),
        output=OutputConfig(name="momo", folder=str(tmp_path / "loras"), save_every_n_epochs=1, save_last_n_epochs=1),
        sampling=SamplingConfig(prompts=(PROMPT,), sample_every_n_epochs=2, sample_at_first=False),
        validation=ValidationConfig(split=0.2, validate_every_n_epochs=1, max_validation_steps=1),
    )

    assert run(made) == FINISHED

    (started,) = told(made, events.Started)
    assert started.steps == 9 and told(made, events.Finished)[0].step == 9
    assert [saved.step for saved in told(made, events.Saved)] == [3, 6, 9]
    assert [path.name for path in (made / "checkpoints").glob("*.safetensors")] == ["momo-s000009.safetensors"]
    assert sorted({sample.step for sample in told(made, events.Sampled)}) == [6, 9]
    assert [measured.step for measured in told(made, events.Validated)] == [0, 3, 6, 9]


def test_a_measurement_ends_after_as_many_batches_as_are_asked_for(tmp_path, tiny_model_folder, pictures):
    losses = []
    for most in (0, 1, 9):
        validation = ValidationConfig(split=0.6, max_validation_steps=most)
        made = make(
            tmp_path / str(most),
            tiny_model_folder,
            pictures,
            schedule=ScheduleConfig(steps=1, seed=5),
            validation=validation,
        )
        assert run(made) == FINISHED
        losses.append(told(made, events.Validated)[0].loss)

    assert losses[0] == losses[2] != losses[1]


def test_epochs_that_are_shorter_than_the_warm_up_are_refused_before_the_model_is_read(
    tmp_path, tiny_model_folder, pictures, monkeypatch
):
    schedule = ScheduleConfig(max_train_epochs=1, warmup=50.0)
    made = make(tmp_path / "run", tiny_model_folder, pictures, schedule=schedule)
    monkeypatch.setattr("lora_atelier.models.load.load", None)

    assert run(made) == FAILED

    assert "warm-up takes" in str(told(made, events.Failed)[0].error)


def test_samples_and_a_checkpoint_come_when_they_are_asked_for_once(tmp_path, tiny_model_folder, pictures):
    sampling = SamplingConfig(prompts=(PROMPT,), every_n_steps=1000, sample_at_first=False)
    made = make(tmp_path / "run", tiny_model_folder, pictures, sampling=sampling)
    for name in ("sample-now", "save-now"):
        (made / name).write_text("now\n")

    assert run(made) == FINISHED

    steps = [sample.step for sample in told(made, events.Sampled)]
    assert 1 in steps and 2 not in steps
    assert told(made, events.Saved)[0].step == 1
    assert not (made / "sample-now").exists() and not (made / "save-now").exists()
    assert told(made, events.Started)[0].steps_per_epoch > 0
