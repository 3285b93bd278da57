"""No bad state replaces a good one, no state is made twice, and a run goes on only with what it began with."""

import dataclasses

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.trainer.test_resume import adapter, make, same, stop_after, told

from lora_atelier import config_files, events
from lora_atelier.config import (
    LossConfig,
    MemoryConfig,
    NetworkConfig,
    OptimizerConfig,
    OutputConfig,
    SamplingConfig,
    ScheduleConfig,
    ValidationConfig,
)
from lora_atelier.errors import JobError
from lora_atelier.jobs.run_dir import Job, Progress, RunDir
from lora_atelier.jobs.view import describe
from lora_atelier.models.layers import layers
from lora_atelier.trainer import session, settings
from lora_atelier.trainer.run import FAILED, FINISHED, STOPPED, run


def test_a_loss_that_is_no_number_is_noticed_after_ten_steps_however_seldom_is_reported(
    tmp_path, tiny_model_folder, pictures, monkeypatch
):
    made = make(
        tmp_path / "run",
        tiny_model_folder,
        pictures,
        schedule=ScheduleConfig(steps=40, seed=5),
        output=OutputConfig(name="momo", folder=str(tmp_path / "loras"), save_every_n_steps=40),
        validation=ValidationConfig(split=0.0),
    )
    monkeypatch.setattr(
        "lora_atelier.trainer.losses.per_picture", lambda a, b, **_: (a - b).mean((1, 2, 3)) * torch.nan
    )
    monkeypatch.setattr("lora_atelier.trainer.loop.REPORT_EVERY_S", 1e9)

    assert run(made) == FAILED

    assert told(made, events.Failed)[0].error["values"]["step"] == 10


@pytest.mark.parametrize("where", ["weight", "moment"])
def test_what_the_last_step_broke_never_takes_the_place_of_the_last_good_state(
    tmp_path, tiny_model_folder, pictures, monkeypatch, where
):
    """The loss of a step is that of the weights before it, so it says nothing about those that are kept."""
    made = make(tmp_path / "run", tiny_model_folder, pictures)
    real = session.checkpoint.save_state

    def broken_at_four(states, trainee, progressed, **more):
        if progressed.step == 4:
            parameter = next(iter(trainee.network.parameters()))
            tensor = parameter if where == "weight" else trainee.optimizer.state[parameter]["exp_avg_sq"]
            with torch.no_grad():
                tensor.view(-1)[0] = torch.inf
        return real(states, trainee, progressed, **more)

    monkeypatch.setattr(session.checkpoint, "save_state", broken_at_four)

    assert run(made) == FAILED

    assert (made / "state" / "latest").read_text(encoding="utf-8") == "step-000002"
    assert [path.name for path in (made / "state").glob("step-*")] == ["step-000002"]
    failed = told(made, events.Failed)[0].error
    assert failed["values"] == {"step": 4, "kept": 2} and "checkpoint of step {kept} is good" in failed["todo"]


CHANGES = {
    "network_dim: 4 → 8": {"network": NetworkConfig(rank=8, alpha=2.0, conv_rank=2, train_te=True, dropout=0.1)},
    "seed: 5 → 6": {"schedule": ScheduleConfig(steps=6, seed=6)},
    "max_train_steps: 6 → 9": {"schedule": ScheduleConfig(steps=9, seed=5)},
    "min_snr_gamma: 0.0 → 5.0": {"loss": LossConfig(min_snr_gamma=5.0)},
}


@pytest.fixture
def stopped_at_two(tmp_path, tiny_model_folder, pictures, monkeypatch):
    made = make(tmp_path / "run", tiny_model_folder, pictures)
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        assert run(made) == STOPPED
    (made / "stop").unlink()
    return made


def test_settings_that_change_the_result_are_named_and_refused_and_going_back_goes_on(
    stopped_at_two, tiny_model_folder, pictures, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr("lora_atelier.models.load.load", None)  # it is said before the model is read
        for change, changes in CHANGES.items():
            make(stopped_at_two, tiny_model_folder, pictures, **changes)
            assert run(stopped_at_two) == FAILED
            assert change in told(stopped_at_two, events.Failed)[-1].error["values"]["listed"]

    make(stopped_at_two, tiny_model_folder, pictures)
    assert run(stopped_at_two) == FINISHED


def test_a_lora_in_the_base_model_that_became_another_file_is_named_and_refused(
    tmp_path, tiny_model_folder, pictures, tiny_model, random_lora, monkeypatch
):
    chosen = {n: layer.module for n, layer in layers(tiny_model).items() if n.endswith("attn1_to_q")}
    style, again = tmp_path / "style.safetensors", tmp_path / "same.safetensors"
    save_file(random_lora(chosen, rank=2), style)
    made = make(tmp_path / "run", tiny_model_folder, pictures)
    config = config_files.read(made)
    model = dataclasses.replace(config.model, base_weights=(str(style),))
    config_files.write(dataclasses.replace(config, model=model), made)
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        assert run(made) == STOPPED
    (made / "stop").unlink()
    save_file(random_lora(chosen, rank=2), again, metadata={"signed": "since"})
    save_file(random_lora(chosen, rank=2, seed=4), style)

    assert run(made) == FAILED

    said = told(made, events.Failed)[-1].error["values"]["listed"]
    assert "content of base_weights 1, style.safetensors: " in said and " → " in said
    # The same numbers with other metadata are the same LoRA.
    style.write_bytes(again.read_bytes())
    assert run(made) == FINISHED


def test_a_state_from_before_contents_were_noted_is_gone_on_from():
    before, now = {"seed": 5}, {"seed": 5, "content of vae, other.safetensors": "12"}

    settings.require_same(before, now)
    with pytest.raises(JobError, match="settings"):
        settings.require_same({**now, "content of vae, other.safetensors": "34"}, now)


def test_how_often_is_sampled_measured_and_kept_may_change_on_the_way(
    tmp_path, stopped_at_two, tiny_model_folder, pictures
):
    straight = make(tmp_path / "straight", tiny_model_folder, pictures)
    assert run(straight) == FINISHED
    output = OutputConfig(
        name="momo", folder=str(stopped_at_two / "loras"), save_every_n_steps=1, precision="float", comment="hm"
    )
    memory = MemoryConfig(cache_latents=False, max_data_loader_n_workers=2)
    validation = ValidationConfig(split=0.2, every_n_steps=1)
    sampling = SamplingConfig(prompts=("momo --w 64 --h 64 --s 1",), every_n_steps=2)
    make(
        stopped_at_two,
        tiny_model_folder,
        pictures,
        output=output,
        memory=memory,
        validation=validation,
        sampling=sampling,
    )

    assert run(stopped_at_two) == FINISHED

    assert same(adapter(straight), adapter(stopped_at_two))


def test_a_state_without_settings_of_an_older_version_is_gone_on_from(stopped_at_two):
    path = stopped_at_two / "state" / "step-000002" / "state.json"
    path.write_text('{"schema": 1, "step": 2, "train_seconds": 1.5}', encoding="utf-8")

    assert run(stopped_at_two) == FINISHED


def test_a_state_of_a_newer_version_is_refused_before_the_model_is_read(stopped_at_two, monkeypatch):
    path = stopped_at_two / "state" / "step-000002" / "state.json"
    path.write_text('{"schema": 99}', encoding="utf-8")
    monkeypatch.setattr("lora_atelier.models.load.load", None)

    assert run(stopped_at_two) == FAILED

    assert "newer version" in told(stopped_at_two, events.Failed)[0].error["why"]


@pytest.mark.parametrize("reason", ["no folder", "full"])
def test_an_output_folder_that_takes_nothing_is_said_before_the_model_is_read(
    tmp_path, tiny_model_folder, pictures, monkeypatch, reason
):
    made = make(tmp_path / "run", tiny_model_folder, pictures)
    monkeypatch.setattr("lora_atelier.models.load.load", None)
    if reason == "full":
        real = type(made).write_bytes

        def full(path, data):
            if path.parent.name == "loras":
                raise OSError(28, "No space left on device")
            return real(path, data)

        monkeypatch.setattr(type(made), "write_bytes", full)
    else:
        (made / "loras").write_bytes(b"a file where the folder should be")

    assert run(made) == FAILED

    failed = told(made, events.Failed)[0].error
    assert "can't be written to" in failed["what"] and failed["values"]["folder"].endswith("loras")


def measure(monkeypatch, losses):
    """Let the held-out losses of steps 0, 1, 2 … be these."""
    monkeypatch.setattr(
        session, "validated", lambda *_, step, **__: events.Validated(step=step, loss=losses[min(step, 6)])
    )


def test_the_best_measurement_is_marked_and_its_lora_kept(tmp_path, tiny_model_folder, pictures, monkeypatch):
    made = make(tmp_path / "run", tiny_model_folder, pictures, validation=ValidationConfig(split=0.2, every_n_steps=1))
    measure(monkeypatch, [0.01, 0.5, 0.3, 0.4, 0.2, 0.3, 0.3])

    assert run(made) == FINISHED

    assert [(best.step, best.loss) for best in told(made, events.Best)] == [(1, 0.5), (2, 0.3), (4, 0.2)]
    assert [path.name for path in (made / "best").iterdir()] == ["momo-s000004.safetensors"]
    kept = load_file(made / "checkpoints" / "momo-s000004.safetensors")
    assert same(load_file(made / "best" / "momo-s000004.safetensors"), kept)
    assert not same(adapter(made), kept)
    words = ("id", "name", "goal", "trigger", "whose", "lora_dir", "base_model", "pictures")
    job, progress = Job(**dict.fromkeys(words, ""), created=0.0), Progress(RunDir(made)).update()
    view = describe(RunDir(made), job, progress, "finished")
    assert view.best == made / "best" / "momo-s000004.safetensors"
    assert (view.best_step, view.best_loss, view.is_best_last) == (4, 0.2, False)


def test_a_run_that_may_end_early_ends_with_its_best_weights_also_after_a_stop(
    tmp_path, tiny_model_folder, pictures, monkeypatch
):
    losses = [0.01, 0.5, 0.3, 0.4, 0.5, 0.1, 0.1]
    for name in ("straight", "stopped"):
        validation = ValidationConfig(split=0.2, every_n_steps=1, patience=2)
        made = make(tmp_path / name, tiny_model_folder, pictures, validation=validation)
        measure(monkeypatch, losses)
        if name == "stopped":
            with monkeypatch.context() as patch:
                stop_after(patch, 3)
                assert run(made) == STOPPED
            (made / "stop").unlink()

        assert run(made) == FINISHED

        assert told(made, events.Finished)[0].step == 4
        assert same(adapter(made), load_file(made / "checkpoints" / "momo-s000002.safetensors"))
        assert any("Ended early" in warned.message["template"] for warned in told(made, events.Warned))


def test_the_first_and_the_last_samples_have_one_without_the_trigger(tmp_path, tiny_model_folder, pictures):
    prompts = ("a momo, red --w 64 --h 64 --s 1", "a momo --w 64 --h 64 --s 1")
    sampling = SamplingConfig(prompts=prompts, every_n_steps=3)
    made = make(tmp_path / "run", tiny_model_folder, pictures, sampling=sampling)

    assert run(made) == FINISHED

    drawn = [(sample.step, sample.prompt, sample.trigger, sample.file) for sample in told(made, events.Sampled)]
    assert drawn == [
        (0, "a momo, red", True, "step-000000-01.png"),
        (0, "a momo", True, "step-000000-02.png"),
        (0, "a", False, "step-000000-03.png"),
        (3, "a momo, red", True, "step-000003-01.png"),
        (3, "a momo", True, "step-000003-02.png"),
        (6, "a momo, red", True, "step-000006-01.png"),
        (6, "a momo", True, "step-000006-02.png"),
        (6, "a", False, "step-000006-03.png"),
    ]
    assert (made / "samples" / "step-000006-01.png").read_bytes() == (made / "loras" / "momo.png").read_bytes()


@pytest.mark.parametrize(("rate", "said"), [(1e-13, True), (1e-4, False)])
def test_a_learning_rate_that_moves_no_loss_is_said_after_ten_steps(tmp_path, tiny_model_folder, pictures, rate, said):
    made = make(
        tmp_path / "run",
        tiny_model_folder,
        pictures,
        optimizer=OptimizerConfig(learning_rate=rate),
        network=NetworkConfig(rank=4),
        schedule=ScheduleConfig(steps=12, seed=5, scheduler="constant", warmup=0.0),
        output=OutputConfig(name="momo", folder=str(tmp_path / "loras"), save_every_n_steps=100),
        validation=ValidationConfig(split=0.0),
    )

    assert run(made) == FINISHED

    assert any("loss will not move" in w.message["template"] for w in told(made, events.Warned)) == said


@pytest.fixture
def another_precision():
    """accelerate keeps one precision for a process; a trainer has a process of its own."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def test_samples_are_drawn_in_half_precision_too(tmp_path, tiny_model_folder, pictures, another_precision):
    """The LoRA's own numbers are float32 beside a model in bfloat16."""
    schedule = ScheduleConfig(steps=2, seed=5, mixed_precision="bf16")
    sampling = SamplingConfig(prompts=("momo --w 64 --h 64 --s 1",))
    made = make(tmp_path / "run", tiny_model_folder, pictures, sampling=sampling, schedule=schedule)

    assert run(made) == FINISHED

    assert {sample.step for sample in told(made, events.Sampled)} == {0, 1, 2}
    assert not [w for w in told(made, events.Warned) if "sample" in w.message["template"]]


def test_a_run_whose_last_state_is_gone_goes_on_from_the_one_before(tmp_path, tiny_model_folder, pictures, monkeypatch):
    straight, torn = (make(tmp_path / name, tiny_model_folder, pictures) for name in ("straight", "torn"))
    assert run(straight) == FINISHED
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        assert run(torn) == STOPPED
    (torn / "stop").unlink()
    (torn / "state" / "step-000004" / "optimizer.pt").unlink()

    assert run(torn) == FINISHED

    assert told(torn, events.Started)[1].resumed_from == 2
    assert same(adapter(straight), adapter(torn))
