import pytest

from lora_atelier.errors import JobError
from lora_atelier.jobs.torch_choice import (
    INDEX,
    Card,
    HostTorch,
    Machine,
    can_reuse,
    choose,
    kind_of_tag,
    parse_nvidia_smi,
    tag_of,
)

pytestmark = pytest.mark.torchfree

PINNED = "torch==2.13.0"


def nvidia(driver, capability=(8, 6)):
    return Card("cuda", (driver, 10), capability)


def host(version, tag, python=(3, 10)):
    return HostTorch(version, tag, python)


@pytest.mark.parametrize(
    ("driver", "capability", "index", "requirement"),
    [
        (580, (8, 6), "cu130", PINNED),
        (570, (8, 6), "cu126", PINNED),
        (531, (8, 9), "cu126", PINNED),
        (600, (6, 1), "cu126", PINNED),  # a GTX 10: CUDA 13 has no code for it
        (600, (12, 0), "cu130", PINNED),
        (572, (12, 0), "cu128", "torch>=2.7,<2.12"),  # an RTX 50 whose driver is older than CUDA 13
        (472, (8, 6), "cu118", "torch>=2.6,<2.8"),
        (535, None, "cu126", PINNED),  # a driver too old to tell the card's capability
    ],
)
@pytest.mark.parametrize("system", ["Linux", "Windows"])
def test_the_driver_and_the_card_choose_the_newest_build_that_runs(system, driver, capability, index, requirement):
    chosen = choose(Machine(system, (3, 12), card=nvidia(driver, capability)))

    assert (chosen.how, chosen.kind, chosen.index, chosen.requirement) == ("index", "cuda", INDEX + index, requirement)


def test_windows_drivers_are_counted_apart_from_linux_ones():
    assert choose(Machine("Linux", (3, 12), card=nvidia(526))).index.endswith("cu126")
    assert choose(Machine("Windows", (3, 12), card=nvidia(526))).index.endswith("cu118")


@pytest.mark.parametrize(("driver", "capability", "needed"), [(390, (6, 1), "450"), (536, (12, 0), "570")])
def test_a_driver_that_is_too_old_is_a_sentence_with_the_one_to_install(driver, capability, needed):
    with pytest.raises(JobError, match=rf"{driver}\.10; PyTorch needs {needed} or newer"):
        choose(Machine("Linux", (3, 12), card=nvidia(driver, capability)))


@pytest.mark.parametrize(
    ("tag", "index"),
    [("cu121", "cu126"), ("cu118", "cu118"), ("cu124", "cu126"), ("cu128", "cu128"), ("cu129", "cu128"),
     ("cu130", "cu130"), ("cu132", "cu130"), ("gitabc", "cu126"), ("rocm5.7", "rocm6.4"), ("rocm6.3", "rocm6.3"),
     ("rocm7.1", "rocm7.1"), ("xpu", "xpu"), ("cpu", "cpu")],
)  # fmt: skip
def test_without_a_driver_that_answers_the_webuis_build_tag_decides(tag, index):
    assert choose(Machine("Linux", (3, 12), host=host("2.3.1", tag))).index == INDEX + index


def test_a_webui_that_computes_on_the_processor_is_followed_even_beside_a_card():
    chosen = choose(Machine("Linux", (3, 12), host=host("2.3.1", "cpu"), card=nvidia(580)))

    assert (chosen.kind, chosen.index, chosen.requirement) == ("cpu", INDEX + "cpu", PINNED)


def test_the_driver_knows_better_than_an_old_webuis_tag_which_cuda_runs():
    chosen = choose(Machine("Windows", (3, 12), host=host("2.1.2", "cu118"), card=nvidia(581, (12, 0))))

    assert chosen.index == INDEX + "cu130"


@pytest.mark.parametrize(
    ("version", "tag", "python", "reused"),
    [
        ("2.9.0", "cu128", (3, 12), True),
        ("2.6.0", "cpu", (3, 12), True),
        ("2.10.1", "rocm7.0", (3, 12), True),
        ("2.5.1", "cu124", (3, 12), False),
        ("2.9.0", "cu128", (3, 11), False),
        ("2.9.0", "xpu", (3, 12), False),
    ],
)
def test_a_webuis_torch_is_reused_if_it_is_new_enough_and_made_for_the_same_python(version, tag, python, reused):
    made = HostTorch(version, tag, python)

    assert can_reuse(made, (3, 12)) is reused
    assert (choose(Machine("Linux", (3, 12), host=made)).how == "reuse") is reused


def test_an_index_that_the_user_set_comes_before_our_table():
    env = {"TORCH_INDEX_URL": "https://mirror.example/whl/cu124"}

    chosen = choose(Machine("Windows", (3, 12), card=nvidia(580), env=env))

    assert chosen.index == env["TORCH_INDEX_URL"]
    assert chosen.requirement == "torch>=2.6,<=2.13.0"  # that index may have no 2.13


@pytest.mark.parametrize(
    ("system", "card", "how", "kind"),
    [
        ("Darwin", None, "default", "mps"),
        ("Linux", None, "index", "cpu"),
        ("Windows", None, "index", "cpu"),
        ("Linux", Card("rocm", (6, 4)), "index", "rocm"),
        ("Windows", Card("rocm"), "index", "cpu"),  # PyTorch has no ROCm wheels for Windows
    ],
)
def test_machines_without_an_nvidia_card(system, card, how, kind):
    chosen = choose(Machine(system, (3, 12), card=card))

    assert (chosen.how, chosen.kind) == (how, kind)


@pytest.mark.parametrize(
    ("version", "cuda", "hip", "tag"),
    [
        ("2.3.1+cu121", "12.1", None, "cu121"),
        ("2.9.0", "12.8", None, "cu128"),
        ("2.9.0", None, "6.4.43482", "rocm6.4"),
        ("2.9.0", None, None, "cpu"),
        ("2.13.0+cpu", None, None, "cpu"),
    ],
)
def test_a_build_is_told_by_its_version_or_else_by_what_it_was_compiled_with(version, cuda, hip, tag):
    assert tag_of(version, cuda, hip) == tag
    assert kind_of_tag(tag) == ("cuda" if cuda else "rocm" if hip else "cpu")


@pytest.mark.parametrize(
    ("said", "card"),
    [
        ("550.54.14, 8.6\n", Card("cuda", (550, 54, 14), (8, 6))),
        ("580.95, 12.0\n580.95, 7.5\n", Card("cuda", (580, 95), (7, 5))),
        ("456.71, [Not Supported]\n", Card("cuda", (456, 71), None)),
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n", None),
        ("", None),
    ],
)
def test_what_nvidia_smi_says_is_understood(said, card):
    assert parse_nvidia_smi(said) == card
