"""JSON in and out: a record is read by msgspec, or by the standard library when msgspec refuses it."""

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

#: What a failing `Reader.fast` raises. A byte that is not UTF-8 and deep nesting do not come as msgspec errors.
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Reader(Generic[T]):
    """Reads records into one struct type, by two paths that agree wherever both accept (a test proves it).

    `slow` leaves a field out whose value has another type than the struct says, so that no reply ends because of a
    field that nobody needs. Which fields are needed says the struct: ``needs(value)``, a static method that is given
    the JSON object and returns field names. Without one no field is.

    `fast` is msgspec's own decoder. It refuses some records that hosts do send: a lone surrogate escape, `NaN`, a
    raw control character in a string. Those go once through `slow`, and then to the same mapper. So a string with
    a lone surrogate can only come out of `slow`: a codec joins surrogates from its first slow record on, and until
    then they cost nothing.

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
        """The same struct out of lenient JSON. Bytes that are not UTF-8 become U+FFFD, as in an event stream.

        Raises `ProtocolError`, whose message holds nothing of the record: it may be the prompt.
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
            pass  # a value of another type, or half a surrogate pair in a field's name
        except RecursionError as exc:
            raise ProtocolError(f"a record of {len(data)} bytes is nested too deep") from exc
        try:
            fitted: T = _fit(value, _type_info(cast("Any", self._type)), "$")
        except _Misfit as exc:
            misfit = str(exc)
        else:
            return fitted
        # outside of the handler: it names types and fields of ours, and there is nothing more to say
        raise ProtocolError(f"a record does not fit the protocol: {misfit}")

    def read(self, data: bytes) -> T:
        """Either path. Raises `ProtocolError`."""
        try:
            return self.fast(data)
        except UNREADABLE:
            pass  # and is over here: a UnicodeDecodeError carries the text, and would be chained to what slow raises
        return self.slow(data)


class _Misfit(Exception):
    """A needed value has another type than the protocol says."""


@cache
def _type_info(type_: Any) -> mi.Type:
    return mi.type_info(type_)


def _fit(value: Any, kind: mi.Type, path: str) -> Any:
    """`value` as that type, without the fields that do not fit and are not needed. Raises `_Misfit`."""
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
            # null in a list brings nothing
            return [_fit(item, kind.item_type, f"{path}[{at}]") for at, item in enumerate(value) if item is not None]
        return value
    raise _Misfit(f"`{path}` is of type {type(value).__name__}")


#: The Python type that a JSON value has, for each type that structs here use.
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
    """`exc` without the text that it carries along: no chained error may hold a prompt."""
    if isinstance(exc, json.JSONDecodeError):
        exc.doc = ""
    elif isinstance(exc, UnicodeEncodeError):
        exc.object, exc.args = "", ()
    return exc


def loads(data: bytes | str) -> Any:
    """Any JSON value, leniently, or None if it is not JSON."""
    text = data.decode("utf-8", "replace") if isinstance(data, bytes) else data
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return None


def dumps(value: Any) -> str:
    """`value` as compact JSON text. Not msgspec's: that refuses integers beyond 64 bits."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def within_depth(make: Callable[[Any], T], value: Any) -> T:
    """`make(value)`, for a `make` that walks down the value. Raises `ProtocolError` if that is nested too deep."""
    try:
        return make(value)
    except RecursionError as exc:
        raise ProtocolError("a record is nested too deep") from exc


def overlay(body: Mapping[str, Any], fields: Mapping[str, Any], nested: Collection[str] | None = ()) -> dict[str, Any]:
    """`body` with `fields` laid over it: a field replaces what is there, or is added at the end; None removes it.

    An object over an object is merged in the same way where `nested` names its field; below that, at every depth. With
    `nested=None` it is merged everywhere.

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
