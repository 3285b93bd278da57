"""Our formulas and adapters against the libraries that train them: LyCORIS 4.1 and PEFT, used as oracles.

Of LyCORIS it is the forward pass of training that counts, read out with an identity as input, not its merge, which
scales LoHa and LoKr twice. All in float64, but for OFT and BOFT, which LyCORIS computes in float32.
"""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from lora_atelier.adapters import families
from lora_atelier.loader.fitting import fit
from lora_atelier.loader.patching import Patch, WeightPatcher
from lora_atelier.models.layers import Layer

from . import specification as spec

peft = pytest.importorskip("peft")
lycoris = pytest.importorskip("lycoris.modules")

pytestmark = pytest.mark.filterwarnings("ignore")

LAYERS = {
    "linear": lambda: nn.Linear(48, 64),
    "conv 1x1": lambda: nn.Conv2d(48, 64, 1),
    "conv 3x3": lambda: nn.Conv2d(48, 32, 3),
    "layer norm": lambda: nn.LayerNorm(48),
    "group norm": lambda: nn.GroupNorm(8, 48),
}
DORA = {"weight_decompose": True}
DORA_ON_INPUT = {"weight_decompose": True, "wd_on_out": False}
# name -> (LyCORIS' class, layer, its options, our formula)
TRAINED = {
    "lora": (lycoris.LoConModule, "linear", {"alpha": 2}, spec.lora),
    "lora, alpha = rank": (lycoris.LoConModule, "linear", {"alpha": 4}, spec.lora),
    "lora, rank-stabilised": (lycoris.LoConModule, "linear", {"alpha": 2, "rs_lora": True}, spec.lora),
    "lora 1x1": (lycoris.LoConModule, "conv 1x1", {"alpha": 2}, spec.lora),
    "locon 3x3": (lycoris.LoConModule, "conv 3x3", {"alpha": 2}, spec.lora),
    "locon 3x3, tucker": (lycoris.LoConModule, "conv 3x3", {"alpha": 2, "use_tucker": True}, spec.lora),
    "dora by output": (lycoris.LoConModule, "linear", {"alpha": 2, **DORA}, spec.dora(spec.lora)),
    "dora by input": (lycoris.LoConModule, "linear", {"alpha": 2, **DORA_ON_INPUT}, spec.dora(spec.lora)),
    "dora 3x3 by output": (lycoris.LoConModule, "conv 3x3", {"alpha": 2, **DORA}, spec.dora(spec.lora)),
    "dora 3x3 by input": (lycoris.LoConModule, "conv 3x3", {"alpha": 2, **DORA_ON_INPUT}, spec.dora(spec.lora)),
    "loha": (lycoris.LohaModule, "linear", {"alpha": 2}, spec.loha),
    "loha 3x3": (lycoris.LohaModule, "conv 3x3", {"alpha": 2}, spec.loha),
    "loha 3x3, tucker": (lycoris.LohaModule, "conv 3x3", {"alpha": 2, "use_tucker": True}, spec.loha),
    "doha by input": (lycoris.LohaModule, "linear", {"alpha": 2, **DORA_ON_INPUT}, spec.dora(spec.loha)),
    "lokr, both whole": (lycoris.LokrModule, "linear", {"alpha": 1, "full_matrix": True}, spec.lokr),
    "lokr, w2 in factors": (lycoris.LokrModule, "linear", {"alpha": 1, "lora_dim": 2}, spec.lokr),
    "lokr, both in factors": (
        lycoris.LokrModule,
        "linear",
        {"alpha": 1, "lora_dim": 2, "decompose_both": True},
        spec.lokr,
    ),
    "lokr 3x3": (lycoris.LokrModule, "conv 3x3", {"alpha": 1, "lora_dim": 2}, spec.lokr),
    "lokr 3x3, whole": (lycoris.LokrModule, "conv 3x3", {"alpha": 1, "full_matrix": True}, spec.lokr),
    "lokr 3x3, tucker": (lycoris.LokrModule, "conv 3x3", {"alpha": 1, "lora_dim": 2, "use_tucker": True}, spec.lokr),
    "dokr by output": (lycoris.LokrModule, "linear", {"alpha": 1, "lora_dim": 2, **DORA}, spec.dora(spec.lokr)),
    "full": (lycoris.FullModule, "linear", {}, spec.full),
    "full 3x3": (lycoris.FullModule, "conv 3x3", {}, spec.full),
    "ia3 by output": (lycoris.IA3Module, "linear", {}, spec.ia3),
    "ia3 by input": (lycoris.IA3Module, "linear", {"train_on_input": True}, spec.ia3),
    "ia3 3x3 by output": (lycoris.IA3Module, "conv 3x3", {}, spec.ia3),
    "ia3 3x3 by input": (lycoris.IA3Module, "conv 3x3", {"train_on_input": True}, spec.ia3),
    "oft": (lycoris.DiagOFTModule, "linear", {}, spec.oft),
    "oft with a constraint": (lycoris.DiagOFTModule, "linear", {"constraint": 1e-3}, spec.oft),
    "oft, rescaled": (lycoris.DiagOFTModule, "linear", {"rescaled": True}, spec.oft),
    "oft 3x3, rescaled": (lycoris.DiagOFTModule, "conv 3x3", {"rescaled": True}, spec.oft),
    "boft": (lycoris.ButterflyOFTModule, "linear", {}, spec.boft),
    "boft with a constraint": (lycoris.ButterflyOFTModule, "linear", {"constraint": 1e-3}, spec.boft),
    "boft 3x3, rescaled": (lycoris.ButterflyOFTModule, "conv 3x3", {"rescaled": True}, spec.boft),
    "glora": (lycoris.GLoRAModule, "linear", {"alpha": 2}, spec.glora),
    "glora 1x1": (lycoris.GLoRAModule, "conv 1x1", {"alpha": 2}, spec.glora),
    "glora 3x3": (lycoris.GLoRAModule, "conv 3x3", {"alpha": 2}, spec.glora),
}


def trained(name):
    """Return (a copy of the layer, LyCORIS' module on it, its tensors as it would save them), the weights random."""
    made, kind, options, _ = TRAINED[name]
    # LyCORIS inverts I - Q in float32, and can't multiply that with float64.
    dtype = torch.float32 if "oft" in name else torch.float64
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = LAYERS[kind]().to(dtype).requires_grad_(False)
        nn.init.normal_(layer.weight, std=0.1)
        before = copy.deepcopy(layer)
        module = made("x", layer, **{"lora_dim": 4, **options}).to(dtype).eval()
        if made is lycoris.FullModule:
            # It takes the weight over from the layer, and trains and saves from there.
            module.apply_to()
        for key, parameter in module.named_parameters():
            if made is lycoris.FullModule:
                parameter.data += 0.05 * torch.randn_like(parameter)
            elif key in ("dora_scale", "rescale"):
                parameter.data *= 1 + 0.1 * torch.randn_like(parameter)
            else:
                nn.init.normal_(parameter, std=0.3 if key.startswith(("hada", "lokr", "lora_mid")) else 0.1)
    saved = {key: tensor.detach().clone() for key, tensor in module.state_dict().items()}
    return before, module, saved


@torch.no_grad()
def change_of(module, layer):
    """The change of a layer's weight that a module's forward pass makes, read out with an identity as input."""
    inner, kernel = layer.weight.shape[1], layer.weight.shape[2:]
    size = inner * int(np.prod(kernel))
    impulses = torch.eye(size, dtype=layer.weight.dtype).reshape(size, inner, *kernel)
    nothing = torch.zeros_like(impulses[:1])
    # The bias, and a change of it, is what comes out where nothing goes in.
    change = module(impulses) - module(nothing) - (layer(impulses) - layer(nothing))
    return change.reshape(size, -1).T.reshape(layer.weight.shape)


def relative(change, wanted):
    return float(torch.linalg.norm(change.double() - wanted) / torch.linalg.norm(wanted))


def numbers(saved):
    return {key: tensor.double().numpy() for key, tensor in saved.items()}


@pytest.mark.parametrize("name", TRAINED)
def test_what_lycoris_trains_is_our_formula_and_our_adapters_change(name):
    layer, module, saved = trained(name)
    weight = layer.weight.detach()
    exact = 2e-5 if "oft" in name else 1e-12
    theirs = change_of(module, layer)
    assert torch.linalg.norm(theirs) > 0.01 * torch.linalg.norm(weight)  # else the bounds below would prove nothing

    formula = torch.from_numpy(TRAINED[name][3](weight.double().numpy(), numbers(saved))) - weight.double()
    adapter = families.match({key: tensor.float() for key, tensor in saved.items()})["weight"]
    ours = families.fitted(adapter, weight.shape).delta(weight.float())

    assert relative(formula, theirs) < exact
    assert relative(ours, theirs) < 2e-5


def test_the_bias_of_a_full_difference_is_a_change_of_its_own():
    layer, module, saved = trained("full")
    nothing = torch.zeros(1, 48, dtype=torch.float64)

    adapters = families.match(saved)

    assert set(adapters) == {"weight", "bias"}
    wanted = (module(nothing) - layer(nothing)).detach().reshape(-1)
    assert relative(adapters["bias"].delta(torch.zeros(64)), wanted) < 1e-6


@pytest.mark.parametrize("kind", ["layer norm", "group norm"])
def test_norms_that_lycoris_trains_change_as_its_forward_pass_does(kind):
    layer = LAYERS[kind]().double().requires_grad_(False)
    module = lycoris.NormModule("x", layer).double()
    nn.init.normal_(module.w_norm)
    nn.init.normal_(module.b_norm)
    x = torch.randn(4, 48, dtype=torch.float64)
    wanted = module(x).detach()
    adapters = families.match(dict(module.state_dict()))

    for name, adapter in adapters.items():
        parameter = getattr(layer, name)
        parameter += adapter.delta(parameter)

    assert set(adapters) == {"weight", "bias"}
    assert torch.allclose(layer(x), wanted, atol=1e-6)


# |merged - trained| / |trained| of LyCORIS' own merge, measured with 4.1.3. Another number means that it was changed.
@pytest.mark.parametrize(
    ("name", "distance"),
    [
        ("lora", 0.0),
        ("glora", 0.0),
        ("ia3 by input", 0.0),
        ("oft with a constraint", 0.0),
        ("boft", 0.0),
        ("dora by input", 0.0),
        ("loha", 0.5),  # alpha / rank = 1/2, applied twice
        ("loha 3x3, tucker", 0.5),
        ("lokr, both whole", 0.0),
        ("lokr, w2 in factors", 0.5),
        ("lokr, both in factors", 0.5),
    ],
)
def test_lycoris_own_merge_scales_loha_and_lokr_twice(name, distance):
    layer, module, _ = trained(name)
    theirs = change_of(module, layer)

    with torch.no_grad():
        merged = module.get_merged_weight(1.0, layer.weight.shape, layer.weight.device)[0] - layer.weight

    assert relative(merged, theirs) == pytest.approx(distance, abs=1e-5)


def test_lycoris_own_merge_of_a_quarter_scale_is_three_quarters_off():
    made = TRAINED["lokr, w2 in factors"]
    layer = LAYERS["linear"]().double().requires_grad_(False)
    module = made[0]("x", layer, lora_dim=2, alpha=0.5).double().eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    theirs = change_of(module, layer)

    with torch.no_grad():
        merged = module.get_merged_weight(1.0, layer.weight.shape, layer.weight.device)[0] - layer.weight

    assert relative(merged, theirs) == pytest.approx(0.75, abs=1e-6)


# --- PEFT


class Block(nn.Module):
    """A few of a U-Net's layers, under its paths."""

    def __init__(self):
        super().__init__()
        attention = nn.ModuleDict({"to_q": nn.Linear(48, 64), "to_k": nn.Linear(48, 32)})
        resnet = nn.ModuleDict({"conv1": nn.Conv2d(48, 32, 3)})
        self.down_blocks = nn.ModuleList([nn.ModuleDict({"attn1": attention, "resnet": resnet})])


class Host:
    def __init__(self, root):
        self.root = root
        named = {path: module for path, module in root.named_modules() if hasattr(module, "weight")}
        self._layers = {f"lora_unet_{path.replace('.', '_')}": Layer(module) for path, module in named.items()}

    def layers(self):
        return self._layers

    def aliases(self):
        return {}

    def family(self):
        return "sd1"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True},
        {"use_dora": True},
        {"use_dora": True, "use_rslora": True},
        {"rank_pattern": {"to_k": 2}, "alpha_pattern": {"attn1.to_k": 3, "conv1": 8}},
        {"use_rslora": True, "rank_pattern": {"to_k": 2}, "alpha_pattern": {"to_k": 3}},
    ],
    ids=lambda options: ", ".join(options) or "plain",
)
def test_what_peft_saves_is_applied_as_peft_merges_it(tmp_path, options):
    """save_pretrained's folder, its configuration included, against merge_and_unload in float64."""
    torch.manual_seed(0)
    root = Block().double().requires_grad_(False)
    host = Host(root)
    before = {name: layer.module.weight.clone() for name, layer in host.layers().items()}
    config = peft.LoraConfig(r=4, lora_alpha=2, target_modules=["to_q", "to_k", "conv1"], **options)
    copied = Block().double()
    copied.load_state_dict(root.state_dict())
    model = peft.get_peft_model(copied, config).double()
    for key, parameter in model.named_parameters():
        if "lora_A" in key or "lora_B" in key:
            nn.init.normal_(parameter, std=0.2)
        elif "magnitude" in key:
            parameter.data *= 1 + 0.1 * torch.randn_like(parameter)
    model.save_pretrained(tmp_path)

    fitted = fit("x", tmp_path / "adapter_model.safetensors", host)
    WeightPatcher(host).apply([Patch(*place, adapter, 1.0) for place, adapter in fitted.adapters.items()])

    merged = Host(model.merge_and_unload())
    assert len(fitted.adapters) == 3
    assert fitted.notes == ()
    for name, layer in merged.layers().items():
        wanted = layer.module.weight.detach() - before[name]
        assert torch.linalg.norm(wanted) > 0.02 * torch.linalg.norm(before[name])
        assert relative(host.layers()[name].module.weight - before[name], wanted) < 1e-6


def test_peft_has_the_same_change_for_a_lora_as_the_formula():
    layer = nn.Linear(48, 64).double()
    config = peft.LoraConfig(r=4, lora_alpha=2, target_modules=["0"])
    model = peft.get_peft_model(nn.Sequential(layer), config).double()
    tuned = model.base_model.model[0]
    nn.init.normal_(tuned.lora_B["default"].weight)
    saved = {
        "lora_down.weight": tuned.lora_A["default"].weight.detach(),
        "lora_up.weight": tuned.lora_B["default"].weight.detach(),
        "alpha": torch.tensor(2.0),
    }

    change = tuned.get_delta_weight("default").detach()

    assert relative(torch.from_numpy(spec.lora(np.zeros((64, 48)), numbers(saved))), change) < 1e-12
