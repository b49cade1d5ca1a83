"""Pictures of runs: pure functions from histories to a Plot, which is a figure and what it says in words.

training_dynamics, by_layer             one run, seen from inside      (history.layers: training/dynamics.py)
learning_rates, rank_impact, side_by_side   a quality against a setting: seeds and their mean
memory_against_rank, frontier           costs, as a benchmark measured them (history.measured)
singular_spectrum, quantization_error   of tensors
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lora_course.colours import BLUE, GREY, ORANGE
from lora_course.experiments import statistics as ours
from lora_course.experiments.figure import Plot, label_points, look, new_figure, styled
from lora_course.experiments.sweep import best_of, by_rank, draw_lines, grouped, rank_axis
from lora_course.training.history import History

MIB = 2**20
QUALITIES = {"test_accuracy": "test accuracy", "test_loss": "test loss (nats)"}


@styled
def training_dynamics(history: History, window: int = 5) -> Plot:
    """Loss, gradient norms of A and B, and effective rank and norm of the change by kind of layer, over the steps.

    window: steps of the running mean of the loss. Raises ValueError without steps, or without recorded layers.
    """
    _need(history.steps, "steps")
    _need(history.layers, "layers", "train it with callbacks=[LayerRecorder(model)]")
    figure, ((loss, gradients), (ranks, norms)) = new_figure(2, 2, (9.5, 7.0))
    steps, losses = [row.step for row in history.steps], [row.loss for row in history.steps]
    window = min(window, len(losses))
    mean = np.convolve(losses, np.ones(window) / window, "valid")
    loss.plot(steps, losses, color=BLUE, alpha=0.3, label="each step")
    loss.plot(steps[window - 1 :], mean, color=BLUE, label=f"mean of {window} steps")
    loss.set(ylabel="training loss (nats)", title="Loss", xlabel="optimizer step")
    loss.legend()
    recorded = sorted({row.step for row in history.layers})
    for i, name in enumerate(("grad_norm_A", "grad_norm_B")):
        by_step = [[getattr(row, name) for row in history.layers if row.step == step] for step in recorded]
        middle, low, high = (np.array([f(v) for v in by_step]) for f in (np.median, np.min, np.max))
        shape = {key: value for key, value in look(i).items() if key != "marker"}
        gradients.plot(recorded, _positive(middle), label=name[-1], **shape)
        gradients.fill_between(recorded, _positive(low), _positive(high), color=shape["color"], alpha=0.15, linewidth=0)
    gradients.set(
        yscale="log", ylabel="norm of the gradient", title="Gradients: median and range", xlabel="optimizer step"
    )
    gradients.legend()
    kinds = list(dict.fromkeys(_place(row.layer)[0] for row in history.layers))
    for ax, quantity, ylabel in ((ranks, "effective_rank", "effective rank"), (norms, "norm", "Frobenius norm")):
        for i, kind in enumerate(kinds):
            values = [_mean(history, quantity, step, kind) for step in recorded]
            ax.plot(recorded, values, label=kind, **look(i) | {"markersize": 3})
        ax.set(ylabel=ylabel, title=f"{ylabel[0].upper()}{ylabel[1:]} of the change", xlabel="optimizer step")
    figure.legend(*norms.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    first, last = losses[:window], losses[-window:]
    end = {kind: _mean(history, "norm", recorded[-1], kind) for kind in kinds}
    rank = statistics.fmean(row.effective_rank for row in history.layers if row.step == recorded[-1])
    return Plot(
        figure,
        f"Inside the training of {history.run.name}",
        f"Four panels over {steps[-1]} optimizer steps. The loss goes from {statistics.fmean(first):.2f} to "
        f"{statistics.fmean(last):.2f} (means of {window} steps). At the end the change has an effective rank of "
        f"{rank:.1f} on average, and is largest in {max(end, key=end.get)} (norm {max(end.values()):.2f}), smallest in "
        f"{min(end, key=end.get)} ({min(end.values()):.2f}).",
    )


@styled
def by_layer(history: History, quantity: str = "effective_rank") -> Plot:
    """A map at the last recorded step: kinds of layer down, depth across. quantity: effective_rank or norm.

    Raises ValueError without recorded layers.
    """
    _need(history.layers, "layers", "train it with callbacks=[LayerRecorder(model)]")
    last = history.layers[-1].step
    places = {_place(row.layer): getattr(row, quantity) for row in history.layers if row.step == last}
    if any(depth >= 0 for _, depth in places):  # a pooler or an embedding has no place in the map
        places = {place: value for place, value in places.items() if place[1] >= 0}
    kinds, depths = list(dict.fromkeys(kind for kind, _ in places)), sorted({depth for _, depth in places})
    grid = np.array([[places.get((kind, depth), np.nan) for depth in depths] for kind in kinds])
    words = quantity.replace("_", " ")
    figure, ax = new_figure(size=(7.5, 1.6 + 0.42 * len(kinds)))
    ax.grid(False)
    image = ax.imshow(grid, cmap="cividis", aspect="auto", vmin=0)
    for row, column in np.ndindex(*grid.shape):
        dark = grid[row, column] < 0.6 * np.nanmax(grid)
        text = "" if np.isnan(grid[row, column]) else f"{grid[row, column]:.2g}"
        ax.text(column, row, text, ha="center", va="center", color="white" if dark else "black", fontsize=9)
    ax.set_xticks(range(len(depths)), [str(depth) for depth in depths])
    ax.set_yticks(range(len(kinds)), kinds)
    ax.set(xlabel="layer (0 is nearest to the input)", title=f"{words} of the change after step {last}")
    figure.colorbar(image, label=words)
    best, worst = max(places, key=places.get), min(places, key=places.get)
    return Plot(
        figure,
        f"Where {history.run.name} changed the model",
        f"The {words} of the change in {len(places)} layers. Largest in {best[0]} of layer {best[1]} "
        f"({places[best]:.2f}), smallest in {worst[0]} of layer {worst[1]} ({places[worst]:.2f}).",
    )


@styled
def learning_rates(histories: Sequence[History], quality: str = "test_accuracy") -> Plot:
    """A quality against the learning rate, one line for each configuration but for its rate."""
    groups = grouped(
        histories,
        lambda h: re.sub(r" lr=\S+", "", h.run.name),
        lambda h: h.run.config["training"]["learning_rate"],
        lambda h: h.measured[quality],
    )
    figure, ax = new_figure()
    draw_lines(ax, groups)
    ax.set(xscale="log", xlabel="learning rate", ylabel=QUALITIES[quality], title="What the learning rate decides")
    ax.legend()
    said = [best_of(name, line, quality, "at learning rate {:g}") for name, line in groups.items()]
    return Plot(figure, f"{QUALITIES[quality]} against learning rate", f"Best means: {'; '.join(said)}.")


@styled
def rank_impact(histories: Sequence[History], quality: str = "test_accuracy") -> Plot:
    """A quality against the rank: every seed a dot, the line their mean, bars one standard deviation."""
    groups = by_rank(histories, lambda h: h.measured[quality])
    figure, ax = new_figure()
    draw_lines(ax, groups)
    rank_axis(ax, groups)
    ax.set(ylabel=QUALITIES[quality], title="What the rank decides")
    ax.legend()
    said = [
        f"{name}: " + ", ".join(f"{statistics.fmean(values):.3f} at rank {x:g}" for x, values in line.items())
        for name, line in groups.items()
    ]
    return Plot(figure, f"{QUALITIES[quality]} against rank", f"Means over the seeds. {'; '.join(said)}.")


@styled
def side_by_side(histories: Sequence[History], quality: str = "test_accuracy") -> Plot:
    """A quality of each configuration, one below the other: every seed a dot, the mean a bar with one deviation."""
    groups = grouped(histories, lambda h: h.run.name, lambda h: 0, lambda h: h.measured[quality])
    figure, ax = new_figure(size=(7.0, 1.3 + 0.4 * len(groups)))
    means = [statistics.fmean(line[0]) for line in groups.values()]
    spreads = [statistics.stdev(line[0]) if len(line[0]) > 1 else 0.0 for line in groups.values()]
    for row, line in enumerate(groups.values()):
        ax.plot(line[0], [row + 0.15] * len(line[0]), ".", color=ORANGE, label="" if row else "one seed")
    ax.errorbar(means, range(len(means)), xerr=spreads, fmt="D", color=BLUE, capsize=3, label="mean ± deviation")
    ax.set_yticks(range(len(groups)), [*groups])
    ax.set(xlabel=QUALITIES[quality], ylabel="configuration", title="Side by side", ylim=(len(groups) - 0.5, -0.5))
    ax.legend()
    said = [f"{name} {mean:.3f} ± {spread:.3f}" for name, mean, spread in zip(groups, means, spreads, strict=True)]
    return Plot(figure, f"{QUALITIES[quality]} side by side", f"{'; '.join(said)}.")


@styled
def memory_against_rank(histories: Sequence[History]) -> Plot:
    """Two panels against the rank: all tensors at the peak of a step, and gradients with the optimizer's state."""
    figure, axes = new_figure(1, 2, (9.5, 3.8))
    said = []
    titles = {"peak_bytes": "Peak of a training step", "state_bytes": "Gradients and optimizer state"}
    for ax, (key, title) in zip(axes, titles.items(), strict=True):
        groups = by_rank(histories, lambda h, key=key: h.measured[key] / MIB)
        draw_lines(ax, groups)
        rank_axis(ax, groups)
        ax.set(ylabel="MiB", title=title, ylim=(0, None))
        for name, line in groups.items():
            (low, small), *_, (high, large) = [(x, v[0]) for x, v in line.items()] * (2 if len(line) < 2 else 1)
            said.append(f"{title}, {name}: {small:.1f} MiB at rank {low:g}, {large:.1f} MiB at rank {high:g}")
    axes[0].legend()
    return Plot(figure, "Memory against rank", f"{'. '.join(said)}.")


@styled
def frontier(histories: Sequence[History], quality: str = "test_accuracy") -> Plot:
    """A quality against trained parameters and against the peak of a step; who is beaten by nobody is joined by a line.

    Configurations by the run's name; bars are one standard deviation over the seeds.
    """
    found: dict[str, list[History]] = {}
    for history in histories:
        if not math.isnan(history.measured[quality]):
            found.setdefault(history.run.name, []).append(history)
    if not found:
        return Plot(new_figure()[0], "Nothing to compare", "There is no configuration that did not diverge.")
    values = {name: [h.measured[quality] for h in runs] for name, runs in found.items()}
    names, means = [*found], [statistics.fmean(v) for v in values.values()]
    spreads = [statistics.stdev(v) if len(v) > 1 else 0.0 for v in values.values()]
    costs: dict[str, Callable[[History], float]] = {
        "trained parameters": lambda h: h.run.trainable_parameters,
        "peak of a training step (MiB)": lambda h: h.measured["peak_bytes"] / MIB,
    }
    figure, axes = new_figure(2, 1, (8.0, 8.4), sharey=True)
    sign = -1 if quality.endswith("loss") else 1
    said = []
    for ax, (label, cost) in zip(axes, costs.items(), strict=True):
        xs = [cost(runs[0]) for runs in found.values()]
        best = ours.frontier((name, x, sign * y) for name, x, y in zip(names, xs, means, strict=True))
        on = [names.index(name) for name in best]
        ax.errorbar(xs, means, yerr=spreads, fmt="o", color=BLUE, ecolor=GREY, elinewidth=0.8, capsize=2, markersize=5)
        line = [(xs[i], means[i]) for i in on]
        ax.plot(*zip(*line, strict=True), color=ORANGE, linestyle="--", marker="s", label="beaten by none")
        ax.set(xscale="log" if max(xs) > 10 * min(xs) else "linear", xlabel=label, ylabel=QUALITIES[quality])
        ax.margins(x=0.14, y=0.08)
        said.append(f"By {label}, beaten by none: " + ", ".join(f"{names[i]} ({means[i]:.3f})" for i in on))
    axes[0].set(title="What one gets for what one spends")
    axes[0].legend(loc="lower right")
    for ax, cost in zip(axes, costs.values(), strict=True):
        label_points(ax, [cost(runs[0]) for runs in found.values()], means, names)
    return Plot(
        figure,
        f"{len(names)} configurations: {QUALITIES[quality]} against parameters and memory",
        f"{'. '.join(said)}. Lowest and highest mean: {min(means):.3f}, {max(means):.3f}.",
    )


@styled
def singular_spectrum(spectra: Mapping[str, Sequence[float]]) -> Plot:
    """Singular values, largest first, each as a share of the largest of its matrix; one line for each label."""
    _need(spectra, "spectra")
    figure, ax = new_figure()
    said = []
    for i, (label, values) in enumerate(spectra.items()):
        shares = np.asarray(values, dtype=float) / max(values)
        ax.plot(range(1, len(shares) + 1), shares, label=label, **look(i))
        said.append(f"{label}: number {len(shares)} is {shares[-1]:.2g} of the first")
    ax.set(yscale="log", xlabel="number of the singular value", ylabel="share of the largest")
    ax.set(title="How the change is spread over directions")
    ax.legend()
    return Plot(figure, "Singular values", f"{'; '.join(said)}.")


@styled
def quantization_error(errors: Mapping[str, Sequence[tuple[float, float]]]) -> Plot:
    """errors: format -> (bits that a weight really takes, scales included; relative error), one for each setting."""
    _need(errors, "errors")
    figure, ax = new_figure()
    said = []
    for i, (label, points) in enumerate(errors.items()):
        bits, error = zip(*sorted(points), strict=True)
        ax.plot(bits, [100 * e for e in error], label=label, **look(i))
        each = [f"{100 * e:.2g} % at {b:.2f} bits" for b, e in zip(bits, error, strict=True)]
        said.append(f"{label}: {', '.join(each)}")
    ax.set(yscale="log", xlabel="bits a weight, scales included", ylabel="relative error of the weights (%)")
    ax.set(title="What bits buy")
    ax.legend()
    return Plot(figure, "Quantization error against bits", f"{'; '.join(said)}.")


# ------------------------------------------------------------------ parts


def _need(what: Any, name: str, advice: str = "") -> None:
    if not what:
        raise ValueError(f"there are no {name} to draw{f': {advice}' if advice else ''}")


def _place(layer: str) -> tuple[str, int]:
    """bert.encoder.layer.3.attention.self.query -> ("attention.self.query", 3); depth -1 where there is no number."""
    match = re.search(r"\.(\d+)\.", layer)
    return (layer[match.end() :], int(match[1])) if match else (layer, -1)


def _mean(history: History, quantity: str, step: int, kind: str) -> float:
    rows = [row for row in history.layers if row.step == step and _place(row.layer)[0] == kind]
    return statistics.fmean(getattr(row, quantity) for row in rows)


def _positive(values: np.ndarray) -> np.ndarray:
    return np.where(values > 0, values, np.nan)  # 0 has no place on a logarithmic axis
