import io
import os
import threading
import zipfile

import pytest
from PIL import Image
from tests.web.conftest import png

from lora_atelier.errors import DataError, message
from lora_atelier.web import folders, probing
from lora_atelier.web import uploads as module
from lora_atelier.web.folders import PictureFolder
from lora_atelier.web.uploads import Uploads, plain_file_name

pytestmark = pytest.mark.torchfree


@pytest.fixture
def uploads(tmp_path):
    return Uploads(tmp_path / "uploads")


@pytest.fixture
def upload(uploads):
    return uploads.create()


def files(uploads, upload):
    return sorted(path.name for path in uploads.get(upload).source.iterdir())


def archive(**members):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as out:
        for name, content in members.items():
            out.writestr(name, content)
    data.seek(0)
    return data


def take(uploads, upload, name, data):
    return uploads.receive(upload, name, io.BytesIO(data))


def test_a_picture_and_its_caption_are_kept(uploads, upload):
    take(uploads, upload, "もも 1.txt", "\ufeffmomo, red ".encode())
    received = take(uploads, upload, "もも 1.png", png())

    assert received.pictures[0] == uploads.get(upload).listing().pictures[0]
    picture = received.pictures[0]
    assert (picture.name, picture.width, picture.height) == ("もも 1.png", 80, 64)
    assert (picture.caption, picture.refused, picture.problems) == ("momo, red", False, ())


def test_captions_of_the_other_usual_ending_are_taken_as_well(uploads, upload):
    take(uploads, upload, "a.png", png())
    take(uploads, upload, "a.caption", b"a caption")
    uploads.receive(upload, "b.zip", archive(**{"b.png": png("blue"), "b.caption": "another"}))

    assert [picture.caption for picture in uploads.get(upload).listing().pictures] == ["a caption", "another"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp932"])
def test_a_caption_is_understood_as_japanese_windows_programs_save_it(uploads, upload, encoding):
    take(uploads, upload, "a.png", png())
    take(uploads, upload, "a.txt", "もも、赤い服".encode(encoding))

    assert uploads.get(upload).picture("a.png").caption == "もも、赤い服"


def test_a_text_named_png_and_a_cut_picture_are_left_out_with_a_sentence(uploads, upload):
    for name, data in (("text.png", b"hello"), ("cut.png", png()[:60])):
        (picture,) = take(uploads, upload, name, data).pictures
        assert picture.refused
        assert "can't be read as a picture" in str(picture.problems[0])

    assert files(uploads, upload) == []


def test_what_is_no_picture_is_left_out_with_a_sentence(uploads, upload):
    assert "neither a picture" in str(take(uploads, upload, "movie.mp4", b"x").problems[0])
    assert "no caption" in str(take(uploads, upload, "a.txt", b"\0\1").problems[0])
    assert "can't be opened as a .zip" in str(take(uploads, upload, "a.zip", b"PK").problems[0])
    assert files(uploads, upload) == []


def test_files_that_speak_of_rights_are_kept_beside_the_pictures(uploads, upload, monkeypatch):
    take(uploads, upload, "a.png", png())
    assert take(uploads, upload, "a.xmp", b"<x/>").problems == ()
    uploads.receive(upload, "b.zip", archive(**{"b.png": png("blue"), "deep/b.png.json": "{}", "robots.txt": "x"}))
    monkeypatch.setattr(module, "_RIGHTS_BYTES", 10)
    assert "larger" in str(take(uploads, upload, "c.har", bytes(11)).problems[0])

    assert files(uploads, upload) == ["a.png", "a.xmp", "b.png", "b.png.json"]


def test_a_picture_that_may_not_be_used_is_shown_as_refused(tmp_path):
    uploads = Uploads(tmp_path / "uploads", refusal=lambda path: message("It says no data mining."))
    upload = uploads.create()

    (picture,) = take(uploads, upload, "a.png", png()).pictures

    assert picture.refused and str(picture.problems[0]) == "It says no data mining."


def test_the_same_picture_twice_is_one_and_another_of_its_name_is_a_second(uploads, upload):
    for color in ("red", "red", "blue"):
        take(uploads, upload, "a.png", png(color))

    assert files(uploads, upload) == ["a-2.png", "a.png"]


def test_an_archive_is_unpacked_with_its_captions_and_never_beside_its_place(uploads, upload, tmp_path):
    data = archive(
        **{
            "../../evil.png": png("red"),
            "/etc/abs.png": png("blue"),
            "one/a.png": png("green"),
            "one/a.txt": "first",
            "two/a.png": png("black"),
            "two/a.txt": "second",
            "C:\\x\\win.png": png("white"),
            "__MACOSX/one/._a.png": b"junk",
            "notes.pdf": b"junk",
        }
    )

    received = uploads.receive(upload, "all.zip", data)

    assert files(uploads, upload) == ["a-2.png", "a-2.txt", "a.png", "a.txt", "abs.png", "evil.png", "win.png"]
    captions = {picture.name: picture.caption for picture in uploads.get(upload).listing().pictures}
    assert captions["a.png"] == "first" and captions["a-2.png"] == "second"
    assert received.captions == 2
    assert not list(tmp_path.glob("*.png"))


def test_an_archive_that_lies_about_its_size_stops_at_the_limit(uploads, upload, monkeypatch):
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 1000)
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("bomb.png", bytes(50_000_000))
    data.seek(0)

    (picture,) = uploads.receive(upload, "bomb.zip", data).pictures

    assert picture.refused and "larger than" in str(picture.problems[0])
    assert files(uploads, upload) == []


def test_the_limits_are_200_megabytes_and_200_megapixels_and_hold_for_a_single_file(uploads, upload, monkeypatch):
    assert (module.MAX_FILE_BYTES, probing.MAX_PIXELS) == (200_000_000, 200_000_000)
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 1000)

    (picture,) = take(uploads, upload, "a.png", png() + bytes(2000)).pictures

    assert picture.refused and "larger than" in str(picture.problems[0])
    assert files(uploads, upload) == []


def test_a_link_in_an_archive_is_not_followed(uploads, upload, tmp_path):
    (tmp_path / "outside.png").write_bytes(png())
    link = zipfile.ZipInfo("link.png")
    link.external_attr = 0o120777 << 16  # as Info-ZIP stores a symbolic link: its target is its content
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as out:
        out.writestr(link, str(tmp_path / "outside.png"))
    data.seek(0)

    (picture,) = uploads.receive(upload, "links.zip", data).pictures

    assert picture.refused and files(uploads, upload) == []


def test_an_archive_whose_members_say_too_much_is_not_unpacked(uploads, upload, monkeypatch):
    monkeypatch.setattr(module, "MAX_ARCHIVE_BYTES", len(png()) + 1)

    received = uploads.receive(upload, "all.zip", archive(**{"a.png": png(), "b.png": png()}))

    assert "too much" in str(received.problems[0])
    assert files(uploads, upload) == []


def test_an_archive_with_too_many_files_is_not_unpacked(uploads, upload, monkeypatch):
    monkeypatch.setattr(module, "MAX_ARCHIVE_FILES", 1)

    received = uploads.receive(upload, "all.zip", archive(**{"a.png": png(), "b.png": png()}))

    assert "too much" in str(received.problems[0])
    assert files(uploads, upload) == []


def test_a_full_disk_is_a_sentence_and_leaves_no_half_picture(uploads, upload, monkeypatch):
    monkeypatch.setattr(module, "free_bytes", lambda folder: 5)

    with pytest.raises(DataError, match="No space left"):
        take(uploads, upload, "a.png", png())
    assert files(uploads, upload) == []


def test_a_removed_picture_takes_its_caption_along(uploads, upload):
    take(uploads, upload, "a.png", png())
    take(uploads, upload, "a.txt", b"caption")

    uploads.remove(upload, "a.png")

    assert files(uploads, upload) == []


@pytest.mark.parametrize("name", ["../secret.png", "..", "", "a/b.png", "a\\b.png", "missing.png"])
def test_only_the_plain_name_of_a_picture_finds_it(uploads, upload, name, tmp_path):
    (tmp_path / "uploads" / upload / "secret.png").write_bytes(png())

    for call in (uploads.get(upload).path, uploads.get(upload).thumbnail, lambda n: uploads.remove(upload, n)):
        with pytest.raises(DataError):
            call(name)


@pytest.mark.parametrize("upload", ["", "..", "../uploads", "0123456789ab", "x" * 12])
def test_only_the_id_of_an_upload_finds_it(uploads, upload):
    with pytest.raises(DataError, match="gone"):
        uploads.get(upload)


def test_a_folder_of_this_machine_is_shown_and_never_changed(uploads, tmp_path):
    folder = tmp_path / "絵"
    folder.mkdir()
    (folder / "a.png").write_bytes(png())
    (folder / "broken.jpg").write_bytes(b"x")

    upload = uploads.open_folder(f' "{folder}" ')

    a, broken = uploads.get(upload).listing().pictures
    assert not a.refused and broken.refused
    assert uploads.open_folder(str(folder)) == upload
    for change in (lambda: uploads.remove(upload, "a.png"), lambda: take(uploads, upload, "b.png", png())):
        with pytest.raises(DataError, match="not changed from here"):
            change()
    uploads.get(upload).thumbnail("a.png")
    assert sorted(path.name for path in folder.iterdir()) == ["a.png", "broken.jpg"]


@pytest.mark.parametrize(
    ("path", "said"), [("", "no full path"), ("pictures", "no full path"), ("/no/such", "There is no")]
)
def test_a_folder_that_is_none_is_a_sentence(uploads, path, said):
    with pytest.raises(DataError, match=said):
        uploads.open_folder(path)


def test_five_thousand_pictures_are_listed_without_looking_into_them(tmp_path, monkeypatch):
    source = tmp_path / "many"
    source.mkdir()
    for number in range(5000):
        (source / f"{number:04}.png").write_bytes(b"x")
    looked = []
    monkeypatch.setattr(folders, "probe", lambda path, refusal: looked.append(path) or probing._probed(1, 1))
    folder = PictureFolder(source, tmp_path / "cache")

    listing = folder.listing(100, 60)
    PictureFolder(source, tmp_path / "cache").listing(100, 60)

    assert listing.total == 5000
    assert [picture.name for picture in listing.pictures] == [f"{n:04}.png" for n in range(100, 160)]
    assert len(looked) == 60  # and the second time none: what was seen is kept


def test_pictures_are_told_by_their_headers_until_they_are_looked_into(tmp_path, monkeypatch):
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.png").write_bytes(png())
    (source / "broken.png").write_bytes(b"x")
    folder = PictureFolder(source, tmp_path / "cache")
    monkeypatch.setattr(folders, "probe", lambda path, refusal: pytest.fail("looked into"))

    listing = folder.listing(look=False)
    monkeypatch.undo()

    assert [(p.name, p.width, p.height, p.refused) for p in listing.pictures] == [
        ("a.png", 80, 64, False),
        ("broken.png", 0, 0, False),
    ]
    assert (listing.total, listing.looked, listing.counts) == (2, 0, {})
    folder.look_on()
    assert [picture.refused for picture in folder.listing(look=False).pictures] == [False, True]


def test_a_changed_picture_is_looked_at_again(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.png").write_bytes(png(size=(80, 64)))
    folder = PictureFolder(source, tmp_path / "cache")
    assert folder.picture("a.png").width == 80

    (source / "a.png").write_bytes(png(size=(100, 100)))
    os.utime(source / "a.png", (1, 1))

    assert folder.picture("a.png").width == 100


def test_a_thumbnail_is_small_upright_and_on_white(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    image = Image.new("RGBA", (600, 300), (0, 0, 0, 0))
    exif = image.getexif()
    exif[0x0112] = 6  # turn by 90°
    image.save(source / "a.png", exif=exif)
    folder = PictureFolder(source, tmp_path / "cache")

    with Image.open(folder.thumbnail("a.png")) as thumbnail:
        assert thumbnail.size == (128, 256)
        assert thumbnail.getpixel((5, 5)) == (255, 255, 255)
    assert (folder.picture("a.png").width, folder.picture("a.png").height) == (300, 600)
    assert folder.thumbnail("a.png") == folder.thumbnail("a.png")


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("a.png", "a.png"),
        ("C:\\Users\\me\\a.png", "a.png"),
        ("a:b?.png", "a_b_.png"),
        ("nul.png", "_nul.png"),
        (" .png", "png"),
        ("..", "picture"),
        ("か\u3099.png", "が.png"),
    ],
)
def test_a_sent_file_name_fits_every_file_system(sent, kept):
    assert plain_file_name(sent) == kept
    assert len(plain_file_name("漢" * 300 + ".png").encode()) <= 180


@pytest.mark.skipif(os.name == "nt", reason="making a link needs rights there")
def test_a_link_to_a_file_elsewhere_is_no_picture(tmp_path):
    (tmp_path / "outside.png").write_bytes(png())
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.png").write_bytes(png())
    (source / "link.png").symlink_to(tmp_path / "outside.png")
    folder = PictureFolder(source, tmp_path / "cache")

    listing = folder.listing()

    assert [picture.name for picture in listing.pictures] == ["a.png"] and listing.total == 1
    with pytest.raises(DataError, match=r"link\.png"):
        folder.thumbnail("link.png")


def test_a_picture_with_too_many_pixels_is_refused_before_it_is_decoded(uploads, upload, monkeypatch):
    monkeypatch.setattr(probing, "MAX_PIXELS", 80 * 64 - 1)

    (picture,) = take(uploads, upload, "a.png", png()).pictures

    assert picture.refused and "too many pixels" in str(picture.problems[0])
    assert files(uploads, upload) == []


def test_what_would_leave_less_than_two_gigabytes_is_refused_as_a_file_and_in_an_archive(uploads, upload, monkeypatch):
    monkeypatch.setattr(module, "free_bytes", lambda folder: 2_000_000_100)

    for name, data in (("a.png", png() + bytes(200)), ("a.zip", archive(**{"a.png": png() + bytes(200)}).getvalue())):
        with pytest.raises(DataError, match="could not be kept"):
            take(uploads, upload, name, data)
    assert files(uploads, upload) == []


def test_marks_that_are_made_at_once_are_all_kept(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    names = [f"{number}.png" for number in range(8)]
    for name in names:
        (source / name).write_bytes(png())
    folder = PictureFolder(source, tmp_path / "cache")

    threads = [threading.Thread(target=folder.write_caption, args=(name, f"a {name}")) for name in names[:4]]
    threads += [threading.Thread(target=folder.leave_out, args=([name],)) for name in names[4:]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert folder.captions() == {name: f"a {name}" for name in names[:4]}
    assert folder.left_out() == set(names[4:])
