"""Checks whether a JSON text that a schema allows can begin with a prefill. Pure.

It reports only what is certain: an unknown keyword of JSON Schema counts as allowing everything.
"""

from __future__ import annotations

import json
import re
from typing import Any

_SPACE = " \t\n\r"
#: A complete number, and the beginning of a number.
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")
_NUMBER_BEGUN = re.compile(r"-?(?:(?:0|[1-9]\d*)(?:\.\d*)?(?:(?<=\d)[eE][+-]?\d*)?)?")
_ESCAPES = frozenset('"\\/bfnrt')
_HEX = frozenset("0123456789abcdefABCDEF")
#: A schema with one of these keywords has rules that are not checked here. So it counts as allowing everything.
_OTHER = ("$ref", "$dynamicRef", "allOf", "if")


class _Over(Exception):
    """The prefill ended, and nothing in it was wrong."""


class _Wrong(Exception):
    """No valid text can continue from here. The message says why."""


def impossible(schema: Any, prefill: str) -> str:
    """Return why no JSON text of this schema can begin with `prefill`, without quoting it; "" if one may.

    >>> impossible({"type": "object"}, '["')
    'the value at character 1 is an array, but the schema has an object there'
    >>> impossible({"type": "object"}, '{"name": "')
    ''
    """
    reader = _Reader(prefill)
    try:
        reader.value(_variants(schema))
        reader.space()
        reader.wrong("there is text after the end of the JSON")
    except _Over:
        return ""
    except _Wrong as wrong:
        return str(wrong)
    except RecursionError:
        return ""  # nested too deeply to check
    return ""


def _variants(schema: Any) -> list[dict[str, Any]]:
    """Return the alternatives of a schema. A value must match one of them. An empty schema allows everything."""
    if not isinstance(schema, dict) or any(key in schema for key in _OTHER):
        return [{}]
    for key in ("anyOf", "oneOf"):
        if isinstance(schema.get(key), list):
            beside = {name: value for name, value in schema.items() if name != key}
            if any(name in beside for name in ("type", "enum", "const", "properties", "items", "anyOf", "oneOf")):
                return [{}]
            return [one for variant in schema[key] for one in _variants(variant)]
    return [schema]


def _types(schema: dict[str, Any]) -> set[str] | None:
    """Return the types that a value may have; None: any."""
    if "const" in schema or isinstance(schema.get("enum"), list):
        values = [schema["const"]] if "const" in schema else schema["enum"]
        return {_type(value) for value in values}
    found = schema.get("type")
    names = {found} if isinstance(found, str) else set(found) if isinstance(found, list) else None
    if names is not None and "integer" in names:
        names = (names - {"integer"}) | {"number"}
    return names


def _type(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    kinds = {str: "string", int: "number", float: "number", dict: "object", list: "array"}
    return kinds.get(type(value), "object")


class _Reader:
    """Parses the prefill as JSON, and checks each value against the schemas that may apply to it."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def wrong(self, why: str) -> None:
        """Raise `_Wrong`, or `_Over` if the text has ended."""
        if self._at >= len(self._text):
            raise _Over
        raise _Wrong(f"{why} (character {self._at + 1})")

    def space(self) -> None:
        while self._peek() in _SPACE:
            self._at += 1

    def value(self, variants: list[dict[str, Any]]) -> None:
        self.space()
        first = self._peek()
        kind = {"{": "object", "[": "array", '"': "string", "t": "boolean", "f": "boolean", "n": "null"}.get(
            first, "number" if first in "-0123456789" else ""
        )
        if not kind:
            self.wrong("no JSON value begins like this")
        allowed = [one for one in variants if (types := _types(one)) is None or kind in types]
        if not allowed:
            wanted = sorted({name for one in variants for name in _types(one) or ()})
            names = " or ".join(map(_one, wanted))
            raise _Wrong(f"the value at character {self._at + 1} is {_one(kind)}, but the schema has {names} there")
        if kind == "object":
            self._object(allowed)
        elif kind == "array":
            self._array(allowed)
        elif kind == "string":
            self._string(_texts(allowed))
        elif kind == "number":
            self._number()
        else:
            self._word({"t": "true", "f": "false", "n": "null"}[first])

    def _object(self, variants: list[dict[str, Any]]) -> None:
        self._at += 1
        self.space()
        if self._peek() == "}":
            if variants and all(one.get("required") for one in variants):
                self.wrong("the object ends without the members that the schema requires")
            self._at += 1
            return
        while True:
            self.space()
            if self._peek() != '"':
                self.wrong("a quotation mark must begin an object's member")
            name = self._string(_names(variants))
            self.space()
            self._expect(":", "a colon must follow a member's name")
            self.value([one for schema in variants for one in _variants(_member(schema, name))])
            self.space()
            if self._peek() == "}":
                self._at += 1
                return
            self._expect(",", "a comma or the object's end must follow a member")

    def _array(self, variants: list[dict[str, Any]]) -> None:
        self._at += 1
        self.space()
        if self._peek() == "]":
            self._at += 1
            return
        items: list[dict[str, Any]] = []
        for schema in variants:
            plain = isinstance(schema.get("items"), dict) and "prefixItems" not in schema
            items += _variants(schema["items"]) if plain else [{}]
        while True:
            self.value(items)
            self.space()
            if self._peek() == "]":
                self._at += 1
                return
            self._expect(",", "a comma or the array's end must follow an item")

    def _string(self, allowed: list[str] | None) -> str:
        """Parse a string and return its value. If `allowed` is given, the value must be in it."""
        begin = self._at
        self._at += 1
        while True:
            if self._at >= len(self._text):
                self._check_begun(begin, allowed)
                raise _Over
            char = self._text[self._at]
            if char == '"':
                self._at += 1
                break
            if ord(char) < 0x20:
                self.wrong("a control character in a string must be escaped")
            self._at += 1
            if char == "\\":
                escape = self._peek()
                if escape == "u":
                    self._at += 1
                    for _ in range(4):
                        if self._peek() not in _HEX:
                            self.wrong("this is not an escape sequence of JSON")
                        self._at += 1
                elif escape in _ESCAPES:
                    self._at += 1
                else:
                    self.wrong("this is not an escape sequence of JSON")
        text: str = json.loads(self._text[begin : self._at])
        if allowed is not None and text not in allowed:
            raise _Wrong(f"the schema does not have the name or value that ends at character {self._at}")
        return text

    def _check_begun(self, begin: int, allowed: list[str] | None) -> None:
        text = self._text[begin + 1 :]
        if allowed is None or "\\" in text:
            return
        if not any(one.startswith(text) for one in allowed):
            raise _Wrong(f"the schema has no name or value that begins like the one at character {begin + 1}")

    def _number(self) -> None:
        rest = self._text[self._at :]
        if (begun := _NUMBER_BEGUN.match(rest)) and begun.end() == len(rest):
            raise _Over
        found = _NUMBER.match(rest)
        if found is None:
            raise _Wrong(f"no JSON value begins like this (character {self._at + 1})")
        self._at += found.end()

    def _word(self, word: str) -> None:
        for char in word:
            self._expect(char, "no JSON value begins like this")

    def _expect(self, char: str, why: str) -> None:
        if self._peek() != char:
            self.wrong(why)
        self._at += 1

    def _peek(self) -> str:
        if self._at >= len(self._text):
            raise _Over
        return self._text[self._at]


def _one(kind: str) -> str:
    return kind if kind == "null" else f"an {kind}" if kind[:1] in "ao" else f"a {kind}"


def _texts(variants: list[dict[str, Any]]) -> list[str] | None:
    """Return the strings that a value may be; None: any."""
    found: list[str] = []
    for schema in variants:
        if "const" in schema:
            values = [schema["const"]]
        elif isinstance(schema.get("enum"), list):
            values = schema["enum"]
        else:
            return None
        found += [one for one in values if isinstance(one, str)]
    return found


def _names(variants: list[dict[str, Any]]) -> list[str] | None:
    """Return the names that a member may have; None: any."""
    found: list[str] = []
    for schema in variants:
        closed = schema.get("additionalProperties") is False and not schema.get("patternProperties")
        if not closed or not isinstance(schema.get("properties", {}), dict):
            return None
        found += schema.get("properties", {})
    return found


def _member(schema: dict[str, Any], name: str) -> Any:
    properties = schema.get("properties")
    if isinstance(properties, dict) and name in properties and not schema.get("patternProperties"):
        return properties[name]
    return {}
