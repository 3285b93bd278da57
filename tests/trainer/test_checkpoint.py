"""No bad state replaces a good one, no state is made twice, and a run goes on only with what it began with."""

import pytest
import torch
from tests.trainer.test_resume import adapter, make, same, stop_after, told

from lora_atelier import events
from lora_atelier.config import OutputConfig, ScheduleConfig, ValidationConfig
from lora_atelier.trainer import session
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
