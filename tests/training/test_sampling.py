"""Generation on tiny random models: transformers' own results, no warnings, left padding, seeds; speed in turns."""

import warnings

import pytest
import torch
from torch.testing import assert_close
from transformers.utils import logging

from lora_course import AdapterConfig, inject, merge
from lora_course.adapters.inject import adapters
from lora_course.training import sampling
from lora_course.training.sampling import generate, generation_config, generation_speed
from tests.adapters.models import VOCAB, build

END = 1
HABITS = dict(max_length=9, do_sample=True, temperature=0.6, top_k=5, num_beams=3)  # what a model may bring along


class Letters:
    """A tokenizer of one token a character; 0 is padding, 1 the end."""

    pad_token_id, eos_token_id, bos_token_id = 0, END, None

    def __call__(self, text):
        return {"input_ids": [2 + ord(c) % (VOCAB - 2) for c in text]}

    def batch_decode(self, rows, skip_special_tokens):
        return ["".join(chr(200 + i) for i in row if i > END) for row in rows.tolist()]


TOKENIZER = Letters()


@pytest.fixture(params=["llama", "gpt2"])
def model(request):
    model = build(request.param)
    torch.manual_seed(3)
    inject(model, AdapterConfig(rank=4, alpha=8, target_modules="all-linear"))
    for adapter in adapters(model).values():
        torch.nn.init.normal_(adapter.lora_B, std=0.2)
    return model.train()


@pytest.fixture
def said(monkeypatch):
    """What transformers logs from warning level on, in this test."""
    handler, messages = logging.logging.Handler(logging.WARNING), []
    monkeypatch.setattr(handler, "handle", lambda record: messages.append(record.getMessage()))
    logging.warning_once.cache_clear()  # what was said in another test is said again
    logger = logging.get_logger("transformers")
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


@pytest.mark.parametrize(
    "how", [{}, {"temperature": 0.7}, {"top_p": 0.8}, {"temperature": 1.3, "top_p": 0.9}, {"beams": 3}], ids=str
)
def test_no_warning_whatever_the_model_brings_along(model, how, said):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, value in HABITS.items():
            setattr(model.generation_config, name, value)
        result = generate(model, TOKENIZER, ["abc", "defgh"], max_new_tokens=12, **how)
    assert said == [] and len(result.texts) == 2 and 2 <= result.tokens <= 24
    assert model.generation_config.max_length == 9 and model.training


def test_the_fixture_would_see_a_warning(model, said):
    ids = torch.tensor([[5, 6]])
    model.generate(input_ids=ids, max_new_tokens=2, num_beams=2, temperature=0.5, do_sample=False, pad_token_id=0)
    assert any("temperature" in message for message in said)


@pytest.mark.parametrize("how", [{}, {"num_beams": 3}])
def test_equals_transformers_prompt_by_prompt(model, how):
    prompts = ["a", "bcdefg", "hij"]
    ours = generate(model, TOKENIZER, prompts, max_new_tokens=8, beams=how.get("num_beams", 1), batch_size=3)
    for prompt, text in zip(prompts, ours.texts, strict=True):
        ids = torch.tensor([TOKENIZER(prompt)["input_ids"]])
        alone = model.eval().generate(
            input_ids=ids, max_new_tokens=8, do_sample=False, pad_token_id=0, eos_token_id=END, **how
        )
        assert text == TOKENIZER.batch_decode(alone[:, ids.shape[1] :], True)[0]


def test_same_seed_same_text_and_the_callers_dice_are_left_alone(model):
    torch.manual_seed(9)
    expected = torch.rand(3)
    torch.manual_seed(9)
    first, again, other = (
        generate(model, TOKENIZER, ["abc"] * 4, max_new_tokens=9, temperature=1.5, seed=seed).texts
        for seed in (1, 1, 2)
    )
    assert first == again != other
    assert torch.equal(torch.rand(3), expected)


def test_temperature_and_top_p_narrow_the_choice(model):
    greedy = generate(model, TOKENIZER, ["abc"], max_new_tokens=9).texts
    for narrow in ({"temperature": 1e-3}, {"top_p": 1e-6}):
        assert generate(model, TOKENIZER, ["abc"] * 3, max_new_tokens=9, **narrow).texts == greedy * 3


def test_tokens_are_counted_up_to_the_end(model, monkeypatch):
    new = torch.tensor([[7, 7, END, 0, 0], [7, END, END, END, END], [7, 7, 7, 7, 7]])
    monkeypatch.setattr(model, "generate", lambda input_ids, **_: torch.cat([input_ids, new], 1), raising=False)
    assert generate(model, TOKENIZER, ["abc", "a", "ab"], max_new_tokens=5).tokens == 3 + 2 + 5


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"temperature": 0.7, "beams": 2}, "beams=2 looks for the likeliest text without sampling"),
        ({"top_p": 0.7, "beams": 2}, "choose one"),
        ({"temperature": 0.0}, "temperature must be above 0, got 0.0; for the likeliest token, leave it out"),
        ({"temperature": float("nan")}, "temperature must be above 0"),
        ({"top_p": 1.2}, "top_p must be above 0 and at most 1, got 1.2"),
        ({"beams": 0}, "beams must be at least 1"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
    ],
    ids=str,
)
def test_refuses_what_makes_no_sense(how, words):
    with pytest.raises(ValueError, match=words):
        generation_config(TOKENIZER, **{"max_new_tokens": 3, **how})


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        ([], "no prompts"),
        (["a", ""], "has no tokens"),
        (["abc", "a" * 23], "23 tokens and 10 new ones are more than the 32 "),
    ],
)
def test_refuses_prompts_that_cannot_be_continued(model, prompts, words):
    with pytest.raises(ValueError, match=words):
        generate(model, TOKENIZER, prompts, max_new_tokens=10)
    with pytest.raises(ValueError, match=words):
        generation_speed(model, TOKENIZER, prompts, new_tokens=10)


def test_a_prompt_that_just_fits(model):
    generate(model, TOKENIZER, ["a" * 22], max_new_tokens=10)


@pytest.mark.parametrize("merged", [False, True])
def test_speed_is_measured_in_turns_and_leaves_the_model_as_it_was(model, merged, monkeypatch, said):
    if merged:
        merge(model)
    clock, states = iter(range(1000)), []
    monkeypatch.setattr(sampling, "perf_counter", lambda: next(clock))
    inner = model.generate

    def watched(**kwargs):
        state = {adapter.merged for adapter in adapters(model).values()}
        states.append(state)
        if state == {True}:
            next(clock)  # merged takes two ticks, unmerged one
        out = inner(**kwargs)
        assert out.shape == (2, 5 + 6)
        return out

    monkeypatch.setattr(model, "generate", watched, raising=False)
    ids = torch.tensor([[5, 6, 7]])
    before = model.eval()(input_ids=ids).logits
    speed = generation_speed(model.train(), TOKENIZER, ["abc", "defgh"], new_tokens=6, repeats=3)
    assert states == [{False}, {True}] * 4
    assert (speed.unmerged, speed.merged, speed.ratio) == (12.0, 6.0, 0.5)
    assert str(speed).startswith("unmerged 12.0 tokens/s, merged 6.0 tokens/s: 0.50 times as fast (batch of 2, 6 new")
    assert {adapter.merged for adapter in adapters(model).values()} == {merged} and model.training and said == []
    assert_close(model.eval()(input_ids=ids).logits, before, rtol=1e-4, atol=1e-5)


def test_speed_needs_adapters_in_one_state(model):
    next(iter(adapters(model).values())).merge()
    with pytest.raises(ValueError, match="some adapters are merged"):
        generation_speed(model, TOKENIZER, ["abc"])
    with pytest.raises(ValueError, match="no adapters"):
        generation_speed(build("llama"), TOKENIZER, ["abc"])
