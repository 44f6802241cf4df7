"""Reports: canonical JSON, histograms, and figures that are drawn from them alone."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib import image
from matplotlib.text import Annotation

from sigprune.base.errors import BadInput
from sigprune.report.figures import (
    draw,
    gain_profile,
    layer_sparsity,
    singular_values,
    styles,
    training_curve,
)
from sigprune.report.record import Report, histogram, number

Data = dict[str, object]


def test_a_report_is_read_as_it_was_written(report: Report, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(report.to_json(), encoding="utf-8")
    for path in (tmp_path, tmp_path / "report.json", str(tmp_path)):
        again = Report.read(path)
        assert again == report
        assert again.to_json() == report.to_json()
        assert hash(again) == hash(report)


def test_the_text_is_canonical(data: Data) -> None:
    text = Report(data).to_json()
    assert text == Report(dict(reversed(data.items()))).to_json()
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    assert json.loads(text)["signal"][2]["summary"]["condition"] == "inf"
    assert json.loads(text)["findings"][1]["low"] == "-inf"


def test_the_report_owns_its_data(data: Data) -> None:
    report = Report(data)
    data["mask"]["sparsity"] = 0.0
    assert report.sparsity > 0.5


def test_timing_is_the_only_difference(data: Data) -> None:
    other = data | {"timing": {"seconds": {"open": 99.0}}}
    assert Report(data) != Report(other)
    assert Report(data).without_timing() == Report(other).without_timing()
    assert "timing" not in Report(data).without_timing().facts


def test_properties(report: Report, data: Data) -> None:
    assert report.sparsity == data["mask"]["sparsity"]
    assert (report.test_accuracy, report.dense_test_accuracy) == (0.968, 0.975)
    assert report.majority_accuracy == 0.102
    assert [finding["name"] for finding in report.failed] == ["dead_layers"]
    assert report.dead_layers == []
    assert report.member("prune", "score") == "snip"
    assert report.member("isometry") == "gradient_descent"
    assert report.member("prune", "schedule") == report.member("no", "such") == ""
    assert report.value("model", "args", "img_size") == 8
    untested = Report(data | {"evaluation": {}})
    assert untested.test_accuracy is untested.dense_test_accuracy is None


def test_numbers_that_json_does_not_have() -> None:
    assert number("inf") == math.inf
    assert number("-inf") == -math.inf
    assert math.isnan(number("nan"))
    assert number(3) == 3.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "expected schema 1, got 2"),
        ({"schema": None}, "expected schema 1, got None"),
        ({"mask": None}, r"report\.mask: expected an object, got nothing"),
        ({"signal": {}}, r"report\.signal: expected a list"),
        ({"dense": []}, r"report\.dense: expected an object or null"),
        (
            {"versions": {"torch": object()}},
            r"report\.versions\.torch: expected a plain JSON value, got object",
        ),
        ({"evaluation": {"x": np.float64(1)}}, r"report\.evaluation\.x: expected a plain"),
        ({"files": {1: 2}}, r"report\.files: expected a plain"),
    ],
)
def test_what_is_no_report_is_refused(data: Data, change: Data, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Report(data | change)


@pytest.mark.parametrize("content", ["", "{", "[]", "NaN", b"\xff"])
def test_files_that_are_no_report(tmp_path: Path, content: str | bytes) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BadInput, match=r"report\.json"):
        Report.read(path)
    with pytest.raises(BadInput, match=r"nothing\.json"):
        Report.read(tmp_path / "nothing.json")


def spread(values: object) -> tuple[np.ndarray, np.ndarray]:
    made = histogram(values)
    return np.array(made["edges"]), np.array(made["counts"])


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e9])
def test_every_value_is_in_its_bin(scale: float) -> None:
    values = scale * np.exp(np.random.default_rng(0).normal(size=(50, 20)))
    edges, counts = spread(values)
    assert len(edges) == 41
    assert np.allclose(np.diff(np.log10(edges)), np.log10(edges[1] / edges[0]))
    assert edges[0] <= values.min()
    assert edges[-1] >= values.max()
    assert np.array_equal(counts, np.histogram(values, edges)[0])
    assert histogram(torch.from_numpy(values)) == histogram(values.tolist()) == histogram(values)


def test_zeros_and_tiny_values_are_in_the_first_bin() -> None:
    edges, counts = spread([0.0, 0.0, 1e-30, 0.5, 1.0])
    assert edges[0] == pytest.approx(1e-6)
    assert counts[0] == 3
    assert counts.sum() == 5
    assert spread([0.0] * 7)[1][0] == 7


@pytest.mark.parametrize("value", [1.0, 0.03, 7e5])
def test_equal_values_share_a_bin_in_spite_of_rounding(value: float) -> None:
    edges, counts = spread(value * (1 + 1e-6 * np.linspace(-1, 1, 100)))
    assert counts.max() == 100
    assert edges[-1] / edges[0] == pytest.approx(10)


def test_values_that_are_not_finite() -> None:
    edges, counts = spread([1.0, math.inf, math.nan])
    assert np.isfinite(edges).all()
    assert (counts[-1], counts.sum()) == (1, 2)
    assert spread([])[1].sum() == 0


def test_figures_are_the_same_bytes_every_time_and_leave_matplotlib_alone(
    report: Report, tmp_path: Path
) -> None:
    before = dict(matplotlib.rcParams)
    names = draw(report, tmp_path / "a")
    with matplotlib.rc_context({"font.size": 30, "axes.grid": True, "savefig.facecolor": "red"}):
        assert draw(Report.read(_written(report, tmp_path)), tmp_path / "b") == names
    assert dict(matplotlib.rcParams) == before
    assert names == report.figures
    assert names == ("figures/singular_values.png", "figures/sparsity.png", "figures/training.png")
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
        pixels = image.imread(tmp_path / "a" / name)
        assert min(pixels.shape[:2]) > 300
        assert pixels[..., :3].std() > 0.05  # something is drawn


def _written(report: Report, folder: Path) -> Path:
    (folder / "report.json").write_text(report.to_json(), encoding="utf-8")
    return folder


def test_figures_and_cards_need_no_torch() -> None:
    code = "import sys, sigprune.report.figures, sigprune.report.model_card; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_spectrum_figure_shows_every_moment_and_its_mean(report: Report) -> None:
    axes = singular_values(report.facts["signal"]).axes
    assert len(axes) == 4
    for ax, moment in zip(axes, report.facts["signal"], strict=True):
        words = " ".join(text.get_text() for text in ax.texts)
        assert moment["moment"] in words
        low, high = ax.get_xlim()
        markers = [line.get_xdata()[0] for line in ax.lines if line.get_marker() == "^"]
        assert markers == [moment["summary"]["mean"]]
        assert low < 1 < high
        assert low < moment["summary"]["mean"] < high
    assert "≤" in " ".join(text.get_text() for text in axes[2].texts)  # zeros lie below the first bin


def test_the_layer_figure_names_few_layers_and_plots_many(data: Data) -> None:
    layers = data["mask"]["layers"]
    layers[1]["kept"] = 0
    axes = layer_sparsity(Report(data)).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [layer["name"] for layer in layers]
    assert [bar.get_width() for bar in axes.patches] == [layer["kept"] / layer["total"] for layer in layers]
    assert "nothing left" in axes.texts[1].get_text()
    data["mask"]["layers"] = [
        {"name": f"b{i}.w", "role": "conv", "stage": f"s{i // 40}", "kept": i, "total": 200}
        for i in range(160)
    ]
    axes = layer_sparsity(Report(data)).axes[0]
    assert sum(len(dots.get_offsets()) for dots in axes.collections) == 160
    assert {"s0", "s3"} <= {text.get_text() for text in axes.texts}
    words = "\n".join(text.get_text() for text in axes.texts)
    for least in range(14):  # those that keep least, the one that keeps nothing first
        share = "nothing" if least == 0 else f"{100 * least / 200:.2g} %"
        assert f"\n{least + 1}  b{least}.w: {share} of 200" in words
    numbered = {text.get_text(): text.xy for text in axes.texts if isinstance(text, Annotation)}
    assert numbered["5"] == (5, 4 / 200)
    assert len(numbered) == 14
    for layer in data["mask"]["layers"][:30]:
        layer |= {"kept": 0, "name": f"blocks.{'x' * 80}.{layer['name']}"}
    texts = [text.get_text() for text in layer_sparsity(Report(data)).axes[0].texts]
    assert "\nand 16 more that keep nothing" in "\n".join(texts)
    assert max(len(line) for text in texts for line in text.splitlines()) < 75


def test_no_axis_of_shares_goes_beyond_100_percent(data: Data) -> None:
    layers = data["mask"]["layers"]
    layers[1]["kept"] = layers[1]["total"]
    assert layer_sparsity(Report(data)).axes[0].get_xlim() == (0, 1)
    data["mask"]["layers"] = [{**layers[0], "kept": layers[0]["total"]} for _ in range(50)]
    axes = layer_sparsity(Report(data)).axes[0]
    assert axes.get_ylim()[1] == 1
    assert not any(dots.get_clip_on() for dots in axes.collections if len(dots.get_offsets()))
    for row in data["training"]["epochs"]:
        row["test_accuracy"] = 1.0 if row["epoch"] > 3 else 0.9
    accuracy = training_curve(Report(data)).axes[0]
    assert accuracy.get_ylim()[1] == 1
    assert not any(line.get_clip_on() for line in accuracy.lines)


def test_what_is_compared_has_a_colour_and_a_line_of_its_own(data: Data) -> None:
    names = ["as opened", *(f"after {i}" for i in range(17))]
    moments = [{**data["signal"][0], "moment": name} for name in names]
    drawn = [axes.patches[-1].get_edgecolor() for axes in singular_values(moments).axes]
    assert len(set(drawn[:7])) == 7
    gains = {"forward": 1.0, "forward_error": 0.1, "backward": 1.0, "backward_error": 0.1, "activation": 1.0}
    profile = [{"stage": stage, **gains} for stage in ("a", "b")]
    panel = gain_profile([{**moment, "profile": profile} for moment in moments]).axes[0]
    lines = [line for line in panel.lines if line.get_label() in names]
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == len(names) == len(lines)
    mixed = styles(["after init", "after pruning", "other", "another", "after isometry"])
    assert len({colour for colour, _ in mixed}) == 5


def test_the_training_figure_shows_both_networks(report: Report, data: Data) -> None:
    accuracy, loss = training_curve(report).axes
    assert [line.get_label() for line in accuracy.lines] == ["dense", "sparse"]
    assert accuracy.lines[1].get_ydata()[-1] == data["training"]["epochs"][-1]["test_accuracy"]
    assert len(loss.lines) == 4
    untested = [row | {"test_loss": None, "test_accuracy": None} for row in data["training"]["epochs"]]
    figure = training_curve(Report(data | {"training": {"epochs": untested[:1]}, "dense": None}))
    assert [line.get_label() for line in figure.axes[0].lines] == ["sparse, train"]


def test_degenerate_reports_are_drawn(data: Data, tmp_path: Path) -> None:
    dead = {key: 0.0 for key in ("mean", "std", "min", "median", "max")} | {"condition": math.inf, "count": 3}
    data["signal"] = [{"moment": "after pruning", "summary": dead, "histogram": histogram([0.0] * 3)}]
    data["mask"] |= {"layers": [], "sparsity": 0.0}
    data["training"] = {"epochs": []}
    assert draw(Report(data), tmp_path) == ("figures/singular_values.png",)
    data["signal"] = []
    assert draw(Report(data), tmp_path) == ()
