"""What every test gets: no network beyond this machine, one thread, and a tiny random model of the real classes."""

import importlib.util
import ipaddress
import json
import os
import socket

# Before torch is imported anywhere: the tiny models are slower on several threads than on one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import pytest


def pytest_ignore_collect(collection_path):
    """Without torch only the files marked ``torchfree`` can be imported; the others are not looked at."""
    if collection_path.suffix == ".py" and importlib.util.find_spec("torch") is None:
        return "mark.torchfree" not in collection_path.read_text(encoding="utf-8") or None
    return None


_connect, _connect_ex = socket.socket.connect, socket.socket.connect_ex


def _refuse_beyond_loopback(address):
    host = address[0] if isinstance(address, tuple) else ""
    if host in ("", "localhost"):
        return
    try:
        if ipaddress.ip_address(host.partition("%")[0]).is_loopback:
            return
    except ValueError:
        pass
    raise PermissionError(f"tests may not reach {host}: no network beyond this machine")


@pytest.fixture(autouse=True, scope="session")
def no_network():
    """Every socket to anything but loopback is refused, so that nothing of ours calls home unnoticed."""

    def connect(self, address):
        _refuse_beyond_loopback(address)
        return _connect(self, address)

    def connect_ex(self, address):
        _refuse_beyond_loopback(address)
        return _connect_ex(self, address)

    patch = pytest.MonkeyPatch()
    patch.setattr(socket.socket, "connect", connect)
    patch.setattr(socket.socket, "connect_ex", connect_ex)
    yield
    patch.undo()


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory):
    """A diffusers folder of Stable Diffusion's real classes, random and tiny (under 1 MB), 64 px pictures.

    v-prediction as the embedded base model; its tokenizer knows single characters only. Do not write into it.
    """
    folder = tmp_path_factory.mktemp("models") / "tiny model"
    save_tiny_model(folder)
    return folder


def save_tiny_model(folder, *, seed=0, prediction_type="v_prediction", family="toy"):
    """Write a tiny random diffusers folder; ``family`` "sdxl" has SDXL's second encoder and size embedding."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    sdxl = family == "sdxl"
    words = tiny_words()
    clip = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=77,
        projection_dim=32,
        bos_token_id=words["<|startoftext|>"],
        eos_token_id=words["<|endoftext|>"],
        pad_token_id=words["<|endoftext|>"],
    )
    unet = {
        "sample_size": 8,
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 64 if sdxl else 32,
        "attention_head_dim": 4,
        "norm_num_groups": 8,
    }
    if sdxl:
        unet |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 32 + 6 * 8,
            "use_linear_projection": True,
        }
    vae = {
        "block_out_channels": (8, 8, 8, 8),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "sample_size": 64,
        "scaling_factor": 0.18215,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        UNet2DConditionModel(**unet).save_pretrained(folder / "unet")
        AutoencoderKL(**vae).save_pretrained(folder / "vae")
        CLIPTextModel(clip).save_pretrained(folder / "text_encoder")
        if sdxl:
            CLIPTextModelWithProjection(clip).save_pretrained(folder / "text_encoder_2")
    DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
    ).save_pretrained(folder / "scheduler")
    for name in ("tokenizer", "tokenizer_2") if sdxl else ("tokenizer",):
        _write_tokenizer(folder / name, words)
    (folder / "model_index.json").write_text(json.dumps(_model_index(sdxl)), encoding="utf-8")


def tiny_words():
    """A word list without merges: the 256 byte forms, each also at a word's end, and the two marks."""
    from lora_atelier.models.tokenizer import byte_forms

    forms = byte_forms()
    words = [*forms, *(form + "</w>" for form in forms), "<|startoftext|>", "<|endoftext|>"]
    return {word: number for number, word in enumerate(words)}


def _write_tokenizer(folder, words):
    folder.mkdir()
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 77,
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    }
    (folder / "vocab.json").write_text(json.dumps(words), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def _model_index(sdxl):
    parts = {
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", "DDIMScheduler"],
    }
    if sdxl:
        parts |= {
            "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
            "tokenizer_2": ["transformers", "CLIPTokenizer"],
            "force_zeros_for_empty_prompt": False,
            "add_watermarker": False,
            "_class_name": "StableDiffusionXLPipeline",
        }
    else:
        parts |= {
            "safety_checker": [None, None],
            "feature_extractor": [None, None],
            "requires_safety_checker": False,
            "_class_name": "StableDiffusionPipeline",
        }
    return parts


@pytest.fixture
def save_model():
    """The function that writes tiny random models, for tests that need another than ``tiny_model_folder``."""
    return save_tiny_model


@pytest.fixture
def tiny_model(tiny_model_folder):
    """The tiny model, loaded anew for each test, so that a test may change its weights."""
    pytest.importorskip("diffusers")
    from lora_atelier.models import load

    return load.load(tiny_model_folder)


@pytest.fixture
def write_header():
    """A function that writes a .safetensors file of zeros: ``{key: shape}``, float16. Needs no torch."""

    def write(path, shapes, metadata=None, *, cut=0, data=None):
        import struct
        from math import prod

        entries, blocks, at = {"__metadata__": metadata or {}}, [], 0
        for key, shape in shapes.items():
            block = (data or {}).get(key, bytes(2 * prod(shape)))
            entries[key] = {"dtype": "F16", "shape": list(shape), "data_offsets": [at, at + len(block)]}
            blocks.append(block)
            at += len(block)
        header = json.dumps(entries).encode("utf-8")
        whole = struct.pack("<Q", len(header)) + header + b"".join(blocks)
        path.write_bytes(whole[: len(whole) - cut])
        return path

    return write


@pytest.fixture
def random_lora():
    """A function that makes the tensors of a LoRA file with kohya's keys for layers ``{name: module}``."""

    def make(layers, *, rank=4, alpha=2.0, seed=0, size=0.2):
        torch = pytest.importorskip("torch")
        generator, tensors = torch.Generator().manual_seed(seed), {}
        for name, module in layers.items():
            out_features, *in_shape = module.weight.shape
            up_shape = (out_features, rank, *[1] * (len(in_shape) - 1))
            tensors[f"{name}.lora_down.weight"] = torch.randn((rank, *in_shape), generator=generator) * size
            tensors[f"{name}.lora_up.weight"] = torch.randn(up_shape, generator=generator) * size
            tensors[f"{name}.alpha"] = torch.tensor(alpha)
        return tensors

    return make
