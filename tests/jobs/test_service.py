import dataclasses
import errno
import json
import shutil
from pathlib import Path

import pytest
from tests.jobs.fakes import FAKE_TRAINER, draw_pictures, wait_for

from lora_atelier import atomic, config_files, events
from lora_atelier.config import recipe
from lora_atelier.errors import AlreadyRunningError, ConfigError, JobError
from lora_atelier.jobs import process, service
from lora_atelier.jobs.service import Jobs
from lora_atelier.locking import FileLock
from lora_atelier.rights import memorisation_cost, scanning
from lora_atelier.rights.folder_ledger import FolderLedger
from lora_atelier.rights.store import Store

STEPS = recipe(goal="character", family="toy", num_images=2).schedule.steps

pytestmark = pytest.mark.torchfree


def said(proposal, field):
    return [str(notice.problem) for notice in proposal.notices if notice.problem.field == field]


def change(form, **changes):
    return dataclasses.replace(form, **changes)


def test_a_form_becomes_a_run_that_the_trainer_can_read(jobs, form, pictures, tmp_path):
    run = jobs.create(form)

    config, job = config_files.read(run.path), run.job()
    (dataset,) = config.data.datasets
    assert dataset.subsets[0].image_dir == str(pictures)
    assert dataset.subsets[0].class_tokens == "momo"
    assert dataset.resolution == (128, 128)
    assert config.model.v_parameterization
    assert config.output.name == "momo" and config.output.folder == str(tmp_path / "data" / "loras")
    assert config.sampling.prompts[0].startswith("momo figure --w 128")  # a caption, which makes the better preview
    assert config.sampling.prompts[1].startswith("momo --w 128")
    assert (job.name, job.whose, job.trigger, job.family) == ("momo", "mine", "momo", "toy")
    assert jobs.view(run).status == "waiting"


@pytest.mark.parametrize(
    ("captions", "changes", "prompts"),
    [
        ({"1": "a cat, red hat"}, {}, ["momo, a cat, red hat", "momo"]),
        ({"1": "Momo on a wall\nanother line", "0": " "}, {}, ["Momo on a wall", "momo"]),
        ({"1": "momo"}, {}, ["momo"]),
        ({}, {}, ["momo"]),
        ({"0": "a --w 9999 trap", "1": "momo sits"}, {}, ["momo sits", "momo"]),
        ({"0": "momo stands", "1": "momo sits"}, {"left_out": frozenset({"0.png"})}, ["momo sits", "momo"]),
        ({"0": "momo stands", "1": "momo sits"}, {"refused": frozenset({"0.png"})}, ["momo sits", "momo"]),
        ({"0": "momo stands"}, {"captions": {"0.png": "momo runs"}}, ["momo runs", "momo"]),
        ({"0": "momo stands"}, {"sample_prompts": ("a house",)}, ["a house"]),
        ({"0": "momo stands"}, {"pictures": None}, ["momo"]),
    ],
)
def test_samples_show_the_trigger_and_one_pictures_caption(jobs, form, pictures, captions, changes, prompts):
    for path in pictures.glob("*.txt"):
        path.unlink()
    for name, text in captions.items():
        (pictures / f"{name}.txt").write_text(text, encoding="utf-8")

    config = jobs.propose(change(form, **changes)).config

    assert [line.partition(" --w ")[0] for line in config.sampling.prompts] == prompts


def test_dropped_pictures_are_kept_with_the_run(jobs, form, pictures):
    run = jobs.create(change(form, keep_pictures=True))
    shutil.rmtree(pictures)

    assert sorted(path.name for path in run.pictures_dir.glob("*.png")) == [f"{n}.png" for n in range(6)]
    assert (run.pictures_dir / "0.txt").read_text() == "momo figure"
    assert config_files.read(run.path).data.datasets[0].subsets[0].image_dir == str(run.pictures_dir)


def test_everything_that_is_wrong_with_a_form_is_said_at_once(jobs, form, tmp_path):
    (tmp_path / "empty").mkdir()
    bad = change(form, name="🎨", trigger=" ", whose="", goal="", quality="x", pictures=tmp_path / "empty")

    with pytest.raises(ConfigError) as caught:
        jobs.create(bad)

    assert {p.field for p in caught.value.problems} >= {"name", "trigger", "whose", "goal", "quality", "pictures"}
    assert list((tmp_path / "data" / "runs").iterdir()) == []


@pytest.mark.parametrize("folder", ["nowhere", None])
def test_no_pictures_is_a_sentence(jobs, form, tmp_path, folder):
    proposal = jobs.propose(change(form, pictures=tmp_path / folder if folder else None))

    assert len(said(proposal, "pictures")) == 1
    assert proposal.blocking()


def test_one_picture_is_allowed_with_a_warning(jobs, form, tmp_path):
    proposal = jobs.propose(change(form, pictures=draw_pictures(tmp_path / "one", 1)))

    assert "One picture is very little" in said(proposal, "pictures")[0]
    assert not proposal.blocking()
    assert str(proposal.plan.sentence()[0]) == f"1 picture, {STEPS} steps,"
    assert proposal.config.validation.split == 0


def test_a_name_is_shown_as_it_will_be_used(jobs, form):
    proposal = jobs.propose(change(form, name="もも 一号/試作"))

    assert proposal.name == "もも_一号-試作"
    assert proposal.notices[0].suggestion == "もも_一号-試作"
    assert not proposal.blocking()


def test_an_existing_lora_is_not_overwritten(jobs, form):
    jobs.lora_dir.mkdir(parents=True)
    (jobs.lora_dir / "Momo-s000800.safetensors").touch()

    assert jobs.create(form).job().name == "momo-2"
    assert jobs.create(form).job().name == "momo-3"


def test_a_base_model_that_can_not_be_used_is_named_with_its_reason(jobs, form, tmp_path):
    pickle = tmp_path / "model.ckpt"
    pickle.write_bytes(b"x")

    proposal = jobs.propose(change(form, base_model=pickle))

    assert any("pickles" in sentence for sentence in said(proposal, "base_model"))
    assert proposal.blocking()


def test_no_permission_to_write_is_a_sentence_before_anything_starts(form, tmp_path):
    in_the_way = tmp_path / "a file"
    in_the_way.touch()

    proposal = Jobs(tmp_path / "data", in_the_way / "loras").propose(form)

    assert "can't be written to" in said(proposal, "")[0]
    assert proposal.blocking()


def test_a_disk_with_too_little_room_is_a_sentence_before_anything_starts(jobs, form, monkeypatch):
    monkeypatch.setattr(service, "free_bytes", lambda folder: 3_000_000)

    with pytest.raises(ConfigError, match="3 MB left"):
        jobs.create(form)


def test_a_disk_that_fills_up_while_a_run_is_made_leaves_nothing_behind(jobs, form, monkeypatch):
    def full(path, text):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic, "write_text", full)

    with pytest.raises(JobError, match="No space left"):
        jobs.create(form)
    assert list(jobs.runs_dir.iterdir()) == []


def test_a_training_is_not_started_while_another_process_starts_one_and_a_lock_file_alone_stops_nobody(
    jobs, form, monkeypatch
):
    """Another process holds the lock as another object does; what a killed one leaves is an unlocked file."""
    monkeypatch.setattr(service, "_STARTING_S", 0.1)
    run, other = jobs.create(form), FileLock(jobs.data_dir / "start.lock")
    assert other.acquire()

    with pytest.raises(AlreadyRunningError, match="being started"):
        jobs.start(run)
    assert jobs.view(run).status == "waiting"
    other.release()
    assert (jobs.data_dir / "start.lock").exists()
    jobs.start(run)

    wait_for(jobs, run, "finished")


def test_a_second_training_has_to_wait_and_can_be_started_later(jobs, form):
    waiting, first = jobs.create(form), jobs.create(form)
    (first.path / "behave").write_text("wait")
    jobs.start(first)
    while jobs.view(first).step < 3:
        pass

    with pytest.raises(AlreadyRunningError, match=f"“momo-2”, step 3 of {STEPS}"):
        jobs.start(waiting)
    with pytest.raises(AlreadyRunningError):
        jobs.submit(form)
    with pytest.raises(AlreadyRunningError, match="already"):
        jobs.resume(first)
    jobs.stop(first)
    wait_for(jobs, first, "stopped")
    jobs.start(waiting)

    assert wait_for(jobs, waiting, "finished").result.name == "momo.safetensors"
    with pytest.raises(JobError, match="nothing to resume"):
        jobs.resume(waiting)
    with pytest.raises(JobError, match="nothing to stop"):
        jobs.stop(waiting)


def test_a_training_that_can_not_be_started_leaves_no_run_behind(form, tmp_path):
    jobs = Jobs(tmp_path / "data", command=["/no/such/python"])

    with pytest.raises(JobError, match="could not be started"):
        jobs.submit(form)

    assert jobs.list() == []


def test_a_failed_run_says_why_and_can_be_resumed(jobs, form):
    run = jobs.create(form)
    (run.path / "behave").write_text("fail")
    jobs.start(run)

    view = wait_for(jobs, run, "failed")
    assert str(view.error) == "The disk is full. Make room."
    (run.path / "behave").write_text("finish")
    jobs.resume(run)
    wait_for(jobs, run, "finished")


def test_a_finished_run_teaches_how_long_the_next_one_takes(jobs, form, tmp_path):
    run = jobs.submit(form)
    wait_for(jobs, run, "finished")

    later = Jobs(tmp_path / "data", command=FAKE_TRAINER)
    plan = later.propose(change(form, quality="draft")).plan
    assert json.loads((tmp_path / "data" / "rates.json").read_text())["rates"].keys() == {"toy/128/cpu"}
    assert plan.steps == 0.4 * STEPS
    # The fake trainer says that its run took ten seconds.
    view = 10 / (8 * STEPS)
    testing = memorisation_cost.foretell(0.1 * view * plan.steps * 8, [view / 2] * 6).seconds
    assert plan.seconds == pytest.approx(10 + view * (plan.steps * 8 + 6 / 2) + testing, rel=0.005)


def test_runs_are_listed_newest_first_and_a_damaged_one_does_not_hide_the_others(jobs, form):
    first, second = jobs.create(form), jobs.create(change(form, name="second"))
    (first.path / "job.toml").write_text("schema = [")

    views = jobs.list()

    assert [view.run.id for view in views] == [second.id, first.id]
    assert "not valid TOML" in str(views[1].error)


@pytest.mark.parametrize("run_id", ["", "..", "../runs", "x/y", "nothing"])
def test_only_the_plain_name_of_a_run_finds_it(jobs, form, run_id):
    jobs.create(form)

    with pytest.raises(JobError, match="no training"):
        jobs.get(run_id)


def test_five_thousand_pictures_are_planned_at_once(jobs, form, tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(5000):
        (folder / f"{number}.jpg").touch()

    proposal = jobs.propose(change(form, pictures=folder))

    assert proposal.pictures == 5000
    assert not proposal.blocking()
    assert str(proposal.plan.sentence()[0]).startswith("5000 pictures")


def test_kohyas_numbered_folders_are_counted(jobs, form, tmp_path):
    draw_pictures(tmp_path / "set" / "10_momo", 3)
    draw_pictures(tmp_path / "set" / "5_momo side", 2)

    assert jobs.propose(change(form, pictures=tmp_path / "set")).pictures == 5


def test_the_trainer_takes_the_same_files_for_pictures():
    assert service.PICTURE_SUFFIXES == pytest.importorskip("lora_atelier.datasets.items").PICTURE_SUFFIXES


def test_settings_written_as_files_become_a_run(jobs, form, tmp_path):
    config = config_files.read(jobs.create(form).path)

    run = jobs.add(config, trigger="momo")

    assert run.job().name == "momo-2"
    assert Path(run.job().pictures) == form.pictures


def test_a_run_of_long_steps_has_as_long_to_stop_as_three_of_them_take(jobs, form):
    run = jobs.create(form)
    assert jobs.stop_timeout_s(run) == process.STOP_TIMEOUT_S

    step = {"step": 1, "steps": 9, "loss": 0.1, "learning_rate": 1e-4, "seconds_left": 1.0}
    events.Appender(run.events_path).add(events.Stepped(**step, seconds_per_step=50.0))

    assert jobs.stop_timeout_s(run) == 150.0


def test_what_is_stated_of_pictures_goes_along_where_a_run_copies_them(jobs, form):
    """A folder that can't be written to has its record in the data folder alone, and a copy is another folder."""
    store = Store(jobs.data_dir)
    ledger = scanning.scan(form.pictures, [path.name for path in form.pictures.glob("*.png")], store=store)
    ledger.state({"licence": "CC0-1.0"}, by="Ada")
    store.put(ledger, form.pictures)

    run = jobs.create(dataclasses.replace(form, left_out=frozenset({"0.png"})))

    assert FolderLedger.read(run.pictures_dir).statement == {"licence": "CC0-1.0"}
    assert not (form.pictures / "rights.jsonl").exists()
