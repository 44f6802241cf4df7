"""Views: what an adapter says about a model. The model itself is never wrapped or renamed."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from sigprune.base.errors import BadInput, DataError, SigpruneError, UnknownName, one_line
from sigprune.base.readonly import ReadOnlyDict
from sigprune.base.renamed import old_method
from sigprune.base.tensors import Tensors, is_sharded, tally
from sigprune.values.batch import Batch, BatchLike, as_batch
from sigprune.values.layout import Shape
from sigprune.values.origin import WeightsOrigin, origin_of
from sigprune.values.recomputation import (
    DETACHED,
    CallbackModule,
    SelfContained,
    add_gradient_,
    other_gradients_unchanged,
)
from sigprune.values.weight import Weight

BatchNormMode = Literal["fresh", "eval", "batch"]
HeadPolicy = Literal["dense", "prune"]
Reason = Literal[
    "bias",
    "norm scale",
    "norm shift",
    "gate",
    "position table",
    "token",
    "router",
    "state",
    "vector",
    "fixed table",
    "parametrised",
    "other",
]
"""Why a parameter is no weight. ``router``: chooses experts or mixes residual streams; ``state``: decay of a
recurrence, entry by entry; ``fixed table``: positions, computed (sines and cosines) or frozen;
``parametrised``: what a parametrisation that sigprune does not know makes a matrix of (one of one's own,
several at once, torch.nn.utils.prune); ``other``: not known to act as a matrix.
"""


@dataclass(frozen=True)
class Gate:
    """A scale that multiplies a residual branch: a LayerScale, a ReZero gain, the last norm of a branch.

    Attributes:
        name: state-dict key of the scale.
        value: its largest absolute entry when the view was made; NaN on the meta device.
    """

    name: str
    value: float

    @property
    def closed(self) -> bool:
        """Whether the branch behind it gets (almost) no signal."""
        return not self.value > 0.1


@dataclass(frozen=True, eq=False, repr=False)
class View:
    """An immutable description in which every parameter is a Weight or skipped with a reason.

    ``weights`` and ``skipped`` are disjoint and cover every name of ``module.named_parameters()``, also with
    ``remove_duplicate=False``: tied copies of weights appear in :attr:`Weight.tied`, those of others in
    ``skipped``. Forward passes through a view run in evaluation mode and leave the
    module's mode, hooks, gradients, buffers and the random state as they were.

    Attributes:
        module: the model; its current parameters are the current values of the weights.
        library: the adapter that made the view (``torch``, ``timm``, ``transformers``).
        architecture: the library's name of the architecture, or the class name.
        weights: in order of definition.
        skipped: parameter name -> reason; second names of tied parameters too.
        gates: scales that can close a residual branch.
        example: a valid batch without labels; shows input shapes and dtypes.
        input_name: the name that the model's ``forward`` gives its main input.
        read_output: picks the tensor of interest (logits, else features) out of what the model returns.
        embed: for token models, turns a batch of ids into one of floating-point embeddings.
        prunable: names that pruning may touch: weights and, if asked for, biases.
        left_out: parametrised names (see :data:`Reason`) that the caller has excluded by name.
        portable: a context in which every kernel takes every dtype and has every derivative, and no state is
            kept for later calls; forward passes run in it.
        placeholders: ids that hold places in a text for rows of another tower (images, sounds). Models that
            are given embeddings find these places by comparing them with those of the ids.
        batchnorm: how BatchNorm behaves in forward passes through the view. ``fresh``: initial statistics
            (mean 0, variance 1), as Lee et al. 2020 score and measure; ``eval``: the stored statistics;
            ``batch``: the statistics of the batch, so that what is measured depends on the batches.

    Example:
        >>> from sigprune import describe
        >>> view = describe(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)))
        >>> view.prunable, dict(view.skipped)
        (('0.weight', '2.weight'), {'0.bias': 'bias', '2.bias': 'bias'})
        >>> view.select(exclude=("head",)).prunable
        ('0.weight',)
    """

    module: nn.Module
    library: str
    architecture: str
    weights: tuple[Weight, ...]
    skipped: Mapping[str, Reason]
    gates: tuple[Gate, ...]
    example: Batch
    input_name: str
    read_output: Callable[[object], Tensor]
    embed: Callable[[Batch], Batch] | None = None
    prunable: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    batchnorm: BatchNormMode = "fresh"
    portable: Callable[[], AbstractContextManager[None]] = nullcontext
    placeholders: frozenset[int] = frozenset()

    def __repr__(self) -> str:
        origin = "" if self.weights_origin == "unknown" else f"{self.weights_origin} "
        return (
            f"View({self.architecture} of {self.library}: {len(self.weights)} {origin}weights, "
            f"{len(self.prunable)} prunable, {len(self.reasons())} parameters skipped, "
            f"{len(self.gates)} gates)"
        )

    def __getitem__(self, name: str) -> Weight:
        """The weight of that name (or tied name).

        Raises:
            UnknownName: no weight has it.
        """
        for weight in self.weights:
            if name == weight.name or name in weight.tied:
                return weight
        raise UnknownName("weight", name, [w.name for w in self.weights])

    @property
    def weights_origin(self) -> WeightsOrigin:
        """Where the module's weights come from, as they are now: ``fresh``, ``pretrained`` or ``unknown``.

        ``open_model``, ``load``, ``reinit_`` and training by a recipe say so, as ``from_pretrained`` of
        transformers does; of other models ``describe(model, weights_origin=...)`` can. Defaults depend on it:
        what pruning may touch (:meth:`select`), and how entries are compared (:func:`sigprune.prune`).
        """
        return origin_of(self.module)

    def params(self) -> Tensors:
        """Every parameter by its canonical name, detached; shares storage with the module."""
        return {name: p.detach() for name, p in self.module.named_parameters()}

    def reasons(self) -> dict[str, Reason]:
        """Canonical name -> why that parameter is skipped: each parameter once, whatever names it has."""
        names = (name for name, _ in self.module.named_parameters())
        return {name: self.skipped[name] for name in names if name in self.skipped}

    def parametrised(self) -> tuple[str, ...]:
        """Matrices behind parametrisations that sigprune does not know, but for those that are left out."""
        found = (name for name, reason in self.reasons().items() if reason == "parametrised")
        return tuple(name for name in found if name not in self.left_out)

    def stages(self) -> tuple[str, ...]:
        """Coarse parts of the network that hold weights, in order of definition; each is a module's path."""
        return tuple(dict.fromkeys(weight.stage for weight in self.weights if weight.stage))

    def prunable_shapes(self) -> dict[str, Shape]:
        """Prunable name -> stored shape, in the order of ``prunable``."""
        shapes = {name: tuple(p.shape) for name, p in self.module.named_parameters()}
        return {name: shapes[name] for name in self.prunable}

    def select(
        self,
        *,
        include: tuple[str, ...] = ("*",),
        exclude: tuple[str, ...] = (),
        biases: bool = False,
        heads: HeadPolicy | None = None,
    ) -> View:
        """The same view with another set of prunable names.

        Args:
            include: shell patterns of weight names, roles or stages. ``*`` stands for all but embeddings
                (and heads that stay dense): these are pruned only if another pattern names them.
            exclude: shell patterns of weight names, roles or stages that stay dense; ``first`` is the first
                weight that is no embedding. Parametrised weights are excluded by their parameters' names.
            biases: also prune the biases of the chosen weights. A zero bias has a zero score, so that
                biases then go first (Lee et al. 2020 prune them).
            heads: ``dense`` leaves the classifier or the output layer of a language model alone, as Sun et
                al. 2024 and Frantar & Alistarh 2023 do: each of its rows is all that a class or token has.
                None: ``dense`` if the weights are pretrained, else ``prune``.

        Raises:
            BadInput: a pattern matches nothing, or nothing is left.
            UnknownName: there is no such policy of heads.
        """
        if heads is None:
            heads = "dense" if self.weights_origin == "pretrained" else "prune"
        if heads not in get_args(HeadPolicy):
            raise UnknownName("policy of heads", heads, get_args(HeadPolicy))
        hidden = [name for name, reason in self.skipped.items() if reason == "parametrised"]
        left_out = [name for name in hidden if any(fnmatchcase(name, p) for p in exclude)]
        for pattern in (*include, *exclude):
            known = any(self._matches(w, pattern) for w in self.weights)
            if not known and not any(fnmatchcase(name, pattern) for name in left_out):
                raise BadInput(f"the pattern {pattern!r} matches no weight name, no role and no stage")
        apart = {"embedding"} | ({"head"} if heads == "dense" else set())
        chosen = [
            w
            for w in self.weights
            if any(self._matches(w, p) for p in include if p != "*" or w.role not in apart)
            and not any(self._matches(w, p) for p in exclude)
        ]
        if not chosen:
            raise BadInput("no weight is left to prune")
        names = [w.name for w in chosen] + [w.bias for w in chosen if biases and w.bias is not None]
        if "*" not in include:
            left_out += [name for name in hidden if not any(fnmatchcase(name, p) for p in include)]
        return replace(self, prunable=tuple(names), left_out=tuple(dict.fromkeys(left_out)))

    def _matches(self, weight: Weight, pattern: str) -> bool:
        if pattern == "first":
            return weight is next((w for w in self.weights if w.role != "embedding"), None)
        return any(
            fnmatchcase(word, pattern) for word in (weight.name, weight.role, weight.stage, *weight.tied)
        )

    def using(self, batchnorm: BatchNormMode) -> View:
        """The same view with another BatchNorm mode.

        Raises:
            UnknownName: there is no such mode.
        """
        if batchnorm not in get_args(BatchNormMode):
            raise UnknownName("BatchNorm mode", batchnorm, get_args(BatchNormMode))
        return replace(self, batchnorm=batchnorm)

    def read(self, item: BatchLike) -> Batch:
        """What a data loader yields, as a Batch on the device and in the dtype of the module.

        Raises:
            DataError: it is no batch, names an input that the model does not take, or holds NaN or infinity
                (-inf is one in the main input only: elsewhere masks are added so).
        """
        parameter = next(self.module.parameters())
        batch = as_batch(item, self.input_name)
        self._expect_names(batch)
        for name, tensor in batch.inputs.items():
            self._expect_finite(name, tensor)
        return batch.to(parameter.device, parameter.dtype)

    def _expect_names(self, batch: Batch) -> None:
        accepted = inspect.signature(self.module.forward).parameters
        if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in accepted.values()):
            return
        for name in batch.inputs:
            if name not in accepted:
                known = UnknownName(f"input of {self.architecture}", name, accepted)
                raise DataError(f"a batch: {known}")

    def _expect_finite(self, name: str, tensor: Tensor) -> None:
        if not tensor.is_floating_point():
            return
        finite = tensor.isfinite()
        if name != self.input_name:
            finite = finite.logical_or_(tensor == -torch.inf)
        if not bool(finite.all()):
            odd = tensor.numel() - tally(finite)
            raise DataError(
                f"a batch: {name} holds {odd} of {tensor.numel()} values that are NaN or infinite"
            )

    def forward(self, params: Mapping[str, Tensor], batch: Batch, *, differentiated: bool = True) -> Tensor:
        """The model's output (logits, else features) for the given parameters.

        Activation checkpointing is off: the graph of the output keeps what its derivatives need, whatever the
        parameters are by then.

        Args:
            params: any subset of the parameters, by canonical name; the module's own serve for the rest.
                A buffer may be among them: then it stands for the one that the view would use.
            batch: inputs on the parameters' device.
            differentiated: whether derivatives of the output will be asked for, if gradients are enabled.

        Raises:
            UnsupportedModel: there would be derivatives, and a part of the network runs again for its own.
        """
        graph = SelfContained({**dict(self.module.named_parameters()), **params})
        watched = graph if torch.is_grad_enabled() else nullcontext()
        with self.eval_mode(), self.portable(), self._explaining(batch):
            tensors = {**self._buffers(params, batch), **params}
            with warnings.catch_warnings(), watched:
                warnings.filterwarnings("ignore", DETACHED)  # an error says so where it matters
                output = self.read_output(functional_call(self.module, tensors, (), dict(batch.inputs)))
        if differentiated:
            graph.expect_nothing_hidden(self.architecture)
        return output

    def embedded(self, params: Mapping[str, Tensor], batch: Batch) -> Batch:
        """A batch of ids as one of embeddings, looked up in the given parameters; others as they are."""
        embed = self.embed
        if embed is None:
            return batch
        tensors = {f"module.{name}": t for name, t in {**self._buffers(params, batch), **params}.items()}
        return cast(Batch, functional_call(CallbackModule(self.module), tensors, (lambda: embed(batch),)))

    def places(self, batch: Batch) -> Tensor | None:
        """Which ids of a batch hold places, boolean (examples, tokens, 1); None where it has no ids."""
        ids = batch.inputs.get(self.input_name)
        if ids is None or ids.is_floating_point():
            return None
        return torch.isin(ids, ids.new_tensor(sorted(self.placeholders))).unsqueeze(-1)

    def backward_(self, params: Tensors, batch: Batch, aim: Callable[[Tensor], Tensor]) -> Tensor:
        """Add the gradient of ``aim(output)`` to ``.grad`` of those parameters that require one.

        One forward and one backward pass. The parameters stay in place until the backward pass is over, so
        that checkpointed parts, which then run again, meet the same ones. No other tensor gets a gradient.

        Args:
            params: name -> leaf, of every parameter.
            batch: inputs on the parameters' device.
            aim: of the output, a scalar.

        Returns:
            The scalar, detached.
        """
        with self.eval_mode(), self.portable():
            try:
                with warnings.catch_warnings():
                    warnings.filterwarnings("error", DETACHED)
                    return self._backward(params, batch, aim)
            except UserWarning as warning:
                if not str(warning).startswith(DETACHED):
                    raise
            # a checkpointed part without differentiable input is cut off: give it one, as training would
            inputs = {
                k: x.detach().requires_grad_() if x.is_floating_point() else x
                for k, x in batch.inputs.items()
            }
            everything = {
                k: t.detach().requires_grad_() if t.is_floating_point() else t for k, t in params.items()
            }
            value = self._backward(everything, replace(batch, inputs=inputs), aim)
            for name, tensor in params.items():
                add_gradient_(tensor, everything[name].grad)
            return value

    def _backward(self, params: Tensors, batch: Batch, aim: Callable[[Tensor], Tensor]) -> Tensor:
        whole = CallbackModule(self.module)

        def run() -> Tensor:
            with self._explaining(batch):
                output = self.module(**batch.inputs)
            value = aim(self.read_output(output))
            if value.requires_grad:  # else no parameter reaches it, and all gradients are zero
                with other_gradients_unchanged(value, params.values()):
                    # no ``inputs``: checkpointing with use_reentrant=True does not take them
                    torch.autograd.backward(value)
            return value.detach()

        tensors = {f"module.{name}": t for name, t in {**self._buffers(params, batch), **params}.items()}
        return cast(Tensor, functional_call(whole, tensors, (run,)))

    @contextmanager
    def _explaining(self, batch: Batch) -> Iterator[None]:
        """An error of the model gets the batch in front, if the example has other names, dtypes or sizes."""
        try:
            yield
        except (SigpruneError, NotImplementedError, torch.OutOfMemoryError):
            raise
        except (RuntimeError, TypeError, ValueError, LookupError, AssertionError) as error:
            given, known = _sizes(batch), _sizes(self.example)
            unlike = [name for name in {**given, **known} if given.get(name) != known.get(name)]
            if not unlike:
                raise
            name = unlike[0]
            raise DataError(
                f"{self.architecture} cannot take this batch: input {name}: {given.get(name, 'none')}, "
                f"the view's example: {known.get(name, 'none')}; {one_line(error)}"
            ) from error

    @contextmanager
    def eval_mode(self) -> Iterator[None]:
        """Evaluation mode (BatchNorm as ``batchnorm`` says) for a while; restores every module's mode.

        ``train()`` comes first and last: modules that cache tensors in evaluation mode (LeViT's attention
        biases, for example) forget them there, so that none of other parameters is used or left behind.
        Gradient checkpointing of timm is off as well (that of transformers is, in evaluation mode): what it
        computes again in the backward pass would be computed with the module's own parameters.
        """
        again = [m for m in self.module.modules() if vars(m).get("grad_checkpointing") is True]
        modes = [(m, m.training) for m in self.module.modules()]
        try:
            self.module.train()
            self.module.eval()
            for module in again:
                vars(module)["grad_checkpointing"] = False
            for module, _ in modes:
                module.training = self.batchnorm == "batch" and isinstance(module, _BatchNorm)
            yield
        finally:
            self.module.train()
            for module, training in modes:
                module.training = training
            for module in again:
                vars(module)["grad_checkpointing"] = True

    probing = old_method("View.probing", "eval_mode")

    def _buffers(self, params: Mapping[str, Tensor], batch: Batch) -> Tensors:
        """Stand-ins for buffers, so that the module's own statistics are neither used nor changed.

        Where parameters come in another dtype than the module's, its other buffers follow them.
        """
        own = {name: p.dtype for name, p in self.module.named_parameters()}
        casts = {own[name]: p.dtype for name, p in params.items() if name in own and own[name] != p.dtype}
        cast = {n: b.to(casts[b.dtype]) for n, b in self.module.named_buffers() if b.dtype in casts}
        return cast | self._statistics(batch)

    def _statistics(self, batch: Batch) -> Tensors:
        dtype = next((t.dtype for t in batch.inputs.values() if t.is_floating_point()), None)
        stats: Tensors = {}
        for prefix, module in self.module.named_modules():
            if not isinstance(module, _BatchNorm) or module.running_mean is None:
                continue
            for key, buffer in module.named_buffers(recurse=False):
                value = buffer.detach().clone()
                if buffer.is_floating_point():
                    value = value.to(dtype or value.dtype)
                    if self.batchnorm == "fresh":
                        value.fill_(1.0 if key == "running_var" else 0.0)
                stats[f"{prefix}.{key}" if prefix else key] = value
        return stats


def _sizes(batch: Batch) -> dict[str, str]:
    """Input -> its dtype and the sizes of its axes after the first, which counts examples."""
    return {
        name: f"{str(t.dtype).removeprefix('torch.')} ({', '.join(['*', *map(str, t.shape[1:])])})"
        for name, t in batch.inputs.items()
    }


def expect_view(thing: object, *, values: bool = True, sharded: bool = False) -> None:
    """What verbs say to a model that was not described, or whose values are not in this process.

    Args:
        thing: what the verb was given.
        values: the verb reads or writes values, so that every tensor of the model must have some.
        sharded: the verb can do with the part of each tensor that this process holds (DTensor).

    Raises:
        BadInput: it is no view, or tensors are on the meta device or sharded.
    """
    if not isinstance(thing, View):
        raise BadInput(f"expected a View, got {type(thing).__name__}; make one first: view = describe(model)")
    if not values:
        return
    tensors = {**dict(thing.module.named_parameters()), **dict(thing.module.named_buffers())}
    absent = [name for name, tensor in tensors.items() if tensor.is_meta]
    if absent:
        raise BadInput(
            f"{len(absent)} of {len(tensors)} tensors of {thing.architecture} have no values, first "
            f"{absent[0]}: they are on the meta device. Where accelerate offloaded them (cpu_offload, "
            "device_map), open the model without it, or accelerate.hooks.remove_hook_from_submodules(model) "
            "brings back what memory holds; where it was built on meta, load its weights"
        )
    parts = [] if sharded else [name for name, tensor in tensors.items() if is_sharded(tensor)]
    if parts:
        raise BadInput(
            f"{len(parts)} of {len(tensors)} tensors of {thing.architecture} are sharded, first {parts[0]}: "
            "this process holds a part of each. Do this before fully_shard; hold and apply_ work after it too"
        )


def expect_no_parametrised(view: View) -> None:
    """What treats all weights says to those that it cannot see, so that nothing is done to the rest alone.

    Raises:
        BadInput: weights are behind a parametrisation that sigprune does not know, and were not excluded.
    """
    hidden = view.parametrised()
    if not hidden:
        return
    path, _, local = hidden[0].rpartition(".")
    owner, listed, tensor = path.rpartition("parametrizations.")
    if listed:
        kinds = "+".join(type(m).__name__ for m in view.module.get_submodule(path).children())
        remedy = f"torch.nn.utils.parametrize.remove_parametrizations(module, {tensor!r}) makes it plain"
    else:
        kinds, owner, tensor = "torch.nn.utils.prune", path, local.removesuffix("_orig")
        remedy = (
            "Mask.from_torch_prune(model) takes its masks over, after which "
            f"torch.nn.utils.prune.remove(module, {tensor!r}) makes it plain"
        )
    raise BadInput(
        f"{len(hidden)} weights of {view.architecture} are made by a parametrisation that sigprune does not "
        f"know, first the {tensor} of {owner.rstrip('.') or 'the model'} ({kinds}), so that only the rest "
        f"would be treated: {remedy}; or exclude it by name: describe(model, exclude=({hidden[0]!r},))"
    )


def empty_filter(view: View, tensors: Mapping[str, Tensor]) -> str | None:
    """What is wrong with the first weight that is divided by a norm that is zero; None if none is.

    Args:
        view: the network.
        tensors: at least its weights by name.
    """
    for weight in view.weights:
        if weight.divided is not None and (empty := weight.empty_filters(tensors[weight.name] != 0)):
            return (
                f"{weight.name}: {empty} of {weight.filters} filters are all zero, and its module divides "
                "each by its norm, so that the output is NaN: keep an entry of each"
            )
    return None


def readonly(reasons: dict[str, Reason]) -> Mapping[str, Reason]:
    """A mapping that cannot be changed, for :attr:`View.skipped`."""
    return ReadOnlyDict(reasons)
