"""The explorer's numbers against the formats themselves, and every state of its controls."""

import re

import pytest
import torch

from lora_course.quantization.nf4 import VALUES
from lora_course.teaching.widgets import quantization_explorer as explorer
from tests.teaching.widgets import grid


def test_every_state_is_drawn_and_said():
    panel = explorer.explore()
    for state in grid.over_grid(panel, bits=[2, 5, 8], block=[16, 64, 1024], outlier=[0, 1, 7, 20]):
        root, sentence = grid.shown(panel)
        q = explorer.quantized(**state)
        assert f"{q.bits:.2f} bits a weight" in sentence
        assert f"{q.bits:.2f} bits a weight, absmax included" in grid.words(panel.picture.value)
        for share in (q.error, q.error_beside):
            assert f"{100 * share:.1f} %" in sentence and f"{100 * share:.1f} %" in grid.words(panel.picture.value)
        ticks = [e for e in root.iter(f"{grid.SVG}line") if "stroke-width:1.6" in e.get("style")]
        assert len(ticks) == len(q.codes) + len(q.codes_beside)


def test_the_codes_are_the_formats_own():
    for outlier, absmax_of in ((0.0, lambda w: w[:64].abs().max()), (12.0, lambda w: torch.tensor(12.0))):
        q = explorer.quantized(4, 64, "nf4", outlier)
        torch.testing.assert_close(q.codes_beside, VALUES * absmax_of(q.weights), rtol=1e-6, atol=0)
    for bits in range(2, 9):
        assert len(explorer.quantized(bits, 64, "uniform", 3.0).codes) == 2**bits - 1  # one code stays unused


def test_bits_count_the_absmax():
    for bits, block in ((2, 16), (5, 64), (8, 1024)):
        assert explorer.quantized(bits, block, "uniform", 0.0).bits == bits + 32 / block
    assert explorer.quantized(7, 64, "nf4", 0.0).bits == 4.5


def test_nf4_of_normal_weights_errs_as_it_is_known_to():
    """9.2 % with blocks of 64, 9.6 % with 128 (measured with bitsandbytes on long normal tensors)."""
    assert explorer.quantized(4, 64, "nf4", 0.0).error == pytest.approx(0.092, abs=0.002)
    assert explorer.quantized(4, 128, "nf4", 0.0).error == pytest.approx(0.096, abs=0.002)


def test_an_outlier_spoils_its_block_and_no_other():
    without, with_it = (explorer.quantized(4, 64, "uniform", outlier) for outlier in (0.0, 20.0))
    assert with_it.error_beside > 3 * without.error_beside and with_it.zeroed_beside > 0.7
    assert torch.equal(with_it.codes, without.codes)
    assert explorer.quantized(4, 1024, "uniform", 20.0).error > 2 * with_it.error


def test_with_nf4_the_bits_are_fixed():
    panel = explorer.explore()
    before = panel.picture.value
    panel.controls["bits"].value = 7
    assert panel.picture.value != before
    panel.controls["book"].value = "nf4"
    assert panel.controls["bits"].disabled
    fixed = panel.picture.value
    panel.controls["bits"].value = 2
    assert panel.picture.value == fixed
    panel.controls["book"].value = "uniform"
    assert not panel.controls["bits"].disabled


def test_controls_are_labelled_and_the_static_picture_stands_alone():
    grid.all_controls_are_labelled(explorer.explore())
    root, alternative = grid.image_of(explorer.static())
    assert root[1].text in alternative and re.search(r"NF4, blocks of 64: 4\.50 bits", alternative)
