"""Protobuf messages as bytes, read with no protobuf package: a Jetson has none."""

from collections.abc import Iterator


def fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and content of each field of ``message``. Raises ValueError or IndexError where it is cut off, KeyError
    for what is no protobuf."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        wire_type, start = tag & 7, at
        if wire_type == 0:
            _, end = _varint(message, at)
        elif wire_type == 2:
            size, start = _varint(message, at)
            end = start + size
        else:
            end = start + {1: 8, 5: 4}[wire_type]
        if end > len(message):
            raise ValueError("cut off")
        yield tag >> 3, message[start:end]
        at = end


def contents(message: memoryview, wanted: int) -> Iterator[memoryview]:
    """The contents of the fields of ``message`` with the number ``wanted``."""
    return (content for field, content in fields(message) if field == wanted)


def text(message: memoryview, wanted: int) -> str:
    """The text of the field ``wanted``; empty where there is none."""
    return next((str(content, "utf-8") for content in contents(message, wanted)), "")


def numbers(message: memoryview, wanted: int) -> tuple[int, ...]:
    """The whole numbers of the field ``wanted``, whether each has a field of its own or all are packed in one."""
    found = []
    for content in contents(message, wanted):
        at = 0
        while at < len(content):
            value, at = _varint(content, at)
            found.append(value)
    return tuple(found)


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """The number that starts at ``at``, seven bits a byte and the lowest first, and where it ends."""
    value = shift = 0
    while message[at] & 0x80:
        value |= (message[at] & 0x7F) << shift
        shift += 7
        at += 1
    return value | message[at] << shift, at + 1
