import json
import math

import pytest
import torch

from lora_atelier.adapters import file
from lora_atelier.loader import report
from lora_atelier.loader.report import Outline
from lora_atelier.models import layers

METADATA = {"ss_base_model_version": "lora_atelier_toy", "modelspec.trigger_phrase": "momo"}


@pytest.fixture
def write(tmp_path):
    def write_file(tensors, metadata=METADATA):
        path = tmp_path / "momo.safetensors"
        file.write(path, tensors, metadata)
        return file.read(path)

    return write_file


@pytest.fixture
def lora(tiny_model, random_lora):
    targets = layers.target_layers(tiny_model.unet, conv=True) | layers.target_layers(tiny_model.text_encoders[0])
    return random_lora(targets, rank=4, alpha=2.0)


def said(described):
    return [str(problem) for problem in described.problems]


def test_a_sound_file_is_counted_and_has_no_problem(tiny_model, write, lora):
    described = report.describe(write(lora), Outline(tiny_model, "toy"))

    total = len(lora) // 3
    assert described.families.keys() == {"LoRA", "LoCon"} and sum(described.families.values()) == total
    assert (described.ranks, described.alphas) == ({4: total}, {2.0: total})
    assert described.dialects == {"kohya": len(lora)} and described.dtypes == {"float32": len(lora)}
    assert sum(described.parts.values()) == total and described.parts.keys() == {"text_encoder", "unet"}
    assert (described.said_base, described.told_base) == ("toy", "toy")
    assert described.trigger_words == "momo"
    assert (described.matched.matching, described.matched.total, described.matched.refusal) == (total, total, None)
    assert said(described) == []


def test_the_change_of_a_block_is_the_norm_of_its_layers_changes(tiny_model, write, lora):
    outline = Outline(tiny_model, "toy")
    described = report.describe(write(lora), outline)

    for block in described.blocks:
        names = [
            key[:-6] for key in lora if key.endswith(".alpha") and outline.block(key[:-6]) == (block.part, block.block)
        ]
        changes, before = [], []
        for name in names:
            up, down = lora[f"{name}.lora_up.weight"].flatten(1), lora[f"{name}.lora_down.weight"].flatten(1)
            changes.append((0.5 * up @ down).norm().item())
            before.append(outline.layers()[name].view("weight").norm().item())
        assert block.layers == len(names) > 0
        assert block.change == pytest.approx(math.hypot(*changes), rel=1e-4)
        assert block.relative == pytest.approx(math.hypot(*changes) / math.hypot(*before), rel=1e-4)
    assert [(b.part, b.block) for b in described.blocks][:3] == [
        ("text_encoder", ""),
        ("unet", "down_blocks.0"),
        ("unet", "down_blocks.1"),
    ]


def test_without_weights_shares_are_unknown_and_so_is_dora(tiny_model, write, lora):
    names = [key[:-6] for key in lora if key.endswith(".alpha")]
    shapes = {name: layer.shape("weight") for name, layer in layers.layers(tiny_model).items()}
    dora = {f"{name}.dora_scale": torch.ones(shapes[name][0], *[1] * (len(shapes[name]) - 1)) for name in names}
    read = report.describe(write(lora | dora), Outline(tiny_model, "toy"))

    for part in tiny_model.parts():
        part.to("meta")
    blank = report.describe(write(lora), Outline(tiny_model, "toy"))
    unknown = report.describe(write(lora | dora), Outline(tiny_model, "toy"))

    assert all(block.relative is None and block.change > 0 and not block.unknown for block in blank.blocks)
    assert all(block.unknown == block.layers for block in unknown.blocks)
    assert all(block.relative > 0 and not block.unknown for block in read.blocks)
    assert unknown.families.keys() == {"DoRA (LoRA)", "DoRA (LoCon)"}


def test_what_does_not_fit_is_named_by_its_reason(tiny_model, write, lora):
    first, second, *_ = (key[:-6] for key in list(lora) if key.endswith("_to_q.alpha"))
    lora["lora_unet_nowhere.lora_down.weight"] = torch.ones(4, 3)
    lora["lora_unet_nowhere.lora_up.weight"] = torch.ones(3, 4)
    lora[f"{first}.lora_down.weight"] = torch.ones(4, 7)
    lora[f"{second}.hada_w1_a"] = torch.ones(2, 2)

    matched = report.describe(write(lora), Outline(tiny_model, "toy")).matched

    assert matched.absent == ("lora_unet_nowhere",)
    assert [(misfit.layer, misfit.got[1]) for misfit in matched.misfits] == [(first, 7)]
    assert matched.unread == (second,)
    assert matched.matching == matched.total - 3
    assert "another shape" in str(matched.refusal)


def broken(lora, how):
    names = [key[:-6] for key in lora if key.endswith(".alpha")]
    up = f"{names[0]}.lora_up.weight"
    if how == "nan":
        lora[up] = torch.full_like(lora[up], math.inf)
    elif how == "zero":
        lora[up] = torch.zeros_like(lora[up])
    elif how == "rank 0":
        lora[up], lora[f"{names[0]}.lora_down.weight"] = torch.ones(8, 0), torch.ones(0, 8)
    elif how == "unknown":
        lora["junk"] = torch.ones(1)
    elif how == "twice":
        also = {key: tensor for key, tensor in lora.items() if key.startswith(f"{names[0]}.")}
        lora |= {key.replace("lora_te_", "lora_te1_"): tensor for key, tensor in also.items()}
    elif how == "no alpha":
        del lora[f"{names[0]}.alpha"]
    elif how == "fp8":
        lora[up] = lora[up].to(torch.float8_e4m3fn)
    elif how == "alpha of two":
        lora[f"{names[0]}.alpha"] = torch.ones(2)
    return lora


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("nan", "1 tensors hold values that are not numbers"),
        ("zero", "layers change nothing"),
        ("rank 0", "layers have rank 0"),
        ("unknown", "1 of its keys are unknown, first junk"),
        ("twice", "1 names say again"),
        ("no alpha", "layers have no alpha"),
        ("fp8", "1 tensors are stored in 8 bits"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence_and_nothing_else_is(tiny_model, write, random_lora, how, sentence):
    targets = layers.target_layers(tiny_model.text_encoders[0]) | layers.target_layers(tiny_model.unet)
    content = write(broken(random_lora(targets), how))

    problems = said(report.describe(content, Outline(tiny_model, "toy")))

    assert len(problems) == 1 and sentence in problems[0]


def test_an_alpha_of_several_numbers_is_a_layer_that_can_not_be_read(write, lora):
    assert "can't be read" in said(report.describe(write(broken(lora, "alpha of two"))))[0]


def test_a_base_in_the_metadata_that_the_shapes_deny_is_said(write, lora):
    described = report.describe(write(lora, {"ss_base_model_version": "sdxl_base_v1-0"}))

    assert (described.said_base, described.told_base, described.base) == ("sdxl", "toy", "toy")
    assert "XL" in said(described)[0] and described.matched is None and described.blocks == ()


def test_a_file_for_another_kind_of_model_is_named(write):
    tensors = {"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": torch.ones(2, 4)}

    assert report.describe(write(tensors)).foreign_base == "Flux"


def test_embeddings_and_frequent_tags_are_listed(write, lora):
    tensors = lora | {"bundle_emb.smile.string_to_param.*": torch.ones(1, 32)}
    counted = json.dumps({"5_momo": {"1girl": 3, "hat": 9}})

    described = report.describe(write(tensors, {"ss_tag_frequency": counted}))

    assert described.embeddings == ("smile",) and described.tags == ("hat", "1girl")


def test_half_a_character_in_a_tag_is_printed_as_a_question_mark(write, lora):
    said = report.describe(write(lora, {"ss_tag_frequency": '{"10_x": {"\\ud83d cat": 3}}'}))

    assert said.tags == ("? cat",)


def test_the_report_is_plain_json(tiny_model, write, lora):
    lora = broken(lora, "nan")

    text = json.dumps(report.describe(write(lora), Outline(tiny_model, "toy")).to_json(), allow_nan=False)

    assert json.loads(text)["matched"]["refusal"]["type"] == "AdapterFormatError"


def test_the_file_is_read_once(tiny_model, write, lora, monkeypatch):
    content = write(lora)
    monkeypatch.setattr(file, "read", lambda path: pytest.fail(f"{path} was read again"))

    described = report.describe(content, Outline(tiny_model, "toy"))

    assert described.matched.refusal is None
    assert described.matched.matching == described.matched.total
