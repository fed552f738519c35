"""Dataclasses to JSON and back, checked by their own annotations."""

from __future__ import annotations

import dataclasses
import json
import typing
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Optional, TypeVar, Union

PROTOCOL = 1
"""Version of all that is said here. A reader refuses a higher one and ignores fields it does not know in events."""

T = TypeVar("T")


class WireError(ValueError):
    """A message cannot be understood: wrong version, wrong type, value out of range, broken JSON."""


class NewerProtocol(WireError):
    """Whole, as far as can be told, and written by a later version than this one."""


@dataclass(frozen=True)
class Bounds:
    """The allowed range of a number; `multiple_of` is checked too. Used as `Annotated[int, Bounds(ge=1)]`."""

    ge: Optional[float] = None
    gt: Optional[float] = None
    le: Optional[float] = None
    multiple_of: Optional[int] = None

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """Pydantic asks annotations for a schema by this name; so one declaration serves both sides."""
        schema = handler(source)
        inner = schema["schema"] if schema["type"] == "nullable" else schema
        for name in ("ge", "gt", "le", "multiple_of"):
            limit = getattr(self, name)
            if limit is not None:
                inner[name] = type(limit)(limit) if inner["type"] != "int" else int(limit)
        return schema

    def violation(self, value: float) -> Optional[str]:
        """The broken rule as words ("must be at least 1"), or None."""
        if self.ge is not None and value < self.ge:
            return f"must be at least {self.ge:g}"
        if self.gt is not None and value <= self.gt:
            return f"must be greater than {self.gt:g}"
        if self.le is not None and value > self.le:
            return f"must be at most {self.le:g}"
        if self.multiple_of is not None and value % self.multiple_of:
            return f"must be a multiple of {self.multiple_of}"
        return None


Count = Annotated[int, Bounds(ge=0)]
Positive = Annotated[int, Bounds(ge=1)]


def encode(value: Any) -> Any:
    """A dataclass as plain JSON data; tuples become lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, (list, tuple)):
        return [encode(item) for item in value]
    if isinstance(value, dict):
        return {str(key): encode(item) for key, item in value.items()}
    return value


def decode(cls: type[T], data: Any, *, ignore_unknown: bool = False) -> T:
    """Plain JSON data as a dataclass. Types and `Bounds` are checked.

    Raises WireError naming the path of the first value that does not fit. A `protocol` field higher than ours is
    refused before anything else is looked at.
    """
    if isinstance(data, dict) and isinstance(data.get("protocol"), int) and data["protocol"] > PROTOCOL:
        raise NewerProtocol(f"written by protocol {data['protocol']}, this cloudbooth knows up to {PROTOCOL}")
    return typing.cast(T, _reader(cls)(data, cls.__name__, ignore_unknown))


def loads(cls: type[T], raw: bytes) -> T:
    """`decode` of JSON bytes."""
    return decode(cls, parse(raw))


def dumps(value: Any) -> bytes:
    """`encode` to stable, human-readable JSON bytes."""
    return (json.dumps(encode(value), indent=1) + "\n").encode()


def parse(raw: bytes) -> Any:
    """JSON data; raises WireError for bytes that are none."""
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise WireError(f"not JSON: {error}") from None


_Reader = typing.Callable[[Any, str, bool], Any]
"""Value, its path for an error, whether surplus fields are ignored → what the value is in Python."""
_READERS: dict[type, _Reader] = {}
"""Of dataclasses: annotations are taken apart once, since a follower reads thousands of events."""


def _reader(kind: Any) -> _Reader:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return lambda value, _path, _ignore: value
    if origin is Annotated:
        return _bounded(_reader(args[0]), [rule for rule in args[1:] if isinstance(rule, Bounds)])
    if origin is Union:  # only Optional[...] occurs
        inner = _reader(args[0])
        return lambda value, path, ignore: None if value is None else inner(value, path, ignore)
    if origin is Literal:
        return _one_of(args)
    if origin in (tuple, list):
        return _items(_reader(args[0]))
    if origin is dict:
        return lambda value, _path, _ignore: dict(value)
    if dataclasses.is_dataclass(kind):
        if kind not in _READERS:
            _READERS[typing.cast(type, kind)] = _fields(kind)
        return _READERS[typing.cast(type, kind)]
    return _plain(kind)


def _bounded(inner: _Reader, rules: list[Bounds]) -> _Reader:
    def read(value: Any, path: str, ignore: bool) -> Any:
        built = inner(value, path, ignore)
        for rule in rules:
            broken = rule.violation(built) if built is not None else None
            if broken:
                raise WireError(f"{path}: {broken}, is {built!r}")
        return built

    return read


def _one_of(known: tuple[Any, ...]) -> _Reader:
    def read(value: Any, path: str, _ignore: bool) -> Any:
        if value not in known:
            raise WireError(f"{path}: must be one of {', '.join(map(repr, known))}, is {value!r}")
        return value

    return read


def _items(inner: _Reader) -> _Reader:
    def read(value: Any, path: str, ignore: bool) -> Any:
        if not isinstance(value, (list, tuple)):
            raise WireError(f"{path}: must be a list, is {value!r}")
        return tuple([inner(item, f"{path}[{i}]", ignore) for i, item in enumerate(value)])

    return read


def _plain(kind: Any) -> _Reader:
    def read(value: Any, path: str, _ignore: bool) -> Any:
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise WireError(f"{path}: must be {kind.__name__}, is {value!r}")
        return value

    return read


def _fields(cls: Any) -> _Reader:
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = [
        (f.name, _reader(hints[f.name]), f.default is f.default_factory is dataclasses.MISSING)
        for f in dataclasses.fields(cls)
    ]
    names = {name for name, _, _ in fields}

    def read(value: Any, path: str, ignore: bool) -> Any:
        if not isinstance(value, dict):
            raise WireError(f"{path}: must be an object, is {value!r}")
        known: dict[str, Any] = {}
        for name, inner, required in fields:
            if name in value:
                known[name] = inner(value[name], f"{path}.{name}", ignore)
            elif required:
                raise WireError(f"{path}.{name} is missing")
        surplus = sorted(set(value) - names) if not ignore else ()
        if surplus:
            raise WireError(f"{path}: unknown field {surplus[0]!r}")
        return cls(**known)

    return read
