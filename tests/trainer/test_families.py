"""Models of SDXL's shape and of SD 2's kind are trained end to end, with their text encoders, and resumed exactly."""

import importlib.util
from pathlib import Path

import pytest
from safetensors import safe_open

from lora_atelier import events
from lora_atelier.config import NetworkConfig, SamplingConfig
from lora_atelier.models import detect
from lora_atelier.trainer.run import FINISHED, run

_spec = importlib.util.spec_from_file_location("preparation_helpers", Path(__file__).with_name("test_preparation.py"))
helpers = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(helpers)
pictures, prepared, make, told, warnings = (
    helpers.pictures, helpers.prepared, helpers.make, helpers.told, helpers.warnings,
)  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Tiny models by family: SDXL with its second encoder, and one that says of itself what SD 2 v says."""
    from importlib import util

    spec = util.spec_from_file_location("root_conftest", Path(__file__).parents[1] / "conftest.py")
    conftest = util.module_from_spec(spec)
    spec.loader.exec_module(conftest)
    root = tmp_path_factory.mktemp("families")
    conftest.save_tiny_model(root / "xl", family="sdxl", prediction_type="epsilon")
    conftest.save_tiny_model(root / "v", prediction_type="v_prediction")
    return root


def metadata(made):
    with safe_open(made / "loras" / "momo.safetensors", "pt") as opened:
        return opened.metadata(), set(opened.keys())


@pytest.mark.parametrize("algorithm", ["lora", "lokr"])
def test_a_model_of_sdxls_shape_is_trained_with_both_text_encoders(algorithm, tmp_path, folders, pictures):
    network = NetworkConfig(algorithm=algorithm, rank=4, alpha=2.0, conv_rank=2, train_te=True)
    sampling = SamplingConfig(prompts=("momo --w 64 --h 64 --s 1",))
    made = make(tmp_path / "run", folders / "xl", pictures, network=network, sampling=sampling)

    assert detect.inspect(folders / "xl").family == "sdxl"
    assert run(made) == FINISHED and not warnings(made)

    said, keys = metadata(made)
    parts = {key.split("_", 2)[1] for key in keys}
    assert parts == {"unet", "te1", "te2"}
    assert any("input_blocks_1_1_transformer_blocks_0_attn1_to_q" in key for key in keys)
    assert said["modelspec.architecture"].startswith("stable-diffusion-xl") and said["ss_v2"] == "False"
    assert told(made, events.Sampled)


def test_sdxl_with_frozen_encoders_reads_no_encoder_in_a_second_run(tmp_path, folders, pictures, monkeypatch):
    runs = [make(tmp_path / "data" / "runs" / name, folders / "xl", pictures) for name in "12"]
    parts, real = [], helpers.models.load
    monkeypatch.setattr(
        helpers.models,
        "load",
        lambda info, wanted, *rest: parts.extend(wanted) or real(info, wanted, *rest),
    )

    assert run(runs[0]) == FINISHED and parts[:3] == ["vae", "te", "unet"]
    parts.clear()
    assert run(runs[1]) == FINISHED and parts[0] == "unet"

    assert helpers.same(helpers.adapter(runs[0]), helpers.adapter(runs[1]))


def test_a_model_that_predicts_velocity_is_trained_with_min_snr_and_zero_terminal_snr(tmp_path, folders, pictures):
    more = {"loss": {"min_snr_gamma": 5.0, "zero_terminal_snr": True}, "model": {"v_parameterization": True}}
    network = NetworkConfig(rank=4, alpha=2.0, train_te=True)
    made = make(tmp_path / "run", folders / "v", pictures, network=network, more=more)

    assert run(made) == FINISHED and not warnings(made)

    said, keys = metadata(made)
    assert said["modelspec.prediction_type"] == "v" and any(key.startswith("lora_te_") for key in keys)
