import dataclasses
import json

import pytest

pytestmark = pytest.mark.torchfree
pytest.importorskip("fastapi")
pytest.importorskip("httpx")

from tests.web.conftest import connect, png  # noqa: E402

from lora_atelier.config_files import parse_toml  # noqa: E402
from lora_atelier.jobs import overlay  # noqa: E402
from lora_atelier.web.access import Access  # noqa: E402

V1 = "/lora-atelier/v1"


@pytest.fixture
def asked(client):
    upload = client.post(f"{V1}/uploads").json()["upload"]
    client.post(f"{V1}/uploads/{upload}/pictures", files=[("files", ("a.png", png(), "image/png"))])
    base = {"name": "momo", "trigger": "momo", "goal": "character", "whose": "mine", "upload": upload}

    def form(**changes):
        return {"form": {**base, "changes": changes}, "settings": True}

    return form


def plan(client, asked, **changes):
    return client.post(f"{V1}/plan", json=asked(**changes)).json()


def test_every_setting_has_a_label_and_a_help_in_the_readers_language(client):
    english = client.get(f"{V1}/settings").json()["settings"]
    japanese = client.get(f"{V1}/settings", headers={"X-Atelier-Lang": "ja"}).json()["settings"]

    assert len(english) > 100
    assert all(one["label"] and one["help"] for one in english)
    assert sum(one["help"] != other["help"] for one, other in zip(english, japanese, strict=True)) > 0.9 * len(english)


def test_a_changed_setting_is_in_the_job_and_marked(client, services, asked):
    said = plan(client, asked, **{"network.rank": 32, "dataset.batch_size": 2, "subset.flip_aug": True})["settings"]

    assert said["changed"] == ["dataset.batch_size", "network.rank", "subset.flip_aug"]
    assert said["values"]["network.rank"] == 32 and said["recipe"]["network.rank"] == 8
    run = client.post(f"{V1}/runs", json=asked(**{"network.rank": "32", "subset.flip_aug": True})).json()["run"]
    config = parse_toml((services.jobs.get(run["id"]).path / "config.toml").read_text(encoding="utf-8"), "")
    dataset = parse_toml((services.jobs.get(run["id"]).path / "dataset.toml").read_text(encoding="utf-8"), "")
    assert config["network"]["network_dim"] == 32
    assert dataset["datasets"][0]["subsets"][0]["flip_aug"] is True


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("network.rank", "many"),
        ("network.rank", 0),
        ("network.rank", [1]),
        ("dataset.bucket_reso_steps", 7),
        ("subset.caption_dropout_rate", 2),
        ("schedule.scheduler", "adafactor"),
        ("no.such", 1),
        ("output.folder", "/tmp"),
        ("model.base_model", "/etc/passwd"),
    ],
)
def test_what_is_wrong_with_a_setting_stands_at_its_place_and_stops_the_job(client, asked, place, value):
    problems = plan(client, asked, **{place: value})["problems"]

    assert any(problem["field"] == place and problem["blocking"] for problem in problems), problems
    assert client.post(f"{V1}/runs", json=asked(**{place: value})).status_code == 422


def test_settings_that_do_not_apply_are_hidden_until_they_do(client, asked):
    before = plan(client, asked)["settings"]["hidden"]
    after = plan(client, asked, **{"network.train_te": True, "loss.loss_type": "huber"})["settings"]["hidden"]

    assert {"optimizer.te_learning_rate", "loss.huber_c", "model.base_model"} <= set(before)
    assert "optimizer.te_learning_rate" not in after and "loss.huber_c" not in after


def test_the_text_of_a_job_read_back_changes_nothing_and_an_edited_one_what_was_edited(client, asked):
    changes = {"network.rank": 12, "dataset.batch_size": 3, "optimizer.optimizer_args": ["eps=1e-6"]}
    text = client.post(f"{V1}/settings/text", json=asked(**changes)).json()["text"]

    read = client.post(f"{V1}/settings/read", json={**asked(), "text": text}).json()
    edited = text.replace("network_dim = 12", "network_dim = 4")
    again = client.post(f"{V1}/settings/read", json={**asked(), "text": edited}).json()

    assert read["changes"] == changes and read["problems"] == []
    assert again["changes"] == {**changes, "network.rank": 4}


def test_a_preset_of_kohyas_page_and_a_loras_own_words_become_changes(client, asked):
    preset = json.dumps({"LoRA_type": "Standard", "network_dim": 64, "network_alpha": 32, "unet_lr": 0.0003})
    header = {
        "__metadata__": {"ss_network_module": "networks.lora", "ss_network_dim": "12", "ss_unet_lr": "0.0005"},
        "lora_unet_x.lora_down.weight": {"dtype": "F16", "shape": [1, 1], "data_offsets": [0, 2]},
    }

    from_gui = client.post(f"{V1}/settings/read", json={**asked(), "text": preset}).json()
    from_lora = client.post(f"{V1}/settings/read", json={**asked(), "header": header}).json()

    assert from_gui["kind"] == "gui" and from_gui["changes"]["network.rank"] == 64
    assert from_lora["kind"] == "lora" and from_lora["changes"]["network.rank"] == 12
    assert from_lora["changes"]["optimizer.learning_rate"] == 0.0005
    # Neither may decide where files are written or which pictures are read.
    for read in (from_gui, from_lora):
        assert not {"output.folder", "output.name", "model.base_model", "subset.image_dir"} & read["changes"].keys()


@pytest.mark.parametrize("text", ["{", "network_dim = ", "no_such_option = 3", "\x00"])
def test_a_text_that_is_none_is_a_sentence(client, asked, text):
    answer = client.post(f"{V1}/settings/read", json={**asked(), "text": text})

    said = answer.json()
    assert (answer.status_code == 422 and said["error"]["what"]) or said["problems"]


def test_a_preset_is_kept_shared_and_read_again(client, asked):
    kept = client.put(f"{V1}/presets/my preset", json=asked(**{"network.rank": 4, "subset.flip_aug": True})).json()
    text = client.get(f"{V1}/presets/{kept['name']}").text

    assert kept["presets"] == ["my_preset"]
    assert "rank = 4" in text and "momo" not in text and "image_dir" not in text
    assert client.post(f"{V1}/presets/my_preset/read", json=asked()).json()["changes"] == {
        "network.rank": 4,
        "subset.flip_aug": True,
    }
    assert client.post(f"{V1}/settings/read", json={**asked(), "text": text}).json()["kind"] == "preset"
    assert client.delete(f"{V1}/presets/my_preset").json()["presets"] == []


@pytest.mark.parametrize("name", ["..%2fx", "..", "a%2fb", "con", "%00", "🎨"])
def test_a_presets_name_is_no_path(client, asked, name, services):
    for call in (client.get, client.delete):
        assert call(f"{V1}/presets/{name}").status_code >= 400
    client.put(f"{V1}/presets/{name}", json=asked())
    folder = services.jobs.data_dir / "presets"
    assert all(path.parent == folder for path in services.jobs.data_dir.rglob("*.toml") if "presets" in str(path))


def test_from_outside_no_setting_names_a_path_a_program_or_an_argument(services, asked):
    remote = connect(dataclasses.replace(services, access=dataclasses.replace(services.access, remote=True)))
    for changes in (
        {"model.vae": "/etc/passwd"},
        {"network.network_weights": "/x.safetensors"},
        {"optimizer.optimizer": "os.system"},
        {"network.network_args": ["a=b"]},
        {"subset.conditioning_data_dir": "/"},
        {"output.metadata_thumbnail": "/home/me/private.png"},
        {"output.log_prefix": "../../"},
    ):
        for route in ("plan", "runs"):
            assert remote.post(f"{V1}/{route}", json=asked(**changes)).status_code == 403
    body = {**asked(), "form": {**asked()["form"], "checkout": "/tmp"}}
    for route in ("plan", "runs", "measure"):
        assert remote.post(f"{V1}/{route}", json=body).status_code == 403
    assert Access(remote=True).remote
    own = asked(**{"output.metadata_thumbnail": "data:image/png;base64,AA=="})
    assert remote.post(f"{V1}/plan", json=own).status_code == 200


# Free texts that are neither opened as files nor given to a program as its arguments.
WORDS = {
    "output.log_tracker_name", "output.wandb_run_name", "output.comment", "output.metadata_title",
    "output.metadata_author", "output.metadata_description", "output.metadata_license", "output.metadata_tags",
    "output.metadata_usage_hint", "output.metadata_merged_from", "output.metadata_trigger_phrase",
    "output.metadata_preprocessor", "output.metadata_is_negative_embedding", "network.down_lr_weight",
    "network.mid_lr_weight", "network.up_lr_weight", "sampling.sampler", "sampling.prompts",
    "subset.caption_separator", "subset.keep_tokens_separator", "subset.secondary_separator", "subset.caption_prefix",
    "subset.caption_suffix", "optimizer.optimizer_args",
}  # fmt: skip
# Refused to everybody where it holds a folder.
ENDINGS = {"subset.caption_extension"}


def test_from_outside_every_other_free_text_is_refused(services, asked):
    """A new setting that takes text belongs into one of the lists here, or is refused."""
    remote = connect(dataclasses.replace(services, access=dataclasses.replace(services.access, remote=True)))
    free = {
        place
        for place, f in overlay.all_fields()
        if place not in overlay.OF_THE_JOB and "str" in str(f.type) and not f.metadata.get("choices")
    }

    assert free >= WORDS | ENDINGS
    for place in free - WORDS - ENDINGS - {"optimizer.optimizer"}:
        assert remote.post(f"{V1}/plan", json=asked(**{place: "/x/y.z"})).status_code == 403, place


@pytest.mark.parametrize("ending", ["/../../etc/passwd", "\\..\\secret.txt", ":stream"])
def test_captions_come_from_beside_the_pictures(client, asked, ending):
    said = plan(client, asked, **{"subset.caption_extension": ending})

    assert [one["field"] for one in said["problems"] if one["blocking"]] == ["subset.caption_extension"]


@pytest.mark.parametrize("rule", ["remote", "hides_paths"])
def test_a_page_that_may_name_no_folder_does_not_offer_to(services, rule):
    closed = connect(dataclasses.replace(services, access=dataclasses.replace(services.access, **{rule: True})))

    assert connect(services).get(f"{V1}/options").json()["paths"] is True
    assert closed.get(f"{V1}/options").json()["paths"] is False
