"""What a person reads of a trainer that ended without a word."""

import shutil
import time

import pytest
from tests.jobs.test_run_dir import job, say

from lora_atelier import events
from lora_atelier.errors import DiskFullError, NotEnoughMemoryError, TrainerFailedError
from lora_atelier.jobs.died import why_died
from lora_atelier.jobs.run_dir import Progress, RunDir
from lora_atelier.jobs.view import describe

pytestmark = pytest.mark.torchfree

CUDA = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 7.79 GiB."
NO_PACKAGE = 'Traceback (most recent call last):\n  File "x.py", line 1\nModuleNotFoundError: No module named torch\n'


@pytest.fixture
def run(tmp_path):
    made = RunDir(tmp_path / "run")
    made.path.mkdir()
    made.started_path.write_text(f"{time.time() - 100} 0")
    return made


def why(run, exit_code=None):
    error = why_died(run, Progress(run).update(), exit_code)
    assert str(error.what) and str(error.why) and str(error.todo)  # what happened, why, what to do
    return error


def test_a_kill_by_the_system_is_told_as_what_it_most_often_is(run):
    say(run, events.Started(steps=9), events.Saved(step=3, file="", state="step-000003"))

    error = why(run, exit_code=-9)

    assert isinstance(error, NotEnoughMemoryError) and "memory" in str(error.why)


def test_where_nobody_knows_how_it_ended_it_goes_on_from_its_last_state(run):
    say(run, events.Started(steps=9), events.Saved(step=3, file="", state="step-000003"))

    error = why(run)

    assert isinstance(error, TrainerFailedError)
    assert str(error.todo) == "Press Resume: it goes on from step 3."


def test_memory_that_ran_out_is_read_from_the_log(run):
    say(run, events.Started(steps=9))
    run.log_path.write_text(f"step 1\n{CUDA}\n", encoding="utf-8")

    error = why(run, exit_code=1)

    assert isinstance(error, NotEnoughMemoryError) and "2.00 GiB" in str(error.why)


def test_a_full_disk_is_told_even_where_the_trainer_could_not_write_it(run, monkeypatch):
    say(run, events.Started(steps=9))
    full = shutil.disk_usage(run.path)._replace(free=4096)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)

    error = why(run, exit_code=1)

    assert isinstance(error, DiskFullError) and "Make room" in str(error.todo)


def test_an_environment_that_lacks_a_package_says_what_to_type(run):
    run.log_path.write_text(NO_PACKAGE, encoding="utf-8")

    error = why(run, exit_code=1)

    assert "No module named torch" in str(error.why) and "install.py trainer" in str(error.todo)


def test_a_program_that_breaks_at_its_start_says_its_last_line_and_where_the_rest_is(run):
    run.log_path.write_text("Traceback:\nValueError: bad {brace}\n", encoding="utf-8")

    error = why(run, exit_code=1)

    assert str(error.why) == "ValueError: bad {brace}." and "log" in str(error.todo)


def test_a_page_is_told_the_same(run):
    say(run, events.Started(steps=9))

    view = describe(run, job(), Progress(run).update(), "died", exit_code=-9)

    assert isinstance(view.error, NotEnoughMemoryError)
