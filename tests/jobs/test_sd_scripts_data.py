import pytest
from PIL import Image
from tests.rights.fixtures import picture, xmp

from lora_atelier.config import DataConfig, DatasetConfig, SubsetConfig, TrainConfig
from lora_atelier.errors import DataError, RightsError
from lora_atelier.jobs.sd_scripts_data import lay_out

pytestmark = pytest.mark.torchfree
ROTATED = 6


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "my pictures"
    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (48, 32), (90 * number, 0, 0)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text("momo figure", encoding="utf-8")
    return folder


def laid(tmp_path, *subsets, **about):
    config = TrainConfig(data=DataConfig(datasets=(DatasetConfig(subsets=subsets),)))
    (tmp_path / "run").mkdir(exist_ok=True)
    told = {"run_dir": tmp_path / "run", "trigger": "momo", "whose": "mine", **about}
    return lay_out(config, tmp_path / "run" / "laid", **told)


def folders(made):
    return [subset for entry in made.dataset["datasets"] for subset in entry["subsets"]]


def test_plain_pictures_are_second_names_of_the_same_files(tmp_path, pictures):
    made = laid(tmp_path, SubsetConfig(image_dir=str(pictures), num_repeats=4))

    (subset,) = folders(made)
    paths = sorted((tmp_path / "run" / "laid" / "1-1-1").glob("*.png"))
    assert subset["image_dir"] == str(paths[0].parent) and subset["num_repeats"] == 4
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in sorted(pictures.glob("*.png"))]
    assert paths[0].stat().st_ino == (pictures / "0.png").stat().st_ino
    assert made.pictures == 3


def test_what_sd_scripts_would_see_wrongly_is_written_anew(tmp_path, pictures):
    exif = Image.Exif()
    exif[0x0112] = ROTATED
    Image.new("RGB", (48, 32), "blue").save(pictures / "a turned.jpg", exif=exif)
    Image.new("RGBA", (48, 32), (255, 0, 0, 0)).save(pictures / "b clear.png")
    Image.new("RGB", (48, 32), "green").save(pictures / "c.TIF")
    laid(tmp_path, SubsetConfig(image_dir=str(pictures)))

    paths = sorted((tmp_path / "run" / "laid" / "1-1-1").glob("*.png"))
    shown = [Image.open(path).convert("RGB") for path in paths]
    assert len(shown) == 6
    assert [picture.size for picture in shown].count((32, 48)) == 1
    assert (255, 255, 255) in [picture.getpixel((0, 0)) for picture in shown]


def test_captions_become_utf_8_and_a_missing_one_is_the_trigger(tmp_path, pictures):
    (pictures / "0.txt").write_bytes("桃の絵".encode("cp932"))
    (pictures / "1.txt").write_bytes(b"\xef\xbb\xbfmomo, red\nsecond line")
    (pictures / "2.txt").unlink()
    made = laid(tmp_path, SubsetConfig(image_dir=str(pictures)))

    texts = [path.read_bytes() for path in sorted((tmp_path / "run" / "laid" / "1-1-1").glob("*.txt"))]
    assert texts == ["桃の絵\n".encode(), b"momo, red\n", b"momo\n"]
    assert any("cp932" in str(remark) for remark in made.remarks)


def test_a_picture_that_can_not_be_decoded_is_named_and_left_out(tmp_path, pictures):
    noise = Image.effect_noise((64, 64), 90).convert("RGB")
    noise.save(pictures / "half.png")
    data = (pictures / "half.png").read_bytes()
    (pictures / "half.png").write_bytes(data[: len(data) // 2])
    made = laid(tmp_path, SubsetConfig(image_dir=str(pictures)))

    assert made.pictures == 3
    assert any("half.png" in str(remark) for remark in made.remarks)
    for path in pictures.glob("[012].png"):
        path.unlink()
    with pytest.raises(DataError, match="no picture to train on"):
        laid(tmp_path, SubsetConfig(image_dir=str(pictures)))


def test_numbered_folders_keep_their_repeats_and_regularisation_does_not_count(tmp_path, pictures):
    parent = tmp_path / "parent"
    for name in ("3_momo", "5_momo"):
        (parent / name).mkdir(parents=True)
        Image.new("RGB", (32, 32), (int(name[0]) * 40, 0, 0)).save(parent / name / "same.png")
    made = laid(tmp_path, SubsetConfig(image_dir=str(parent)), SubsetConfig(image_dir=str(pictures), is_reg=True))

    assert [(subset["num_repeats"], subset.get("is_reg", False)) for subset in folders(made)] == [
        (3, False),
        (5, False),
        (1, True),
    ]
    assert made.pictures == 2


def test_masks_get_their_pictures_size_and_a_missing_one_learns_everything(tmp_path, pictures):
    masks = tmp_path / "masks"
    masks.mkdir()
    Image.new("L", (12, 8), 0).save(masks / "0.png")
    made = laid(tmp_path, SubsetConfig(image_dir=str(pictures), conditioning_data_dir=str(masks)))

    paths = sorted((tmp_path / "run" / "laid" / "1-1-1-masks").glob("*.png"))
    assert folders(made)[0]["conditioning_data_dir"] == str(paths[0].parent)
    assert [(Image.open(path).size, Image.open(path).getpixel((0, 0))) for path in paths] == [
        ((48, 32), 0),
        ((48, 32), 255),
        ((48, 32), 255),
    ]


def test_pictures_are_checked_when_the_run_goes_on_and_at_its_end(tmp_path, pictures):
    made = laid(tmp_path, SubsetConfig(image_dir=str(pictures)))
    made.check()

    with (pictures / "1.png").open("ab") as file:
        file.write(b"other")

    with pytest.raises(RightsError, match=r"“1\.png” is no longer the picture"):
        made.check()
    with pytest.raises(RightsError, match=r"“1\.png” is no longer the picture"):
        laid(tmp_path, SubsetConfig(image_dir=str(pictures)))


def test_a_picture_with_a_prohibition_is_never_laid_out(tmp_path, pictures):
    (pictures / "1.png").write_bytes(picture("PNG", xmp("DMI-PROHIBITED")))
    made = laid(tmp_path, SubsetConfig(image_dir=str(pictures)))

    assert made.pictures == 2 and made.admitted.summary()["refused"] == 1
    assert any("1.png" in str(remark) for remark in made.remarks)
