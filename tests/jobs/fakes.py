"""What tests of jobs, routes and commands share: a base model that is only headers, pictures, a fake trainer."""

import json
import struct
import sys
import time
from pathlib import Path

from PIL import Image

FAKE_TRAINER = [sys.executable, str(Path(__file__).with_name("fake_trainer.py"))]


def write_model_headers(folder):
    """A diffusers folder that the detector takes for the embedded base model; its weights are a few zeros."""
    for part in ("unet", "vae", "text_encoder"):
        (folder / part).mkdir(parents=True)
        name = "model" if part == "text_encoder" else "diffusion_pytorch_model"
        key = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight"
        header = json.dumps({key: {"dtype": "F32", "shape": [8, 4], "data_offsets": [0, 128]}}).encode()
        (folder / part / f"{name}.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(128))
    unet = {"cross_attention_dim": 96, "in_channels": 4, "sample_size": 16}
    (folder / "unet" / "config.json").write_text(json.dumps(unet))
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text('{"prediction_type": "v_prediction"}')
    (folder / "model_index.json").write_text("{}")
    return folder


def draw_pictures(folder, count=6):
    """``count`` small pictures with captions."""
    folder.mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", (80, 64), (40 * number % 256, 0, 0)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text("momo figure", encoding="utf-8")
    return folder


def wait_for(jobs, run, *wanted, seconds=20.0):
    """The run's view as soon as its status is one of ``wanted``."""
    deadline = time.monotonic() + seconds
    while (view := jobs.view(run)).status not in wanted:
        assert time.monotonic() < deadline, f"{view.status}: {run.log_tail()}"
        time.sleep(0.05)
    return view
