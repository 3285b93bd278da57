import pytest
from PIL import Image

from lora_atelier.config import DatasetConfig, SubsetConfig
from lora_atelier.datasets.items import read_items
from lora_atelier.errors import DataError

pytestmark = pytest.mark.torchfree


def dataset(*subsets):
    return DatasetConfig(subsets=tuple(SubsetConfig(**subset) for subset in subsets))


def save(path, size=(40, 30), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "red").save(path, **options)


def test_pictures_come_in_the_order_of_their_names_with_their_captions(tmp_path):
    for name in ("b.png", "a.JPG", "c.webp"):
        save(tmp_path / name)
    (tmp_path / "a.txt").write_text("first\nsecond", encoding="utf-8")
    (tmp_path / "b.txt").write_bytes("\ufeff桃の絵".encode())
    (tmp_path / "c.caption").write_bytes("日本語".encode("cp932"))

    items, remarks = read_items(dataset({"image_dir": str(tmp_path)}), fallback="momo")

    assert [item.path.name for item in items] == ["a.JPG", "b.png", "c.webp"]
    assert [item.caption for item in items] == ["first", "桃の絵", "日本語"]
    assert {(item.width, item.height) for item in items} == {(40, 30)}
    assert ["cp932" in str(remark) for remark in remarks] == [True]


def test_missing_captions_are_counted_and_filled(tmp_path):
    save(tmp_path / "a.png")
    save(tmp_path / "b.png")
    (tmp_path / "b.txt").write_text(" \n", encoding="utf-8")

    items, remarks = read_items(dataset({"image_dir": str(tmp_path)}), fallback="momo")

    assert [item.caption for item in items] == ["momo", "momo"]
    assert "2 of 2" in str(remarks[0])
    named, _ = read_items(dataset({"image_dir": str(tmp_path), "class_tokens": "a figure"}), fallback="momo")
    assert named[0].caption == "a figure"


def test_broken_pictures_are_named_and_left_out(tmp_path):
    save(tmp_path / "good.png")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("I am a text", encoding="utf-8")
    (tmp_path / ".hidden.png").write_bytes(b"")

    items, remarks = read_items(dataset({"image_dir": str(tmp_path)}), fallback="x")

    assert [item.path.name for item in items] == ["good.png"]
    assert {"empty.png", "text.png"} == {r.values["name"] for r in remarks if "can't be read" in r.template}


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir(), lambda p: (p.mkdir(), (p / "a.png").touch())])
def test_a_folder_without_pictures_is_a_sentence_that_names_it(tmp_path, make):
    folder = tmp_path / "leer"
    make(folder)

    with pytest.raises(DataError, match="leer"):
        read_items(dataset({"image_dir": str(folder)}))


def test_kohyas_numbered_folders_say_repeats_and_caption(tmp_path):
    save(tmp_path / "10_momo figure" / "a.png")
    save(tmp_path / "2_other" / "b.png")
    save(tmp_path / "notes" / "c.png")

    items, _ = read_items(dataset({"image_dir": str(tmp_path)}))

    assert [(item.num_repeats, item.caption) for item in items] == [(10, "momo figure"), (2, "other")]


def test_a_leaf_folder_with_a_number_in_its_name_is_a_plain_folder(tmp_path):
    save(tmp_path / "10_momo" / "a.png")

    items, _ = read_items(dataset({"image_dir": str(tmp_path / "10_momo"), "num_repeats": 3}))

    assert [item.num_repeats for item in items] == [3]


def test_a_picture_lying_on_its_side_has_the_size_it_is_shown_at(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    save(tmp_path / "a.jpg", size=(40, 30), exif=exif)

    items, _ = read_items(dataset({"image_dir": str(tmp_path)}))

    assert (items[0].width, items[0].height) == (30, 40)


def test_regularisation_pictures_alone_are_nothing_to_learn(tmp_path):
    save(tmp_path / "a.png")

    with pytest.raises(DataError):
        read_items(dataset({"image_dir": str(tmp_path), "is_reg": True}))


def test_where_every_picture_is_broken_the_error_names_them(tmp_path):
    for at in range(7):
        (tmp_path / f"{at}.png").write_bytes(b"no picture")

    with pytest.raises(DataError, match=r"these can't: 0\.png, 1\.png, 2\.png, 3\.png, 4\.png …"):
        read_items(dataset({"image_dir": str(tmp_path)}))


def test_pictures_without_words_are_named_and_what_would_call_them_is_said(tmp_path):
    save(tmp_path / "a.png")

    (remark,) = read_items(dataset({"image_dir": str(tmp_path)}))[1]

    assert "“a.png”" in str(remark) and "Write captions" in str(remark)
