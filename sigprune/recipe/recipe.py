"""Recipes: a whole experiment as data, in a closed world.

An unknown key is an error that names its path and the nearest key; every default is resolved in the copy that
is saved beside a result; a digest identifies the run. Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal, cast

from pydantic import Field, PrivateAttr, Strict, ValidationError, field_validator, model_validator

from sigprune.base.errors import RecipeError, UnknownName
from sigprune.base.registry import JsonValue, MemberSpec
from sigprune.families.repairs import repairs
from sigprune.families.scores import own_composition, scores
from sigprune.recipe.error_messages import explain
from sigprune.recipe.origin import Origin
from sigprune.recipe.sections import (
    LARGEST_COUNT,
    Bounds,
    Check,
    Data,
    Init,
    Measure,
    Model,
    Prune,
    Push,
    Save,
    Section,
    Train,
)
from sigprune.recipe.step_field import Choose
from sigprune.recipe.yaml_io import DEEPEST, LONGEST_NAME, dumps, find, keys_of, override, read, shipped
from sigprune.values.finding import BOUNDS, Bound

__all__ = ["FINDINGS", "Recipe", "load_recipe", "override", "parse_recipe", "shipped"]

FINDINGS: tuple[str, ...] = tuple(BOUNDS)
"""Names that the section ``verify`` may hold."""


class Recipe(Section):
    """A whole experiment. :func:`load_recipe` and :func:`parse_recipe` make one.

    Attributes:
        name: names the output folder.
        seed: all randomness follows from it.
        device: where to run; ``auto`` takes CUDA where there is one.
        model: the network.
        data: the examples.
        init: fresh values before pruning.
        measure: how singular values are found.
        verify: finding name -> bounds; what is left out has its default (``sigprune.values.finding.BOUNDS``,
            which says what each value is). Bounds of ``effective_sparsity`` are relative to ``sparsity``.
        prune: how the mask is chosen.
        isometry: what is done to the kept entries before training, a member of the repairs family; null:
            nothing (the default if ``model.pretrained``).
        train: how the network is trained.
        baselines: ``dense`` also trains the network before pruning, under the same plan.
        checks: sanity checks, each a run of its own with one thing changed (``sigprune check`` lists them).
        save: how the packed file is written.
        push: where the finished folder is sent.

    Example:
        >>> recipe = parse_recipe({"model": {"ref": "timm:test_resnet"}, "prune": {"sparsity": 0.95}})
        >>> recipe.prune.sparsity, recipe.prune.score.name
        (0.95, 'snip')
    """

    name: str = Field(default="recipe", max_length=LONGEST_NAME, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: int = Field(default=0, ge=0, lt=2**63)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    model: Model
    data: Data = Data()
    init: Init = Init()
    measure: Measure = Measure()
    verify: dict[str, Bounds] = Field(default={})
    prune: Prune = Prune()
    isometry: Annotated[MemberSpec, Choose(repairs, "isometry", "lbfgs")] | None = MemberSpec("lbfgs")
    train: Train = Train()
    checks: Annotated[tuple[Check, ...], Strict(strict=False)] = ()
    baselines: Annotated[tuple[Literal["dense"], ...], Strict(strict=False)] = ("dense",)
    save: Save = Save()
    push: Push = Push()
    _origin: Origin = PrivateAttr(default=Origin())

    @property
    def origin(self) -> Origin:
        """Whose word the values are: a file's, or the caller's own."""
        return self._origin

    def consented(self) -> Recipe:
        """A copy with the caller's consent to everything that its file asks for (``--trust``)."""
        return self._from(self.origin.consent())

    def _from(self, origin: Origin) -> Recipe:
        copy = self.model_copy()
        copy._origin = origin
        return copy

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, data: object) -> object:
        """Defaults that depend on another section."""
        if not isinstance(data, Mapping):
            return data
        filled = {
            k: v.model_dump(exclude_unset=True) if isinstance(v, Section) else v for k, v in data.items()
        }
        pretrained = _value(data, "model", "pretrained") is True
        if pretrained:
            filled.setdefault("isometry", None)
            filled["init"] = _with(filled.get("init", {}), "method", None)
            filled["model"] = _with(filled["model"], "batchnorm", "eval")
        size = _value(data, "data", "batch_size")
        prune = filled.get("prune", {})
        if isinstance(prune, Mapping) and prune.get("batch_size") is None:
            rest = {key: value for key, value in prune.items() if key != "batch_size"}
            # what is no size is an error of data.batch_size, and not of prune.batch_size too
            filled["prune"] = {**rest, "batch_size": size} if _is_count(size) else rest
        if isinstance(filled.get("prune"), Mapping):
            kept = pretrained and _value(filled, "init", "method") is None
            filled["prune"] = _composed(filled["prune"], "pretrained" if kept else "fresh")
        return filled

    @field_validator("verify", mode="before")
    @classmethod
    def _merge_bounds(cls, value: object) -> object:
        if not isinstance(value, Mapping):
            return value
        for name in value:
            if name not in BOUNDS:
                raise ValueError(f"verify.{name}: {UnknownName('finding', str(name), FINDINGS)}")
        defaults = {name: _plain_bound(bound) for name, bound in BOUNDS.items()}
        given = {name: defaults[name] | dict(v) if isinstance(v, Mapping) else v for name, v in value.items()}
        return defaults | given

    def bounds(self) -> dict[str, Bound]:
        """Finding name -> the bounds it must keep."""
        return {
            name: Bound(
                -math.inf if b.low is None else b.low, math.inf if b.high is None else b.high, b.required
            )
            for name, b in self.verify.items()
        }

    def resolved(self) -> dict[str, JsonValue]:
        """Plain data with every default and every option of every step; parsing it gives an equal recipe."""
        return cast(dict[str, JsonValue], self.model_dump(mode="json"))

    def to_yaml(self) -> str:
        """The canonical text of :meth:`resolved`."""
        return dumps(self.resolved())

    def __eq__(self, other: object) -> bool:
        """Whether they are the same experiment, wherever they come from."""
        return self.digest == other.digest if isinstance(other, Recipe) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON of :meth:`resolved`: equal experiments, however they are spelled."""
        text = json.dumps(self.resolved(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()


def parse_recipe(data: Mapping[str, JsonValue], origin: str = "") -> Recipe:
    """Check plain data and resolve every default.

    Args:
        data: sections, as YAML or JSON would give them.
        origin: where they come from, for messages.

    Raises:
        RecipeError: one line with every problem; it starts with the path of the first wrong value.

    Example:
        >>> parse_recipe({"model": {"ref": "timm:test_resnet"}, "prune": {"sparsty": 0.9}})
        Traceback (most recent call last):
        sigprune.base.errors.RecipeError: prune.sparsty: unknown key; did you mean sparsity?
    """
    where = f" (in {origin})" if origin else ""
    if not isinstance(data, Mapping):
        raise RecipeError(f"expected a mapping of sections, got {type(data).__name__}{where}")
    _check_depth(data, where)
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise RecipeError(explain(error, Recipe) + where) from error


def _check_depth(data: object, where: str) -> None:
    """What follows recurses into every level; here each is looked at once, whatever it shares."""
    level = {id(data): data}
    for _ in range(2 * DEEPEST):  # a setting may put so many levels below as many
        inside = [
            one.values() if isinstance(one, Mapping) else one
            for one in level.values()
            if isinstance(one, Mapping | list | tuple)
        ]
        level = {id(value): value for values in inside for value in values}
        if not level:
            return
    raise RecipeError(f"expected at most {2 * DEEPEST} levels of mappings and lists, got more{where}")


def load_recipe(ref: str | Path, settings: Sequence[str] = ()) -> Recipe:
    """Read, change and check a recipe.

    A file's recipe knows that it is one: carrying it out needs consent for whatever is more than data (see
    :mod:`sigprune.recipe.consent`). Shipped recipes are the package's own.

    Args:
        ref: the bare name of a shipped recipe (see :func:`shipped`), or the path of a YAML file.
        settings: ``path=value`` each, put in before anything is resolved.

    Raises:
        RecipeError: a file that cannot be read, or as :func:`parse_recipe`.
        UnknownName: a bare name that no shipped recipe has.

    Example:
        >>> load_recipe("quickstart", ["prune.sparsity=0.95"]).prune.sparsity
        0.95
    """
    recipe = parse_recipe(override(read(ref), settings), str(ref))
    file = find(ref)
    if file in shipped().values():
        return recipe
    return recipe._from(Origin.of_file(file, frozenset(map(keys_of, settings))))


def _value(data: Mapping[str, object], section: str, key: str) -> object:
    inside = data.get(section)
    if isinstance(inside, Mapping):
        return inside.get(key)
    return getattr(inside, key, None)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= LARGEST_COUNT


def _with(section: object, key: str, default: object) -> object:
    return {key: default, **section} if isinstance(section, Mapping) else section


def _composed(prune: Mapping[str, object], origin: str) -> dict[str, object]:
    """The section with the allocation, the pattern and the treatment of heads that fit score and weights."""
    filled, score = dict(prune), prune.get("score") or "snip"
    name = score.get("name", "snip") if isinstance(score, Mapping) else score
    if isinstance(name, str) and name in scores.names():
        steps = own_composition(scores.read(name).facts, origin)
        for key, step in zip(("allocation", "pattern"), steps, strict=True):
            value = prune.get(key)
            if value is None:
                filled[key] = step.name
            elif isinstance(value, Mapping):
                filled[key] = {"name": step.name, **value}
    if origin == "pretrained" and prune.get("heads") is None and prune.get("mask") is None:
        filled["heads"] = "dense"
    return filled


def _plain_bound(bound: Bound) -> dict[str, JsonValue]:
    values = asdict(bound)
    return {k: None if isinstance(v, float) and math.isinf(v) else v for k, v in values.items()}
