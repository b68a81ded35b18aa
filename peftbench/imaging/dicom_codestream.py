"""Compressed pictures within DICOM files: read far enough to refuse those that are not as the tags say.

A decoder makes room for what a codestream claims before anybody compares, and some end the process on damaged ones.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from pydicom.dataset import Dataset
from pydicom.uid import JPEGLossless, JPEGLosslessSV1

from peftbench.errors import DecodeError
from peftbench.imaging.samples import refuse_bomb

_JPEG, _JPEG2000, _JP2 = b"\xff\xd8", b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP  "

# Markers of JPEG: those that open a picture and state its extent (but for the tables C4, C8 and CC; F7 is JPEG-LS), of
# these the one that is lossless, the one before the coded samples, all that may come before it, and the end.
_START_OF_FRAME = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
_LOSSLESS_FRAME = 0xC3
_START_OF_SCAN = 0xDA
_WITH_LENGTH = {*_START_OF_FRAME, 0xC4, 0xCC, *range(0xDA, 0xE0), *range(0xE0, 0xF0), 0xF8, 0xFE}
_END = b"\xff\xd9"


class Frame(NamedTuple):
    """What a codestream says of its picture."""

    width: int
    height: int
    channels: int


def refuse_codestream(found: Dataset, coded: bytes) -> None:
    """Refuse a picture that is not as the tags say: its decoder would make room for it before comparing."""
    frame = _jpeg_frame(found, coded) if coded[:2] == _JPEG else _jpeg2000_frame(coded)
    refuse_bomb(frame.width, frame.height)
    if (frame.width, frame.height, frame.channels) != (found.Columns, found.Rows, found.SamplesPerPixel):
        raise DecodeError(
            f"cannot be decoded: its compressed picture is {frame.width} x {frame.height} x {frame.channels}, "
            f"its tags say {found.Columns} x {found.Rows} x {found.SamplesPerPixel}"
        )


def _jpeg_frame(found: Dataset, coded: bytes) -> Frame:
    """The frame of a JPEG or JPEG-LS codestream that is sound up to its samples, and has an end.

    Strict for GDCM's sake, which decodes lossless JPEG: bytes between segments or too many bits end the process, and
    what is cut short is filled with grey.
    """
    segments = dict(_segments(coded))
    marker = next((marker for marker in segments if marker in _START_OF_FRAME), None)
    if marker is None or len(coded) < segments[marker] + 10:
        raise DecodeError("cannot be decoded: its compressed picture states no extent")
    bits, height, width, channels = struct.unpack_from(">BHHB", coded, segments[marker] + 4)
    lossless = found.file_meta.TransferSyntaxUID in (JPEGLossless, JPEGLosslessSV1)
    if bits > found.BitsAllocated or (lossless and marker != _LOSSLESS_FRAME):
        raise DecodeError("cannot be decoded: its compressed picture is of another kind than its tags say")
    if coded.find(_END, segments.get(_START_OF_SCAN, len(coded))) < 0:
        raise DecodeError("cannot be decoded: its compressed picture is cut short")
    return Frame(width, height, channels)


def _segments(coded: bytes) -> Iterator[tuple[int, int]]:
    """Markers of a JPEG codestream and their places, up to the coded samples."""
    place, marker = 2, 0
    while marker != _START_OF_SCAN and place + 4 <= len(coded):
        marker, length = struct.unpack_from(">BH", coded, place + 1)
        if coded[place] == marker == 0xFF:  # it may be written more than once
            place += 1
            continue
        if coded[place] != 0xFF or marker not in _WITH_LENGTH or length < 2:
            raise DecodeError("cannot be decoded: its compressed picture is damaged before its first sample")
        yield marker, place
        place += 2 + length


def _jpeg2000_frame(coded: bytes) -> Frame:
    start = _start_of_codestream(coded)
    if start is None:
        raise DecodeError("cannot be decoded: its compressed picture states no extent")
    right, lower, left, upper = struct.unpack_from(">4I", coded, start + 8)
    return Frame(right - left, lower - upper, struct.unpack_from(">H", coded, start + 40)[0])


def _start_of_codestream(coded: bytes) -> int | None:
    """Where a JPEG 2000 codestream begins, which may lie in boxes; None where none is found."""
    place = 0
    if coded.startswith(_JP2):
        while coded[place + 4 : place + 8] != b"jp2c":
            if place + 8 > len(coded) or (length := int.from_bytes(coded[place : place + 4], "big")) < 8:
                return None
            place += length
        place += 8
    return place if coded[place : place + 4] == _JPEG2000 and len(coded) >= place + 42 else None
