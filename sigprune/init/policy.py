"""What re-initialisation does to each part of a network, and why."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from types import ModuleType
from typing import Literal, get_args

from sigprune.base.errors import UnknownName
from sigprune.base.registry import BoundMember, MemberSpec
from sigprune.families.inits import Init, inits
from sigprune.values.view import Reason, View
from sigprune.values.weight import Weight

GatePolicy = Literal["open", "keep"]
NormPolicy = Literal["reset", "keep"]
Part = Literal["weights", "depthwise kernels", "heads", "embeddings", "biases", "norms", "gates"]
Chosen = str | MemberSpec | ModuleType | None

TABLES: tuple[Reason, ...] = ("position table", "token")
NORMS: tuple[Reason, ...] = ("norm scale", "norm shift")


@dataclass(frozen=True)
class InitPolicy:
    """Parts of a network that need not follow the initialiser of the rest.

    An initialiser is given as its name, a MemberSpec or a module. ``method`` means that of all other weights,
    and ``keep`` leaves the values alone.

    Attributes:
        depthwise: kernels of one channel each. ``method`` gives them norm 1 at gain 1: the mean square of
            their gain over all frequencies. Only a shifted delta has gain 1 at every frequency
            (``delta_orthogonal``), and its other taps are zero, so that no score can rank them.
        embedding: embedding tables, and with them position tables and tokens, that are added to what is
            looked up; None: N(0, 0.02²), as in BERT, GPT-2 and ViT, with fresh weights, ``keep`` with kept
            ones.
        head: classifiers. Their singular values are part of the Jacobian's like those of all others.
        norms: ``reset`` (scales 1, shifts 0, statistics fresh) or ``keep``; None: as the weights.

    Example:
        >>> from sigprune import InitPolicy, describe, open_model, reinit_
        >>> view = describe(open_model("timm:test_efficientnet"))
        >>> _ = reinit_(view, "orthogonal", policy=InitPolicy(depthwise="delta_orthogonal", head="keep"))
    """

    depthwise: Chosen = "method"
    embedding: Chosen = None
    head: Chosen = "method"
    norms: NormPolicy | None = None


@dataclass(frozen=True, eq=False)
class Treatment:
    """What happens to one part of a network.

    Attributes:
        part: the part.
        names: the parameters that belong to it.
        action: what is done, in a few words.
        reason: why.
        choice: the initialiser, for a part that is drawn.
        kept: whether it keeps its values.
    """

    part: Part
    names: tuple[str, ...]
    action: str
    reason: str
    choice: BoundMember[Init] | None = None

    @property
    def kept(self) -> bool:
        """Whether the values stay what they are."""
        return self.action == "kept"

    @property
    def gain(self) -> float:
        """The singular value that the initialiser gives; 1 where it knows no gain."""
        return float(str(self.choice.options.get("gain", 1.0))) if self.choice else 1.0


def treatments(
    view: View, init: Chosen, gates: GatePolicy = "open", policy: InitPolicy | None = None
) -> tuple[Treatment, ...]:
    """How each part of a network is treated; parts without parameters are left out.

    Args:
        view: the network.
        init: the initialiser of all weights that the policy does not name; None keeps them.
        gates: ``open`` or ``keep``.
        policy: other parts.

    Raises:
        UnknownName: there is no such initialiser, or no such policy for norms or gates.
    """
    policy = policy or InitPolicy()
    norms = policy.norms or ("keep" if init is None else "reset")
    for kind, value, known in (
        ("gate policy", gates, get_args(GatePolicy)),
        ("norm policy", norms, get_args(NormPolicy)),
    ):
        if value not in known:
            raise UnknownName(kind, value, known)
    table: Chosen = policy.embedding
    if table is None:
        table = "keep" if init is None else MemberSpec("normal", {"std": 0.02})
    names = _names(view)
    found = (
        _drawn("weights", names, init, init),
        _drawn("depthwise kernels", names, policy.depthwise, init),
        _drawn("heads", names, policy.head, init),
        _drawn("embeddings", names, table, init),
        Treatment("biases", _reset_biases(view, init, policy), *_BIAS_WORDS),
        Treatment("norms", names["norms"], *_NORM_WORDS[norms]),
        Treatment("gates", names["gates"], *_GATE_WORDS["trained" if init is None else "fresh", gates]),
    )
    return tuple(one for one in found if one.names or one.part == "norms")  # norms may have statistics alone


def part_of(weight: Weight) -> Part:
    """The part that a weight belongs to."""
    if weight.role == "head":
        return "heads"
    if weight.role == "embedding":
        return "embeddings"
    return "depthwise kernels" if weight.depthwise else "weights"


def _names(view: View) -> defaultdict[Part, tuple[str, ...]]:
    found: defaultdict[Part, list[str]] = defaultdict(list)
    for weight in view.weights:
        found[part_of(weight)].append(weight.name)
    for name, reason in view.reasons().items():
        if reason in TABLES:
            found["embeddings"].append(name)
        elif reason in NORMS:
            found["norms"].append(name)
    found["gates"] = [gate.name for gate in view.gates]
    return defaultdict(tuple, {part: tuple(names) for part, names in found.items()})


def _drawn(part: Part, names: defaultdict[Part, tuple[str, ...]], own: Chosen, method: Chosen) -> Treatment:
    chosen = method if own == "method" else own
    if chosen is None or _keeps(chosen):
        return Treatment(part, names[part], "kept", _KEPT)
    choice = inits.choose(chosen)
    options = ", ".join(f"{key} {value}" for key, value in choice.options.items())
    action = f"{choice.name} ({options})" if options else choice.name
    return Treatment(part, names[part], action, _DRAWN[part], choice)


def _reset_biases(view: View, init: Chosen, policy: InitPolicy) -> tuple[str, ...]:
    """Those of weights that get fresh values; those of no known weight go with the weights."""
    own: dict[Part, Chosen] = {"depthwise kernels": policy.depthwise, "heads": policy.head}
    chosen = {part: init if one == "method" else one for part, one in own.items()}
    source = {weight.bias: chosen.get(part_of(weight), init) for weight in view.weights}
    biases = (name for name, reason in view.reasons().items() if reason == "bias")
    return tuple(name for name in biases if not _keeps(source.get(name, init)))


def _keeps(chosen: Chosen) -> bool:
    return chosen is None or chosen == "keep"


_KEPT = "the recipe keeps the values"
_DRAWN: dict[Part, str] = {
    "weights": "block by block: each of q, k, v, each convolution group, each expert",
    "depthwise kernels": "a kernel of norm 1 has gain 1 in the mean square over frequencies; only a shifted "
    "delta has it at each, and its zeros could not be ranked",
    "heads": "the last layer is part of the input-output Jacobian",
    "embeddings": "with position tables and tokens, which are added to them: looked up, not multiplied by",
}
_BIAS_WORDS = ("0", "a constant shift moves no singular value of a linear layer")
_NORM_WORDS = {
    "reset": ("scale 1, shift 0, fresh statistics", "as at construction, whatever the weights were before"),
    "keep": ("kept", _KEPT),
}
_CLOSED = "behind a gate at 0 every gradient is zero, and no score could rank the weights"
_GATE_WORDS = {
    ("fresh", "open"): ("1", _CLOSED),
    ("trained", "open"): ("1 where constant and at most 0.1 in size", _CLOSED),
    ("fresh", "keep"): ("kept", _KEPT),
    ("trained", "keep"): ("kept", _KEPT),
}
