import pytest

from lora_atelier import errors, locales
from lora_atelier.errors import ConfigError, ExtensionError, JobError, TrainerFailedError, message, problem

pytestmark = pytest.mark.torchfree


def error():
    return JobError("“{name}” can't start.", why="{why_text}", todo="Wait.", name="花", why_text="Disk {full}.")


def test_an_error_says_what_why_and_what_to_do_in_one_line():
    assert str(error()) == "“花” can't start. Disk {full}. Wait."


def test_an_error_crosses_from_the_trainer_to_the_page_as_json():
    there = ExtensionError.from_json(error().to_json())

    assert isinstance(there, JobError)
    assert str(there) == str(error())


@pytest.mark.parametrize("cls", [ConfigError, TrainerFailedError])
def test_errors_with_fields_of_their_own_come_back_with_defaults(cls):
    there = ExtensionError.from_json(cls("It failed.").to_json())

    assert isinstance(there, cls)
    assert getattr(there, "problems", ()) == () and getattr(there, "exit_code", 1) == 1


def test_an_error_of_a_newer_version_is_still_said():
    there = ExtensionError.from_json({"type": "FromTheFutureError", "what": "No {x}.", "values": {"x": 1}})

    assert str(there) == "No 1."


def test_all_problems_of_a_configuration_are_said_at_once():
    error = ConfigError.from_problems((problem("a.b", "Bad {n}.", n=1), problem("c", "Worse.")))

    assert "a.b: Bad 1." in str(error) and "c: Worse." in str(error)


def test_an_empty_message_is_false_and_leaves_no_gap():
    assert not message("")
    assert str(JobError("Only what.")) == "Only what."


def test_a_sentence_is_japanese_where_it_is_translated_and_english_where_not(monkeypatch):
    monkeypatch.setattr(locales, "catalogue", lambda lang: {"Wait.": "お待ちください。"} if lang == "ja" else {})

    assert locales.sentence(errors.message("Wait."), "ja") == "お待ちください。"
    assert locales.sentence(error(), "ja") == "“花” can't start.Disk {full}.お待ちください。"
    assert locales.sentence(error(), "en") == str(error())


@pytest.mark.parametrize(
    ("accepted", "wanted", "lang"),
    [("ja,en;q=0.8", "", "ja"), ("fr,en-US;q=0.5", "", "en"), ("en", "ja", "ja"), ("", "", "en"), ("xx", "yy", "en")],
)
def test_the_language_is_the_one_asked_for_else_the_browsers(accepted, wanted, lang):
    assert locales.choose(accepted, wanted) == lang
