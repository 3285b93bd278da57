"""The contract of each webui, against fakes of ours: the same things must hold in all five."""

import sys
import time
import types
from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.jobs.fakes import write_model_headers

from lora_atelier.adapters import file
from lora_atelier.errors import AdapterError, HostError
from lora_atelier.hosts import detection, network, router
from lora_atelier.hosts.base import Drawing
from lora_atelier.jobs.previews import Preview
from lora_atelier.jobs.run_dir import Job, RunDir
from lora_atelier.jobs.view import RunView
from lora_atelier.web.services import services

KINDS = ("a1111", "forge", "reforge", "forge-classic", "sdnext")
Q = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
OUT = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0"
TEXT = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"


@pytest.fixture(params=KINDS)
def webui(request, make_webui):
    return make_webui(request.param)


@pytest.fixture
def add(webui):
    """Write a LoRA for some layers; returns the changes of its layers."""

    def write(name, *layers, seed=0, size=8):
        generator, tensors, deltas = torch.Generator().manual_seed(seed), {}, {}
        for layer in layers or (Q,):
            down, up = (torch.randn(shape, generator=generator) for shape in ((2, size), (size, 2)))
            tensors |= {f"{layer}.lora_down.weight": down, f"{layer}.lora_up.weight": up}
            deltas[layer] = up @ down
        file.write(Path(webui[0].lora_dir()) / f"{name}.safetensors", tensors, {"ss_base_model_version": "sd_v1"})
        return deltas

    return write


def changes(before, after):
    """The changed tensors' differences."""
    return [a - b for b, a in zip(before, after, strict=True) if not torch.equal(a, b)]


def test_the_webui_is_told_by_its_modules(webui):
    fake, host = webui

    assert host.id == fake.kind
    assert host.data_dir == fake.folder / "lora-atelier"
    assert host.lora_dirs() == [fake.folder / "models" / "Lora"]


def test_a_prompt_changes_the_weights_and_the_next_one_gives_them_back_to_the_bit(webui, add):
    fake, _ = webui
    delta = add("mine")[Q]
    before, _ = fake.draw("a cat")

    after, _ = fake.draw("a cat <lora:mine:0.5>")
    again, _ = fake.draw("a cat")

    (change,) = changes(before, after)
    expected = 0.5 * (delta.T if fake.kind == "sdnext" else delta)  # that one is looked at through its layer
    assert torch.allclose(change, expected, atol=1e-5)
    assert changes(before, again) == []


def test_weight_nought_is_exactly_nothing(webui, add):
    fake, _ = webui
    add("mine")
    before, _ = fake.draw("a cat")

    assert changes(before, fake.draw("a cat <lora:mine:0>")[0]) == []


def test_another_weight_replaces_the_first_one(webui, add):
    fake, _ = webui
    add("mine")
    straight, _ = fake.draw("<lora:mine:0.5>")
    fake.draw("x")

    fake.draw("<lora:mine:0.8>")

    assert changes(straight, fake.draw("<lora:mine:0.5>")[0]) == []


def test_two_loras_are_a_sum_in_any_order(webui, add):
    fake, _ = webui
    add("one", Q, OUT), add("two", Q, seed=1)

    first, _ = fake.draw("<lora:one:0.8> <lora:two:-0.3>")

    assert changes(first, fake.draw("<lora:two:-0.3> <lora:one:0.8>")[0]) == []


def test_the_builtin_loader_is_told_that_it_has_nothing_to_do(webui, add):
    fake, _ = webui
    add("mine")

    fake.draw("<lora:mine:0.8>")
    fake.draw("<lyco:mine:0.8>") if fake.kind != "sdnext" else fake.draw("<lora:mine:1>")

    assert fake.builtin.told == [[], []]


def test_text_encoders_are_changed_as_the_webui_wants_it(webui, add):
    fake, _ = webui
    add("mine", Q, TEXT)
    before, _ = fake.draw("a cat")
    expected = 1 if fake.kind == "sdnext" else 2

    assert len(changes(before, fake.draw("<lora:mine:1>")[0])) == expected
    fake.opts.lora_apply_te = True
    assert len(changes(before, fake.draw("<lora:mine:1>")[0])) == 2


def test_changed_text_encoders_let_the_prompts_be_encoded_again(webui, add):
    fake, _ = webui
    fake.opts.lora_apply_te = True
    add("mine", TEXT)
    fake.cached_c[:] = ["key", "what was encoded"]

    fake.draw("<lora:mine:1>")
    assert fake.cached_c == [None, None]

    fake.cached_c[:] = ["key", "what was encoded"]
    fake.draw("<lora:mine:1>")
    assert fake.cached_c == ["key", "what was encoded"]

    fake.draw("a cat")
    assert fake.cached_c == [None, None]


def test_a_file_of_the_same_name_and_another_content_is_seen(webui, add):
    """The webuis' own loaders and caches know a file by its name alone."""
    fake, _ = webui
    add("mine")
    first, p = fake.draw("<lora:mine:1>")

    add("mine", seed=5)
    second, q = fake.draw("<lora:mine:1>")

    assert changes(first, second) != []
    data, other = (getattr(each, "extra_network_data", None) or each.network_data for each in (p, q))
    assert data != other


def test_what_can_not_be_applied_is_said_and_the_rest_is_applied(webui, add):
    fake, _ = webui
    add("mine"), add("wide", size=12)
    only, _ = fake.draw("<lora:mine:1>")

    weights, p = fake.draw("<lora:mine:1> <lora:nobody:1> <lora:wide:1> <lora:mine:x>")

    assert changes(only, weights) == []
    said = " ".join(p.comments)
    for part in ("no LoRA called “nobody”", "“wide” was not applied", "“x” in “<lora:mine:x>” is not a number"):
        assert part in said


def test_the_hashes_are_written_as_the_webui_writes_them(webui, add):
    fake, host = webui
    add("mine")
    _, p = fake.draw("<lora:mine:1>")
    digits = host.applied[0][1][:12]

    if fake.kind == "sdnext":
        assert p.extra_generation_params == {"LoRA networks": "mine", "LoRA hashes": digits[:8]}
    else:
        assert p.extra_generation_params == {"Lora hashes": f"mine: {digits}"}


def test_a_pasted_prompt_finds_the_file_under_its_name_here(webui, add):
    fake, host = webui
    add("mine")
    _, p = fake.draw("<lora:mine:1>")
    params = {"Prompt": "a <lora:theirs:0.7>, b <lora:else:1>"}
    params |= {key: value.replace("mine", "theirs") for key, value in p.extra_generation_params.items()}
    host.catalogue.start_hashing()
    host.catalogue.list()
    host.catalogue.wait_for_hashes(20)

    network.find_pasted(params, host.catalogue)

    assert params["Prompt"] == "a <lora:mine:0.7>, b <lora:else:1>"
    host.catalogue.stop_hashing()


def test_another_model_is_drawn_with_as_clean_as_the_first(webui, add):
    fake, host = webui
    add("mine")
    clean_first, _ = fake.draw("a cat")
    first = fake.model
    fake.draw("<lora:mine:1>")

    fake.load("another one")
    host.model_changed()
    clean_second, _ = fake.draw("a cat")
    assert changes(clean_second, fake.draw("<lora:mine:1>")[0]) != []

    fake.model = fake.model_data.sd_model = fake.shared.sd_model = first  # kept by the webui, and taken out again
    assert changes(clean_first, fake.draw("a cat")[0]) == []


def test_a_model_that_comes_while_a_picture_is_made_gets_the_prompts_loras(webui, add):
    """A refiner: the webui asks nobody again."""
    fake, host = webui
    add("mine")
    fake.draw("<lora:mine:1>")

    fake.load("another one")
    clean = fake.weights()
    fake.shared.state.job = "txt2img"
    host.model_changed()
    fake.after_activate(None)

    assert changes(clean, fake.weights()) != []


@pytest.mark.parametrize("why", ["setting", "lora-block-weight", "loractl", "default LoRA"])
def test_the_builtin_gets_all_tags_where_a_person_or_an_extension_needs_it(webui, add, why):
    fake, _ = webui
    add("mine")
    before, _ = fake.draw("a cat")
    fake.draw("<lora:mine:1>")
    if why == "setting":
        fake.opts.atelier_loader = "webui"
    elif why == "default LoRA":
        fake.opts.sd_lora = "other"
    else:
        fake.extensions.extensions.append(types.SimpleNamespace(name=f"sd-webui-{why}", enabled=True))

    weights, _ = fake.draw("<lora:mine:0.8> <atelier:mine:0.5>")

    assert changes(before, weights) == []
    assert changes(before, fake.builtin.found) == []
    assert fake.builtin.told[-1] == [["mine", "0.8"], ["mine", "0.5"]]


def test_without_a_builtin_loader_every_tag_is_ours(webui, add):
    fake, _ = webui
    add("mine")
    fake.opts.atelier_loader = "webui"
    before, _ = fake.draw("a cat")
    del fake.extra_networks.extra_network_registry["lora"]

    assert changes(before, fake.draw("<lora:mine:1>")[0]) != []


def test_unloading_gives_back_weights_and_the_webuis_own_function(webui, add):
    fake, host = webui
    add("mine")
    before, _ = fake.draw("a cat")
    fake.draw("<lora:mine:1>")

    host.unload()
    router.remove(fake.extra_networks)
    fake.after_activate(None)

    assert changes(before, fake.weights()) == []
    assert not hasattr(fake.extra_networks.parse_prompts, "_lora_atelier_original")


def test_an_error_nobody_foresaw_is_said_and_the_picture_is_made_without(webui, add, monkeypatch):
    fake, host = webui
    add("mine")
    before, _ = fake.draw("a cat")
    monkeypatch.setattr(type(host), "find_layers", lambda *_: 1 / 0)
    host._model = None
    host._session.forget()

    weights, p = fake.draw("<lora:mine:1>")

    assert changes(before, weights) == []
    assert "ZeroDivisionError" in " ".join(p.comments)


def test_nothing_is_asked_of_a_webui_that_has_no_model_yet(webui, add):
    fake, host = webui
    add("mine")
    fake.model_data.sd_model = None
    fake.shared.sd_loaded = False

    assert host.use([]) == []


def bundle(fake, lora, **words):
    """Write a LoRA that brings embeddings."""
    tensors = {f"{Q}.lora_down.weight": torch.ones(2, 8), f"{Q}.lora_up.weight": torch.ones(8, 2)}
    tensors |= {f"bundle_emb.{word}.string_to_param.*": vectors for word, vectors in words.items()}
    file.write(Path(fake.lora_dir()) / f"{lora}.safetensors", tensors, {"ss_base_model_version": "sd_v1"})


def test_the_embeddings_of_a_lora_are_there_for_its_prompts_and_leave_no_trace(webui, add):
    fake, _ = webui
    vectors, other = torch.randn(3, 8), torch.randn(1, 8)
    bundle(fake, "mine", figure=vectors), bundle(fake, "other", hat=other), add("plain")
    before = fake.words()

    fake.draw("figure <lora:mine:1>")
    assert fake.words() == {"figure": vectors.tolist()}
    fake.draw("figure <lora:mine:0.5>")
    assert fake.words() == {"figure": vectors.tolist()}

    fake.draw("figure hat <lora:mine:1> <lora:other:1>")
    assert fake.words() == {"figure": vectors.tolist(), "hat": other.tolist()}
    fake.draw("hat <lora:other:1>")
    assert fake.words() == {"hat": other.tolist()}

    fake.draw("figure <lora:plain:1>")
    assert fake.words() == before == {}


def test_an_embedding_of_the_persons_own_goes_before_one_that_a_lora_brings(webui):
    fake, _ = webui
    fake.own_word("figure")
    before = fake.words()
    bundle(fake, "mine", figure=torch.ones(2, 8), hat=torch.ones(1, 8))

    _, p = fake.draw("<lora:mine:1>")

    assert "“figure” inside of a LoRA file was left out: the webui has one" in " ".join(p.comments)
    assert fake.words() == {**before, "hat": [[1.0] * 8]}
    fake.draw("a cat")
    assert fake.words() == before


def test_an_embedding_for_another_text_encoder_is_left_out_and_said(webui):
    fake, _ = webui
    bundle(fake, "mine", wide=torch.ones(2, 12))
    before, _ = fake.draw("a cat")

    after, p = fake.draw("<lora:mine:1>")

    assert "“wide” was left out: it is for another model's text encoder" in " ".join(p.comments)
    assert fake.words() == {} and changes(before, after) != []


def test_embeddings_leave_with_the_extension_and_with_the_model(webui):
    fake, host = webui
    bundle(fake, "mine", figure=torch.ones(2, 8))
    fake.draw("<lora:mine:1>")
    host.unload()
    assert fake.words() == {}

    fake.draw("<lora:mine:1>")
    first = fake.model
    fake.load("another one")
    host.model_changed()
    assert fake.words() == {}
    fake.model = first
    assert fake.words() == {}


def test_where_embeddings_can_not_be_put_the_lora_is_on_all_the_same(webui, monkeypatch):
    fake, host = webui
    bundle(fake, "mine", figure=torch.ones(2, 8))
    before, _ = fake.draw("a cat")
    monkeypatch.setattr(host, "shelf", lambda: 1 / 0)

    after, p = fake.draw("<lora:mine:1>")

    assert changes(before, after) != [] and "could not be used: division by zero" in " ".join(p.comments)


@pytest.fixture
def chosen(webui):
    """A checkpoint of SD 1.x that the webui draws with."""
    fake, host = webui
    path = write_model_headers(fake.folder / "models" / "base")
    info = types.SimpleNamespace(filename=str(path), path=str(path), title="base")
    for module in (fake.sd_models, fake.modules.get("modules.sd_checkpoint")):
        if module is not None:
            module.checkpoints_list["base"] = info
    fake.model.sd_checkpoint_info = info
    return host.current()


def test_a_picture_is_drawn_by_the_webuis_own_sampler_with_the_prompts_loras(webui, add, chosen):
    fake, host = webui
    add("mine")

    plain = host.picture(Drawing(prompt="a cat", seed=7))
    with_it = host.picture(Drawing(prompt="a cat <lora:mine:0.5>", seed=7, width=64, steps=3, negative_prompt="dog"))
    again = host.picture(Drawing(prompt="a cat", seed=7))

    assert plain.mode == "RGB" and plain.size == (chosen.resolution, chosen.resolution)
    assert with_it.getpixel((0, 0)) != plain.getpixel((0, 0)) == again.getpixel((0, 0))
    asked = fake.asked[1]
    assert (asked.seed, asked.width, asked.steps, asked.negative_prompt, asked.sampler_name) == (
        7,
        64,
        3,
        "dog",
        "Euler",
    )
    assert asked.do_not_save_samples and asked.do_not_save_grid and asked.closed
    assert fake.shared.state.jobs == ["lora-atelier"] * 3 and not fake.shared.state.job and not fake.lock.locked()


def test_a_picture_whose_lora_is_not_there_is_none(webui, add, chosen):
    fake, host = webui

    with pytest.raises(AdapterError, match="no LoRA called “nobody”"):
        host.picture(Drawing(prompt="<lora:nobody:1>"))

    assert not fake.lock.locked() and not fake.shared.state.job


@pytest.mark.parametrize("way", ["nothing", "interrupted", "raises"])
def test_a_webui_that_draws_nothing_is_heard_and_free_afterwards(webui, chosen, way):
    fake, host = webui

    def goes_wrong():
        if way == "raises":
            raise RuntimeError("no memory")
        fake.shared.state.interrupted = way == "interrupted"
        return types.SimpleNamespace(images=[1] if way == "interrupted" else [])

    fake.goes_wrong = goes_wrong
    said = {"nothing": "drew nothing", "interrupted": "was interrupted", "raises": "no memory"}[way]
    with pytest.raises(RuntimeError if way == "raises" else HostError, match=said):
        host.picture(Drawing(prompt="a cat"))

    assert not fake.lock.locked() and not fake.shared.state.job


def test_the_checkpoints_of_a_training_are_compared_by_the_webui_itself(webui, add, chosen, tmp_path):
    """Through services, files and the loader, as the page asks for it."""
    fake, host = webui
    add("step-10"), add("step-20", seed=3)
    offered = services(host)
    run = RunDir(tmp_path / "run")
    run.checkpoints_dir.mkdir(parents=True)
    for name in ("step-10", "step-20"):
        step = int(name[5:])
        source = Path(fake.lora_dir()) / f"{name}.safetensors"
        (run.checkpoints_dir / f"momo-s{step:06d}.safetensors").write_bytes(source.read_bytes())
    said = dict.fromkeys(("id", "name", "goal", "trigger", "whose", "lora_dir", "base_model", "pictures"), "momo")
    view = RunView(run=run, job=Job(**said, created=0.0), status="stopped")

    offered.comparison.start(view, prompt="a cat", weights=[0.5, 1])
    deadline = time.monotonic() + 20
    while (grid := offered.comparison.state(run, "en"))["state"] == "drawing":
        assert time.monotonic() < deadline
        time.sleep(0.02)

    assert grid["state"] == "finished", grid
    drawn = [Image.open(run.path / "compare" / name).getpixel((0, 0)) for name in grid["files"] if name != "grid.png"]
    assert len(drawn) == len(set(drawn)) == 4
    assert not list(Path(fake.lora_dir()).rglob("atelier-compare-*"))


def test_a_training_is_previewed_by_the_webui_where_that_keeps_the_same_model(webui, add, chosen):
    fake, host = webui
    add("mine")
    previews = services(host).previews
    fake.opts.atelier_gpu = "wait"
    assert not previews._is_ready(chosen.path)
    fake.opts.atelier_gpu = "keep"
    assert previews._is_ready(chosen.path) and not previews._is_ready(chosen.path.with_name("another"))

    asked = Preview(prompt="a cat <lora:mine:1>", negative_prompt="", seed=3, width=64, height=96, steps=4,
                    cfg_scale=5.5, sampler="DDIM")  # fmt: skip
    picture = previews._draw(asked)

    assert picture.size == (64, 96) and (fake.asked[0].cfg_scale, fake.asked[0].sampler_name) == (5.5, "DDIM")


# --- what only some webuis have


def test_a1111_takes_the_builtins_changes_back_before_ours_are_made(make_webui):
    """Both were on for a moment: the builtin puts its own back when a layer is next called, and ours would be lost."""
    fake, _ = make_webui("a1111")
    layer = fake.model.model.diffusion_model.get_submodule("input_blocks.1.1.transformer_blocks.0.attn1.to_q")
    base = layer.weight.detach().clone()
    layer.network_weights_backup, layer.network_bias_backup, layer.network_current_names = base.clone(), None, (1,)
    with torch.no_grad():
        layer.weight += 1
    down, up = torch.randn(2, 8), torch.randn(8, 2)
    tensors = {f"{Q}.lora_down.weight": down, f"{Q}.lora_up.weight": up}
    file.write(Path(fake.lora_dir()) / "mine.safetensors", tensors, {})

    fake.draw("<lora:mine:1>")
    assert torch.allclose(layer.weight, base + up @ down, atol=1e-5)
    assert layer.network_weights_backup is None

    fake.draw("a cat")
    assert torch.equal(layer.weight, base)


class OnDisk:
    """A1111 with a checkpoint's file that its model was read from, and a LoRA."""

    def __init__(self, make_webui, *, mode="reread", suffix=".safetensors", dtype=torch.float32):
        self.fake, self.host = make_webui("a1111")
        self.model = self.fake.model.to(dtype)
        self.path = self.fake.folder / f"base{suffix}"
        self.stored = {key.replace(".wrapped", ""): each.clone() for key, each in self.model.state_dict().items()}
        self.write(self.stored)
        self.model.sd_checkpoint_info = types.SimpleNamespace(filename=str(self.path))
        self.fake.opts.atelier_originals = mode
        self.reloads = 0
        self.fake.sd_models.reload_model_weights = self.reload
        shapes = {Q: 8, TEXT: 8}
        tensors = {f"{layer}.lora_{end}.weight": torch.randn((2, size) if end == "down" else (size, 2))
                   for layer, size in shapes.items() for end in ("down", "up")}  # fmt: skip
        file.write(Path(self.fake.lora_dir()) / "mine.safetensors", tensors, {})

    def write(self, tensors):
        file.write(self.path, {key: each.float() for key, each in tensors.items()}, {})

    @torch.no_grad()
    def reload(self, forced_reload=False):
        """As the webui does it: into the same model, then its callbacks."""
        assert forced_reload
        self.reloads += 1
        stored = file.read(self.path).tensors
        for key, parameter in self.model.state_dict().items():
            parameter.copy_(stored[key.replace(".wrapped", "")])
        self.host.model_changed()

    @property
    def patcher(self):
        return self.host._patcher


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a1111s_weights_are_read_again_from_the_checkpoint_to_the_bit(make_webui, dtype):
    at = OnDisk(make_webui, dtype=dtype)
    before, _ = at.fake.draw("a cat")

    changed, p = at.fake.draw("<lora:mine:1>")
    assert len(changes(before, changed)) == 2 and p.comments == {}
    assert (at.patcher.changed, at.patcher.copies, at.patcher.rereads) == (2, 0, True)
    other, _ = at.fake.draw("<lora:mine:0.5>")
    again, _ = at.fake.draw("a cat")

    assert changes(changed, other) != [] and changes(before, again) == []


def test_a1111_keeps_copies_where_memory_allows_it_or_that_is_set(make_webui, monkeypatch):
    at = OnDisk(make_webui, mode="copy")
    at.fake.draw("<lora:mine:1>")
    assert at.patcher.copies == 2

    at.fake.opts.atelier_originals = "auto"
    at.fake.draw("<lora:mine:1>")
    assert at.patcher.copies == 2

    monkeypatch.setattr("lora_atelier.memory.available_bytes", lambda device=None: 100)
    at.fake.draw("a cat")
    at.fake.draw("<lora:mine:1>")
    assert at.patcher.copies == 0


@pytest.mark.parametrize(
    ("suffix", "gone", "said"),
    [
        (".ckpt", False, "the checkpoint is no .safetensors file"),
        (".safetensors", True, "the checkpoint's file is gone"),
    ],
)
def test_a1111_says_why_a_checkpoint_can_not_be_read_again_and_keeps_copies(make_webui, suffix, gone, said):
    at = OnDisk(make_webui, suffix=suffix)
    if gone:
        at.path.unlink()
    before, _ = at.fake.draw("a cat")

    _, p = at.fake.draw("<lora:mine:1>")

    assert said in " ".join(p.comments) and at.patcher.copies == 2
    assert changes(before, at.fake.draw("a cat")[0]) == []


def test_a1111_copies_what_is_not_as_the_file_has_it_and_says_so_once(make_webui):
    """Merged in memory, or changed by another extension: the file would give back other weights."""
    at = OnDisk(make_webui)
    with torch.no_grad():
        at.model.get_submodule("cond_stage_model.wrapped.transformer.text_model.encoder.layers.0.self_attn.q_proj"
                               ).weight.add_(1)  # fmt: skip
    before, _ = at.fake.draw("a cat")

    _, p = at.fake.draw("<lora:mine:1>")
    _, q = at.fake.draw("<lora:mine:0.5>")

    assert "Of 2 changed weights 1 are not what the checkpoint's file holds" in " ".join(p.comments)
    assert q.comments == {} and at.patcher.copies == 1
    assert changes(before, at.fake.draw("a cat")[0]) == []


def test_a1111_loads_a_checkpoint_again_that_was_replaced_while_a_lora_was_on(make_webui):
    at = OnDisk(make_webui)
    at.fake.draw("<lora:mine:1>")
    at.write({key: each + 1 for key, each in at.stored.items()})

    _, p = at.fake.draw("a cat")

    assert at.reloads == 1 and "it was loaded again" in " ".join(p.comments)
    after = at.fake.weights()
    assert all(torch.equal(each, stored + 1) for each, stored in zip(after, at.stored.values(), strict=True))
    assert changes(after, at.fake.draw("<lora:mine:1>")[0]) != []


def test_a1111s_list_is_refreshed_when_a_lora_was_written(make_webui):
    fake, host = make_webui("a1111")

    host.refresh_adapters()

    assert fake.networks.listed == 1


@pytest.mark.parametrize("kind", ["forge", "reforge", "forge-classic"])
def test_forges_builtin_may_replace_the_parts_at_any_time(make_webui, kind):
    fake, _ = make_webui(kind)
    tensors = {f"{Q}.lora_down.weight": torch.ones(2, 8), f"{Q}.lora_up.weight": torch.ones(8, 2)}
    file.write(Path(fake.lora_dir()) / "mine.safetensors", tensors, {})
    before, _ = fake.draw("a cat")
    after, _ = fake.draw("<lora:mine:1>")

    fake.builtin_was_busy()

    assert changes(after, fake.draw("<lora:mine:1>")[0]) == []
    fake.builtin_was_busy()
    assert changes(before, fake.draw("a cat")[0]) == []
    assert fake.model.forge_objects_original.unet.patches == []


@pytest.mark.parametrize(("dtype", "online"), [(torch.float16, False), ("nf4", True)])
def test_forge_adds_to_quantised_weights_on_every_call_where_the_person_asked_for_it(make_webui, dtype, online):
    fake, _ = make_webui("forge")
    fake.modules["backend.args"].dynamic_args["online_lora"] = True
    fake.model.forge_objects.unet.model.storage_dtype = dtype
    tensors = {f"{Q}.lora_down.weight": torch.ones(2, 8), f"{Q}.lora_up.weight": torch.ones(8, 2)}
    file.write(Path(fake.lora_dir()) / "mine.safetensors", tensors, {})

    fake.draw("<lora:mine:1>")
    first = fake.model.forge_objects.unet.filename
    assert fake.model.forge_objects.unet.online is online

    fake.draw("<lora:mine:0.5>")
    assert fake.model.forge_objects.unet.filename != first


def test_sdnexts_pipelines_around_the_same_parts_are_one_model(make_webui):
    fake, host = make_webui("sdnext")
    layers = host.layers()

    fake.new_pipeline()
    host.model_changed()

    assert host.layers() is layers


@pytest.mark.parametrize("mode", ["balanced", "model"])
def test_sdnexts_moving_weights_are_not_written(make_webui, mode):
    fake, host = make_webui("sdnext")
    fake.opts.diffusers_offload_mode = mode
    tensors = {f"{Q}.lora_down.weight": torch.ones(2, 8), f"{Q}.lora_up.weight": torch.ones(8, 2)}
    file.write(Path(fake.lora_dir()) / "mine.safetensors", tensors, {})
    before, weight = fake.draw("a cat")[0], host.layers()[Q].view("weight").clone()

    after, _ = fake.draw("<lora:mine:1>")

    assert changes(before, after) != []
    assert torch.equal(host.layers()[Q].view("weight"), weight)
    assert changes(before, fake.draw("a cat")[0]) == []


def test_sdnexts_sequential_offload_is_refused_in_a_sentence(make_webui):
    fake, _ = make_webui("sdnext")
    fake.opts.diffusers_offload_mode = "sequential"
    tensors = {f"{Q}.lora_down.weight": torch.ones(2, 8), f"{Q}.lora_up.weight": torch.ones(8, 2)}
    file.write(Path(fake.lora_dir()) / "mine.safetensors", tensors, {})

    _, p = fake.draw("<lora:mine:1>")

    assert "“sequential” keeps no weights" in " ".join(p.comments)


def test_where_there_is_no_webui_nothing_is_made(monkeypatch):
    for name in list(sys.modules):
        if name.split(".")[0] in ("modules", "backend", "ldm_patched", "installer"):
            monkeypatch.delitem(sys.modules, name)

    assert detection.make() is None
