"""The file that comes out: kohya's keys, true metadata, nothing private, and the same change in our loader."""

import importlib.util
import json
from pathlib import Path

import torch

from lora_atelier.adapters import file as adapter_file
from lora_atelier.config import LossConfig, NetworkConfig, OutputConfig, SamplingConfig, ScheduleConfig
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
    # What the page proposes: a caption as a prompt, whose picture becomes the card's.
    sampling = SamplingConfig(prompts=("momo, a very secret caption --w 64 --h 64 --s 1",))
    made = helpers.make(
        tmp_path / "run", tiny_model_folder, pictures, schedule=ScheduleConfig(steps=1), sampling=sampling
    )
    assert run(made) == FINISHED

    files = sorted((made / "loras").iterdir())
    assert [path.name for path in files if b"secret" in path.read_bytes()] == []
    assert made / "loras" / "momo.png" in files
    said = adapter_file.read(made / "loras" / "momo.safetensors").metadata
    rights = json.loads(said["atelier_rights"])
    text = json.dumps(said, ensure_ascii=False)
    assert "secret" not in text and "絵" not in text and str(tmp_path) not in text
    assert rights["whose"] == "mine" and rights["pictures"] == 9 and rights["basis"] == {"owner": 9}
    assert rights["data_mining"] == {"none_found": 9}


# What sd-scripts (48d368fa) writes into a LoRA's file, read from one that it made.
KOHYAS_KEYS = """
modelspec.architecture modelspec.date modelspec.implementation modelspec.implementation_version
modelspec.prediction_type modelspec.resolution modelspec.sai_model_spec modelspec.title ss_adaptive_noise_scale
ss_base_model_version ss_batch_size_per_device ss_bucket_info ss_bucket_no_upscale ss_cache_latents
ss_caption_dropout_every_n_epochs ss_caption_dropout_rate ss_caption_tag_dropout_rate ss_clip_skip ss_color_aug
ss_dataset_dirs ss_debiased_estimation ss_enable_bucket ss_epoch ss_face_crop_aug_range ss_flip_aug ss_fp8_base
ss_fp8_base_unet ss_full_fp16 ss_gradient_accumulation_steps ss_gradient_checkpointing ss_huber_c ss_huber_scale
ss_huber_schedule ss_ip_noise_gamma ss_ip_noise_gamma_random_strength ss_keep_tokens ss_learning_rate ss_loss_type
ss_lowram ss_lr_scheduler ss_lr_warmup_steps ss_max_bucket_reso ss_max_grad_norm ss_max_token_length
ss_max_train_steps ss_max_validation_steps ss_min_bucket_reso ss_min_snr_gamma ss_mixed_precision
ss_multires_noise_discount ss_multires_noise_iterations ss_network_alpha ss_network_dim ss_network_dropout
ss_network_module ss_new_sd_model_hash ss_noise_offset ss_noise_offset_random_strength ss_num_batches_per_epoch
ss_num_epochs ss_num_reg_images ss_num_train_images ss_num_validation_images ss_optimizer ss_output_name
ss_prior_loss_weight ss_random_crop ss_reg_dataset_dirs ss_resize_interpolation ss_resolution ss_scale_weight_norms
ss_sd_model_hash ss_sd_model_name ss_sd_scripts_commit_hash ss_seed ss_session_id ss_shuffle_caption ss_steps
ss_tag_frequency ss_text_encoder_lr ss_total_batch_size ss_training_comment ss_training_finished_at
ss_training_started_at ss_unet_lr ss_v2 ss_validate_every_n_epochs ss_validate_every_n_steps ss_validation_seed
ss_validation_split ss_zero_terminal_snr sshs_legacy_hash sshs_model_hash
""".split()


def test_the_metadata_has_all_of_kohyas_keys_and_says_what_was_done(tmp_path, tiny_model_folder, pictures):
    made = helpers.make(
        tmp_path / "run",
        tiny_model_folder,
        pictures,
        network=NetworkConfig(rank=4, algorithm="dora", conv_rank=2),
        loss=LossConfig(loss_type="huber", ip_noise_gamma=0.1),
        schedule=ScheduleConfig(steps=4),
    )
    assert run(made) == FINISHED

    stored = adapter_file.read(made / "loras" / "momo.safetensors")
    said = stored.metadata
    assert len(KOHYAS_KEYS) == 93 and set(KOHYAS_KEYS) <= said.keys()
    assert said["ss_loss_type"] == "huber" and said["ss_ip_noise_gamma"] == "0.1"
    assert said["ss_network_module"] == "lycoris.kohya" and json.loads(said["ss_network_args"])["dora_wd"] == "True"
    buckets = json.loads(said["ss_bucket_info"])["buckets"].values()
    assert sum(bucket["count"] for bucket in buckets) == 9 - int(said["ss_num_validation_images"])
    assert float(said["ss_training_started_at"]) < float(said["ss_training_finished_at"])
    assert said["sshs_model_hash"] == adapter_file.model_hash(stored.tensors)


def test_without_metadata_little_is_left_and_what_was_typed_is_there(tmp_path, tiny_model_folder, pictures):
    output = OutputConfig(
        name="momo", folder=str(tmp_path / "run" / "loras"), no_metadata=True, metadata_author="me", metadata_title="桃"
    )
    made = helpers.make(tmp_path / "run", tiny_model_folder, pictures, output=output, schedule=ScheduleConfig(steps=1))
    assert run(made) == FINISHED

    said = adapter_file.read(made / "loras" / "momo.safetensors").metadata
    assert {key for key in said if key.startswith("ss_")} == {
        *("ss_v2", "ss_base_model_version", "ss_network_module", "ss_network_dim", "ss_network_alpha"),
        "ss_network_args",
    }
    assert said["modelspec.author"] == "me" and said["modelspec.title"] == "桃" and "atelier_rights" in said


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
