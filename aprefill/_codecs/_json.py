"""Read and write JSON. msgspec reads a record; the standard library reads it if msgspec rejects it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import msgspec
import msgspec.inspect as mi

from aprefill._errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

T = TypeVar("T")

#: The errors of `Reader.fast`. For invalid UTF-8 and deep nesting, msgspec raises errors that are not its own.
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Reader(Generic[T]):
    """Reads records into one struct type, with a fast and a slow method. Both give the same result if both accept.

    `fast` is msgspec's own decoder. It rejects some records that hosts do send: a lone surrogate escape, `NaN`, or a
    raw control character in a string. Such a record is read again with `slow`. So only `slow` can return a string with
    a lone surrogate: a codec starts to join surrogates at its first slow record. Before that, joining costs nothing.

    `slow` omits a field whose value has a different type than the struct declares, so that a field that is not needed
    cannot end a reply. The struct's static method ``needs(value)`` takes the JSON object and returns the names of the
    needed fields. If the struct has no such method, no field is needed.

    >>> class Word(msgspec.Struct):
    ...     text: str = ""
    >>> reader = Reader(Word)
    >>> reader.fast(b'{"text":"a"}')
    Word(text='a')
    >>> reader.slow(b'{"text":"a", "score":NaN}')
    Word(text='a')
    """

    def __init__(self, type_: type[T]) -> None:
        self._type = type_
        self.fast: Callable[[bytes], T] = msgspec.json.Decoder(type_).decode

    def slow(self, data: bytes) -> T:
        """Read a record leniently. Bytes that are not UTF-8 become U+FFFD, as in an event stream.

        Raises `ProtocolError`. Its message does not quote the record, because the record may contain the prompt.
        """
        try:
            value = json.loads(data.decode("utf-8", "replace"), strict=False)
        except ValueError as exc:  # also an integer of more than 4,300 digits
            raise ProtocolError(f"a record of {len(data)} bytes is not JSON") from _bare(exc)
        except RecursionError as exc:
            raise ProtocolError(f"a record of {len(data)} bytes is nested too deep") from exc
        try:
            return msgspec.convert(value, self._type)
        except (msgspec.ValidationError, UnicodeEncodeError):
            pass  # a value has a different type, or a field's name contains a lone surrogate
        except RecursionError as exc:
            raise ProtocolError(f"a record of {len(data)} bytes is nested too deep") from exc
        try:
            fitted: T = _fit(value, _type_info(cast("Any", self._type)), "$")
        except _Misfit as exc:
            misfit = str(exc)
        else:
            return fitted
        # Outside the handler, so that `_Misfit` is not chained: its text is already in the message.
        raise ProtocolError(f"a record does not fit the protocol: {misfit}")

    def read(self, data: bytes) -> T:
        """Read a record with `fast`, and with `slow` if that fails. Raises `ProtocolError`."""
        try:
            return self.fast(data)
        except UNREADABLE:
            pass  # Call `slow` outside the handler, so that its errors do not chain this one, which contains the text.
        return self.slow(data)


class _Misfit(Exception):
    """A needed value has a different type than the protocol defines."""


@cache
def _type_info(type_: Any) -> mi.Type:
    return mi.type_info(type_)


def _fit(value: Any, kind: mi.Type, path: str) -> Any:
    """Return `value` as type `kind`, without the unneeded fields of a wrong type. Raises `_Misfit`."""
    if isinstance(kind, mi.AnyType) or (isinstance(kind, mi.NoneType) and value is None):
        return value
    if isinstance(kind, mi.UnionType):
        fitting = [one for one in kind.types if _accepts(one, value)]
        if fitting:
            return _fit(value, fitting[0], path)
    elif _accepts(kind, value):
        if isinstance(kind, mi.StructType):
            return _fit_struct(value, kind, path)
        if isinstance(kind, mi.ListType):
            # null items of a list are ignored
            return [_fit(item, kind.item_type, f"{path}[{at}]") for at, item in enumerate(value) if item is not None]
        return value
    raise _Misfit(f"`{path}` is of type {type(value).__name__}")


#: For each msgspec type that the structs use: the Python type of the JSON value.
_PYTHON: dict[type[mi.Type], type] = {
    mi.StructType: dict,
    mi.DictType: dict,
    mi.ListType: list,
    mi.StrType: str,
    mi.IntType: int,
    mi.AnyType: object,
    mi.NoneType: type(None),
}


def _accepts(kind: mi.Type, value: Any) -> bool:
    accepted = _PYTHON.get(type(kind))
    return accepted is not None and isinstance(value, accepted) and not (accepted is int and isinstance(value, bool))


def _fit_struct(value: dict[str, Any], kind: mi.StructType, path: str) -> Any:
    needs = getattr(kind.cls, "needs", None)
    needed = () if needs is None else needs(value)
    fields: dict[str, Any] = {}
    for field in kind.fields:
        if field.encode_name in value:
            try:
                fields[field.name] = _fit(value[field.encode_name], field.type, f"{path}.{field.encode_name}")
            except _Misfit:
                if field.name in needed:
                    raise
    return kind.cls(**fields)


def _bare(exc: ValueError) -> ValueError:
    """Return `exc` without the JSON text that it contains, because no chained error may contain a prompt."""
    if isinstance(exc, json.JSONDecodeError):
        exc.doc = ""
    elif isinstance(exc, UnicodeEncodeError):
        exc.object, exc.args = "", ()
    return exc


def loads(data: bytes | str) -> Any:
    """Parse any JSON value, leniently. Return None if the text is not JSON."""
    text = data.decode("utf-8", "replace") if isinstance(data, bytes) else data
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return None


def dumps(value: Any) -> str:
    """Return `value` as compact JSON text. This does not use msgspec, which rejects integers of more than 64 bits."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def within_depth(make: Callable[[Any], T], value: Any) -> T:
    """Return `make(value)`, for a recursive `make`. Raises `ProtocolError` if `value` is nested too deeply."""
    try:
        return make(value)
    except RecursionError as exc:
        raise ProtocolError("a record is nested too deep") from exc


def overlay(body: Mapping[str, Any], fields: Mapping[str, Any], nested: Collection[str] | None = ()) -> dict[str, Any]:
    """Return `body` with `fields` merged into it. A field replaces the old value or is added; None removes it.

    If both values of a field are objects and `nested` names the field, the objects are merged in the same way, at every
    depth. With `nested=None`, the objects of all fields are merged.

    >>> overlay({"model": "m", "stream_options": {}}, {"stream_options": None, "n": 1})
    {'model': 'm', 'n': 1}
    >>> overlay({"config": {"top_k": 1, "seed": 2}}, {"config": {"seed": None, "n": 3}}, ["config"])
    {'config': {'top_k': 1, 'n': 3}}
    """
    out = dict(body)
    for name, value in fields.items():
        if value is None:
            out.pop(name, None)
        elif (nested is None or name in nested) and isinstance(value, Mapping) and isinstance(out.get(name), Mapping):
            out[name] = overlay(out[name], value, None)
        else:
            out[name] = value
    return out
