from pathlib import Path

import pytest
from PIL import Image

from cutmix_zoo.data.image_files import find_images, read_image
from cutmix_zoo.errors import UserError


def touch(folder: Path, *names: str) -> list[Path]:
    files = [folder / name for name in names]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return files


def test_folders_are_searched_in_sorted_order_for_the_endings_of_images(tmp_path: Path) -> None:
    wanted = touch(tmp_path, "a/1.png", "a/b/2.JPEG", "b.webp", "c/0.tif")
    touch(tmp_path, "a/notes.txt", "a/png", "c/1.npy")
    assert find_images([tmp_path]) == sorted(wanted)
    assert find_images([str(tmp_path / "c"), tmp_path / "a"]) == [wanted[3], wanted[0], wanted[1]]


def test_a_file_that_is_named_is_taken_whatever_its_ending(tmp_path: Path) -> None:
    odd, plain = touch(tmp_path, "odd.data", "a.png")
    assert find_images([odd, tmp_path]) == [odd, plain]


def test_links_are_followed_and_none_leads_round_in_circles(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/1.png", "images/2.png")
    (tmp_path / "images" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "images")
    (tmp_path / "images" / "here").symlink_to(tmp_path / "images")
    found = find_images([tmp_path / "images"])
    assert [str(file.relative_to(tmp_path / "images")) for file in found] == ["2.png", str(Path("link", "1.png"))]


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone does not exist: expected an image or a folder of images"):
        find_images([tmp_path / "gone"])
    touch(tmp_path, "readme.txt")
    with pytest.raises(UserError, match=r"no images in .*: expected files that end in \.jpg, \.jpeg, \.png"):
        find_images([tmp_path])
    with pytest.raises(UserError, match="no images in nothing"):
        find_images([])


def test_an_image_is_read_as_its_file_has_it(tmp_path: Path) -> None:
    image, exif = Image.new("RGBA", (3, 5), "red"), Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    image.save(tmp_path / "a.png", exif=exif)
    found = read_image(tmp_path / "a.png")
    assert (found.mode, found.size, found.tobytes()) == ("RGBA", (3, 5), image.tobytes())
    with (tmp_path / "a.png").open("rb") as file:
        assert read_image(file).tobytes() == image.tobytes()


@pytest.mark.filterwarnings("ignore:Truncated File Read")  # Pillow's, of TIFF, before it gives up
def test_every_damage_is_one_line_with_the_name(tmp_path: Path) -> None:
    image = Image.effect_noise((40, 40), 50).convert("RGB")
    for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "PPM"):
        image.save(tmp_path / "whole", kind)
        content = (tmp_path / "whole").read_bytes()
        for damaged in (b"", content[:4], content[:50], content[: len(content) // 2]):
            (tmp_path / "broken").write_bytes(damaged)
            with pytest.raises(UserError, match=r"^cannot read image my\.name: .") as caught:
                read_image(tmp_path / "broken", lambda: "my.name")
            assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"cannot read image .*/gone: "):
        read_image(tmp_path / "gone")


def test_an_image_too_large_to_be_unpacked_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (20, 20)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UserError, match=r"cannot read image .*/a\.png: Image size"):
        read_image(tmp_path / "a.png")
