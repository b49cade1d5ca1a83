"""What the graph shows is what `measure` finds: the same bytes, and for known cases the known tensors."""

import pytest
import torch
from torch import nn

from lora_course.adapters.fused import plain_forward
from lora_course.memory import measure
from lora_course.tables import in_units
from lora_course.teaching.widgets import inside_a_step as inside
from lora_course.teaching.widgets.inside_a_step import AX, DROPPED, IN, MASK, OUT, OUTPUTS, VECTORS, X
from tests.teaching.widgets import grid

HOW = {"rank": 8, "tokens": 250, "readers": 3, "dropout": False, "by_hand": True}


def bytes_of(groups):
    return sum(group.bytes for group in groups)


def test_every_state_is_drawn_and_said():
    panel = inside.explore()
    for state in grid.over_grid(panel, rank=[1, 8], tokens=[32]):
        root, sentence = grid.shown(panel)
        groups = inside.kept(**state)
        drawn = grid.words(panel.picture.value)
        assert f"{in_units(bytes_of(groups))} kept for the backward pass" in sentence
        assert in_units(bytes_of(groups)) in drawn
        for group in groups:
            assert f"{group.role} {group.words()}" in sentence
        boxes = {group.role for group in groups} - {VECTORS}
        assert sum(words.startswith("kept") for words in drawn) == len(boxes)
        known = [AX, OUTPUTS] if state["method"] != "full" else []
        assert sum(words == "not kept" for words in drawn) >= len(set(known) - boxes)


@pytest.mark.parametrize("method", inside.NAMES)
@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("by_hand", [False, True])
def test_the_bytes_are_measured_ones(method, dropout, by_hand):
    class Readers(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(inside._layer(method, 8, dropout) for _ in range(3))

        def forward(self, x):
            return sum(layer(x).sum() for layer in self.layers)

    x = torch.randn(250, IN, requires_grad=True)
    if by_hand:
        real = measure(Readers().train(), x, loss=lambda model, x: model(x))
    else:
        with plain_forward():
            real = measure(Readers().train(), x, loss=lambda model, x: model(x))
    groups = inside.kept(method, **HOW | {"dropout": dropout, "by_hand": by_hand})
    assert bytes_of(groups) == real.saved


@pytest.mark.parametrize(
    ("method", "dropout", "expected"),
    [
        ("full", False, {X: 250 * IN * 4}),
        ("lora", False, {X: 250 * IN * 4, AX: 3 * 250 * 8 * 4}),
        ("lora", True, {MASK: 250 * IN, DROPPED: 250 * IN * 4, AX: 3 * 250 * 8 * 4}),
        ("lora_fa", False, {AX: 3 * 250 * 8 * 4}),
        ("vera", False, {AX: 3 * 250 * 8 * 4}),
    ],
)
def test_the_tensors_are_those_of_the_derivation(method, dropout, expected):
    """N d for x once, N r for each A x, a byte an entry for the shared mask (adapters/fused.py, dropout.py)."""
    groups = inside.kept(method, **HOW | {"dropout": dropout})
    assert {group.role: group.bytes for group in groups} == expected


def test_dora_keeps_its_output_and_plain_vera_too():
    dora = {group.role: group for group in inside.kept("dora", **HOW)}
    assert (dora[OUTPUTS].count, dora[OUTPUTS].shape) == (3, (250, OUT)) and dora[OUTPUTS].bytes == 3 * 250 * OUT * 4
    assert {group.role for group in inside.kept("vera", **HOW | {"by_hand": False})} == {AX, OUTPUTS}


def test_asking_draws_no_random_numbers_of_yours():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    inside.kept.cache_clear()
    inside.kept("lora", **HOW)
    assert torch.equal(torch.get_rng_state(), state)


def test_controls_are_labelled_and_the_static_picture_stands_alone():
    grid.all_controls_are_labelled(inside.explore())
    root, alternative = grid.image_of(inside.static())
    assert "LoRA, 256 tokens, 3 layers on one x, rank 8" in alternative and root[1].text in alternative
