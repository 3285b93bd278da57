import gzip
import json
from pathlib import Path

import pytest
import torch

from lora_atelier.adapters import convert, families, file, keys, peft
from lora_atelier.errors import AdapterFormatError, AdapterMismatchError
from lora_atelier.loader import fitting
from lora_atelier.loader.report import Outline
from lora_atelier.models import configs, layers, load

GOLDEN = json.loads(gzip.decompress((Path(__file__).parents[1] / "models" / "golden" / "layers.json.gz").read_bytes()))


@pytest.fixture(scope="module")
def full_size():
    """Stable Diffusion 1 and XL without memory."""
    return {
        family: load.Model(
            None,
            {},
            unet=load.empty_unet(configs.UNETS[family]),
            text_encoders=tuple(
                load.empty_text_encoder(config, with_projection=at == 1)
                for at, config in enumerate(configs.TEXT_ENCODERS[family])
            ),
        )
        for family in ("sd1", "sdxl")
    }


@pytest.fixture
def tiny(tiny_model):
    return Outline(tiny_model, "toy").names()


def golden_lora(case):
    """sd-scripts' keys and shapes, with rank 1 so that they are small."""
    generator, tensors = torch.Generator().manual_seed(0), {}
    for name, (down, up) in GOLDEN[case].items():
        tensors[f"{name}.lora_down.weight"] = torch.randn(1, *down[1:], generator=generator).half()
        tensors[f"{name}.lora_up.weight"] = torch.randn(up[0], 1, *up[2:], generator=generator).half()
        tensors[f"{name}.alpha"] = torch.tensor(0.5 if "to_q" in name else 1.0).half()
    return tensors


def assert_identical(found, expected):
    assert found.keys() == expected.keys()
    assert all(found[key].dtype == tensor.dtype for key, tensor in expected.items())
    assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())


def there_and_back(tensors, names, metadata=None):
    there = convert.to_diffusers("a", tensors, metadata or {}, names)
    scales = peft.configs(Path("a.safetensors"), there.metadata)
    return convert.to_kohya("a", there.tensors, there.metadata, names, scales)


@pytest.mark.parametrize("case", ["sd15-lora", "sd15-locon", "sdxl-lora", "sdxl-locon"])
def test_kohya_to_diffusers_and_back_gives_the_identical_tensors_and_diffusers_paths(full_size, case):
    model = full_size["sdxl" if case.startswith("sdxl") else "sd1"]
    names, tensors = Outline(model, "").names(), golden_lora(case)

    there = convert.to_diffusers("a", tensors, {}, names)
    back = there_and_back(tensors, names, {"ss_steps": "5", "sshs_model_hash": "0"})

    assert_identical(back.tensors, tensors)
    assert back.metadata == {"ss_steps": "5"}
    unet = {key[5:].partition(".lora_")[0] for key in there.tensors if key.startswith("unet.")}
    assert unet == {path for path, _ in model.unet.named_modules()} & unet and unet
    text = {key.split(".")[0] for key in there.tensors} - {"unet"}
    assert text == ({"text_encoder", "text_encoder_2"} if case.startswith("sdxl") else {"text_encoder"})


def test_what_is_unusual_in_a_kohya_file_comes_back_too(full_size):
    """No alpha, diffusers' paths for SDXL, linear shapes for a 1x1 convolution (and the reverse), odd dtypes."""
    names = Outline(full_size["sdxl"], "sdxl").names()
    tensors = golden_lora("sdxl-lora")
    aliased = {name: alias for alias, name in names.aliases.items()}
    odd = {}
    for at, (key, tensor) in enumerate(tensors.items()):
        layer, _, suffix = key.partition(".")
        if suffix == "alpha":
            if at % 2:
                odd[f"{aliased.get(layer, layer)}.alpha"] = tensor.float().reshape(1)
        else:
            odd[f"{aliased.get(layer, layer)}.{suffix}"] = tensor.reshape(*tensor.shape[:2], 1, 1)
    without = {key: tensor for key, tensor in odd.items() if not key.endswith("alpha")}

    # An alpha that is missing and one that is half the rank: nothing but the note can tell them apart later.
    assert_identical(there_and_back(odd, names).tensors, odd)
    assert_identical(there_and_back(without, names).tensors, without)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("alpha", [True, False], ids=["alpha", "no alpha"])
def test_diffusers_draws_with_the_converted_file_what_the_first_one_means(
    tiny_model_folder, tiny_model, tmp_path, random_lora, alpha
):
    """Not compared with diffusers on kohya's file: 0.42 scales some layers wrongly where alphas differ within it."""
    pytest.importorskip("peft")
    from diffusers import StableDiffusionPipeline

    unet = layers.target_layers(tiny_model.unet, conv=True)
    tensors = random_lora(dict(list(unet.items())[::2]), rank=3, alpha=1.5, size=0.1)
    tensors |= random_lora(dict(list(unet.items())[1::2]), rank=4, alpha=2.0, size=0.1)
    tensors |= random_lora(layers.target_layers(tiny_model.text_encoders[0]), size=0.1)
    if not alpha:
        tensors = {key: tensor for key, tensor in tensors.items() if not key.endswith("alpha")}
    names = Outline(tiny_model, "toy").names()
    made = convert.to_diffusers("a", tensors, {}, names)
    file.write(tmp_path / "kohya.safetensors", tensors, {})
    file.write(tmp_path / "diffusers.safetensors", made.tensors, made.metadata)

    def draw(prepare):
        pipeline = StableDiffusionPipeline.from_pretrained(tiny_model_folder, local_files_only=True)
        pipeline.set_progress_bar_config(disable=True)
        prepare(pipeline)
        generator = [torch.Generator().manual_seed(1)]
        drawn = pipeline("a cat", num_inference_steps=2, generator=generator, output_type="np").images[0]
        return torch.from_numpy(drawn)

    def merge(pipeline):
        live = load.Model(None, {}, unet=pipeline.unet, text_encoders=(pipeline.text_encoder,))
        with torch.no_grad():
            for name, module in ((name, layer.module) for name, layer in layers.layers(live).items()):
                stored = {key.partition(".")[2]: t for key, t in tensors.items() if key.startswith(f"{name}.")}
                if stored:
                    module.weight += families.match(stored)["weight"].delta(module.weight)

    plain, meant = draw(lambda pipeline: None), draw(merge)
    converted = draw(lambda pipeline: pipeline.load_lora_weights(tmp_path, weight_name="diffusers.safetensors"))

    assert (meant - plain).abs().mean() > 1e-3  # else the next line would prove nothing
    assert (converted - meant).abs().max() < 1e-3
    assert_same_change(tiny_model, tmp_path / "kohya.safetensors", tmp_path / "diffusers.safetensors")


def assert_same_change(model, one, other):
    outline = Outline(model, "toy")
    ours, theirs = (fitting.fit("a", path, outline).adapters for path in (one, other))
    assert ours.keys() == theirs.keys() and ours
    for at, adapter in ours.items():
        weight = outline.layers()[at[0]].view(at[1])
        torch.testing.assert_close(theirs[at].delta(weight), adapter.delta(weight))


@pytest.mark.filterwarnings("ignore")
def test_diffusers_fuses_a_converted_dora_to_the_weights_that_we_make(tiny_model, tmp_path, random_lora):
    pytest.importorskip("peft")
    targets = layers.target_layers(tiny_model.unet, conv=True)
    tensors = random_lora(targets)
    for name, module in targets.items():
        rows = module.weight.reshape(module.weight.shape[0], -1).norm(dim=1) * 1.3
        tensors[f"{name}.dora_scale"] = rows.reshape(-1, *[1] * (module.weight.ndim - 1))
    names = Outline(tiny_model, "toy").names()
    made = convert.to_diffusers("a", tensors, {}, names)
    assert_identical(there_and_back(tensors, names).tensors, tensors)
    expected = {}
    for name, module in targets.items():
        weights = {key.partition(".")[2]: tensor for key, tensor in tensors.items() if key.startswith(name + ".")}
        expected[names.targets[name].path] = module.weight + families.match(weights)["weight"].delta(module.weight)

    metadata = json.loads(made.metadata[convert.PEFT_METADATA])
    tiny_model.unet.load_lora_adapter(dict(made.tensors), prefix="unet", metadata=metadata)
    tiny_model.unet.fuse_lora()

    for path, weight in expected.items():
        fused = tiny_model.unet.get_submodule(path).base_layer.weight
        torch.testing.assert_close(fused, weight, rtol=1e-4, atol=1e-5)


def test_rank_stabilised_scales_become_alphas(tiny, tiny_model, random_lora, tmp_path):
    tensors = random_lora(layers.target_layers(tiny_model.unet), rank=4, alpha=4.0)
    made = convert.to_diffusers("a", tensors, {}, tiny)
    said = json.loads(made.metadata[convert.PEFT_METADATA]) | {"unet.use_rslora": True, "unet.lora_alpha": 3}
    metadata = {convert.PEFT_METADATA: json.dumps(said)}

    back = convert.to_kohya("a", made.tensors, metadata, tiny, peft.configs(tmp_path / "a.safetensors", metadata))

    assert {float(t) for key, t in back.tensors.items() if key.endswith("alpha")} == {6.0}  # 3·√4


def test_the_names_of_the_first_diffusers_become_kohyas(tiny):
    layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0"
    start = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_out_lora"
    size = tiny.targets[layer].shape[0]
    tensors = {f"{start}.down.weight": torch.ones(2, size), f"{start}.up.weight": torch.ones(size, 2)}

    made = convert.to_kohya("a", tensors, {}, tiny, {})

    assert {key: tuple(tensor.shape) for key, tensor in made.tensors.items()} == {
        f"{layer}.lora_down.weight": (2, size),
        f"{layer}.lora_up.weight": (size, 2),
        f"{layer}.alpha": (),
    }


LAYER = "lora_unet_mid_block_resnets_0_conv1"
OTHER = "lora_unet_mid_block_resnets_0_time_emb_proj"


def plain_lora(names, layer):
    out, inner, *kernel = names.targets[layer].shape
    ones = [1] * len(kernel)
    return {"lora_down.weight": torch.ones(1, inner, *kernel), "lora_up.weight": torch.ones(out, 1, *ones)}


@pytest.mark.parametrize(
    ("extra", "kind"),
    [
        ({f"hada_w{n}_{side}": (2, 2) for n in (1, 2) for side in "ab"}, "LoHa"),
        ({"lokr_w1": (2, 2), "lokr_w2": (2, 2)}, "LoKr"),
        ({"oft_blocks": (2, 2, 2)}, "OFT"),
        ({"diff": (4,)}, "diff"),
        ({"w_norm": (4,), "b_norm": (4,)}, "norm"),
        ({"lora_down.weight": (1, 2, 1, 1), "lora_up.weight": (2, 1, 1, 1), "lora_mid.weight": (1, 1, 3, 3)}, "Tucker"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_pefts_lora_can_not_express_is_refused_whole_and_named(tiny, extra, kind):
    tensors = {f"{OTHER}.{suffix}": tensor for suffix, tensor in plain_lora(tiny, OTHER).items()}
    tensors |= {f"{LAYER}.{suffix}": torch.ones(shape) for suffix, shape in extra.items()}

    with pytest.raises(AdapterFormatError) as refused:
        convert.to_diffusers("a", tensors, {}, tiny)

    assert "1 of 2 layers" in str(refused.value) and kind in str(refused.value) and LAYER in str(refused.value)


def test_dora_of_some_layers_only_is_refused(tiny):
    """PEFT switches it for all layers of a part."""
    tensors = {f"{name}.{s}": t for name in (LAYER, OTHER) for s, t in plain_lora(tiny, name).items()}
    tensors[f"{LAYER}.dora_scale"] = torch.ones(tiny.targets[LAYER].shape[0], 1, 1, 1)

    with pytest.raises(AdapterFormatError, match="DoRA"):
        convert.to_diffusers("a", tensors, {}, tiny)


@pytest.mark.parametrize("to", ["kohya", "diffusers"])
def test_a_layer_that_the_model_lacks_is_refused(tiny, to):
    tensors = {f"lora_unet_nowhere.{suffix}": tensor for suffix, tensor in plain_lora(tiny, LAYER).items()}

    with pytest.raises(AdapterMismatchError, match="lora_unet_nowhere"):
        if to == "kohya":
            convert.to_kohya("a", tensors, {}, tiny, {})
        else:
            convert.to_diffusers("a", tensors, {}, tiny)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"junk": torch.ones(1)}, "junk"),
        ({"bundle_emb.momo.string_to_param.*": torch.ones(1, 4)}, "momo"),
        ({f"{LAYER}.alpha": torch.tensor(float("nan"))}, "alpha"),
    ],
    ids=["unknown key", "embedding", "alpha"],
)
def test_other_content_that_would_be_lost_is_refused(tiny, more, said):
    tensors = {f"{LAYER}.{suffix}": tensor for suffix, tensor in plain_lora(tiny, LAYER).items()}
    convert.to_diffusers("a", tensors, {}, tiny)

    with pytest.raises(AdapterFormatError, match=said):
        convert.to_diffusers("a", tensors | more, {}, tiny)


def test_other_families_keep_their_numbers_in_kohyas_names(tiny):
    """Dotted LyCORIS keys, as some trainers write them."""
    path = "unet." + tiny.targets[LAYER].path
    tensors = {
        f"{path}.lokr_w1": torch.ones(2, 2),
        f"{path}.lokr_w2": torch.ones(4, 4),
        f"{path}.alpha": torch.ones(()),
    }

    made = convert.to_kohya("a", tensors, {}, tiny, {})

    assert made.tensors.keys() == {f"{LAYER}.{suffix}" for suffix in ("lokr_w1", "lokr_w2", "alpha")}
    assert keys.kohya(next(iter(made.tensors))) is not None


def test_lengths_by_input_stay_so_where_there_are_as_many_outputs(tiny):
    """Turned into (o, 1, …) they would be read as lengths by output."""
    out, inputs, *_ = tiny.targets[LAYER].shape
    assert out == inputs
    tensors = {f"{LAYER}.{suffix}": tensor for suffix, tensor in plain_lora(tiny, LAYER).items()}
    tensors[f"{LAYER}.dora_scale"] = torch.ones(1, inputs)

    made = convert.to_kohya("a", tensors, {}, tiny, {})

    assert made.tensors[f"{LAYER}.dora_scale"].shape == (1, inputs)
