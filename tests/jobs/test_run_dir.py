import time

import pytest

from lora_atelier import events
from lora_atelier.errors import JobError
from lora_atelier.jobs.run_dir import Job, Progress, RunDir, status
from lora_atelier.locking import FileLock

pytestmark = pytest.mark.torchfree


def job(**changes):
    values = {
        "id": "1",
        "name": "もも",
        "goal": "character",
        "trigger": 'm"o\\mo',
        "whose": "mine",
        "lora_dir": "C:\\loras",
        "base_model": "/models/a b",
        "pictures": "/p",
        "created": 12.5,
        "plan": {"steps": 3, "device": "cpu"},
    }
    return Job(**{**values, **changes})


def say(run, *said):
    appender = events.Appender(run.events_path)
    for event in said:
        appender.add(event)


FINISHED = events.Finished(step=3, file="a", model_hash="0", seconds=2.0, train_seconds=1.0, peak_memory_bytes=1)


def test_a_job_is_read_as_it_was_written(tmp_path):
    job().write(tmp_path / "job.toml")

    assert Job.read(tmp_path / "job.toml") == job()


def test_a_job_of_a_newer_version_is_refused(tmp_path):
    job(schema=99).write(tmp_path / "job.toml")

    with pytest.raises(JobError, match="newer version"):
        Job.read(tmp_path / "job.toml")


def test_an_incomplete_job_says_so(tmp_path):
    (tmp_path / "job.toml").write_text('name = "momo"\n')

    with pytest.raises(JobError, match="incomplete"):
        Job.read(tmp_path / "job.toml")


def test_what_has_become_of_a_run_is_told_by_its_files_and_its_lock(tmp_path):
    run = RunDir(tmp_path)
    assert status(run) == "waiting"

    run.mark_started()
    assert status(run) == "running"  # a trainer was asked and has a minute to take its lock

    lock = FileLock(run.lock_path)
    assert lock.acquire()
    say(run, events.Started(steps=3))
    assert status(run) == "running"

    lock.release()
    assert status(run) == "died"

    run.mark_started()
    say(run, events.Stopped(step=2))
    assert status(run) == "stopped"

    run.mark_started()
    assert status(run) == "running"  # resumed: the old last word counts no more
    say(run, FINISHED)
    assert status(run) == "finished"


def test_a_trainer_that_never_spoke_is_dead_after_a_minute_or_when_its_end_is_known(tmp_path):
    run = RunDir(tmp_path)
    run.started_path.write_text(f"{time.time() - 100} 0")

    assert status(run) == "died"

    run.mark_started()
    assert Progress(run).status(exited=True) == "died"


def test_a_run_that_was_ended_because_it_did_not_stop_is_stopped(tmp_path):
    run = RunDir(tmp_path)
    run.mark_started()
    say(run, events.Started(steps=3))
    run.stop_path.touch()

    assert status(run) == "stopped"


def test_progress_reads_only_what_is_new_and_starts_over_with_the_file(tmp_path):
    run = RunDir(tmp_path)
    progress = Progress(run)
    say(run, events.Started(steps=3), events.Saved(step=1, file="a-s000001.safetensors"))
    assert progress.update().get(events.Started).steps == 3
    assert progress.files == ["a-s000001.safetensors"]

    say(run, FINISHED)
    assert progress.update().last.event == FINISHED

    run.events_path.unlink()
    assert progress.update().last is None


def test_a_run_that_is_asked_to_stop_before_it_could_say_anything_is_still_on_its_way(tmp_path):
    """Its process has no lock yet: whoever took it for stopped would start another one beside it."""
    run = RunDir(tmp_path)
    run.mark_started()
    run.stop_path.write_text("stop\n")

    assert status(run) == "running"
    assert Progress(run).status(exited=True) == "stopped"
