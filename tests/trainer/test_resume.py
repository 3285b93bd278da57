"""What makes a run trustworthy: it is a function of its seed, and nothing that happens on the way changes it."""

import dataclasses
import json
import os

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from lora_atelier import config_files, events
from lora_atelier.config import (
    DataConfig,
    DatasetConfig,
    LossConfig,
    ModelConfig,
    NetworkConfig,
    OptimizerConfig,
    OutputConfig,
    SamplingConfig,
    ScheduleConfig,
    SubsetConfig,
    TrainConfig,
    ValidationConfig,
)
from lora_atelier.jobs.previews import Previews
from lora_atelier.jobs.run_dir import Job, RunDir
from lora_atelier.jobs.service import Jobs
from lora_atelier.jobs.view import RunView
from lora_atelier.trainer import results, session
from lora_atelier.trainer import run as run_module
from lora_atelier.trainer.run import FAILED, FINISHED, STOPPED, run


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "絵 with spaces"
    folder.mkdir()
    for at in range(9):
        size = (64, 64) if at % 3 else (96, 48)
        Image.effect_mandelbrot(size, (-2 + at / 9, -1.5, 1, 1.5), 20 + at).convert("RGB").save(folder / f"{at}.png")
        (folder / f"{at}.txt").write_text(f"momo {at}", encoding="utf-8")
    return folder


def make(run_dir, model, pictures, **changes):
    """A run of 6 steps in ``run_dir``; ``changes`` replace groups of its configuration."""
    run_dir.mkdir(parents=True, exist_ok=True)
    subset = SubsetConfig(image_dir=str(pictures), flip_aug=True, caption_dropout_rate=0.3)
    dataset = DatasetConfig(
        subsets=(subset,),
        resolution=(64, 64),
        batch_size=3,
        min_bucket_reso=32,
        max_bucket_reso=128,
        bucket_reso_steps=16,
    )
    config = TrainConfig(
        model=ModelConfig(base_model=str(model)),
        output=OutputConfig(name="momo", folder=str(run_dir / "loras"), save_every_n_steps=2, precision="float"),
        network=NetworkConfig(rank=4, alpha=2.0, conv_rank=2, train_te=True, dropout=0.1),
        schedule=ScheduleConfig(steps=6, seed=5),
        # The test for pictures that come back reads the whole model at the end; it has tests of its own.
        validation=ValidationConfig(split=0.2, every_n_steps=3, memorisation=0.0),
        data=DataConfig(datasets=(dataset,)),
    )
    config_files.write(dataclasses.replace(config, **changes), run_dir)
    job = f'schema = 1\ntrigger = "momo"\nwhose = "mine"\nlora_dir = {json.dumps(str(run_dir / "loras"))}\n'
    (run_dir / "job.toml").write_text(job, encoding="utf-8")
    return run_dir


def told(run_dir, kind=None):
    found = [timed.event for timed in events.read(run_dir / "events.jsonl")[0]]
    return [event for event in found if kind is None or isinstance(event, kind)]


def adapter(run_dir, name="momo"):
    return load_file(run_dir / "loras" / f"{name}.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def stop_after(monkeypatch, step):
    """Ask for a stop once ``step`` steps are made, as the file ``stop`` does."""
    real = session.Session._after_step

    def after(self, made):
        if made == step:
            (self.this.path / "stop").write_text("stop", encoding="ascii")
        return real(self, made)

    monkeypatch.setattr(session.Session, "_after_step", after)


def test_a_run_that_was_stopped_ends_with_the_tensors_of_one_that_was_not(
    tmp_path, tiny_model_folder, pictures, monkeypatch
):
    straight = make(tmp_path / "straight", tiny_model_folder, pictures)
    stopped = make(tmp_path / "stopped", tiny_model_folder, pictures)
    assert run(straight) == FINISHED

    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        assert run(stopped) == STOPPED
    assert told(stopped, events.Stopped) == [events.Stopped(step=3)]
    (stopped / "stop").unlink()
    torch.manual_seed(12345)  # another process has another global state
    assert run(stopped) == FINISHED

    assert told(stopped, events.Started)[1].resumed_from == 3
    assert same(adapter(straight), adapter(stopped))
    assert told(straight, events.Finished)[0].model_hash == told(stopped, events.Finished)[0].model_hash
    assert any(value.abs().max() > 0 for key, value in adapter(straight).items() if "lora_up" in key)


# Settings with a state, or with draws of their own.
OPTIONS = {
    "dropouts and noises": {
        "network": NetworkConfig(rank=4, conv_rank=2, dropout=0.1, rank_dropout=0.3, module_dropout=0.4),
        "loss": LossConfig(loss_type="huber", multires_noise_iterations=3, ip_noise_gamma=0.1, noise_offset=0.1),
        "schedule": ScheduleConfig(steps=6, seed=5, accumulation=2, gradient_checkpointing=True),
    },
    "average, norm limit, LoRA+": {
        "network": NetworkConfig(
            rank=4, train_te=True, scale_weight_norms=0.02, loraplus_lr_ratio=4.0, mid_lr_weight="0.3"
        ),
        "optimizer": OptimizerConfig(learning_rate=1e-2, ema_decay=0.9),
    },
    "DoRA, another optimizer": {
        "network": NetworkConfig(rank=4, algorithm="dora", conv_rank=2),
        "optimizer": OptimizerConfig(optimizer="Adafactor"),
        "schedule": ScheduleConfig(steps=6, seed=5, scheduler="adafactor"),
    },
    "LoKr with dropouts, a schedule by class": {
        "network": NetworkConfig(
            rank=4, algorithm="lokr", conv_rank=2, dora_wd=True, dropout=0.1, rank_dropout=0.2, module_dropout=0.2
        ),
        "schedule": ScheduleConfig(steps=6, seed=5, lr_scheduler_type="StepLR", lr_scheduler_args=("step_size=2",)),
    },
    "DyLoRA, checkpointing": {
        "network": NetworkConfig(rank=4, algorithm="dylora", network_args=("block_size=2",), rank_dropout=0.2),
        "schedule": ScheduleConfig(steps=6, seed=5, gradient_checkpointing=True),
    },
}


@pytest.mark.parametrize("name", OPTIONS)
def test_a_run_with_more_options_resumes_as_exactly(tmp_path, tiny_model_folder, pictures, monkeypatch, name):
    straight, stopped = (make(tmp_path / at, tiny_model_folder, pictures, **OPTIONS[name]) for at in ("a", "b"))
    assert run(straight) == FINISHED

    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        assert run(stopped) == STOPPED
    (stopped / "stop").unlink()
    torch.manual_seed(12345)
    assert run(stopped) == FINISHED

    assert same(adapter(straight), adapter(stopped))
    last = ("lora_up.weight", "lokr_w2")
    assert any(value.abs().max() > 0 for key, value in adapter(straight).items() if key.endswith(last))


def test_the_file_holds_the_average_and_the_state_the_weights_that_are_trained(tmp_path, tiny_model_folder, pictures):
    made, plain = (
        make(
            tmp_path / name, tiny_model_folder, pictures, optimizer=OptimizerConfig(learning_rate=1e-2, ema_decay=decay)
        )
        for name, decay in (("averaged", 0.99), ("plain", 0.0))
    )
    assert run(made) == run(plain) == FINISHED

    state = load_file(made / "state" / "step-000006" / "adapter.safetensors")
    assert same(state, adapter(plain))
    assert not same(state, adapter(made))


def test_gradient_checkpointing_changes_no_gradient(tmp_path, tiny_model_folder, pictures):
    """What is computed again while going back has the dropouts of the first time."""
    network = NetworkConfig(rank=4, alpha=2.0, conv_rank=2, dropout=0.2, rank_dropout=0.2, module_dropout=0.3)
    found = []
    for name, checkpointing in (("with", True), ("without", False)):
        schedule = ScheduleConfig(steps=2, seed=5, gradient_checkpointing=checkpointing)
        made = make(tmp_path / name, tiny_model_folder, pictures, network=network, schedule=schedule)
        assert run(made) == FINISHED
        found.append(adapter(made))

    assert same(*found)


def test_two_runs_with_one_seed_agree_and_with_another_seed_differ(tmp_path, tiny_model_folder, pictures):
    hashes = []
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        made = make(tmp_path / name, tiny_model_folder, pictures, schedule=ScheduleConfig(steps=2, seed=seed))
        assert run(made) == FINISHED
        hashes.append(told(made, events.Finished)[0].model_hash)

    assert hashes[0] == hashes[1] != hashes[2]


def test_samples_and_measurements_change_nothing(tmp_path, tiny_model_folder, pictures):
    quiet = make(tmp_path / "quiet", tiny_model_folder, pictures)
    busy = make(
        tmp_path / "busy",
        tiny_model_folder,
        pictures,
        sampling=SamplingConfig(every_n_steps=1, prompts=("momo --w 64 --h 64 --s 2 --d 3 --l 2",)),
        validation=ValidationConfig(split=0.2, every_n_steps=1),
    )

    assert run(quiet) == run(busy) == FINISHED

    assert len(told(busy, events.Sampled)) >= 6 and len(list((busy / "samples").glob("*.png"))) >= 6
    assert same(adapter(quiet), adapter(busy))
    assert (busy / "loras" / "momo.png").is_file()


def test_a_webui_that_keeps_its_model_draws_the_samples_and_the_training_is_the_same(
    tmp_path, tiny_model_folder, pictures, monkeypatch
):
    settings = {"sampling": SamplingConfig(every_n_steps=2, prompts=("momo --w 64 --h 64 --s 2 --d 3 --l 2",))}
    own, shared = (make(tmp_path / name, tiny_model_folder, pictures, **settings) for name in ("own", "shared"))
    jobs = Jobs(tmp_path / "shared's webui")
    drawn = []

    def draw(preview):
        (adapter_of_it,) = jobs.lora_dir.rglob("*.safetensors")
        drawn.append((preview.prompt, preview.steps, sum(t.abs().sum() for t in load_file(adapter_of_it).values())))
        return Image.effect_noise((64, 64), 60).convert("RGB")

    previews = Previews(jobs, draw=draw, is_ready=lambda model: True, refresh=lambda: None)
    monkeypatch.setattr("lora_atelier.jobs.previews._POLL_S", 0.05)
    job = Job(**dict.fromkeys(("id", "name", "goal", "trigger", "whose", "lora_dir", "base_model", "pictures"), "momo"),
              created=0.0)  # fmt: skip
    view = RunView(run=RunDir(shared), job=job, status="running")
    monkeypatch.setattr(jobs, "list", lambda: [view])
    previews.tick()
    previews.start()

    assert run(own) == run(shared) == FINISHED
    previews.end()

    expected = [(each.step, each.file, each.trigger) for each in told(own, events.Sampled)]
    found = [(each.step, each.file, each.trigger) for each in told(shared, events.Sampled)]
    assert sorted(found) == sorted(expected) and len(drawn) == len(expected)
    assert drawn[0][0].startswith("momo <lora:atelier-preview-") and drawn[0][1] == 2
    assert len({float(total) for _, _, total in drawn}) > 1  # the adapter as it was at each step
    assert same(adapter(own), adapter(shared))
    assert [path.name for path in (shared / "previews").iterdir()] == ["ready"]


def test_a_run_that_was_killed_goes_on_from_its_last_complete_state(tmp_path, tiny_model_folder, pictures, monkeypatch):
    class KilledError(BaseException):
        pass

    def killed(self, step):
        if step == 5:
            raise KilledError

    straight, torn = (make(tmp_path / name, tiny_model_folder, pictures) for name in ("straight", "torn"))
    assert run(straight) == FINISHED
    with monkeypatch.context() as patch:
        real = session.Session._after_step
        patch.setattr(session.Session, "_after_step", lambda self, step: killed(self, step) or real(self, step))
        with pytest.raises(KilledError):
            run(torn)

    assert run(torn) == FINISHED

    assert told(torn, events.Started)[1].resumed_from == 4
    assert same(adapter(straight), adapter(torn))


def test_the_latents_of_a_second_run_come_from_the_cache(tmp_path, tiny_model_folder, pictures, monkeypatch):
    first = make(tmp_path / "data" / "runs" / "1", tiny_model_folder, pictures)
    second = make(tmp_path / "data" / "runs" / "2", tiny_model_folder, pictures)
    assert run(first) == FINISHED

    def refuse(self, pixels):
        raise AssertionError("encoded again")

    monkeypatch.setattr("lora_atelier.models.load.Model.encode_images", refuse)
    assert run(second) == FINISHED

    assert same(adapter(first), adapter(second))


def test_a_checkpoint_that_finds_the_disk_full_is_a_warning_and_the_run_goes_on(
    tmp_path, tiny_model_folder, pictures, monkeypatch
):
    made = make(tmp_path / "run", tiny_model_folder, pictures)
    real, calls = session.checkpoint.save_state, []

    def full_once(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return real(*args, **kwargs)

    monkeypatch.setattr(session.checkpoint, "save_state", full_once)

    assert run(made) == FINISHED
    (warned,) = told(made, events.Warned)
    assert "could not be kept" in warned.message["template"] and warned.message["values"]["step"] == 4


@pytest.mark.skipif(os.name != "posix", reason="needs a limit on the size of files")
def test_files_that_the_system_lets_not_grow_are_a_warning_and_the_last_state_is_good(
    tmp_path, tiny_model_folder, pictures, monkeypatch
):
    """A real write that fails, in torch's and safetensors' own code as well as in ours."""
    import resource

    straight, made = (make(tmp_path / name, tiny_model_folder, pictures) for name in ("straight", "made"))
    assert run(straight) == FINISHED
    unlimited, real = resource.getrlimit(resource.RLIMIT_FSIZE), results.checkpoint.save_state

    for size in (4_000, 200_000):  # the first file of a state does not fit; its second one does not

        def limited(states, trainee, progressed, size=size, **more):
            if progressed.step != 4:
                return real(states, trainee, progressed, **more)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, unlimited[1]))
            try:
                return real(states, trainee, progressed, **more)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)

        with monkeypatch.context() as patch:
            patch.setattr(results.checkpoint, "save_state", limited)
            stop_after(patch, 4)
            assert run(made) == STOPPED

        assert "could not be kept" in told(made, events.Warned)[-1].message["template"]
        assert [path.name for path in (made / "state").iterdir() if path.is_dir()] == ["step-000002"]
        (made / "stop").unlink()

    assert run(made) == FINISHED
    assert same(adapter(straight), adapter(made))


def test_a_state_of_a_higher_step_is_never_overwritten(tmp_path, tiny_model_folder, pictures):
    made = make(tmp_path / "run", tiny_model_folder, pictures)
    output = OutputConfig(
        name="momo", folder=str(made / "loras"), save_every_n_steps=2, precision="float", keep_states=9
    )
    make(made, tiny_model_folder, pictures, output=output)
    assert run(made) == FINISHED

    def content():
        files = list((made / "state").glob("step-*/*"))
        files += [*(made / "checkpoints").glob("*-s000006.safetensors"), *(made / "loras").glob("momo.safetensors")]
        return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}

    before = content()
    (made / "state" / "latest").write_text("step-000002", encoding="utf-8")

    assert run(made) == FINISHED

    assert told(made, events.Started)[-1].resumed_from == 2
    assert content() == before and (made / "state" / "step-000006").is_dir()
    assert same(adapter(made), adapter(made, "momo-2"))


def test_a_lora_folder_that_is_full_at_the_end_loses_nothing(tmp_path, tiny_model_folder, pictures, monkeypatch):
    made = make(tmp_path / "run", tiny_model_folder, pictures)
    real = results.adapter_file.write

    def full(path, *args):
        if path.parent.name == "loras":
            raise OSError(28, "No space left on device")
        return real(path, *args)

    with monkeypatch.context() as patch:
        patch.setattr(results.adapter_file, "write", full)
        assert run(made) == FAILED
    assert "Make room" in told(made, events.Failed)[0].error["todo"]

    assert run(made) == FINISHED
    assert told(made, events.Started)[1].resumed_from == 6


def test_a_loss_that_is_no_number_ends_the_run_with_a_sentence(tmp_path, tiny_model_folder, pictures, monkeypatch):
    made = make(tmp_path / "run", tiny_model_folder, pictures)
    monkeypatch.setattr(
        "lora_atelier.trainer.losses.per_picture", lambda a, b, **_: (a - b).mean((1, 2, 3)) * torch.nan
    )
    monkeypatch.setattr("lora_atelier.trainer.loop.REPORT_EVERY_S", 0.0)

    assert run(made) == FAILED

    assert "no longer numbers" in told(made, events.Failed)[0].error["what"]


def test_weights_that_are_no_numbers_never_become_a_state(tmp_path, tiny_model_folder, pictures, monkeypatch):
    """A checkpoint can be due between two reports, which come by the clock."""
    made = make(tmp_path / "run", tiny_model_folder, pictures)
    monkeypatch.setattr(
        "lora_atelier.trainer.losses.per_picture", lambda a, b, **_: (a - b).mean((1, 2, 3)) * torch.nan
    )
    monkeypatch.setattr("lora_atelier.trainer.loop.REPORT_EVERY_S", 1e9)

    assert run(made) == FAILED

    assert not (made / "state").exists()


def test_a_stop_while_a_resumed_run_prepares_keeps_its_step(tmp_path, tiny_model_folder, pictures, monkeypatch):
    made = make(tmp_path / "run", tiny_model_folder, pictures)
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        assert run(made) == STOPPED

    assert run(made) == STOPPED  # the file "stop" still lies there

    assert told(made, events.Stopped) == [events.Stopped(step=3)] * 2


def test_a_name_that_exists_is_not_overwritten(tmp_path, tiny_model_folder, pictures):
    made = make(tmp_path / "run", tiny_model_folder, pictures, schedule=ScheduleConfig(steps=1))
    (made / "loras").mkdir()
    (made / "loras" / "momo.safetensors").write_bytes(b"mine")

    assert run(made) == FINISHED

    assert (made / "loras" / "momo.safetensors").read_bytes() == b"mine"
    assert adapter(made, "momo-2")
    assert told(made, events.Finished)[0].file.endswith("momo-2.safetensors")


def test_a_second_trainer_on_the_same_run_leaves_it_alone(tmp_path, tiny_model_folder, pictures):
    made = make(tmp_path / "run", tiny_model_folder, pictures)
    lock = run_module.FileLock(made / "lock")
    assert lock.acquire()

    assert run(made) == FAILED

    assert told(made) == []
    lock.release()


def test_a_picture_that_breaks_off_is_named_and_left_out(tmp_path, tiny_model_folder, pictures):
    whole = (pictures / "1.png").read_bytes()
    (pictures / "1.png").write_bytes(whole[: len(whole) // 2])
    made = make(tmp_path / "run", tiny_model_folder, pictures, schedule=ScheduleConfig(steps=1))

    assert run(made) == FINISHED

    assert any(warned.message["values"].get("name") == "1.png" for warned in told(made, events.Warned))


def test_a_picture_that_changed_since_the_run_began_stops_it(tmp_path, tiny_model_folder, pictures, monkeypatch):
    made = make(tmp_path / "run", tiny_model_folder, pictures)
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        assert run(made) == STOPPED
    (made / "stop").unlink()
    Image.new("RGB", (64, 64), "red").save(pictures / "1.png")

    assert run(made) == FAILED

    assert told(made, events.Failed)[0].error["type"] == "RightsError"
    assert "1.png" in json.dumps(told(made, events.Failed)[0].error)


def test_settings_that_make_no_sense_fail_before_anything_is_read(tmp_path, tiny_model_folder, pictures):
    made = make(tmp_path / "run", tiny_model_folder, pictures, network=NetworkConfig(rank=0))

    assert run(made) == FAILED

    assert [event.kind for event in told(made)] == ["failed"]
