"""Findings about networks that are well, dead, collapsed or exploding."""

from __future__ import annotations

import pytest
import torch

from sigprune.base.errors import FindingFailed, UnknownName
from sigprune.base.family import Step
from sigprune.values.finding import Bound
from sigprune.values.mask import Mask
from sigprune.values.operator import jacobian
from sigprune.verbs.initialising import reinit_
from sigprune.verbs.measuring import measure
from sigprune.verbs.opening import describe
from sigprune.verbs.pruning import prune
from sigprune.verbs.verifying import Evidence, judge, verify
from tests.networks import labelled, mlp

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
    failed = [f for f in findings if not f.ok]
    assert [f.name for f in failed] == ["collapsed_weights"]
    assert failed[0].where.startswith(("1.weight", "2.weight"))
    assert failed[0].required


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
    findings = judge(Evidence(view, labelled(view)[0], dead=("a", "b", "c")))
    dead = next(f for f in findings if f.name == "dead_weights")
    assert (dead.value, dead.where, dead.ok, dead.required) == (3.0, "a and 2 more", False, True)


def test_estimates_say_so_and_leave_out_what_they_do_not_know(view):
    batch = labelled(view)[0]
    for method, word in (("lanczos", "the mean is"), ("moments", "the root mean square is")):
        spectrum = measure(jacobian(view, batch), Step(method, {WORK[method]: 2}))
        findings = judge(Evidence(view, batch, spectrum), {"mean_jsv": Bound(5.0, 6.0)})
        assert [f.name for f in findings] == ["finite_output", "mean_jsv"]
        (level,) = (f for f in findings if f.name == "mean_jsv")
        assert level.value == pytest.approx(spectrum.summary().level)
        assert f"({word} an estimate: {spectrum.method})" in level.remedy
    exact = judge(Evidence(view, batch, measure(jacobian(view, batch))))
    assert "condition_number" in {f.name for f in exact}
    assert not any("estimate" in f.remedy for f in exact)
