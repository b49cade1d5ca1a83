"""A report is filled from what was measured, says what it cannot tell, and refuses a hole."""

import math
from dataclasses import asdict, replace

import pytest
from huggingface_hub import ModelCard

from lora_course.experiments.report import Candidate, FineTuneReport, Measured, model_card
from lora_course.training.history import History, Run, Summary


def candidate(name, seed=0, trained=1000, seconds=12.0, accuracy=0.8):
    where = ("Tiny", "reviews, 64 for training", "CPU, 1 threads")
    run = Run(name, "lora", *where, seed, {}, trained, 20000, {"torch": "2.0"})
    summary = Summary(seconds, 1.0, 4, 64, 5.0, 0.3, 3 * 2**20, "peak of the process", "finished", None)
    return Candidate(History(run, summary=summary), Measured(name, accuracy, 50))


FIELDS = dict(
    title="Is it kind?",
    question="Does LoRA beat a line?",
    candidates={"small": candidate("small"), "large": candidate("large", 3, 4321, 30.0, 0.7)},
    chosen="large",
    rule="the larger",
    sizes={"train": 64, "test": 400},
    test=Measured("LoRA", 0.8, 400),
    baseline=Measured("line", 0.75, 400),
    difference_error=0.02,
    besides={"adapter file": "1.25 MiB"},
    not_tried=("other seeds", "longer training"),
)


def test_an_accuracy_knows_its_error():
    assert Measured("a", 0.8, 400).error == pytest.approx(math.sqrt(0.8 * 0.2 / 400)) == 0.02
    assert str(Measured("a", 0.8, 400)) == "0.800 ± 0.020"
    for accuracy, n in ((1.2, 10), (-0.1, 10), (math.nan, 10), (0.5, 0)):
        with pytest.raises(ValueError, match="b: an accuracy is 0 to 1 on 1 or more examples"):
            Measured("b", accuracy, n)


def test_everything_a_reader_needs_is_in_the_report():
    text = FineTuneReport(**FIELDS).markdown()
    assert text.startswith("# Is it kind?\n\nDoes LoRA beat a line?\n\n## Result\n")
    assert "| line | 0.750 ± 0.022 | 400 |" in text and "| LoRA | 0.800 ± 0.020 | 400 |" in text
    assert "| small | 1,000 | 12 | 0.800 ± 0.057 |  |" in text
    assert "| large | 4,321 | 30 | 0.700 ± 0.065 | chosen |" in text
    assert "- model: Tiny; 4,321 of 20,000 parameters trained" in text
    assert "- data: reviews, 64 for training; train 64, test 400" in text
    assert "- seeds: 0, 3\n- device: CPU, 1 threads\n- time: 30 s for the chosen run, 42 s for all 2" in text
    assert "- memory: 3 MiB, peak of the process\n- versions: torch 2.0\n- adapter file: 1.25 MiB" in text
    assert "Chosen by: the larger" in text
    assert text.endswith("## What was not tried\n\n- other seeds\n- longer training\n")
    assert FineTuneReport(**FIELDS)._repr_markdown_() == text


@pytest.mark.parametrize(
    ("accuracy", "error", "verdict"),
    [
        (0.80, 0.02, "LoRA minus line: +0.050 ± 0.020. On these 400 examples LoRA is better."),
        (0.70, 0.02, "LoRA minus line: -0.050 ± 0.020. On these 400 examples line is better."),
        (0.80, 0.03, "LoRA minus line: +0.050 ± 0.030. These 400 examples cannot tell the two apart."),
        (0.75, 0.00, "LoRA minus line: +0.000 ± 0.000. These 400 examples cannot tell the two apart."),
    ],
)
def test_the_verdict_is_as_strong_as_the_numbers(accuracy, error, verdict):
    changed = {"test": Measured("LoRA", accuracy, 400), "difference_error": error}
    assert FineTuneReport(**FIELDS | changed).verdict() == verdict


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"not_tried": ()}, "not_tried is empty"),
        ({"not_tried": "seeds"}, "not_tried is a tuple of sentences"),
        ({"rule": " "}, "rule is empty"),
        ({"question": ""}, "question is empty"),
        ({"chosen": "other"}, "chosen is 'other'; the candidates are small, large"),
        ({"candidates": {}}, "the candidates are missing"),
        ({"baseline": Measured("line", 0.75, 300)}, "test has 400 examples, the baseline 300"),
        ({"difference_error": math.nan}, "difference_error is a standard error"),
        ({"difference_error": -0.1}, "difference_error is a standard error"),
    ],
)
def test_a_report_with_a_hole_is_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        FineTuneReport(**FIELDS | changed)


def test_a_run_that_was_not_finished_is_refused():
    broken = candidate("broken")
    unfinished = replace(broken, history=History(broken.history.run))
    with pytest.raises(ValueError, match="broken has not been trained to the end"):
        FineTuneReport(**FIELDS | {"candidates": FIELDS["candidates"] | {"broken": unfinished}})


def test_the_hubs_own_reader_reads_the_card():
    report = FineTuneReport(**FIELDS)
    made = model_card(report, base_model="some/encoder: small", license="apache-2.0", datasets=("a/b", "c"))
    card = ModelCard(made)
    assert card.text.strip() == report.markdown().strip()
    found = card.data.to_dict()
    assert found["base_model"] == "some/encoder: small" and found["datasets"] == ["a/b", "c"]
    assert (found["license"], found["language"], found["library_name"]) == ("apache-2.0", "en", "peft")
    assert found["metrics"] == ["accuracy"] and asdict(report)["chosen"] == "large"
