import pytest

from lora_atelier.rights import licences

pytestmark = pytest.mark.torchfree


@pytest.mark.parametrize(
    ("text", "identifier"),
    [
        ("CC BY 4.0", "CC-BY-4.0"),
        ("cc-by-4.0", "CC-BY-4.0"),
        ("https://creativecommons.org/licenses/by/4.0/", "CC-BY-4.0"),
        ("http://creativecommons.org/licenses/by/4.0/deed.ja", "CC-BY-4.0"),
        ("Creative Commons Attribution 4.0 International", "CC-BY-4.0"),
        ("Creative Commons Attribution-NonCommercial-ShareAlike 3.0", "CC-BY-NC-SA-3.0"),
        ("CC-BY-NC-ND 4.0", "CC-BY-NC-ND-4.0"),
        ("cc by nc sa 2.5", "CC-BY-NC-SA-2.5"),
        ("https://creativecommons.org/licenses/by/2.1/jp/", "CC-BY-2.1-JP"),
        ("CC BY", "LicenseRef-CC-BY"),
        ("CC0", "CC0-1.0"),
        ("https://creativecommons.org/publicdomain/zero/1.0/", "CC0-1.0"),
        ("https://creativecommons.org/publicdomain/mark/1.0/", "CC-PDDC"),
        ("Public Domain", "LicenseRef-PublicDomain"),
        ("MIT License", "MIT"),
        ("CreativeML OpenRAIL-M", "LicenseRef-CreativeML-OpenRAIL-M"),
        ("LicenseRef-My-Own", "LicenseRef-My-Own"),
        ("All rights reserved.", "LicenseRef-AllRightsReserved"),
        ("free for my friends", ""),
        ("success by 4.0", ""),
        ("", ""),
    ],
)
def test_what_people_write_becomes_one_identifier(text, identifier):
    assert licences.normalise(text) == identifier
    assert licences.normalise(identifier) == identifier


def test_licences_without_commerce_or_adaptations_take_permits_away_and_say_why():
    for name in ("CC-BY-NC-4.0", "CC-BY-ND-4.0", "CC-BY-NC-ND-4.0"):
        permits = licences.permits_of(name)
        assert (permits["commercial_output"], permits["share_model"]) == ("no", "unknown")
        assert licences.reasons(name)
    assert licences.reasons("CC-BY-4.0") == ()


def test_permits_together_are_the_strictest_of_each_and_duties_add_up():
    free, named, not_sold = map(licences.permits_of, ("CC0-1.0", "CC-BY-SA-4.0", "CC-BY-NC-4.0"))

    both = licences.intersection([free, named])
    all_three = licences.intersection([free, named, not_sold])

    assert both["commercial_output"] == "yes" and both["attribution"] == both["share_alike"] == "yes"
    assert all_three["commercial_output"] == all_three["commercial_model"] == "no"
    assert set(licences.intersection([]).values()) == {"unknown"}


def test_what_is_not_known_permits_nothing_for_certain():
    assert set(licences.permits_of("LicenseRef-My-Own").values()) == {"unknown"}
    assert licences.permits_of("LicenseRef-AllRightsReserved")["train"] == "no"
