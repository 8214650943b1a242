r"""What an image file is by its first bytes, whatever its name says.

    kind_of(b"\xff\xd8\xff...")    "jpeg", "grey_jpeg", "cmyk_jpeg"
    kind_of(b"\x89PNG...")         "png", "gif", "bmp", "webp"
    kind_of(b"<html>")             None
    shape_of_jpeg(content)         (375, 500): height and width

ImageNet has a PNG that is called .JPEG and 22 files in CMYK; both are images, but not every decoder says so.
"""

from __future__ import annotations

import struct

KINDS = ("jpeg", "grey_jpeg", "cmyk_jpeg", "png", "gif", "bmp", "webp")
"""What `kind_of` tells apart."""

_JPEG = b"\xff\xd8\xff"
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG_KINDS = {1: "grey_jpeg", 3: "jpeg", 4: "cmyk_jpeg"}
_NO_FRAME = (0xC4, 0xC8, 0xCC)  # markers among those of frames that begin none
_WITHOUT_LENGTH = (0x01, *range(0xD0, 0xD9))


def kind_of(content: bytes) -> str | None:
    """Tells the format of an image.

    Args:
        content: The file, or enough of its beginning.

    Returns:
        One of `KINDS`; None if it is none of them. A JPEG whose header cannot be followed counts as ``jpeg``:
        whoever decodes it will see what it is worth.
    """
    if content.startswith(_JPEG):
        return _JPEG_KINDS.get(_frame(content)[2], "jpeg")
    if content.startswith(_PNG):
        return "png"
    if content[:6] in (b"GIF87a", b"GIF89a"):
        return "gif"
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "webp"
    return "bmp" if content[:2] == b"BM" else None


def shape_of_jpeg(content: bytes) -> tuple[int, int]:
    """Height and width of a JPEG in pixels.

    Args:
        content: The file, or enough of its beginning.

    Returns:
        Both; zeros if it is no JPEG, or its header does not say.
    """
    return _frame(content)[:2] if content.startswith(_JPEG) else (0, 0)


def _frame(content: bytes) -> tuple[int, int, int]:
    """Height, width and number of colour components of a JPEG; zeros if its header does not say."""
    position = 2
    while position + 9 < len(content) and content[position] == 0xFF:
        marker = content[position + 1]
        if marker == 0xFF:  # fill bytes
            position += 1
        elif marker in _WITHOUT_LENGTH:
            position += 2
        elif 0xC0 <= marker <= 0xCF and marker not in _NO_FRAME:
            height, width = struct.unpack_from(">HH", content, position + 5)
            return height, width, content[position + 9]
        else:
            position += 2 + int.from_bytes(content[position + 2 : position + 4], "big")
    return 0, 0, 0
