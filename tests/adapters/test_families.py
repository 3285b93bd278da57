"""What each family takes for its own and what it refuses; the formulas themselves are in test_formulas.py."""

import pytest
import torch
from torch import nn

from lora_atelier.adapters import families, file, peft
from lora_atelier.adapters.families import PaddedAdapter
from lora_atelier.adapters.full import SparseAdapter
from lora_atelier.adapters.glora import GloraAdapter
from lora_atelier.errors import AdapterFormatError
from lora_atelier.loader.fitting import fit
from lora_atelier.loader.patching import Patch, WeightPatcher
from lora_atelier.models.layers import Layer

from .cases import CASES, make


def filled(shapes):
    return {suffix: torch.full(shape, 0.01) for suffix, shape in shapes.items()}


def lora(rank=4, inner=48, out=64):
    return {"lora_down.weight": (rank, inner), "lora_up.weight": (out, rank)}


def loha(**other):
    return {"hada_w1_a": (64, 4), "hada_w1_b": (4, 48), "hada_w2_a": (64, 4), "hada_w2_b": (4, 48)} | other


def glora(**other):
    return {"a1.weight": (48, 4), "a2.weight": (4, 48), "b1.weight": (64, 4), "b2.weight": (4, 48)} | other


REFUSED = {
    "LoRA: a vector as down": lora() | {"lora_down.weight": (4,)},
    "LoRA: a number as up": lora() | {"lora_up.weight": ()},
    "LoRA: two numbers as alpha": lora() | {"alpha": (2,)},
    "LoRA: no number as alpha": lora() | {"alpha": (0,)},
    "Tucker: a core of another rank": lora() | {"lora_mid.weight": (4, 5, 3, 3)},
    "Tucker: a core without a kernel": lora() | {"lora_mid.weight": (4, 4)},
    "Tucker: kernels in core and down": {
        "lora_down.weight": (4, 48, 3, 3),
        "lora_up.weight": (64, 4, 1, 1),
        "lora_mid.weight": (4, 4, 3, 3),
    },
    "LoHa: vectors": loha(hada_w1_a=(64,)),
    "LoHa: a rank of zero": loha(hada_w1_a=(64, 0), hada_w1_b=(0, 48)),
    "LoHa: other outputs in its second half": loha(hada_w2_a=(63, 4)),
    "LoHa: cores of two kernels": {
        "hada_t1": (4, 4, 3, 3), "hada_t2": (4, 4, 1, 1),
        "hada_w1_a": (4, 32), "hada_w1_b": (4, 48), "hada_w2_a": (4, 32), "hada_w2_b": (4, 48),
    },
    "LoHa: a core of another rank": {
        "hada_t1": (4, 4, 3, 3), "hada_t2": (4, 5, 3, 3),
        "hada_w1_a": (4, 32), "hada_w1_b": (4, 48), "hada_w2_a": (4, 32), "hada_w2_b": (4, 48),
    },
    "LoHa: a foreign key": loha(hada_t3=(4, 4)),
    "LoKr: whole and in factors": {"lokr_w1": (4, 6), "lokr_w2": (16, 8), "lokr_w2_a": (16, 4), "lokr_w2_b": (4, 8)},
    "LoKr: one factor": {"lokr_w1": (4, 6), "lokr_w2_a": (16, 4)},
    "LoKr: a vector": {"lokr_w1": (24,), "lokr_w2": (16, 8)},
    "LoKr: a kernel in the small matrix": {"lokr_w1": (4, 6, 3, 3), "lokr_w2": (16, 8)},
    "LoKr: a kernel in the small factor": {"lokr_w1_a": (4, 2), "lokr_w1_b": (2, 6, 3, 3), "lokr_w2": (16, 8)},
    "LoKr: a core of another rank": {
        "lokr_w1": (4, 6), "lokr_t2": (4, 5, 3, 3), "lokr_w2_a": (4, 8), "lokr_w2_b": (4, 8),
    },
    "LoKr: the core of the small matrix, which nothing trains": {
        "lokr_w1": (4, 6), "lokr_w2": (16, 8), "lokr_t1": (4, 4, 3, 3),
    },
    "IA3: without its side": {"weight": (64,)},
    "IA3: two sides": {"weight": (64,), "on_input": (2,)},
    "IA3: a foreign key": {"weight": (64,), "on_input": (), "x": (1,)},
    "OFT: a vector": {"oft_blocks": (8,)},
    "OFT: both kinds of blocks": {"oft_blocks": (8, 8, 8), "oft_diag": (8, 8, 8)},
    "OFT: no blocks": {"oft_blocks": (0, 8, 8)},
    "BOFT: blocks of odd size, which have no halves": {"oft_blocks": (2, 8, 7, 7)},
    "BOFT: no stages": {"oft_blocks": (0, 8, 8, 8)},
    "BOFT: another number of scales": {"oft_blocks": (2, 8, 8, 8), "rescale": (63,)},
    "BOFT: five axes": {"oft_blocks": (1, 2, 8, 8, 8)},
    "GLoRA: a vector": glora(**{"a1.weight": (48,)}),
    "GLoRA: a rank of zero": {
        "a1.weight": (48, 0), "a2.weight": (0, 48), "b1.weight": (64, 0), "b2.weight": (0, 48),
    },
    "GLoRA: other inputs on either side": glora(**{"a2.weight": (4, 47)}),
    "GLoRA: a core of another rank": glora(**{"bm.weight": (5, 5, 3, 3)}),
    "GLoRA: a core without a kernel": glora(**{"bm.weight": (4, 4)}),
    "GLoRA: a foreign key": glora(**{"c1.weight": (4,)}),
    "full: two differences": {"diff": (64, 48), "w_norm": (64,)},
    "full: two biases": {"diff": (64, 48), "diff_b": (64,), "b_norm": (64,)},
    "full: a foreign key": {"diff": (64, 48), "pad": ()},
    "bias: a foreign key beside": {"diff_b": (64,), "x": ()},
    "DoRA: a foreign key inside": lora() | {"dora_scale": (64, 1), "x": ()},
    "nothing": {},
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_no_family_claims(name):
    assert families.match(filled(REFUSED[name])) is None


@pytest.mark.parametrize("kind", [(8, 8, 8), (2, 8, 8, 8)], ids=["OFT", "BOFT"])
def test_rotations_too_large_for_float32_are_refused(kind):
    assert families.match({"oft_blocks": torch.full(kind, 1e4)}) is not None
    assert families.match({"oft_blocks": torch.full(kind, 1e5)}) is None


SPARSE = {"bias_indices": [[0, 63], [0, 47]], "bias_values": [1.0, 2.0], "bias_size": [64, 48]}


@pytest.mark.parametrize(
    "wrong",
    [
        {"bias_indices": [[0, 64], [0, 47]]},
        {"bias_indices": [[-1, 63], [0, 47]]},
        {"bias_indices": [0, 63]},
        {"bias_indices": [[0, 63]]},
        {"bias_values": [1.0]},
        {"bias_size": [64, 0]},
        {"bias_size": [64, 2**40]},
        {"bias_size": []},
        {"bias_size": [64.0, -48.0]},
    ],
    ids=str,
)
def test_single_numbers_outside_their_tensor_are_refused(wrong):
    good = {suffix: torch.tensor(values) for suffix, values in SPARSE.items()}
    bad = {suffix: torch.tensor(values) for suffix, values in wrong.items()}

    assert isinstance(families.match({**filled(lora()), **good})["weight"], SparseAdapter)
    assert families.match({**filled(lora()), **good, **bad}) is None


def test_single_numbers_of_another_layers_size_do_not_fit():
    """They would be laid out over a tensor of any size that the file names."""
    made = {suffix: torch.tensor(values) for suffix, values in SPARSE.items()}
    larger = made | {"bias_size": torch.tensor([64, 2**30])}

    assert families.fitted(families.match({**filled(lora()), **made})["weight"], (64, 48)) is not None
    assert families.fitted(families.match({**filled(lora()), **larger})["weight"], (64, 48)) is None


def test_a_bias_goes_with_any_family_and_a_norm_with_none():
    for name in CASES:
        weight, tensors = make(name)

        both = families.match({**tensors, "diff_b": torch.ones(weight.shape[0], 1)})

        assert set(both) == {"weight", "bias"}
        assert both["bias"].shape == weight.shape[:1]
        assert torch.equal(both["bias"].delta(torch.zeros(weight.shape[0])), torch.ones(weight.shape[0]))
    assert set(families.match(filled({"w_norm": (64,)}))) == {"weight"}
    assert set(families.match(filled({"b_norm": (64,), "alpha": ()}))) == {"bias"}
    assert families.fitted(families.match(filled({"w_norm": (64,)}))["weight"], (64, 48)) is None


INPAINTING = (32, 9, 3, 3)
FIRST_CONVOLUTION = {
    "locon": {"lora_down.weight": (4, 4, 3, 3), "lora_up.weight": (32, 4, 1, 1)},
    "loha": {"hada_w1_a": (32, 2), "hada_w1_b": (2, 36), "hada_w2_a": (32, 2), "hada_w2_b": (2, 36)},
    "lokr": {"lokr_w1": (4, 2), "lokr_w2": (8, 2, 3, 3)},
    "full": {"diff": (32, 4, 3, 3)},
    "ia3 by input": {"weight": (1, 4, 1, 1), "on_input": ()},
    "glora": {"a1.weight": (4, 2), "a2.weight": (2, 4), "b1.weight": (32, 2), "b2.weight": (2, 4, 3, 3)},
    "dora": {"lora_down.weight": (4, 4, 3, 3), "lora_up.weight": (32, 4, 1, 1), "dora_scale": (32, 1, 1, 1)},
}


@pytest.mark.parametrize("name", FIRST_CONVOLUTION)
def test_the_first_convolution_of_an_inpainting_model_keeps_its_other_channels(name):
    torch.manual_seed(0)
    tensors = {suffix: torch.randn(shape).abs() for suffix, shape in FIRST_CONVOLUTION[name].items()}
    weight = torch.randn(INPAINTING)
    adapter = families.match(tensors)["weight"]

    padded = families.fitted(adapter, INPAINTING)
    change = padded.delta(weight)

    assert isinstance(padded, PaddedAdapter)
    assert families.fitted(padded, INPAINTING) is padded
    assert torch.allclose(change[:, :4], adapter.delta(weight[:, :4]), atol=1e-6)
    assert change[:, :4].any()
    assert not change[:, 4:].any()


def test_only_a_convolution_of_nine_channels_is_padded():
    adapter = families.match(filled({"diff": (32, 4, 3, 3)}))["weight"]

    assert families.fitted(adapter, (32, 8, 3, 3)) is None
    assert families.fitted(adapter, (32, 9, 1, 1)) is None
    assert families.fitted(adapter, (31, 9, 3, 3)) is None
    assert families.fitted(families.match(filled(lora(inner=4)))["weight"], (64, 9)) is None


@pytest.mark.parametrize("kind", ["lora", "locon 3x3, tucker", "dora by output", "padded"])
def test_a_dylora_of_a_lower_rank_is_its_first_components_at_the_same_scale(kind):
    if kind == "padded":
        weight, tensors = torch.randn(INPAINTING), filled(FIRST_CONVOLUTION["locon"]) | {"alpha": torch.tensor(2.0)}
    else:
        weight, tensors = make(kind)
    cut = {suffix: tensor[:2] if "down" in suffix else tensor for suffix, tensor in tensors.items()}
    cut["lora_up.weight"] = tensors["lora_up.weight"][:, :2]
    if "lora_mid.weight" in tensors:
        cut["lora_mid.weight"] = tensors["lora_mid.weight"][:2, :2]
    cut["alpha"] = torch.tensor(1.0)  # of rank 2, as alpha 2 of rank 4

    got = families.fitted(families.match(tensors)["weight"], weight.shape).with_rank(2).delta(weight)

    wanted = families.fitted(families.match(cut)["weight"], weight.shape).delta(weight)
    assert torch.allclose(got, wanted, atol=1e-6)
    assert not torch.allclose(got, families.fitted(families.match(tensors)["weight"], weight.shape).delta(weight))


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith(("lo", "do"))])
def test_what_has_no_components_is_not_cut(name):
    adapter = families.match(make(name)[1])["weight"]

    assert adapter.with_rank(1) is adapter


@pytest.mark.parametrize("out", [64, 48], ids=["another width out", "as wide out as in"])
def test_both_conventions_of_glora_are_told_by_their_sizes(out):
    torch.manual_seed(0)
    today = {
        "a1.weight": torch.randn(48, 4),
        "a2.weight": torch.randn(4, 48),
        "b1.weight": torch.randn(out, 4),
        "b2.weight": torch.randn(4, 48),
    }
    exchanged = {"a1": "a2", "a2": "a1", "b1": "b2", "b2": "b1"}
    before = {f"{exchanged[key[:2]]}.weight": tensor for key, tensor in today.items()}
    weight = torch.randn(out, 48)

    made = [families.match(tensors)["weight"] for tensors in (today, before)]

    assert all(isinstance(adapter, GloraAdapter) for adapter in made)
    assert torch.equal(made[0].delta(weight), made[1].delta(weight))
    assert torch.allclose(
        made[0].delta(weight),
        weight @ today["a1.weight"] @ today["a2.weight"] + today["b1.weight"] @ today["b2.weight"],
        atol=1e-3,
    )


SCALED = [name for name in CASES if "alpha" in CASES[name][1] and name.startswith(("lora", "locon", "loha", "glora"))]


@pytest.mark.parametrize("name", [*SCALED, "lokr, w2 in factors"])
def test_an_alpha_of_zero_changes_nothing(name):
    """LyCORIS takes 0 for the rank, but writes the rank into the file; where a file says 0, all loaders mean 0."""
    weight, tensors = make(name)
    adapter = families.match({**tensors, "alpha": torch.tensor(0.0)})["weight"]

    assert not adapter.delta(weight).any()
    assert families.match(tensors)["weight"].delta(weight).any()


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_eight_bit_files_are_widened_before_they_are_multiplied(name, dtype):
    weight, tensors = make(name, dtype=dtype)
    wide = {suffix: tensor.float() for suffix, tensor in tensors.items()}

    change = families.match(tensors)["weight"].delta(weight)

    assert torch.equal(change, families.match(wide)["weight"].delta(weight))


def test_whole_numbers_are_weights_too():
    down, up = torch.randint(-9, 9, (4, 48), dtype=torch.int8), torch.randint(-9, 9, (64, 4), dtype=torch.int8)

    change = families.match({"lora_down.weight": down, "lora_up.weight": up})["weight"].delta(torch.zeros(64, 48))

    assert torch.equal(change, up.float() @ down.float())


class OneBlock:
    """A block of OpenCLIP, whose query, key and value are thirds of one weight; its layers have kohya's SD2 names."""

    def __init__(self):
        self.attention = nn.MultiheadAttention(8, 2).requires_grad_(False)
        nn.init.normal_(self.attention.in_proj_bias)
        fused = {"module": self.attention, "weight": "in_proj_weight", "bias": "in_proj_bias"}
        name = "lora_te_text_model_encoder_layers_0_self_attn_"
        self._layers = {f"{name}{x}_proj": Layer(**fused, rows=(8 * at, 8 * at + 8)) for at, x in enumerate("qkv")}
        self._layers[f"{name}out_proj"] = Layer(self.attention.out_proj)

    def layers(self):
        return self._layers

    def aliases(self):
        return {}

    def family(self):
        return "sd2"


def test_query_key_and_value_of_sd2_change_their_thirds_of_one_weight(tmp_path):
    """kohya's files name them as transformers does; OpenCLIP keeps them as one matrix."""
    torch.manual_seed(0)
    host = OneBlock()
    before = host.attention.in_proj_weight.clone(), host.attention.in_proj_bias.clone()
    name = "lora_te_text_model_encoder_layers_0_self_attn"
    tensors, bias = {}, torch.randn(8)
    for part in ("k_proj", "v_proj", "out_proj"):
        tensors[f"{name}_{part}.lora_down.weight"] = torch.randn(2, 8)
        tensors[f"{name}_{part}.lora_up.weight"] = torch.randn(8, 2)
    file.write(tmp_path / "x.safetensors", {**tensors, f"{name}_v_proj.diff_b": bias}, {})
    patcher = WeightPatcher(host)

    fitted = fit("x", tmp_path / "x.safetensors", host)
    patcher.apply([Patch(*place, adapter, 0.5) for place, adapter in fitted.adapters.items()])

    change = host.attention.in_proj_weight - before[0]
    assert fitted.notes == ()
    assert not change[:8].any()
    for at, part in ((1, "k_proj"), (2, "v_proj")):
        wanted = 0.5 * tensors[f"{name}_{part}.lora_up.weight"] @ tensors[f"{name}_{part}.lora_down.weight"]
        assert torch.allclose(change[8 * at : 8 * at + 8], wanted, atol=1e-6)
    assert torch.equal(host.attention.in_proj_bias[:16], before[1][:16])
    assert torch.allclose(host.attention.in_proj_bias[16:], before[1][16:] + 0.5 * bias)
    patcher.restore()
    assert torch.equal(host.attention.in_proj_weight, before[0])
    assert torch.equal(host.attention.in_proj_bias, before[1])


@pytest.mark.parametrize(
    "said",
    [
        "[" * 100_000,
        "[]",
        '{"unet.r": 4, "unet.lora_alpha": NaN}',
        '{"unet.r": 4, "unet.lora_alpha": 1' + "0" * 400 + "}",
        '{"unet.r": null}',
        '{"unet.r": 4, "unet.alpha_pattern": {"(a+)+$": 1}}',
        '{"unet.r": 4, "unet.alpha_pattern": {"a": Infinity}}',
        '{"unet.r": 4, "unet.alpha_pattern": 3}',
    ],
    ids=lambda said: said[:60],
)
def test_a_configuration_that_says_nothing_sensible_is_refused(tmp_path, said):
    with pytest.raises(AdapterFormatError, match="how strong it is, can't be understood"):
        peft.configs(tmp_path / "x.safetensors", {"lora_adapter_metadata": said})


SQUARE = {"lora_down.weight": (4, 32, 3, 3), "lora_up.weight": (32, 4, 1, 1), "dora_scale": (1, 32, 1, 1)}
OBLONG = {"lora_down.weight": (4, 48, 3, 3), "lora_up.weight": (32, 4, 1, 1)}


def file_of(**layers):
    return {f"lora_unet_{name}.{key}": t for name, stored in layers.items() for key, t in filled(stored).items()}


@pytest.mark.parametrize(
    ("beside", "on_input"),
    [
        ({}, True),
        ({"linear": {**lora(), "dora_scale": (64,)}}, False),
        ({"linear": {**lora(), "dora_scale": (1, 48)}}, True),
        ({"linear": {**lora(), "dora_scale": (64, 1)}}, True),
        ({"conv": {**OBLONG, "dora_scale": (1, 32, 1, 1)}}, False),
        ({"conv": {**OBLONG, "dora_scale": (1, 48, 1, 1)}}, True),
    ],
    ids=["alone", "PEFT's linear", "by input", "by output", "PEFT's convolution", "convolution by input"],
)
def test_the_rest_of_the_file_tells_whose_lengths_of_a_square_convolution_these_are(beside, on_input):
    """PEFT's (1, o, 1, 1) and LyCORIS' (1, i, 1, 1) look the same where o is i."""
    layers = families.group(file_of(square=SQUARE, **beside)).layers

    assert families.match(layers["lora_unet_square"])["weight"].on_input == on_input


def test_pefts_lengths_under_kohyas_name_fit_where_outputs_and_inputs_differ():
    layers = families.group(file_of(conv={**OBLONG, "dora_scale": (1, 32, 1, 1)})).layers

    adapter = families.match(layers["lora_unet_conv"])["weight"]

    assert not adapter.on_input
    assert adapter.fits((32, 48, 3, 3))
