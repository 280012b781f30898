"""Frozen dataclasses as JSON values, and back, with the type of every field checked.

A field may be a str, bool, int, float, None, a dataclass, ``tuple[X, ...]`` or ``tuple[X, Y]``, ``Mapping[str, X]`` or
``dict[str, X]``, a Literal, a union of these, or ``object`` for any JSON value. `Count`, `Size` and `NonNegative` are
numbers with a lowest value. A field with a default may be missing. What else must hold, a dataclass checks in its
``__post_init__`` with a ValueError.

A key that is no field is refused, unless the caller lets ``more`` keys pass: what other programs add to a file.
"""

import json
import math
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

from .errors import InputError

Record = TypeVar("Record")

_NAMES = {str: "a string", bool: "true or false", int: "a whole number", float: "a number", types.NoneType: "null"}
_SHOWN = 60  # characters of a wrong value in a message
_LARGEST = 2**63  # of a whole number


@dataclass(frozen=True)
class AtLeast:
    """The lowest value of an annotated number."""

    least: int


Count = Annotated[int, AtLeast(0)]
Size = Annotated[int, AtLeast(1)]
NonNegative = Annotated[float, AtLeast(0)]


class OtherSchemaError(InputError):
    """A file is of another schema than this version reads."""


class OtherSchema(ValueError):
    """A JSON text is of another schema than this version reads."""


def encode(record: object, schema: int) -> dict[str, Any]:
    """``record``, a dataclass, as a JSON object that says of which ``schema`` it is."""
    return {"schema": schema, **as_json(record)}


def parse(kind: type[Record], text: str, schema: int, *, more: bool = False) -> Record:
    """The ``kind`` whose `encode` is the JSON ``text``. Raises ValueError that says what is wrong."""
    return decode(kind, of_schema(parse_json(text), schema), more=more)


def read(
    path: str | Path,
    kind: type[Record],
    schema: int,
    remedy: str,
    adapt: Callable[[dict[str, Any]], dict[str, Any]] = lambda content: content,
    *,
    more: bool = True,
) -> Record:
    """The JSON file ``path`` as a ``kind``; ``remedy`` says how the file is made again.

    ``adapt`` fills in what early files of this schema left to the reader. Raises InputError for a file that is missing,
    no JSON or no ``kind``, and OtherSchemaError for a file of another schema.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file; {remedy}")
    if not path.is_file():  # reading a pipe would wait for its other end
        raise InputError(f"{path}: cannot be read, it is no file; {remedy}")
    try:
        content = of_schema(parse_json(path.read_text(encoding="utf-8")), schema)
        return decode(kind, adapt(content), more=more)
    except OtherSchema as error:
        raise OtherSchemaError(f"{path}: is {error}; {remedy}") from error
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: damaged: {error}; {remedy}") from error


def parse_json(text: str) -> object:
    """The value of a JSON text. Raises ValueError for a text that is none."""
    try:
        return json.loads(text, parse_constant=_no_number)
    except RecursionError as error:
        raise ValueError("values are nested too deep") from error


def of_schema(content: object, schema: int) -> dict[str, Any]:
    """The fields of a JSON object. Raises ValueError where it is no object, or not of ``schema``."""
    if not isinstance(content, dict):
        raise _wrong("", content, "an object")
    if "schema" not in content:
        raise ValueError("schema is missing")
    if isinstance(content["schema"], bool) or not isinstance(content["schema"], int):
        raise _wrong("schema", content["schema"], _NAMES[int])
    if content["schema"] != schema:
        raise OtherSchema(f"of schema {_shown(content['schema'])}, and this version reads schema {schema}")
    return {key: value for key, value in content.items() if key != "schema"}


def as_json(record: object) -> Any:
    """``record`` as a JSON value: dataclasses and mappings are objects, tuples are lists, paths are strings."""
    if is_dataclass(record):
        return {field.name: as_json(getattr(record, field.name)) for field in fields(record)}
    if isinstance(record, Mapping):
        return {str(key): as_json(value) for key, value in record.items()}
    if isinstance(record, (tuple, list)):
        return [as_json(value) for value in record]
    return str(record) if isinstance(record, Path) else record


def decode(kind: type[Record], value: object, where: str = "", *, more: bool = False) -> Record:
    """The ``kind`` that the JSON ``value`` stands for. Raises ValueError that says what is wrong ``where``."""
    return typing.cast(Record, (_dataclass if is_dataclass(kind) else _plain)(kind, value, where, more))


def _dataclass(kind: Any, value: object, where: str, more: bool) -> object:
    if not isinstance(value, dict):
        raise _wrong(where, value, "an object")
    hints = typing.get_type_hints(kind, include_extras=True)
    prefix = f"{where}." if where else ""
    unknown = sorted(value.keys() - hints.keys())
    if unknown and not more:
        raise ValueError(f"{prefix}{_key(unknown[0])} is not known")
    given = {}
    for field in fields(kind):
        if field.name in value:
            given[field.name] = decode(hints[field.name], value[field.name], prefix + field.name, more=more)
        elif not _optional(field):
            raise ValueError(f"{prefix}{field.name} is missing")
    try:
        return kind(**given)
    except ValueError as error:
        raise ValueError(f"{where}: {error}" if where else str(error)) from error


def _plain(kind: Any, value: object, where: str, more: bool) -> object:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is object:
        return value
    if origin is Annotated:
        return _bounded(arguments[0], arguments[1], value, where)
    if origin in (types.UnionType, typing.Union):
        return _union(arguments, value, where, more)
    if origin is tuple:
        return _tuple(arguments, value, where, more)
    if origin in (Mapping, dict):
        if not isinstance(value, dict):
            raise _wrong(where, value, "an object")
        return {
            _text(key, where): decode(arguments[1], each, f"{where}.{_key(key)}", more=more)
            for key, each in value.items()
        }
    if origin is typing.Literal:
        if not isinstance(value, str) or value not in arguments:
            raise _wrong(where, value, f"one of {', '.join(arguments)}")
        return value
    return _scalar(kind, value, where)


def _bounded(kind: Any, bound: AtLeast, value: object, where: str) -> object:
    try:
        number = typing.cast(float, _scalar(kind, value, where))
        if number >= bound.least:
            return number
    except ValueError:
        pass  # the message below says the lowest value, too
    raise _wrong(where, value, f"{_NAMES[kind]}, {bound.least} or more")


def _scalar(kind: Any, value: object, where: str) -> object:
    if kind is str:
        return _text(value, where)
    if kind is float and type(value) in (int, float):
        number = typing.cast(float, value)
        if abs(number) < _LARGEST or (isinstance(number, float) and math.isfinite(number)):
            return float(number)
    if kind is int and type(value) is int and abs(value) < _LARGEST:
        return value
    if kind in (bool, types.NoneType) and type(value) is kind:
        return value
    raise _wrong(where, value, _NAMES[kind])


def _tuple(kinds: tuple[Any, ...], value: object, where: str, more: bool) -> tuple[object, ...]:
    if not isinstance(value, list):
        raise _wrong(where, value, "a list")
    if kinds[-1] is Ellipsis:
        kinds = (kinds[0],) * len(value)
    if len(kinds) != len(value):
        raise _wrong(where, value, f"a list of {len(kinds)}")
    pairs = enumerate(zip(kinds, value, strict=True))
    return tuple(decode(kind, each, f"{where}[{index}]", more=more) for index, (kind, each) in pairs)


def _union(kinds: tuple[Any, ...], value: object, where: str, more: bool) -> object:
    problems = []
    for kind in kinds:
        try:
            return decode(kind, value, where, more=more)
        except ValueError as error:
            problems.append(str(error))  # the error itself would keep alive all that its callers hold
    raise ValueError(problems[0])


def _text(value: object, where: str) -> str:
    if isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" or letter == "\0" for letter in value):
        return value  # half a character of UTF-16 cannot be printed, and no path has a NUL
    raise _wrong(where, value, _NAMES[str])


def _optional(field: "Field[Any]") -> bool:
    return field.default is not MISSING or field.default_factory is not MISSING


def _wrong(where: str, value: object, wanted: str) -> ValueError:
    return ValueError(f"{where or 'the whole'} is {_shown(value)}, not {wanted}")


def _shown(value: object) -> str:
    """A value of a file in a message: short, and in letters that every terminal has."""
    text = ascii(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _key(key: object) -> str:
    """A key of a file in a message: as it is, where it can be shown."""
    return _shown(key) if len(str(key)) > _SHOWN or not (str(key).isascii() and str(key).isprintable()) else str(key)


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")
