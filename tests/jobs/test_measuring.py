"""Measuring for a page: begun, followed, what it found kept for the same settings."""

import dataclasses
import json
import sys
import time

import pytest
from tests.jobs.fakes import wait_for
from tests.jobs.test_dry_run import FAILS, SAID, WRITES

from lora_atelier.errors import AlreadyRunningError, ConfigError, JobError
from lora_atelier.jobs.measuring import Measuring

pytestmark = pytest.mark.torchfree


def made(jobs, program, **more):
    return Measuring(jobs, command=[sys.executable, "-c", program], **more)


def ended(measuring, seconds=20.0):
    deadline = time.monotonic() + seconds
    while (state := measuring.state()).status == "running":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return state


def plan_of(jobs, measuring, form):
    proposal = jobs.propose(form)
    return measuring.known(proposal.config, form, proposal.plan)


def test_what_was_measured_holds_for_the_same_settings_whatever_the_name(jobs, form):
    told = []
    measuring = made(jobs, WRITES.format(said=json.dumps(SAID)), on_busy=told.append)
    assert measuring.state().status == "none" and not plan_of(jobs, measuring, form).measured

    measuring.start(form)
    assert ended(measuring).status == "done"

    plan = plan_of(jobs, measuring, dataclasses.replace(form, name="other", trigger="another"))
    assert plan.measured and (plan.seconds, plan.memory_bytes) == (100.0, 2000)
    assert plan.pictures == 6  # those of the form, not all that the trainer reads
    other = dataclasses.replace(form, changes={"network.rank": 4})
    assert not plan_of(jobs, measuring, other).measured
    assert told == [True, False]
    assert not (jobs.data_dir / "dry runs").exists()


SEES = """
import pathlib, sys
run = pathlib.Path(sys.argv[2])
folder = (run / "dataset.toml").read_text().split("image_dir = ")[1].splitlines()[0].strip().strip('"')
names = sorted(path.name for path in pathlib.Path(folder).glob("*.png"))
(run.parent.parent / "seen").write_text(" ".join(names))
"""


def test_left_out_pictures_are_not_measured(jobs, form):
    measuring = made(jobs, SEES)

    measuring.start(dataclasses.replace(form, left_out=frozenset({"0.png", "1.png"})))
    ended(measuring)

    assert (jobs.data_dir / "seen").read_text() == "2.png 3.png 4.png 5.png"
    assert not (jobs.data_dir / "dry runs").exists()


def test_what_goes_wrong_is_said_and_another_try_is_possible(jobs, form):
    measuring = made(jobs, FAILS)
    measuring.start(form)

    state = ended(measuring)

    assert state.status == "failed" and "No pictures" in str(state.error)
    measuring.start(form)
    measuring.cancel()
    assert measuring.state().status == "none" and not plan_of(jobs, measuring, form).measured


def test_one_at_a_time_and_none_beside_a_training(jobs, form):
    measuring = made(jobs, "import time; time.sleep(60)")
    measuring.start(form)
    with pytest.raises(AlreadyRunningError):
        measuring.start(form)
    measuring.cancel()

    run = jobs.create(form)
    (run.path / "behave").write_text("wait")
    jobs.start(run)
    wait_for(jobs, run, "running")
    with pytest.raises(AlreadyRunningError, match="while a training"):
        measuring.start(form)
    jobs.stop(run)
    wait_for(jobs, run, "stopped")


def test_a_host_that_draws_is_waited_for_and_left_alone(jobs, form):
    told = []
    measuring = made(jobs, "", on_busy=lambda busy: told.append(busy) or False)

    with pytest.raises(AlreadyRunningError, match="being drawn"):
        measuring.start(form)

    assert told == [True] and measuring.state().status == "none"


def test_a_form_that_is_not_right_and_another_engine_are_refused(jobs, form):
    measuring = made(jobs, "")
    with pytest.raises(ConfigError):
        measuring.start(dataclasses.replace(form, whose="?"))
    with pytest.raises(JobError, match="our own trainer"):
        measuring.start(dataclasses.replace(form, engine="sd-scripts"))
