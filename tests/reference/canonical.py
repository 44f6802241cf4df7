"""Canonical JSON written from docs/format.md alone."""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal

EXACT = Context(prec=2000)
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
    """The fewest digits that give back the double, and of those the nearest to it."""
    if value == 0:
        return f"{value:.1f}"
    exact = Decimal(value)
    for digits in range(17):
        place = Decimal((0, (1,), exact.adjusted() - digits))
        around = [exact.quantize(place, side, EXACT) for side in (ROUND_FLOOR, ROUND_CEILING)]
        found = [one for one in around if float(one) == value]
        if found:
            break
    # at equal distance the even one
    nearest = min(found, key=lambda one: (abs(EXACT.subtract(one, exact)), one.as_tuple().digits[-1] % 2))
    nearest = nearest.normalize()
    if 1e-4 <= abs(value) < 1e16:
        plain = f"{nearest:f}"
        return plain if "." in plain else f"{plain}.0"
    mantissa, power = f"{nearest:e}".split("e")
    return f"{mantissa}e{power[0]}{power[1:].zfill(2)}"


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
