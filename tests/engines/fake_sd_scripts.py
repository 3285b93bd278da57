"""A program that looks, speaks and writes as sd-scripts does, as far as we know it, and trains nothing.

What it prints is what sd-scripts 48d368fa printed for a tiny model on the processor.
"""

import os
import sys

TRAIN_UTIL = """
import os
class LossRecorder:
    def __init__(self):
        self.losses = []
    def add(self, *, epoch, step, loss):
        self.losses.append(loss)
    @property
    def moving_average(self):
        return sum(self.losses) / len(self.losses)
class Optimizer:
    param_groups = [{"lr": 0.001}]
class Accelerator:
    sync_gradients = True
    _optimizers = [Optimizer()]
    loaded = None
    def save_state(self, folder):
        print(f"Saving current state to {folder}", flush=True)
        os.makedirs(folder)
        open(os.path.join(folder, "optimizer.bin"), "w").write("state")
    def load_state(self, folder):
        self.loaded = open(os.path.join(folder, "optimizer.bin")).read()
def prepare_accelerator(args):
    print("accelerator device: cpu", flush=True)
    return Accelerator()
def resume_from_local_or_hf_if_specified(accelerator, args):
    if args.resume:
        accelerator.load_state(args.resume)
"""
TRAIN_NETWORK = """
import json, os, struct, sys, time, types
try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    from pip._vendor import tomli as tomllib
from library import train_util
class Args(types.SimpleNamespace):
    def __getattr__(self, name):
        return None
args = Args(**tomllib.load(open(sys.argv[sys.argv.index("--config_file") + 1], "rb")))
data = tomllib.load(open(args.dataset_config, "rb"))
behave = os.environ.get("ATELIER_FAKE", "")
if os.environ.get("ATELIER_FAKE_SEEN"):  # a file that gets the hashes of all pictures that it is given
    import hashlib
    folders = [subset["image_dir"] for entry in data["datasets"] for subset in entry["subsets"]]
    files = [os.path.join(folder, name) for folder in folders for name in sorted(os.listdir(folder))]
    seen = [hashlib.sha256(open(file, "rb").read()).hexdigest() for file in files if not file.endswith(".txt")]
    with open(os.environ["ATELIER_FAKE_SEEN"], "a") as file:
        file.write(json.dumps(seen) + "\\n")
def save(name, step):
    path = os.path.join(args.output_dir, name)
    print(f"\\nsaving checkpoint: {path}", flush=True)
    header = {
        "__metadata__": {"ss_steps": str(step), "ss_output_name": args.output_name, "ss_network_dim": "2",
                         "ss_tag_frequency": json.dumps({"momo figure": 1}), "modelspec.title": args.output_name},
        "lora_unet_x.alpha": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]},
        "lora_unet_x.lora_down.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [4, 28]},
        "lora_unet_x.lora_up.weight": {"dtype": "F32", "shape": [3, 2], "data_offsets": [28, 52]},
    }
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + struct.pack("<f", 1.0) + bytes([step] * 48))
print("prepare images.")
accelerator = train_util.prepare_accelerator(args)
print("loading model for process 0/1")
if behave == "fail":
    raise MemoryError("not enough")
print("caching latents...")
sys.stderr.write("\\r 50%|##   | 1/2 [00:00<00:00]\\r100%|#####| 2/2 [00:00<00:00]\\n")
train_util.resume_from_local_or_hf_if_specified(accelerator, args)
steps = args.max_train_steps
os.makedirs(args.output_dir)
recorder, measured = train_util.LossRecorder(), train_util.LossRecorder()
sys.stderr.write(f"\\rsteps:   0%|          | 0/{steps} [00:00<?, ?it/s]")
for step in range(1, steps + 1):
    time.sleep(float(os.environ.get("ATELIER_FAKE_PACE", "0.02")))
    if args.save_every_n_steps and step % args.save_every_n_steps == 0:
        save(f"{args.output_name}-step{step:08d}.safetensors", step)
        accelerator.save_state(os.path.join(args.output_dir, f"{args.output_name}-step{step:08d}-state"))
    loss = float("nan") if behave == "nan" and step == 3 else 1.0 / step
    recorder.add(epoch=0, step=step, loss=loss)
    sys.stderr.write(f"\\rsteps:   1%|#         | {step}/{steps} [00:00<00:00, 9.1it/s, avr_loss={loss:.3g}]")
    if step == 2:
        sys.stderr.write("\\nvalidation steps:   0%|          | 0/1 [00:00<?, ?it/s]")
        measured.add(epoch=0, step=0, loss=0.1234567)
        sys.stderr.write("\\rvalidation steps: 100%|####| 1/1 [00:00<00:00, 1it/s, val_avg_loss=0.123]\\n")
        os.makedirs(os.path.join(args.output_dir, "sample"), exist_ok=True)
        open(os.path.join(args.output_dir, "sample", f"{args.output_name}_000002_00_20261125204451_7.png"), "w").close()
if behave == "nothing":
    print("\\nNo data found. Please verify arguments")
    sys.exit(0)
accelerator.save_state(os.path.join(args.output_dir, f"{args.output_name}-state"))
save(f"{args.output_name}.safetensors", steps)
print("model saved.")
"""


def make(folder):
    """A checkout in ``folder`` with a Python of its own: the one that runs the tests."""
    (folder / "library").mkdir(parents=True)
    (folder / "library" / "train_util.py").write_text(TRAIN_UTIL, encoding="utf-8")
    (folder / "train_network.py").write_text(TRAIN_NETWORK, encoding="utf-8")
    # Its packages are not needed; this stands for torchvision.
    (folder / "torchvision.py").write_text("", encoding="utf-8")
    if os.name == "posix":
        python = folder / "venv" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n', encoding="utf-8")
        python.chmod(0o755)
    return folder
