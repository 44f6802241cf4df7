"""Steps in a recipe: a member of a family by name, or a mapping with its name and options."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_core import CoreSchema, core_schema

from sigprune.base.errors import UnknownName
from sigprune.base.registry import Family, JsonValue, MemberSpec
from sigprune.recipe.error_messages import shown


@dataclass(frozen=True)
class Choose:
    """An annotation that reads a MemberSpec: a member's name, or a mapping with ``name`` and options.

    Attributes:
        family: whose member is named.
        path: where the step stands in a recipe.
        default: the member of a mapping without ``name``.
        words: values that stand for no member.
    """

    family: Family[Any]
    path: str
    default: str | None = None
    words: tuple[str, ...] = ()

    def read(self, value: object) -> MemberSpec | str:
        """The step with every option given a value.

        Raises:
            ValueError: no step, or one that the family refuses (pydantic turns it into a validation error).
        """
        step = value
        if isinstance(value, str) and self.words and value not in self.family.names():
            if value not in self.words:
                raise UnknownName(self.family.singular, value, (*self.words, *self.family.names()))
            return value
        if isinstance(value, Mapping):
            options = {key: option for key, option in value.items() if key != "name"}
            step = MemberSpec(value.get("name", self.default), options)
        elif isinstance(value, str):
            step = MemberSpec(value)
        if not isinstance(step, MemberSpec) or not isinstance(step.name, str):
            words = "".join(f"{word}, " for word in self.words)
            wanted = f"{words}a {self.family.singular} by name, or a mapping with name and options"
            # pydantic reports a ValueError with its path, and lets a TypeError through
            raise ValueError(f"{self.path}: expected {wanted}, got {shown(value)}")  # noqa: TRY004
        for key, option in step.options.items():
            if isinstance(option, float) and not math.isfinite(option):
                raise ValueError(f"{self.path}.{step.name}.{key}: expected a finite number, got {option}")
        return self.family.resolve(step, self.path)

    def __get_pydantic_core_schema__(self, source: object, handler: object) -> CoreSchema:
        write = core_schema.plain_serializer_function_ser_schema(_plain_step)
        return core_schema.no_info_plain_validator_function(self.read, serialization=write)


def _plain_step(step: MemberSpec | str) -> dict[str, JsonValue] | str:
    return step if isinstance(step, str) else {"name": step.name, **step.options}
