"""Findings about networks that are well, dead, collapsed or exploding."""

from __future__ import annotations

import pytest
import torch

from sigprune.base.errors import FindingFailed, UnknownName
from sigprune.base.registry import MemberSpec
from sigprune.init.reinit import reinit_
from sigprune.models.opening import describe
from sigprune.propagation.findings import Evidence, judge, verify
from sigprune.propagation.measurement import measure
from sigprune.propagation.unranked import Unranked
from sigprune.pruning.choose import prune
from sigprune.values.finding import Bound
from sigprune.values.mask import Mask
from sigprune.values.operator import jacobian
from tests.support.networks import labelled, mlp

WORK = {"lanczos": "steps", "moments": "probes"}


@pytest.fixture
def view():
    view = describe(mlp(activation=None))
    reinit_(view)
    return view


def test_a_sound_network(view):
    findings = verify(view, labelled(view)[0], mask=prune(view, sparsity=0.2, score="random"))
    assert findings.ok
    assert {f.name for f in findings} >= {
        "finite_output",
        "mean_jsv",
        "condition_number",
        "collapsed_weights",
    }
    findings.require()


def test_bounds_replace_the_defaults(view):
    findings = verify(view, labelled(view)[0], {"mean_jsv": Bound(1.5, 2.0, required=True)})
    with pytest.raises(
        FindingFailed,
        match=r"FAILED: mean_jsv is 0\.8\d+ \(network\), expected 1.5 to 2; the signal dies out: raise",
    ):
        findings.require()
    with pytest.raises(UnknownName, match="did you mean mean_jsv"):
        verify(view, labelled(view)[0], {"mean_jvs": Bound()})


def test_a_collapsed_weight_is_named(view):
    keep = {n: torch.ones(s, dtype=torch.bool) for n, s in view.prunable_shapes().items()}
    keep["2.weight" if "2.weight" in keep else "1.weight"].zero_()
    findings = verify(view, labelled(view)[0], mask=Mask(keep))
    failed = {f.name: f for f in findings if not f.ok}
    assert list(failed) == ["collapsed_weights", "effective_sparsity", "dead_units", "open_path"]
    assert failed["collapsed_weights"].where.startswith(("1.weight", "2.weight"))
    assert [f.required for f in failed.values()] == [True, False, False, False]
    assert failed["effective_sparsity"].value == failed["dead_units"].value == 1.0


def test_effective_sparsity_is_relative_to_that_of_the_mask(view):
    """Unit 0 of the first layer is read by nothing: its 12 entries are on no path."""
    mask = Mask.dense(view.prunable_shapes())
    first, second, _ = mask.keep
    mask.keep[second][:, 0] = False
    for bound, ok in ((Bound(0.0, 12 / mask.total), True), (Bound(0.0, 11 / mask.total), False)):
        findings = verify(view, labelled(view)[0], {"effective_sparsity": bound}, mask=mask)
        (found,) = [f for f in findings if f.name == "effective_sparsity"]
        assert found.value == pytest.approx(mask.sparsity + 12 / mask.total)
        assert (found.low, found.ok) == (mask.sparsity, ok)
        assert found.where == f"kept entries on no path in {first}: 12 of 192"
    (units,) = [f for f in findings if f.name == "dead_units"]
    assert (units.value, units.where) == (1 / 37, f"units on no path in {first}: 1 of 16")
    (whole,) = [f for f in verify(view, labelled(view)[0], mask=Mask.dense(view.prunable_shapes()))
                if f.name == "effective_sparsity"]  # fmt: skip
    assert (whole.value, whole.where, whole.ok) == (0.0, "network", True)


def test_paths_that_cannot_be_followed_are_no_pass(view):
    findings = judge(Evidence(view, labelled(view)[0], on_path="the paths cannot be followed",
                              mask=Mask.dense(view.prunable_shapes())))  # fmt: skip
    lost = [f for f in findings if f.name in {"effective_sparsity", "dead_units"}]
    assert [f.ok for f in lost] == [False, False]
    assert all("nan" in str(f) and str(f).endswith("; the paths cannot be followed") for f in lost)


@pytest.mark.parametrize(("factor", "words"), [(1e-6, "falls from"), (1e6, "rises from")])
def test_a_failure_names_the_stage_at_which_the_signal_changes(view, factor, words):
    with torch.no_grad():
        view.module[1].weight.mul_(factor)
    findings = verify(view, labelled(view)[0], {"mean_jsv": Bound(0.1, 10.0, required=True)})
    with pytest.raises(FindingFailed, match=rf"FAILED: mean_jsv .*; at 1 the forward gain {words} "):
        findings.require()


def test_an_exploding_network(view):
    with torch.no_grad():
        for p in view.module.parameters():
            p.mul_(1e30)
    batch = labelled(view)[0]
    findings = verify(view, batch)
    assert [(f.name, f.ok) for f in findings] == [
        ("finite_output", False),
        ("mean_jsv", False),
        ("condition_number", False),
    ]
    with pytest.raises(FindingFailed, match="FAILED: finite_output"):
        findings.require()


def test_dead_weights(view):
    findings = judge(Evidence(view, labelled(view)[0], unranked=Unranked(("a", "b", "c"))))
    dead = next(f for f in findings if f.name == "dead_weights")
    assert (dead.value, dead.where, dead.ok, dead.required) == (3.0, "a, b, c", False, True)


def test_estimates_say_so_and_leave_out_what_they_do_not_know(view):
    batch = labelled(view)[0]
    for method, word in (("lanczos", "the mean is"), ("moments", "the root mean square is")):
        spectrum = measure(jacobian(view, batch), MemberSpec(method, {WORK[method]: 2}))
        findings = judge(Evidence(view, batch, spectrum), {"mean_jsv": Bound(5.0, 6.0)})
        assert [f.name for f in findings] == ["finite_output", "mean_jsv"]
        (level,) = (f for f in findings if f.name == "mean_jsv")
        assert level.value == pytest.approx(spectrum.summary().level)
        assert f"({word} an estimate: {spectrum.method})" in level.remedy
    exact = judge(Evidence(view, batch, measure(jacobian(view, batch))))
    assert "condition_number" in {f.name for f in exact}
    assert not any("estimate" in f.remedy for f in exact)
