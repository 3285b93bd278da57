import dataclasses

import pytest

from lora_atelier import config_files
from lora_atelier.config import DataConfig, DatasetConfig, SamplingConfig, SubsetConfig, TrainConfig
from lora_atelier.errors import ConfigError

pytestmark = pytest.mark.torchfree


def test_a_configuration_comes_back_from_its_folder(tmp_path):
    subsets = (SubsetConfig(image_dir='C:\\絵\\"new"\ttab\x7f'), SubsetConfig(image_dir="reg", is_reg=True))
    config = TrainConfig(
        data=DataConfig(datasets=(DatasetConfig(subsets=subsets), DatasetConfig(subsets=subsets[:1]))),
        sampling=SamplingConfig(prompts=("a 桃 --n bad --d 1", "b")),
    )

    config_files.write(config, tmp_path)

    assert config_files.read(tmp_path) == config


def test_prompts_written_by_hand_may_have_comments_and_a_bom(tmp_path):
    config_files.write(TrainConfig(), tmp_path)
    (tmp_path / "sample_prompts.txt").write_bytes("\ufeff# mine\n\na cat\n".encode())

    assert config_files.read(tmp_path).sampling.prompts == ("a cat",)


@pytest.mark.parametrize("text", ["a = ", 'path = "C:\\xyz"', "\xff"])
def test_a_file_that_is_no_toml_is_one_sentence_that_names_it(tmp_path, text):
    config_files.write(TrainConfig(), tmp_path)
    (tmp_path / "config.toml").write_bytes(text.encode("latin-1"))

    with pytest.raises(ConfigError, match=r"config\.toml"):
        config_files.read(tmp_path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"config\.toml"):
        config_files.read(tmp_path)


def test_numbers_keep_every_digit(tmp_path):
    config = TrainConfig()
    config = dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, learning_rate=1 / 3e4))

    config_files.write(config, tmp_path)

    assert config_files.read(tmp_path).optimizer.learning_rate == 1 / 3e4
