import os
import signal
import subprocess
import sys
import time

import pytest
from tests.jobs.fakes import FAKE_TRAINER, wait_for

from lora_atelier import locking
from lora_atelier.errors import AlreadyRunningError, JobError
from lora_atelier.jobs import process
from lora_atelier.jobs.service import Jobs

pytestmark = pytest.mark.torchfree


@pytest.fixture
def run(jobs, form):
    made = jobs.create(form)
    yield made
    process.terminate(made, force=True)


def behave(run, how):
    (run.path / "behave").write_text(how)


def test_a_trainer_works_in_a_session_of_its_own_and_leaves_its_output_in_the_log(jobs, run):
    behave(run, "wait")

    process.start(run, FAKE_TRAINER)
    wait_for(jobs, run, "running")
    while locking.holder(run.lock_path) is None:  # written just after the lock is taken
        time.sleep(0.01)

    assert process.is_alive(run)
    if os.name == "posix":
        assert os.getsid(locking.holder(run.lock_path)) != os.getsid(0)
    with pytest.raises(AlreadyRunningError):
        process.start(run, FAKE_TRAINER)
    process.stop(run)
    assert wait_for(jobs, run, "stopped").step == 3


def test_windows_gets_a_process_group_and_no_console_window():
    assert process.detached("win32") == {"creationflags": 0x200 | 0x08000000}


def test_a_trainer_that_does_not_stop_is_ended(jobs, run):
    behave(run, "ignore stop")
    process.start(run, FAKE_TRAINER)
    while jobs.view(run).step < 3:
        pass

    process.stop(run, timeout_s=0.3)

    # It ignores the polite signal too, as one that hangs would.
    assert wait_for(jobs, run, "stopped").step == 3
    assert not locking.is_locked(run.lock_path)


@pytest.mark.skipif(os.name != "posix", reason="kill -9")
def test_a_killed_trainer_is_dead_and_can_go_on(jobs, run):
    behave(run, "wait")
    process.start(run, FAKE_TRAINER)
    while jobs.view(run).step < 3:
        pass

    os.kill(locking.holder(run.lock_path), signal.SIGKILL)
    view = wait_for(jobs, run, "died")
    assert str(view.error.todo) == "Press Resume: it goes on from step 3."

    behave(run, "finish")
    jobs.resume(run)
    assert wait_for(jobs, run, "finished").result.read_bytes() == b"adapter"


def test_a_trainer_that_crashes_before_its_first_word_is_dead_at_once_and_the_log_says_why(jobs, run):
    behave(run, "crash at once")

    process.start(run, FAKE_TRAINER)

    assert "no module named torch" in wait_for(jobs, run, "died", seconds=10).error.log_tail


def test_an_interpreter_that_is_missing_is_a_sentence(jobs, run):
    with pytest.raises(JobError, match="could not be started"):
        process.start(run, ["/no/such/python"])
    assert jobs.view(run).status == "waiting"


STARTER = """
import sys
from pathlib import Path
from lora_atelier.jobs import process
from lora_atelier.jobs.run_dir import RunDir
process.start(RunDir(Path(sys.argv[1])), sys.argv[2:])
"""


def test_a_training_outlives_its_host_and_another_host_finds_and_stops_it(jobs, run, tmp_path):
    behave(run, "wait")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    subprocess.run([sys.executable, "-c", STARTER, str(run.path), *FAKE_TRAINER], check=True, env=environment)

    later = Jobs(tmp_path / "data", command=FAKE_TRAINER)
    assert wait_for(later, run, "running").job.name == "momo"
    while later.view(run).step < 3:
        pass
    process.stop(run)
    assert wait_for(later, run, "stopped").step == 3
