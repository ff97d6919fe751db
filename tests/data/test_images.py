"""Images: every mode the web serves, hostile bytes, and the evaluation transform against a peer."""

import io

import numpy as np
import pytest
from PIL import Image

from lotlip.data.images import (
    check_image,
    eval_transform,
    has_image_magic,
    normalise,
    open_rgb,
    perceptual_hash,
)
from lotlip.errors import DataError
from lotlip.params import Resize
from lotlip.records import sha256_bytes
from tests.data.fault_server import bomb, jpeg

MANY = 10_000_000


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def pattern(width: int, height: int, seed: int = 0) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def test_transparent_pixels_lie_on_white() -> None:
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    for kind in ("PNG", "WEBP"):
        data = encode(image, kind, **({"lossless": True} if kind == "WEBP" else {}))
        assert list(open_rgb(data, MANY).get_flattened_data()) == [(255, 0, 0), (255, 255, 255)]


def test_half_transparent_black_is_mid_grey() -> None:
    (pixel,) = open_rgb(encode(Image.new("LA", (1, 1), (0, 128)), "PNG"), MANY).get_flattened_data()
    assert pixel == (127, 127, 127)


def test_palette_with_a_transparent_entry() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 0, 0, 0])
    image.putpixel((1, 0), 1)
    data = encode(image, "PNG", transparency=1)
    assert list(open_rgb(data, MANY).get_flattened_data()) == [(10, 20, 30), (255, 255, 255)]


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    data = encode(Image.fromarray(np.array([[0, 32768, 65535]], dtype=np.uint16)), "PNG")
    assert [pixel[0] for pixel in open_rgb(data, MANY).get_flattened_data()] == [0, 128, 255]


def test_exif_orientation_is_applied() -> None:
    image = Image.new("RGB", (4, 2), "black")
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned right: the top left corner moves to the top right
    upright = open_rgb(encode(image, "PNG", exif=exif), MANY)
    assert upright.size == (2, 4)
    assert upright.getpixel((1, 0)) == (255, 255, 255)


def test_kept_formats_keep_their_bytes_and_others_become_png() -> None:
    image = pattern(20, 10)
    for kind, extension in (("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp")):
        data = encode(image, kind)
        picture = check_image(data, MANY)
        assert (picture.data, picture.extension, picture.width, picture.height) == (data, extension, 20, 10)
    bmp = check_image(encode(image, "BMP"), MANY)
    assert bmp.extension == "png"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(bmp.data))), np.asarray(image))


def test_cmyk_jpeg_is_readable() -> None:
    data = encode(Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "JPEG")
    assert open_rgb(data, MANY).getpixel((4, 4)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not an image"),
        (b"<html>no</html>", "not an image"),
        (b"%PDF-1.4", "not an image"),
        (encode(pattern(300, 200), "JPEG")[:-900], "damaged image"),
        (encode(pattern(300, 200), "PNG")[:-900], "damaged image"),
        (bomb(5000, 5000), "image too large: 5000 x 5000"),
        (bomb(60_000, 60_000), "image too large"),
    ],
    ids=["empty", "html", "pdf", "cut-jpeg", "cut-png", "bomb", "huge-bomb"],
)
def test_unfit_bytes_have_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=reason) as caught:
        open_rgb(data, MANY)
    assert "0x" not in str(caught.value)  # an object's address would differ between runs


@pytest.mark.parametrize(
    ("size", "resized", "left", "top"),
    [  # by hand, as torchvision: the long side is cut to a whole number, a half rounds to even
        ((100, 60), (53, 32), 10, 0),
        ((61, 97), (32, 50), 0, 9),
        ((32, 32), (32, 32), 0, 0),
        ((20, 31), (32, 49), 0, 8),
        ((32, 35), (32, 35), 0, 2),
    ],
)
def test_eval_transform_resizes_the_short_side_and_crops_the_centre(
    size: tuple[int, int], resized: tuple[int, int], left: int, top: int
) -> None:
    image = pattern(*size)
    pixels = np.asarray(image.resize(resized, Image.Resampling.BICUBIC))[top : top + 32, left : left + 32]
    mean, std = (0.5, 0.4, 0.3), (0.5, 0.25, 0.2)
    tensor = eval_transform(image, 32, mean, std)
    assert tuple(tensor.shape) == (3, 32, 32)
    for channel in range(3):
        expected = (pixels[:, :, channel] / 255 - mean[channel]) / std[channel]
        assert np.allclose(tensor[channel].numpy(), expected, atol=1e-5)


def test_eval_transform_of_a_plain_colour_by_hand() -> None:
    tensor = eval_transform(Image.new("RGB", (50, 40), (255, 0, 51)), 16, (0.5,) * 3, (0.5,) * 3)
    assert np.allclose(tensor.numpy()[:, 3, 5], [1.0, -1.0, -0.6], atol=1e-6)


@pytest.mark.parametrize("size", [(32, 32), (45, 32), (90, 160)])
def test_normalising_in_place_changes_no_bit(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    plain = (pixels.astype(np.float32) / 255.0 - np.array(mean, dtype=np.float32)) / np.array(std, dtype=np.float32)
    tensor = normalise(pixels, mean, std)
    assert tensor.is_contiguous()
    assert np.array_equal(tensor.numpy(), plain.transpose(2, 0, 1))


def distance(first: str, second: str) -> int:
    return (int(first, 16) ^ int(second, 16)).bit_count()


def test_perceptual_hash_survives_coding_and_size_and_tells_images_apart() -> None:
    image = pattern(160, 120)
    again = Image.open(io.BytesIO(encode(image.resize((120, 90)), "JPEG", quality=70)))
    assert distance(perceptual_hash(image), perceptual_hash(again)) <= 4
    others = [perceptual_hash(pattern(160, 120, seed)) for seed in range(1, 20)]
    assert min(distance(perceptual_hash(image), other) for other in others) > 12


def test_perceptual_hash_equals_a_floating_point_dct() -> None:
    from scipy.fft import dctn

    image = pattern(160, 120)
    grey = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.LANCZOS), dtype=float)
    low = dctn(grey, norm=None)[:8, :8].ravel()
    expected = np.packbits(low > np.sort(low[1:])[31]).tobytes().hex()
    assert distance(perceptual_hash(image), expected) <= 2
    assert len(expected) == 16


def test_a_jpeg_from_the_test_server_is_whole() -> None:
    assert open_rgb(jpeg(3), MANY).size == (48, 40)


@pytest.mark.parametrize("size", [(1000, 993), (640, 480), (33, 500), (8, 8)])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_jpeg_checked_with_fewer_pixels_has_its_own_size_and_nearly_its_hash(
    size: tuple[int, int], orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(pattern(*size), "JPEG", exif=exif, quality=90)
    picture, whole = check_image(data, MANY), open_rgb(data, MANY)
    assert picture.data == data
    assert (picture.width, picture.height) == whole.size
    assert (int(picture.phash, 16) ^ int(perceptual_hash(whole), 16)).bit_count() <= 4


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
@pytest.mark.parametrize(("mode", "expected"), [("shortest", (150, 100)), ("longest", (100, 67))])
def test_larger_images_become_smaller_jpegs(kind: str, mode: str, expected: tuple[int, int]) -> None:
    data = encode(pattern(600, 400), kind)
    picture = check_image(data, MANY, Resize(size=100, mode=mode, quality=90))
    stored = Image.open(io.BytesIO(picture.data))
    assert (picture.extension, stored.format, stored.size) == ("jpg", "JPEG", expected)
    assert (picture.width, picture.height, picture.sha256) == (*expected, sha256_bytes(picture.data))
    reference = np.asarray(open_rgb(data, MANY).resize(expected, Image.Resampling.LANCZOS), dtype=float)
    assert np.abs(np.asarray(stored, dtype=float) - reference).mean() < 2
    assert (int(picture.phash, 16) ^ int(perceptual_hash(stored.convert("RGB")), 16)).bit_count() <= 2
    assert check_image(data, MANY, Resize(size=100, mode=mode, quality=90)) == picture


def test_no_image_is_enlarged_and_a_turned_one_stays_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(pattern(600, 400), "JPEG", exif=exif)
    for size, mode in ((400, "shortest"), (600, "longest"), (1000, "longest")):
        assert check_image(data, MANY, Resize(size=size, mode=mode, quality=90)).data == data
    picture = check_image(data, MANY, Resize(size=150, mode="longest", quality=90))
    assert (picture.width, picture.height) == open_rgb(picture.data, MANY).size == (100, 150)


def test_magic_of_readable_formats() -> None:
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP"):
        assert has_image_magic(encode(pattern(20, 10), kind)[:16])
    for start in (b"", b"<html>", b"RIFF1234WAVEfmt ", b"%PDF-1.7", b"II*\0"):
        assert not has_image_magic(start)
