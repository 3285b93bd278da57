import pytest
from tests.jobs.fakes import FAKE_TRAINER, draw_pictures, write_model_headers

from lora_atelier.jobs.service import JobForm, Jobs


@pytest.fixture
def base_model(tmp_path):
    return write_model_headers(tmp_path / "base model")


@pytest.fixture
def pictures(tmp_path):
    return draw_pictures(tmp_path / "わたしの絵")


@pytest.fixture
def jobs(tmp_path):
    return Jobs(tmp_path / "data", command=FAKE_TRAINER)


@pytest.fixture
def form(base_model, pictures):
    return JobForm(
        name="momo", trigger="momo", goal="character", whose="mine", pictures=pictures, base_model=base_model
    )
