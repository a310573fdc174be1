"""Pictures and captions as people keep them: paired by name, out of zips, in buckets; what is refused, by name."""

import io
import random
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dihedral.bridge.tasks.registry import TaskError
from dihedral.data_plane.diffusion import pictures
from dihedral.data_plane.diffusion.pictures import Picture, captioned
from tests.support.in_process import TaskRunner

Files = list[tuple[str, Path]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def put(folder: Path, name: str, content: bytes = b"x") -> tuple[str, Path]:
    path = folder / f"{len(list(folder.iterdir()))}-{name.replace('/', '_')}"
    path.write_bytes(content)
    return name, path


def zipped(entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as made:
        for name, content in entries.items():
            made.writestr(name, content)
    return buffer.getvalue()


def refused(files: Files, captions: list[str] | None = None, caption: str = "") -> str:
    with pytest.raises(TaskError) as raised:
        captioned(files, captions, caption)
    assert raised.value.code == "invalid_input"
    return str(raised.value)


def test_a_text_is_the_caption_of_the_picture_of_its_name_and_the_rest_get_the_common_one(folder: Path) -> None:
    files = [put(folder, "b.png"), put(folder, "a.txt", "\ufeffa red\n fox ".encode()), put(folder, "a.jpeg")]
    found = captioned(files, None, "a fox")
    assert [(each.name, each.caption) for each in found] == [("b.png", "a fox"), ("a.jpeg", "a red fox")]


def test_captions_of_their_own_stand_in_the_order_of_the_pictures(folder: Path) -> None:
    files = [put(folder, "x.png"), put(folder, "x.png")]
    assert [each.caption for each in captioned(files, ["one", " "], "all")] == ["one", "all"]
    assert "1 entries for 2 pictures" in refused(files, ["one"])
    assert "1 texts" in refused([*files, put(folder, "x.txt")], ["one", "two"])


def test_a_zip_of_a_folder_is_unpacked_under_names_of_our_own(folder: Path) -> None:
    packed = zipped(
        {
            "set/1.png": b"one",
            "set/1.txt": b"first",
            "/etc/2.png": b"two",
            "../3.png": b"left out",
            "2.txt": b"second",
            "__MACOSX/._1.png": b"",
            ".hidden": b"",
        }
    )
    found = captioned([put(folder, "all.zip", packed)], None, "")
    assert [(each.path.read_bytes(), each.caption) for each in found] == [(b"one", "first"), (b"two", "second")]
    assert {each.path.parent for each in found} == {folder}


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ({"a.png": b"", "b.png": b""}, "2 of 2 pictures have no caption (a.png, b.png)"),
        ({"a.png": b"", "c.txt": b"c"}, "the caption c.txt belongs to no picture"),
        ({"a.png": b"", "a.jpg": b"", "a.txt": b"c"}, "the caption a.txt belongs to 2 pictures"),
        ({"a.png": b"", "a.txt": b"\xff\xfe"}, "no text in UTF-8"),
        ({"a.png": b"", "a.txt": b"x" * 20_000}, "longer than 16,384 bytes"),
        ({"a.txt": b"c"}, "there are 0 pictures"),
        ({"a.txt": b"c", "x/a.txt": b"d", "a.png": b""}, "two captions are called a.txt"),
        ({f"{number}.png": b"" for number in range(2001)}, "there are 2001 pictures"),
    ],
)
def test_what_does_not_belong_together_is_refused_by_name(folder: Path, entries: dict[str, bytes], told: str) -> None:
    assert told in refused([put(folder, "all.zip", zipped(entries))])


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_whose_content_is_damaged_is_refused(folder: Path, compression: int) -> None:
    """Whatever its decompressor raises: zlib.error and LZMAError are no errors of zipfile."""
    whole = bytearray(zipped({"a.png": random.Random(7).randbytes(2000) * 3}, compression))
    for at in range(60, 1500, 7):
        whole[at] ^= 0xFF
    assert "is no zip" in refused([put(folder, "a.zip", bytes(whole))])
    if not all(find_spec(name) for name in ("torch", "diffusers", "peft", "transformers")):
        return  # the base of a training is looked at where it can be trained
    with TaskRunner.opened(folder / "store") as place:
        picture = io.BytesIO()
        Image.new("RGB", (64, 64), "red").save(picture, "PNG")
        given = {"pictures": [place.upload(picture.getvalue(), "a.png")], "caption": "red"}
        code, message = place.refusal("train_diffusion_lora", given | {"base": place.upload(bytes(whole), "base.zip")})
    assert (code, "neither a folder nor a zip" in message) == ("invalid_model", True), message


def test_a_zip_that_is_none_or_too_much_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "is no zip" in refused([put(folder, "a.zip", b"PK nothing")])
    half = zipped({"a.png": b"y" * 100_000})[:50_000]
    assert "is no zip" in refused([put(folder, "b.zip", half)])
    monkeypatch.setattr(pictures, "MOST_UNPACKED_BYTES", 1000)
    assert "too much" in refused([put(folder, "c.zip", zipped({"a.png": b"z" * 1001}))])


def test_no_end_of_a_zip_hides_how_long_its_list_of_files_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python reads the list that the end names, and of a wide one (zip64) the wide size, whatever the narrow one is."""
    monkeypatch.setattr(pictures, "DIRECTORY_BYTES", 1000)
    made = zipped({f"{number}.png": b"" for number in range(100)})
    assert "too much" in refused([put(folder, "a.zip", made)])
    end = made.rindex(b"PK\5\6")
    looks_like_an_end = bytearray(made)
    looks_like_an_end[end + 8 : end + 12] = b"PK\5\6"  # the numbers of files
    assert "too much" in refused([put(folder, "b.zip", bytes(looks_like_an_end))])
    size, offset = made[end + 12 : end + 16] + bytes(4), made[end + 16 : end + 20] + bytes(4)
    wide = b"PK\6\6" + (44).to_bytes(8, "little") + bytes([45, 0, 45, 0]) + bytes(8)
    wide += (100).to_bytes(8, "little") * 2 + size + offset
    locator = b"PK\6\7" + bytes(4) + end.to_bytes(8, "little") + (1).to_bytes(4, "little")
    narrow = made[end : end + 12] + (10).to_bytes(4, "little") + made[end + 16 :]
    assert "too much" in refused([put(folder, "c.zip", made[:end] + wide + locator + narrow)])


def test_all_zips_of_a_training_have_one_limit_together(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [put(folder, f"{number}.zip", zipped({f"{number}.png": b"z" * 600})) for number in range(3)]
    assert len(captioned(files, None, "a fox")) == 3
    monkeypatch.setattr(pictures, "MOST_UNPACKED_BYTES", 1500)
    assert "2.zip holds 1 files" in refused(files, caption="a fox")
    monkeypatch.setattr(pictures, "MOST_UNPACKED_BYTES", 2000)
    monkeypatch.setattr(pictures, "MOST_PICTURES", 1)
    assert "2.zip holds 1 files" in refused(files, caption="a fox")


def test_a_name_with_accents_is_one_name_however_a_system_writes_it(folder: Path) -> None:
    files = [put(folder, "U\u0308bung.png"), put(folder, "\xdcbung.txt", b"a fox")]
    assert [each.caption for each in captioned(files, None, "")] == ["a fox"]


def test_buckets_hold_no_more_pixels_than_the_square_and_fit_every_shape() -> None:
    assert pictures.step_of(512, 64) == pictures.step_of(1024, 32) == 64
    found = pictures.buckets(512, 64)
    assert (512, 512) in found
    assert all(width * height <= 512 * 512 and width % 64 == height % 64 == 0 for width, height in found)
    assert pictures.bucket_of((4000, 3000), found) == (576, 448)
    assert pictures.bucket_of((3000, 4000), found) == (448, 576)
    assert pictures.bucket_of((10_000, 100), found) == max(found, key=lambda size: size[0] / size[1])


def test_a_picture_is_scaled_until_it_covers_its_bucket_and_cut_in_the_middle(folder: Path) -> None:
    wide = np.zeros((100, 400, 3), np.uint8)
    wide[:, 195:205] = 255  # a line in the middle
    path = folder / "wide.png"
    Image.fromarray(wide).save(path)
    made = pictures.framed(Picture("wide.png", path, ""), [(64, 64)])
    assert made.pixels.shape == (64, 64, 3)
    assert made.original == (400, 100)
    assert made.cut == (96, 0)
    assert made.pixels[:, 31:33].mean() > 0.5 > made.pixels.mean()
    assert made.pixels.min() == -1.0
    path.write_bytes(b"none")
    with pytest.raises(TaskError, match=r"wide\.png: the file is not a picture"):
        pictures.framed(Picture("wide.png", path, ""), [(64, 64)])


def test_each_picture_comes_once_an_epoch_in_batches_of_one_size_and_the_seed_decides_the_order() -> None:
    sizes = [(64, 64)] * 5 + [(96, 32)] * 3
    found = pictures.groups(sizes, 2, 7, 3)
    assert sorted(place for group in found for place in group) == list(range(8))
    assert all(len({sizes[place] for place in group}) == 1 for group in found)
    assert len(found) == 3 + 2
    assert found == pictures.groups(sizes, 2, 7, 3) != pictures.groups(sizes, 2, 7, 4)
