import numpy as np
import pytest
from PIL import Image

from spikelens.data.image_decoding import decode_files, load_image

RED = (255, 0, 0)


def save(image, path, **options):
    image.save(path, **options)
    return str(path)


def test_a_fitting_image_is_kept_bit_for_bit(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    path = save(Image.fromarray(pixels), tmp_path / "a.png")
    assert np.array_equal(load_image(path, 8, 3), pixels.transpose(2, 0, 1))


@pytest.mark.parametrize("size", [(3, 5), (64, 8), (8, 64), (1, 1), (37, 53)])
@pytest.mark.parametrize("suffix", [".png", ".bmp", ".gif", ".tiff", ".webp"])
def test_any_size_and_format_becomes_a_square(tmp_path, size, suffix):
    path = save(Image.new("RGB", size, RED), tmp_path / f"a{suffix}")
    image = load_image(path, 8, 3)
    assert image.shape == (3, 8, 8)
    assert abs(image.astype(int) - np.array(RED)[:, None, None]).max() <= 2


@pytest.mark.parametrize("is_wide", [True, False])
def test_the_centre_is_cropped(tmp_path, is_wide):
    pixels = np.zeros((30, 90, 3), dtype=np.uint8)
    pixels[:, 30:60] = 255
    pixels = pixels if is_wide else pixels.transpose(1, 0, 2)
    image = load_image(save(Image.fromarray(pixels), tmp_path / "a.png"), 10, 3)
    assert image[:, 1:-1, 1:-1].min() == 255
    # Resized first, then cropped: 1/9 of the triangle filter's weight lies beyond the border.
    assert abs(int(image.min()) - 255 * 8 / 9) < 1


def test_a_large_jpeg_keeps_its_colours(tmp_path):
    path = save(Image.new("RGB", (400, 300), RED), tmp_path / "a.jpg")
    assert abs(load_image(path, 8, 3).astype(int) - np.array(RED)[:, None, None]).max() <= 3


def test_resizing_averages_instead_of_picking(tmp_path):
    pixels = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    image = load_image(save(Image.fromarray(pixels), tmp_path / "a.png"), 8, 1)
    assert abs(image.astype(int) - 127).max() <= 2


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "I;16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_white_is_white_in_any_mode(tmp_path, mode, channels):
    image = Image.new("L", (6, 6), 255)
    if mode == "I;16":
        image = Image.fromarray(np.full((6, 6), 65535, dtype=np.uint16))
    elif mode != "L":
        image = image.convert("RGB").convert(mode)
    loaded = load_image(save(image, tmp_path / "a.tif"), 6, channels)
    assert loaded.shape == (channels, 6, 6)
    assert loaded.min() == 255


def test_sixteen_bits_are_scaled_and_transparency_is_white(tmp_path):
    grey = Image.fromarray(np.full((4, 4), 128 * 257, dtype=np.uint16))
    assert (load_image(save(grey, tmp_path / "a.png"), 4, 1) == 128).all()
    clear = Image.new("RGBA", (4, 4), (*RED, 0))
    assert (load_image(save(clear, tmp_path / "b.png"), 4, 3) == 255).all()


def test_a_photograph_is_turned_as_the_camera_noted(tmp_path):
    image = Image.new("L", (8, 8))
    image.paste(255, (0, 0, 8, 4))  # the upper half is white
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    loaded = load_image(save(image, tmp_path / "a.png", exif=exif), 8, 1)
    assert loaded[0, 0, 0] == 0
    assert loaded[0, 7, 0] == 255


def test_files_keep_their_order_and_broken_ones_are_told(tmp_path):
    paths = []
    for i in range(300):
        paths.append(save(Image.new("L", (4, 4), i % 256), tmp_path / f"{i}.png"))
    (tmp_path / "7.png").write_bytes(b"no image")
    (tmp_path / "250.png").write_bytes((tmp_path / "250.png").read_bytes()[:40])
    decoded = decode_files(paths, 4, 1)
    assert decoded.broken.tolist() == [7, 250]
    values = decoded.images[:, 0, 0, 0].tolist()
    assert values == [0 if i in (7, 250) else i % 256 for i in range(300)]
