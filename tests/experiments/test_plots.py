"""Every figure: labelled, with units, a legend, the lines that the data ask for, closed, and described in words."""

import json
import math
import re
import subprocess
import sys
from dataclasses import replace

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from lora_course import colours
from lora_course.experiments import figure as style
from lora_course.experiments import plots
from lora_course.experiments.measured import FOLDER, load_measured
from lora_course.experiments.sweep import by_rank
from lora_course.teaching.widgets import svg
from tests.experiments.histories import KINDS, history, trained_history


def many():
    return [
        *(history("lora lr=0.001", s, rate=1e-3, accuracy=0.6 + 0.01 * s) for s in range(3)),
        *(history("lora lr=0.01", s, rate=1e-2, accuracy=0.7 + 0.01 * s) for s in range(3)),
        *(history("full lr=0.001", s, rate=1e-3, accuracy=0.8, trained=10_000, peak=350) for s in range(2)),
        history("lora lr=0.1", 0, rate=0.1, accuracy=math.nan),
    ]


def ranked():
    return [
        *(history(f"lora r={r}", s, r, accuracy=0.7 + 0.001 * s, trained=100 * r) for r in (1, 4) for s in (0, 1)),
        *(history(f"dora r={r}", 0, rank=r, accuracy=0.72, trained=110 * r, peak=60) for r in (1, 4)),
        history("full", 0),
    ]  # fmt: skip


FIGURES = {
    "training_dynamics": lambda: plots.training_dynamics(trained_history()),
    "by_layer": lambda: plots.by_layer(trained_history(), "norm"),
    "learning_rates": lambda: plots.learning_rates(many()),
    "rank_impact": lambda: plots.rank_impact(ranked()),
    "side_by_side": lambda: plots.side_by_side(many()),
    "memory_against_rank": lambda: plots.memory_against_rank(ranked()),
    "frontier": lambda: plots.frontier(many()),
    "singular_spectrum": lambda: plots.singular_spectrum({"one": [4.0, 2.0, 1.0], "two": [3.0, 0.3]}),
    "quantization_error": lambda: plots.quantization_error({"NF4": [(4.5, 0.09), (4.1, 0.1)], "steps": [(8, 0.004)]}),
}
each_figure = pytest.mark.parametrize("name", FIGURES)


def lines_of(ax):
    """Label -> points of the lines that have one."""
    lines = {line.get_label(): line for line in ax.get_lines()}
    lines |= {container.get_label(): container.lines[0] for container in ax.containers if hasattr(container, "lines")}
    return {
        label: [*zip(*(map(float, v) for v in line.get_data()), strict=True)]
        for label, line in lines.items()
        if not str(label).startswith("_")
    }


@each_figure
def test_labelled_readable_and_closed(name):
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    plot = FIGURES[name]()
    assert isinstance(plot.figure, Figure) and plt.get_fignums() == before
    width, height = plot.figure.get_size_inches()
    assert 6.5 <= width <= 9.5 and height <= 8.5
    for ax in (ax for ax in plot.figure.axes if ax.get_label() != "<colorbar>"):
        assert ax.get_xlabel() and (ax.get_ylabel() or name == "by_layer"), name
        assert len(lines_of(ax)) < 2 or ax.get_legend() or any(other.get_legend() for other in plot.figure.axes)
        assert ax.xaxis.label.get_size() >= 11 and min(t.get_size() for t in ax.get_xticklabels()) >= 9
    assert any(ax.get_title() for ax in plot.figure.axes)


@each_figure
def test_words_come_with_it_and_the_image_is_the_same_every_time(name):
    plot, again = FIGURES[name](), FIGURES[name]()
    assert re.search(r"\d", plot.description) and plot.description.endswith(".")
    assert plot.png() == plot.png() == again.png() and plot.png().startswith(b"\x89PNG")
    html = plot._repr_html_()
    assert html.startswith("<img alt=") and plot.title in html and "base64" in html
    assert repr(plot) == plot.alternative_text == f"{plot.title}. {plot.description}"


@each_figure
def test_colours_are_the_ones_of_the_course_and_never_the_only_mark(name):
    plot = FIGURES[name]()
    for ax in plot.figure.axes:
        labelled = [line for line in ax.get_lines() if not str(line.get_label()).startswith("_")]
        labelled += [c.lines[0] for c in ax.containers if hasattr(c, "lines") and c.lines[0] is not None]
        assert {line.get_color() for line in labelled} <= {*colours.CYCLE, colours.GREY}
        marks = [(str(line.get_linestyle()), line.get_marker(), line.get_alpha()) for line in labelled]
        assert len({*marks}) == len(marks)
    assert svg.BLUE == colours.BLUE and svg.AMBER == colours.AMBER
    looks = [style.look(i) for i in range(18)]
    assert len({(k["color"], str(k["linestyle"]), k["marker"]) for k in looks}) == 18


def test_dynamics_by_hand():
    plot = plots.training_dynamics(trained_history(), window=3)
    loss, gradients, ranks, norms = plot.figure.axes
    assert lines_of(loss)["mean of 3 steps"][0] == pytest.approx((3, 0.7 - 0.04))
    assert lines_of(gradients)["B"] == [(1, 3.0), (5, 3.0), (9, 3.0)]  # the median of 2, 3 and 4
    a = lines_of(gradients)["A"]
    assert math.isnan(a[0][1]) and a[1] == (5, pytest.approx(1.3))  # 0 has no place on a logarithmic axis
    assert [*lines_of(norms)] == [*KINDS] and [*lines_of(ranks)] == [*KINDS]
    assert lines_of(ranks)[KINDS[1]] == [(1, 0.0), (5, 1.0), (9, 1.0)]
    assert lines_of(norms)[KINDS[1]][-1] == (9, pytest.approx(0.9))
    assert "0.66 to 0.48" in plot.description and f"largest in {KINDS[0]}" in plot.description
    with pytest.raises(ValueError, match=r"no layers to draw: train it with callbacks=\[LayerRecorder\(model\)\]"):
        plots.training_dynamics(replace(trained_history(), layers=[]))


def test_map_of_layers_by_hand():
    plot = plots.by_layer(trained_history(), "norm")
    ax = plot.figure.axes[0]
    assert [t.get_text() for t in ax.get_yticklabels()] == [*KINDS] and len(ax.texts) == 6
    grid = ax.get_images()[0].get_array()
    assert grid.shape == (2, 3)
    assert (grid[1, 0], grid[0, 2]) == pytest.approx((0.9, math.hypot(27, 4.5)))
    assert f"Largest in {KINDS[0]} of layer 2 (27.37)" in plot.description


def test_sweeps_by_hand():
    plot = plots.learning_rates(many())
    (ax,) = plot.figure.axes
    assert lines_of(ax) == {
        "lora": [(1e-3, pytest.approx(0.61)), (1e-2, pytest.approx(0.71))],
        "full": [(1e-3, pytest.approx(0.8))],
    }
    assert "lora 0.710 at learning rate 0.01; full 0.800 at learning rate 0.001" in plot.description
    assert ax.get_xscale() == "log" and ax.get_ylabel() == "test accuracy"
    assert by_rank(ranked(), lambda h: h.run.seed) == {"lora": {1: [0, 1], 4: [0, 1]}, "dora": {1: [0], 4: [0]}}
    (ax,) = plots.rank_impact(ranked()).figure.axes
    assert [*lines_of(ax)] == ["lora", "dora"] and [t.get_text() for t in ax.get_xticklabels()] == ["1", "4"]
    left, right = plots.memory_against_rank(ranked()).figure.axes
    assert lines_of(left)["dora"] == [(1, 60), (4, 60)] and left.get_ylabel() == right.get_ylabel() == "MiB"
    assert lines_of(right)["lora"] == [(1, pytest.approx(1200 / 2**20)), (4, pytest.approx(4800 / 2**20))]
    assert left.get_ylim()[0] == 0
    with pytest.raises(ValueError, match="no histories"):
        plots.learning_rates([])


def test_side_by_side_by_hand():
    plot = plots.side_by_side(many())
    (ax,) = plot.figure.axes
    assert [t.get_text() for t in ax.get_yticklabels()] == ["lora lr=0.001", "lora lr=0.01", "full lr=0.001"]
    assert lines_of(ax)["mean ± deviation"] == [(pytest.approx(a), i) for i, a in enumerate((0.61, 0.71, 0.8))]
    assert "lora lr=0.01 0.710 ± 0.010; full lr=0.001 0.800 ± 0.000" in plot.description


def test_frontier_by_hand():
    found = [
        history("cheap", accuracy=0.6, trained=10, peak=10),
        history("beaten", accuracy=0.55, trained=500, peak=20),
        history("lean", accuracy=0.7, trained=2000, peak=15),
        history("dear", accuracy=0.8, trained=1000, peak=900),
        history("diverged", accuracy=math.nan, trained=1, peak=1),
    ]
    plot = plots.frontier(found)
    by_parameters, by_memory = plot.figure.axes
    assert lines_of(by_parameters)["beaten by none"] == [(10, 0.6), (1000, 0.8)]
    assert lines_of(by_memory)["beaten by none"] == [(10, 0.6), (15, 0.7), (900, 0.8)]
    assert {text.get_text() for text in by_memory.texts} == {"cheap", "beaten", "lean", "dear"}
    assert "By trained parameters, beaten by none: cheap (0.600), dear (0.800)" in plot.description
    by_loss = plots.frontier(found, "test_loss").figure.axes[0]
    assert lines_of(by_loss)["beaten by none"] == [(10, pytest.approx(0.4)), (1000, pytest.approx(0.2))]


def test_names_beside_points_do_not_overlap():
    found = [history(f"method {i}", accuracy=0.7 + 0.0005 * i, trained=1000, peak=100 + i) for i in range(12)]
    plot = plots.frontier([*found, history("far", accuracy=0.6, trained=50_000, peak=400)])
    plot.png()
    ax = plot.figure.axes[0]
    boxes = [Text.get_window_extent(text) for text in ax.texts]  # without the line to the point
    assert len(boxes) == 13
    assert not [1 for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b.shrunk(0.95, 0.8))]


def test_quantization_error_is_sorted_by_bits():
    (ax,) = FIGURES["quantization_error"]().figure.axes
    assert lines_of(ax)["NF4"] == [(4.1, pytest.approx(10)), (4.5, pytest.approx(9))]
    (ax,) = FIGURES["singular_spectrum"]().figure.axes
    assert lines_of(ax)["one"] == [(1, 1.0), (2, 0.5), (3, 0.25)]


def test_saved_whole(tmp_path):
    plot = FIGURES["learning_rates"]()
    plot.save(tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == plot.png() and len(plot.png()) < 100_000


def test_importing_the_package_loads_no_matplotlib():
    code = "import sys, lora_course; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("name", ["methods", "claims"])
def test_what_was_measured_long_ago_loads(name):
    histories = load_measured(name)
    assert len(histories) >= 45 and all(h.measured["test_samples"] == 800 for h in histories)
    assert all({"test_accuracy", "peak_bytes", "step_ratio"} <= h.measured.keys() for h in histories)
    assert json.loads((FOLDER / f"{name}.json").read_text())[0]["steps"] == []
    with pytest.raises(ValueError, match="nothing measured is called 'nothing'; there are claims, methods"):
        load_measured("nothing")
