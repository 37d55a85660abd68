"""Files of many parts are refused before a decoder begins with them; what cameras write is not."""

from __future__ import annotations

import io
import random
import struct
import zlib

import pytest
from PIL import Image

from moltbot_models.engine.config import EngineError
from moltbot_models.vision.file_parts import MAX_CHUNKS, MAX_SCANS, MAX_SEGMENTS, too_many
from moltbot_models.vision.preprocessing import Preprocessing

PLACE = "messages[0].parts[1]"
TAKES_ALL = Preprocessing(8, None, False, Image.Resampling.BICUBIC, 1 / 255, (0.0,) * 3, (1.0,) * 3)


def picture(size=96):
    return Image.frombytes("RGB", (size, size), random.Random(0).randbytes(size * size * 3))


def written(kind="JPEG", **options):
    out = io.BytesIO()
    picture().save(out, kind, **options)
    return out.getvalue()


def with_scans(data, scans):
    """The last scan of a file again and again."""
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * (scans - data.count(b"\xff\xda")) + data[-2:]


def with_chunks(data, chunks, at):
    empty = struct.pack(">I", 0) + b"abCd" + struct.pack(">I", zlib.crc32(b"abCd"))
    return data[:at] + empty * chunks + data[at:]


def refused(data, said):
    for read in (TAKES_ALL.area, TAKES_ALL.pixels):
        with pytest.raises(EngineError, match=said) as error:
            read(data, PLACE)
        assert error.value.reason == "INVALID_ARGUMENT"
        assert PLACE in str(error.value)


def test_a_photograph_of_many_scans_is_refused_before_it_is_opened(monkeypatch):
    data = with_scans(written(progressive=True), MAX_SCANS)
    assert TAKES_ALL.pixels(data, PLACE).shape == (3, 8, 8), "as many as are allowed"
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("it was opened"))
    refused(with_scans(written(progressive=True), MAX_SCANS + 1), "more than 64 scans")


@pytest.mark.parametrize("part", [b"\xff", b"\xff\xd0", b"\xff\xe5\x00\x02", b"\xff\xfe\x00\x03a"])
def test_a_photograph_of_many_segments_is_refused_before_it_is_opened(part, monkeypatch):
    data = written()
    assert TAKES_ALL.area(data[:2] + part * (MAX_SEGMENTS // 2) + data[2:], PLACE) == 96 * 96
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("it was opened"))
    refused(data[:2] + part * MAX_SEGMENTS + data[2:], "more than 4096 segments")


@pytest.mark.parametrize("at", [33, -12], ids=["before the pixels", "behind them"])
def test_a_png_of_many_chunks_is_refused_before_it_is_opened(at, monkeypatch):
    data = written("PNG")
    assert TAKES_ALL.area(with_chunks(data, MAX_CHUNKS // 2, at), PLACE) == 96 * 96
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("it was opened"))
    refused(with_chunks(data, MAX_CHUNKS, at), "more than 32768 chunks")


def test_text_that_unpacks_to_too_much_is_refused_by_place():
    body = b"zTXta\0\0" + zlib.compress(bytes(10 << 20))
    text = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    data = written("PNG")
    refused(data[:33] + text + data[33:], "can be read")


def test_what_cameras_write_is_read():
    small, exif = written(progressive=True), Image.Exif()
    exif[0x010E] = "a thumbnail has scans of its own"
    thumbnail = b"Exif\0\0" + exif.tobytes().removeprefix(b"Exif\0\0") + small[:20_000]
    multi = io.BytesIO()
    picture().save(multi, "MPO", save_all=True, append_images=[picture(), picture()])
    film = random.Random(1).randbytes(4 << 20)
    for data in (
        small,
        written(quality=100, subsampling=0),
        written(exif=thumbnail),
        multi.getvalue(),
        small + film + b"\xff\xda" * 200,
        written("PNG"),
        written("WEBP"),
    ):
        assert too_many(data) == ""
        assert TAKES_ALL.pixels(data, PLACE).shape == (3, 8, 8)
