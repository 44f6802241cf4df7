"""Families: the folder is the registry, the module is the member, a Protocol is the contract.

A family is a package such as ``sigprune.families.scores``. Every module in it that does not start with an
underscore is a member; third-party members are entry points of the group ``sigprune.<family>`` that name a
module. A member is one module with one function, named by the family (``score`` for scores); the function's
keyword-only parameters are the member's options. Names, summaries and options are read from the source text,
so that listing members and checking a recipe import neither the member nor torch.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from inspect import Parameter, signature
from pathlib import Path
from types import ModuleType
from typing import Annotated, Generic, Literal, TypeAlias, TypeVar, cast

from annotated_types import Ge, Gt, Le

from sigprune.base.errors import BadInput, RecipeError, UnknownName
from sigprune.base.readonly import ReadOnlyDict
from sigprune.base.renamed import old_names, renamed_options

JsonValue: TypeAlias = bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"] | None
P = TypeVar("P")

Count: TypeAlias = Annotated[int, Ge(1), Le(2**31 - 1)]
"""The type of an option that counts something."""

Positive: TypeAlias = Annotated[float, Gt(0)]
"""The type of an option that scales something."""

Share: TypeAlias = Annotated[float, Ge(0), Le(1)]
"""The type of an option that is a part of a whole."""

_ANNOTATIONS = {
    "bool": bool, "int": int, "float": float, "str": str, "list": list, "Literal": Literal,
    "Count": Count, "Positive": Positive, "Share": Share,
}  # fmt: skip
_OLD_GROUPS = ReadOnlyDict({"repairs": "isometries"})
"""Families whose entry points had another group until 0.2; those of the old one are still members."""

_WORDS = ReadOnlyDict({"Count": "int >= 1", "Positive": "float > 0", "Share": "float in [0, 1]"})


@dataclass(frozen=True)
class MemberSpec:
    """A member's name and the options it is given.

    Example:
        >>> MemberSpec("orthogonal", {"gain": 1.5})
        MemberSpec(name='orthogonal', options={'gain': 1.5})
    """

    name: str
    options: Mapping[str, JsonValue] = field(default_factory=dict)


@dataclass(frozen=True)
class Option:
    """One option of a member: its annotation as written, and its default (``required`` if it has none)."""

    name: str
    annotation: str
    default: JsonValue
    required: bool

    @property
    def type(self) -> str:
        """The annotation in words."""
        return _WORDS.get(self.annotation, self.annotation)


@dataclass(frozen=True)
class Member:
    """What the source text of a member says about it.

    Attributes:
        name: the module's name.
        summary: the first line of the module's docstring.
        options: the keyword-only parameters of the family's function.
        facts: the module's upper-case string constants (``NEEDS``, ``PAPER``, ...).
    """

    name: str
    summary: str
    options: Mapping[str, Option]
    facts: Mapping[str, str]


@dataclass(frozen=True)
class BoundMember(Generic[P]):
    """A member, imported, with a value for every option."""

    name: str
    member: P
    options: dict[str, JsonValue]


@dataclass(frozen=True)
class Family(Generic[P]):
    """The members of one folder.

    Attributes:
        package: the folder's import path, e.g. ``sigprune.families.scores``.
        singular: what one member is called in messages, e.g. ``score``.
        entry: the function that every member defines and whose keyword-only parameters are its options.
    """

    package: str
    singular: str
    entry: str

    @property
    def plural(self) -> str:
        """The folder's name."""
        return self.package.rpartition(".")[2]

    def names(self) -> tuple[str, ...]:
        """Every member's name, sorted; imports no member."""
        return tuple(sorted(_locations(self.package)))

    def read(self, name: str) -> Member:
        """What the source text says of a member, without importing it.

        Raises:
            UnknownName: there is no such member.
        """
        locations = _locations(self.package)
        if name not in locations:
            raise UnknownName(self.singular, name, locations)
        return _read(locations[name], name, self.entry)

    def get(self, name: str) -> P:
        """Import a member and check that it has the family's function.

        Raises:
            UnknownName: there is no such member.
            BadInput: the module does not define the family's function.
        """
        locations = _locations(self.package)
        if name not in locations:
            raise UnknownName(self.singular, name, locations)
        return self._checked(importlib.import_module(locations[name]))

    def _checked(self, module: ModuleType) -> P:
        if not callable(vars(module).get(self.entry)):
            raise BadInput(f"{module.__name__} is no {self.singular}: it defines no function {self.entry}()")
        return cast(P, module)

    def resolve(self, step: str | MemberSpec, path: str = "") -> MemberSpec:
        """The same step with every option given a value, checked against the member's signature.

        Args:
            step: a member's name, or a MemberSpec.
            path: where the step stands in a recipe; starts the error messages.

        Raises:
            RecipeError: an option that the member does not have, misses, or cannot take.
            UnknownName: there is no such member.
        """
        if isinstance(step, str):
            step = MemberSpec(step)
        if not isinstance(step, MemberSpec):
            raise BadInput(f"{self.plural}: expected a name, or MemberSpec(name, options), got {step!r}")
        where = f"{path or self.plural}.{step.name}"
        known, given = self.read(step.name).options, renamed_options(step.options)
        for key in given:
            if key not in known:
                hint = UnknownName("option", key, known) if known else f"it takes no options, got {key!r}"
                raise RecipeError(f"{where}: {hint}")
        return MemberSpec(step.name, {o.name: _value(o, given, where) for o in known.values()})

    def choose(self, step: str | MemberSpec | ModuleType, path: str = "") -> BoundMember[P]:
        """Resolve a step and import its member; a module is taken as it is, with its default options.

        Raises:
            RecipeError: as :meth:`resolve`; or a module with an option that has no default.
            UnknownName: as :meth:`resolve`.
            BadInput: as :meth:`get`.
        """
        if isinstance(step, ModuleType):
            member, own = self._checked(step), signature(vars(step)[self.entry]).parameters.values()
            options = {p.name: p.default for p in own if p.kind is Parameter.KEYWORD_ONLY}
            if Parameter.empty in options.values():
                raise RecipeError(f"{step.__name__}: an option has no default; name the member, with options")
            return BoundMember(step.__name__.rpartition(".")[2], member, options)
        resolved = self.resolve(step, path)
        return BoundMember(resolved.name, self.get(resolved.name), dict(resolved.options))


@cache
def _locations(package: str) -> Mapping[str, str]:
    """Member name -> import path, for the folder's own modules and the entry points."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.submodule_search_locations is None:
        raise BadInput(f"{package} is not a package")
    found = pkgutil.iter_modules(spec.submodule_search_locations)
    own = {m.name: f"{package}.{m.name}" for m in found if not m.name.startswith("_")}
    plural = package.rpartition(".")[2]
    groups = (_OLD_GROUPS.get(plural, plural), plural)
    others = {e.name: e.module for group in groups for e in entry_points(group=f"sigprune.{group}")}
    return ReadOnlyDict(others | own)


@cache
def _read(module: str, name: str, entry: str) -> Member:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise BadInput(f"{module}: no source file to read the options of {name!r} from")
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    functions = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == entry]
    if not functions:
        raise BadInput(f"{spec.origin} is no member: it defines no function {entry}()")
    arguments = functions[0].args
    pairs = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    options = {a.arg: _option(a, default) for a, default in pairs}
    summary = (ast.get_docstring(tree) or "").partition("\n")[0]
    return Member(name, summary, ReadOnlyDict(options), ReadOnlyDict(_facts(tree)))


def _option(argument: ast.arg, default: ast.expr | None) -> Option:
    annotation = ast.unparse(argument.annotation) if argument.annotation else "str"
    value = None if default is None else cast(JsonValue, ast.literal_eval(default))
    return Option(argument.arg, annotation, value, required=default is None)


def _facts(tree: ast.Module) -> dict[str, str]:
    """Upper-case string constants at the top level, annotated or not."""
    facts = {}
    for node in tree.body:
        target: ast.expr | None = node.target if isinstance(node, ast.AnnAssign) else None
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target = node.targets[0]
        value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
        if isinstance(target, ast.Name) and target.id.isupper() and isinstance(value, ast.Constant):
            facts[target.id] = str(value.value)
    return facts


def _value(option: Option, given: Mapping[str, JsonValue], where: str) -> JsonValue:
    """The option's value, converted as its annotation says (an integer is a float, a string is no number)."""
    if option.name not in given:
        if option.required:
            raise RecipeError(f"{where}.{option.name}: expected a value of type {option.type}, got none")
        return option.default
    from pydantic import TypeAdapter, ValidationError

    annotation = eval(option.annotation, {"__builtins__": {}}, dict(_ANNOTATIONS))
    value = given[option.name]
    try:
        return cast(JsonValue, TypeAdapter(annotation).validate_python(value, strict=True))
    except ValidationError as error:
        got = f"{value!r} ({type(value).__name__})"
        raise RecipeError(f"{where}.{option.name}: expected {option.type}, got {got}") from error


__getattr__ = old_names(__name__)
