"""Write the trained parts as a float16 diffusers folder: the embedded base model.

PYTHONPATH=extension:. python -m base_model.export --state STATE [--output extension/lora_atelier/embedded/base_model]
"""

from __future__ import annotations

import argparse
import json
import shutil
from itertools import chain
from pathlib import Path

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from transformers import CLIPTokenizer

from base_model.architecture import SCHEDULER, make_text_encoder, make_unet, make_vae
from base_model.sitting import copy_into

OUTPUT = Path(__file__).parents[1] / "extension" / "lora_atelier" / "embedded" / "base_model"
TITLE = "LoRA Atelier's embedded model"


def export(state: Path, output: Path) -> None:
    """Write the averaged weights of ``state`` to ``output``; the model card is written by hand beside them."""
    tokenizer = CLIPTokenizer.from_pretrained(state / "tokenizer")
    unet, text_encoder, vae = make_unet(), make_text_encoder(len(tokenizer)), make_vae()
    if (state / "unet.pt").exists():
        stored = torch.load(state / "unet.pt", map_location="cpu", weights_only=True)
        copy_into(chain(unet.parameters(), text_encoder.parameters()), stored["ema"])
    vae.load_state_dict(torch.load(state / "vae_whitened.pt", map_location="cpu", weights_only=True))
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(**SCHEDULER),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(torch.float16).save_pretrained(output, safe_serialization=True)
    for name in ("vocab.json", "merges.txt"):  # transformers 4 reads these, 5 reads tokenizer.json
        shutil.copy(state / "tokenizer" / name, output / "tokenizer" / name)
    index = output / "model_index.json"
    entries = {**json.loads(index.read_text(encoding="utf-8")), "_atelier_title": TITLE}
    entries.pop("_name_or_path", None)
    index.write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")
    size = sum(file.stat().st_size for file in output.rglob("*.safetensors"))
    print(f"{size / 1e6:.1f} MB of weights in {output}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    export(arguments.state, arguments.output)
