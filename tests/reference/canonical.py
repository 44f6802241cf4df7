"""Canonical JSON written from docs/format.md alone."""

from __future__ import annotations

import re

SHORT = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def canonical(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{quoted(key)}:{canonical(value[key])}" for key in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    if isinstance(value, str):
        return quoted(value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return number(value) if isinstance(value, float) else str(value)


def quoted(text: str) -> str:
    return '"' + "".join(SHORT.get(sign) or escaped(sign) for sign in text) + '"'


def escaped(sign: str) -> str:
    if 0x20 <= ord(sign) < 0x7F:
        return sign
    words = sign.encode("utf-16-be", "surrogatepass").hex()
    return "".join("\\u" + word for word in re.findall("....", words))


def number(value: float) -> str:
    """The fewest digits that give back the double."""
    tries = (f"{value:.{digits}e}" for digits in range(17))
    mantissa, power = next(text for text in tries if float(text) == value).split("e")
    if value == 0 or 1e-4 <= abs(value) < 1e16:
        places = len(mantissa.partition(".")[2]) - int(power)
        return f"{value:.{max(places, 1)}f}"
    return f"{mantissa}e{'-' if int(power) < 0 else '+'}{abs(int(power)):02d}"


def without_digest(text: str) -> tuple[str, str]:
    """The text without the digest on its outermost level, and that digest."""
    depth, place, inside = 0, 0, False
    while not (depth == 1 and not inside and text.startswith('"digest":', place)):
        sign = text[place]
        if sign == '"':
            inside = not inside
        depth += 0 if inside else (sign in "{[") - (sign in "}]")
        place += 2 if sign == "\\" else 1
    cut = text[place : place + len('"digest":"",') + 64]
    assert cut.endswith('",')
    return text[:place] + text[place + len(cut) :], cut[10:-2]
