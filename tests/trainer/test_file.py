"""The file that comes out: kohya's keys, true metadata, nothing private, and the same change in our loader."""

import importlib.util
import json
from pathlib import Path

import torch

from lora_atelier.adapters import file as adapter_file
from lora_atelier.config import NetworkConfig, OutputConfig, ScheduleConfig
from lora_atelier.models import load
from lora_atelier.models.layers import target_layers
from lora_atelier.trainer.network import LoraNetwork
from lora_atelier.trainer.run import FINISHED, run

_spec = importlib.util.spec_from_file_location("resume_helpers", Path(__file__).with_name("test_resume.py"))
helpers = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(helpers)
pictures = helpers.pictures


def test_the_file_has_kohyas_keys_dtypes_alpha_and_hashes(tmp_path, tiny_model_folder, pictures):
    made = helpers.make(
        tmp_path / "run",
        tiny_model_folder,
        pictures,
        output=OutputConfig(name="momo", folder=str(tmp_path / "run" / "loras"), precision="fp16"),
        network=NetworkConfig(rank=4, alpha=2.0),
        schedule=ScheduleConfig(steps=2),
    )
    assert run(made) == FINISHED

    stored = adapter_file.read(made / "loras" / "momo.safetensors")
    wanted = target_layers(load.load(tiny_model_folder).unet)
    assert {key.split(".", 1)[0] for key in stored.tensors} == set(wanted)
    assert {key.split(".", 1)[1] for key in stored.tensors} == {"alpha", "lora_down.weight", "lora_up.weight"}
    assert all(tensor.dtype == torch.float16 for tensor in stored.tensors.values())
    assert all(float(t) == 2.0 for key, t in stored.tensors.items() if key.endswith("alpha"))
    assert stored.metadata["sshs_model_hash"] == adapter_file.model_hash(stored.tensors)
    assert stored.metadata["ss_output_name"] == "momo"
    assert stored.metadata["ss_network_dim"] == "4"
    assert stored.metadata["modelspec.prediction_type"] == "v"
    card = json.loads((made / "loras" / "momo.json").read_text(encoding="utf-8"))
    assert card["activation text"] == "momo"


def test_nothing_private_is_in_the_file_but_the_answer_and_counts_are(tmp_path, tiny_model_folder, pictures):
    (pictures / "0.txt").write_text("a very secret caption", encoding="utf-8")
    made = helpers.make(tmp_path / "run", tiny_model_folder, pictures, schedule=ScheduleConfig(steps=1))
    assert run(made) == FINISHED

    said = adapter_file.read(made / "loras" / "momo.safetensors").metadata
    rights = json.loads(said["atelier_rights"])
    text = json.dumps(said, ensure_ascii=False)
    assert "secret" not in text and "絵" not in text and str(tmp_path) not in text
    assert rights["whose"] == "mine" and rights["pictures"] == 9 and rights["basis"] == {"owner": 9}
    assert rights["data_mining"] == {"none_found": 9}


def test_the_network_answers_as_the_paper_says_and_leaves_no_trace(tiny_model_folder):
    model = load.load(tiny_model_folder)
    layers = target_layers(model.unet, conv=True)
    network = LoraNetwork(layers, NetworkConfig(rank=4, alpha=2.0, conv_rank=2, conv_alpha=1.0), seed=1)
    name, layer = next((n, m) for n, m in layers.items() if isinstance(m, torch.nn.Linear))
    conv_name, conv = next(
        (n, m) for n, m in layers.items() if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3)
    )
    for each in network.branches.values():
        torch.nn.init.normal_(each.up)
    x, y = torch.randn(2, 3, layer.in_features), torch.randn(2, conv.in_channels, 8, 8)
    plain, plain_conv = layer(x), conv(y)

    network.attach()
    network.eval()
    linear, spatial = network.branches[name], network.branches[conv_name]
    expected = plain + x @ linear.down.T @ linear.up.T * (2.0 / 4)
    inner = torch.nn.functional.conv2d(y, spatial.down, None, conv.stride, conv.padding)
    expected_conv = plain_conv + torch.nn.functional.conv2d(inner, spatial.up) * (1.0 / 2)
    assert torch.allclose(layer(x), expected, atol=1e-5)
    assert torch.allclose(conv(y), expected_conv, atol=1e-5)

    network.detach()
    assert torch.equal(layer(x), plain) and torch.equal(conv(y), plain_conv)


def test_only_the_adapter_gets_gradients(tiny_model_folder):
    model = load.load(tiny_model_folder)
    network = LoraNetwork(target_layers(model.unet), NetworkConfig(rank=2), seed=1)
    network.attach()
    text = model.encode(["a"])

    model.prediction(torch.randn(1, 4, 8, 8), torch.tensor([5]), text, size=(64, 64)).square().mean().backward()

    assert all(parameter.grad is None for parameter in model.unet.parameters())
    assert all(branch.up.grad is not None for branch in network.branches.values())
