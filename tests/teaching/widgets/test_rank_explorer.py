"""The rank explorer against Eckart and Young's identities and the methods' own counts."""

import math

import pytest
import torch
from torch import nn

from lora_course import AdapterConfig
from lora_course.adapters import METHODS
from lora_course.teaching.widgets import rank_explorer as explorer
from tests.teaching.widgets import grid


def corners(polygon):
    return [tuple(map(float, point.split(","))) for point in polygon.get("points").split()]


@pytest.fixture
def matrices():
    generator = torch.Generator().manual_seed(1)
    low = torch.randn(30, 3, generator=generator) @ torch.randn(3, 21, generator=generator)
    return {"low <rank>": low, "wide": torch.randn(12, 200, generator=generator), "zeros": torch.zeros(5, 7)}


def test_every_state_is_drawn_and_said(matrices):
    panel = explorer.explore(matrices)
    for state in grid.over_grid(panel, which=list(matrices), rank=[1, 2, 4, 5]):
        root, sentence = grid.shown(panel)
        of = explorer.decompose(matrices[state["which"]])
        share = f"{100 * of.captured(state['rank']):.1f} %"
        assert f"{share} of the energy" in sentence and sentence.startswith(state["which"])
        drawn = grid.words(panel.picture.value)
        assert f"rank {state['rank']}: {share} captured" in drawn
        assert len([*root.iter(f"{grid.SVG}image")]) == 3
        inside, outside = (corners(e) for e in [*root.iter(f"{grid.SVG}polygon")][:2])
        edge = 20 + 540 * state["rank"] / len(of.S)
        assert max(x for x, _ in inside) == pytest.approx(edge, abs=0.1) == min(x for x, _ in outside)
        assert len(inside) == 2 + 2 * state["rank"]


def test_the_rank_ends_at_full_rank_and_follows_the_matrix(matrices):
    panel = explorer.explore(matrices)
    panel.controls["rank"].value = 21
    assert panel.controls["rank"].max == 21 and "error 0.0 %" in grid.shown(panel)[1]
    panel.controls["which"].value = "wide"
    assert panel.controls["rank"].max == panel.controls["rank"].value == 12
    assert grid.shown(panel)[1].startswith("wide, 12 x 200, at rank 12 of 12")


def test_error_and_energy_are_two_sides_of_one_thing(matrices):
    for matrix in (matrices["low <rank>"], matrices["wide"]):
        of = explorer.decompose(matrix)
        for rank in range(1, len(of.S) + 1):
            left = math.sqrt(max(0.0, 1 - of.captured(rank)))
            assert of.error(rank) == pytest.approx(left, abs=1e-3)
            assert torch.linalg.matrix_rank(of.at(rank)) <= rank
    assert explorer.decompose(matrices["low <rank>"]).captured(3) == pytest.approx(1, abs=1e-6)


def test_counts_are_those_of_real_layers():
    listed = {name: count for names, count in explorer.parameters_at(20, 36, 4) for name in names.split(", ")}
    assert listed.keys() == METHODS.keys() | {explorer.WHOLE} and listed[explorer.WHOLE] == 720
    for method, layer in METHODS.items():
        real = layer(nn.Linear(36, 20), AdapterConfig(method, 4, 7))
        assert listed[method] == sum(p.numel() for p in real.parameters() if p.requires_grad), method
    drawn = grid.words(explorer.draw("m", explorer.decompose(torch.randn(20, 36)), 4).svg)
    for count in listed.values():
        assert f"{count:,}" in drawn


@pytest.mark.parametrize(
    ("matrices", "message"),
    [
        ({}, "nothing to explore"),
        ({"v": torch.ones(3)}, r"need a matrix \(out, in\), got a tensor of shape \(3,\)"),
        ({"n": torch.full((2, 3), math.nan)}, "NaN or infinity"),
    ],
)
def test_what_is_no_matrix_is_refused(matrices, message):
    with pytest.raises(ValueError, match=message):
        explorer.explore(matrices)


def test_controls_are_labelled_and_the_static_picture_stands_alone(matrices):
    grid.all_controls_are_labelled(explorer.explore())
    root, alternative = grid.image_of(explorer.static())
    assert "four patterns and noise, 48 x 64, at rank 4" in alternative and root[1].text in alternative
    assert "low <rank>, 30 x 21, at rank 2" in grid.image_of(explorer.static(matrices, 2))[1]
