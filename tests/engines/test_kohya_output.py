"""What sd-scripts 48d368fa printed (tqdm 4.67, a tiny model on the processor), and what becomes of it."""

import itertools
import math
import re

import pytest

from lora_atelier.engines.kohya_output import Translator, Wrote, failure
from lora_atelier.errors import (
    DataError,
    DiskFullError,
    JobError,
    ModelError,
    NotEnoughMemoryError,
    TrainerFailedError,
)
from lora_atelier.events import Preparing, Started, Stepped, Validated

pytestmark = pytest.mark.torchfree

RECORDED = """prepare images.
found directory pictures/1-1-1 contains 6 image files
read caption:   0%|          | 0/6 [00:00<?, ?it/s]\rread caption: 100%|##########| 6/6 [00:00<00:00, 37673.39it/s]
preparing accelerator
accelerator device: cpu
loading model for process 0/1
Loading pipeline components...:   0%|          | 0/4 [00:00<?, ?it/s]
caching latents with caching strategy.
caching latents...
  0%|          | 0/6 [00:00<?, ?it/s]\r 50%|#####     | 3/6 [00:00<00:00,  4.36it/s]\r100%|##########| 6/6 [00:01<00:00]
running training / 学習開始
  num train images * repeats / 学習画像の数×繰り返し回数: 6
  num batches per epoch / 1epochのバッチ数: 6
steps:   0%|          | 0/12 [00:00<?, ?it/s]
epoch 1/2
[atelier] loss=1.21792 lr=0.000982963
\rsteps:   8%|▊         | 1/12 [00:00<00:00, 7449.92it/s, avr_loss=1.22]
\rsteps:  17%|█▋        | 2/12 [00:00<00:00, 7449.92it/s, avr_loss=1.22]
saving checkpoint: out/m-step00000002.safetensors
saving state at step 2
Saving current state to out/m-step00000002-state
\rsteps:  17%|█▋        | 2/12 [00:00<00:00, 7449.92it/s, avr_loss=1.22]
Random states saved in out/m-step00000002-state/random_states_0.pkl
[atelier] loss=1.06127 lr=0.00075
\rsteps:  17%|█▋        | 2/12 [00:00<00:00, 239.38it/s, avr_loss=1.14]
validation steps:   0%|          | 0/2 [00:00<?, ?it/s]
[atelier] held_out=1.26
\rvalidation steps:  50%|#####     | 1/2 [00:00<00:00, 138.44it/s, val_avg_loss=1.26, timestep=200]
[atelier] held_out=1.17654
\rvalidation steps: 100%|##########| 2/2 [00:00<00:00, 162.22it/s, val_avg_loss=1.18, timestep=400]
[atelier] loss=1.2 lr=0.0005
\rsteps:  25%|██▌       | 3/12 [00:00<00:00, 239.38it/s, avr_loss=1.14]
validation steps: 100%|##########| 2/2 [00:00<00:00, 162.22it/s, val_avg_loss=1.18, timestep=400]
"""


def told(text, **about):
    translator = Translator(clock=map(float, itertools.count()).__next__, **about)
    lines = re.split(r"[\r\n]+", text)
    return translator, [event for line in lines for event in translator.line(line)]


def test_a_recorded_run_becomes_our_events_in_their_order():
    translator, events = told(RECORDED, pictures=6)

    assert events[:2] == [Preparing(stage="pictures"), Preparing(stage="model")]
    assert events[2:5] == [Preparing(stage="latents", done=done, total=6) for done in (0, 3, 6)]
    assert events[5] == Started(steps=12, pictures=6, device="cpu")
    steps = [event for event in events if isinstance(event, Stepped)]
    assert [(event.step, event.learning_rate) for event in steps] == [(1, 0.000982963), (2, 0.000982963), (3, 0.0005)]
    # The bar shows a step before its loss is known; that one is in the next mean.
    assert [event.loss for event in steps] == [1.21792, 1.22, pytest.approx((1.06127 + 1.2) / 2)]
    assert steps[-1].seconds_left == 9.0
    assert [event for event in events if isinstance(event, Validated)] == [Validated(step=2, loss=1.17654)]
    assert translator.batches_per_epoch == 6


def test_a_checkpoint_is_told_of_when_its_state_is_complete_and_not_before():
    before = RECORDED.partition("Random states saved")[0]

    assert not any(isinstance(event, Wrote) for event in told(before)[1])
    wrote = [event for event in told(RECORDED)[1] if isinstance(event, Wrote)]
    assert wrote == [Wrote(2, "out/m-step00000002.safetensors", "out/m-step00000002-state")]


def test_steps_of_earlier_sittings_count():
    _, events = told(RECORDED, done=100)

    assert next(event for event in events if isinstance(event, Started)).resumed_from == 100
    assert [event.step for event in events if isinstance(event, Stepped)] == [101, 102, 103]
    assert next(event for event in events if isinstance(event, Wrote)).step == 102


def test_a_state_that_it_was_stopped_with_is_no_checkpoint():
    translator, events = told(
        RECORDED
        + "Saving current state to out/stopped-state\n[atelier] stopped after 3 steps\n"
        + "steps:  33%|###       | 4/12 [00:00<00:00, 1it/s, avr_loss=1.14]\n"
    )

    assert translator.stopped
    assert [event.state for event in events if isinstance(event, Wrote)] == ["out/m-step00000002-state"]


def test_steps_are_told_of_now_and_then_but_a_loss_that_is_no_number_at_once():
    bars = "".join(f"steps:  1%|# | {n}/99 [0<0, 1it/s, avr_loss=1]\n" for n in range(1, 50))

    assert len([event for event in told(bars, every_s=10.0)[1] if isinstance(event, Stepped)]) == 5
    bad = "[atelier] loss=nan lr=1\nsteps:  1%|# | 50/99 [0<0, 1it/s, avr_loss=nan]\n"
    assert math.isnan(told(bars + bad, every_s=10.0)[1][-1].loss)


@pytest.mark.parametrize(
    ("log", "kind", "words"),
    [
        (
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
            NotEnoughMemoryError,
            "not enough memory",
        ),
        ("ERROR No data found. Please verify arguments", DataError, "no picture"),
        ("ModuleNotFoundError: No module named 'bitsandbytes'", JobError, "bitsandbytes"),
        ("ModuleNotFoundError: No module named 'lycoris'", JobError, "pip install lycoris-lora"),
        ("OSError: [Errno 28] No space left on device", DiskFullError, "disk is full"),
        ("RuntimeError: NaN detected in latents: /x/a.png", JobError, "no_half_vae"),
        ("RuntimeError: Error(s) in loading state_dict for UNet2DConditionModel:", ModelError, "can't load this base"),
        ("voluptuous.error.MultipleInvalid: extra keys not allowed @ data['datasets'][0]['x']", JobError, "['x']"),
        ("OSError: Can't load tokenizer for 'openai/clip-vit-large-patch14'", JobError, "internet"),
        ("[atelier] unknown checkout: it has no LossRecorder", JobError, "LossRecorder"),
        ("Traceback ...\nValueError: a thing is wrong.\n", TrainerFailedError, "ValueError: a thing is wrong."),
        ("", TrainerFailedError, "exit status: 1"),
    ],
)
def test_failures_are_one_sentence_with_the_reason(log, kind, words):
    error = failure(1, f"INFO something\n{log}\n")

    assert type(error) is kind
    assert words in str(error)


def test_a_process_that_the_system_ended_most_likely_lacked_memory():
    assert "signal 9" in str(failure(-9, "steps")) and "memory" in str(failure(-9, "steps"))
