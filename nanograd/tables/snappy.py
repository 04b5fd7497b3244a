"""Snappy's format, decompressed piece by piece: libraries do it only as a whole.

The elements of a piece are decompressed by Arrow, after a literal of the bytes before them, to
which they may refer.

References:
    Google, "Snappy compressed format description".
"""

from collections.abc import Iterator
from itertools import repeat

import pyarrow as pa

# Elements refer back as far as this: encoders compress blocks of this size by themselves.
_WINDOW_BYTES = 1 << 16
_PIECE_BYTES = 1 << 20
# Literals from this size on are passed on as they are.
_LONG_LITERAL = 1 << 10
# Elements passed over without a test for the end of the data, and the bytes that they take at most.
_MANY = 512
_MAX_SHIFT = 63
_MANY_BYTES = _MANY * 61


def _sizes(tag: int) -> tuple[int, int]:
    """Return the sizes of an element with this tag and of its content, 0 if more bytes give it."""
    number = tag >> 2
    return ((number + 2) * (number < 60), (number + 1) * (number < 60)) if tag & 3 == 0 else (
        (2, 3, 5)[(tag & 3) - 1], (number & 7) + 4 if tag & 3 == 1 else number + 1
    )  # fmt: skip


_STEPS, _LENGTHS = zip(*map(_sizes, range(256)), strict=True)


def decompress(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the content in pieces: long literals as they are, other elements decompressed."""
    data, window, is_last = next(blocks, b"\0"), b"", False
    try:
        left, at = parse_number(data, 0)
    except IndexError:
        raise pa.ArrowInvalid("a page is cut short") from None
    while left > 0:
        if len(data) - at < _MANY_BYTES and not is_last:
            block = next(blocks, b"")
            data, at, is_last = data[at:] + block, 0, not block
            continue
        end, size = _pass_over(data, at, min(_PIECE_BYTES, left), to_end=is_last)
        if size:
            piece = _decompress_elements(data[at:end], size, window)
        elif at < len(data) and not _STEPS[data[at]]:
            start, length = _long_literal(data, at)
            if length > left:
                raise pa.ArrowInvalid("a page is longer than its values")
            while len(data) < start + length:
                block = next(blocks, b"")
                if not block:
                    raise pa.ArrowInvalid("a page is cut short")
                data += block
            end = start + length
            piece = data[start:end]
        else:
            raise pa.ArrowInvalid("a page is cut short")
        yield piece
        at, left = end, left - len(piece)
        window = (window + piece[-_WINDOW_BYTES:])[-_WINDOW_BYTES:]
    if left or at != len(data) or next(blocks, b""):
        raise pa.ArrowInvalid("a page is longer than its values")


def _pass_over(data: bytes, at: int, most: int, *, to_end: bool) -> tuple[int, int]:
    """Return the end of elements up to a long literal, and the size of their content.

    Args:
        data: some of the compressed bytes.
        at: the first element.
        most: size of the content, to be exceeded by some kilobytes only.
        to_end: whether to go on where less than the bytes of many elements is left.
    """
    size, last = 0, len(data) - _MANY_BYTES
    while size < most and (at <= last or (to_end and at < len(data))):
        if at <= last:
            for _ in repeat(None, _MANY):
                tag = data[at]
                at += _STEPS[tag]
                size += _LENGTHS[tag]
        elif step := _STEPS[data[at]]:
            if at + step > len(data):
                break
            at, size = at + step, size + _LENGTHS[data[at]]
        if at < len(data) and not _STEPS[data[at]]:
            start, length = _long_literal(data, at)
            if length >= _LONG_LITERAL or start + length > len(data):
                break
            at, size = start + length, size + length
    return at, size


def _long_literal(data: bytes, at: int) -> tuple[int, int]:
    """Return where the content of a literal starts whose tag has not its length, and the length."""
    start = at + (data[at] >> 2) - 58
    return start, int.from_bytes(data[at + 1 : start], "little") + 1


def _decompress_elements(elements: bytes, size: int, window: bytes) -> bytes:
    """Decompress elements that make so many bytes, after a literal of the bytes before them."""
    literal = b""
    if window:
        # 61: the length, minus 1, follows in two bytes.
        literal = bytes([61 << 2]) + (len(window) - 1).to_bytes(2, "little") + window
    total = len(window) + size
    head = bytes([*(total >> shift & 127 | 128 for shift in (0, 7, 14, 21)), total >> 28])
    data = pa.decompress(head + literal + elements, total, "snappy", asbytes=True)
    return bytes(data[len(window) :])


def parse_number(data: bytes, at: int) -> tuple[int, int]:
    """Parse a number in groups of seven bits; return it, and its end.

    >>> parse_number(bytes([0xAC, 0x02]), 0)
    (300, 2)
    """
    number = shift = 0
    while data[at] & 128:
        if shift > _MAX_SHIFT:
            raise pa.ArrowInvalid("a number has too many bytes")
        number |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
    return number | data[at] << shift, at + 1
