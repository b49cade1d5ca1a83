"""Checkpointed blocks against plain ones: the same gradients, dropout included; fewer bytes; refusals; the way back."""

import copy
import pickle

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from lora_course import AdapterConfig, inject
from lora_course.memory import measure
from lora_course.memory.checkpointing import checkpoint_blocks, find_blocks, undo_checkpointing
from tests.adapters.models import BUILDERS, HEADS, batch, build

BLOCKS = {
    "bert": [["bert.encoder.layer.0", "bert.encoder.layer.1"]],
    "gpt2": [["transformer.h.0", "transformer.h.1"]],
    "llama": [["model.layers.0", "model.layers.1"]],
    "t5": [["encoder.block.0", "encoder.block.1"], ["decoder.block.0", "decoder.block.1"]],
}


def gradients(model, given, seed=5):
    """Loss and gradients by name, from the same random numbers."""
    torch.manual_seed(seed)
    model.zero_grad()
    loss = model(**given).loss
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def with_dropout(model, p):
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = p
        if hasattr(module, "attention_dropout"):  # Llama's is a number
            module.attention_dropout = p
    return model


def adapted(name, method="lora", dropout=0.0, base_dropout=0.0):
    """Everything frozen but adapters, embeddings included: no input of the first block needs a gradient."""
    model = build(name)
    if method:
        inject(model, AdapterConfig(method, 3, 7, dropout=dropout, trainable=HEADS[name]))
        for p in model.parameters():
            if p.requires_grad:
                nn.init.normal_(p, std=0.3)
    return with_dropout(model, base_dropout).train() if base_dropout else model.train()


@pytest.mark.parametrize("name", BUILDERS)
def test_blocks_of_transformers(name):
    assert find_blocks(build(name)) == BLOCKS[name]


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize(
    ("method", "dropout", "base_dropout"),
    [(None, 0.0, 0.0), ("lora", 0.0, 0.0), ("lora", 0.2, 0.3), ("dora", 0.2, 0.0), ("vera", 0.0, 0.3)],
)
def test_gradients_are_the_same(name, every, method, dropout, base_dropout):
    """Bit for bit: the same operations on the same numbers, at another time."""
    model, given = adapted(name, method, dropout, base_dropout), batch(name)
    loss, plain = gradients(model, given)
    names = checkpoint_blocks(model, every)
    assert names == [n for stack in BLOCKS[name] for n in stack[::every]]
    again, checkpointed = gradients(model, given)
    assert torch.equal(again, loss)
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert checkpointed.keys() == plain.keys() == trained or not method
    assert all(gradient.any() for n, gradient in checkpointed.items() if "lora_" in n or "vera_" in n)
    assert all(torch.equal(gradient, plain[n]) for n, gradient in checkpointed.items())
    if dropout or base_dropout:
        assert not torch.equal(gradients(model, given, seed=6)[0], loss)  # there was dropout


@pytest.mark.parametrize("name", BUILDERS)
def test_blocks_are_computed_twice(name):
    model, given, calls = adapted(name), batch(name), []
    for block in (model.get_submodule(n) for stack in BLOCKS[name] for n in stack):
        norm = next(m for m in block.modules() if "Norm" in type(m).__name__)
        norm.register_forward_hook(lambda *_: calls.append(1))
    gradients(model, given)
    once = len(calls)
    checkpoint_blocks(model)
    gradients(model, given)
    assert len(calls) == 3 * once
    with torch.no_grad():
        model(**given)
    assert len(calls) == 4 * once


def deep(layers=6):
    """GPT-2-like, adapted."""
    config = GPT2Config(vocab_size=50, n_embd=48, n_layer=layers, n_head=3, n_positions=64, bos_token_id=0,
                        eos_token_id=0, resid_pdrop=0.1, embd_pdrop=0.1, attn_pdrop=0.1)  # fmt: skip
    torch.manual_seed(0)
    model = inject(GPT2LMHeadModel(config), AdapterConfig("lora", 3, 7)).train()
    ids = torch.randint(50, (4, 60))
    return model, {"input_ids": ids, "labels": ids}


def test_bytes():
    """Each checkpointed block keeps its input, and one byte-sized state of the random numbers."""
    layers, tokens, width = 6, 240, 48
    model, given = deep(layers)
    plain = measure(model, given)
    found = {}
    for every in (1, 2, 3):
        checkpoint_blocks(model, every)
        found[every] = measure(model, given)
        undo_checkpointing(model)
    assert measure(model, given) == plain
    assert found[1].saved < 0.15 * plain.saved
    assert found[1].peak < found[2].peak < found[3].peak < plain.peak
    inputs = 4 * tokens * width
    inside = (plain.saved - found[1].saved) / layers + inputs  # of one block
    for every in (2, 3):
        expected = plain.saved - layers // every * (inside - inputs)
        assert found[every].saved == pytest.approx(expected, rel=0.02)
    for field in ("parameters", "gradients", "optimizer_state"):
        assert getattr(found[1], field) == getattr(plain, field)


class Block(nn.Module):
    def __init__(self, width, inner):
        super().__init__()
        self.up, self.down, self.drop = nn.Linear(width, inner), nn.Linear(inner, width), nn.Dropout(0.4)

    def forward(self, x, scale=1.0):
        return x + scale * self.drop(self.down(torch.tanh(self.up(x))))


class Plain(nn.Module):
    """No transformers, and a list of plain layers that is no stack of blocks."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Block(12, 20) for _ in range(5))
        self.heads = nn.ModuleList(nn.Linear(12, n) for n in (3, 4))

    def forward(self, x):
        for block in self.blocks:
            x = block(x, scale=0.5)
        return sum(head(x).square().sum() for head in self.heads)


def test_plain_module_list():
    torch.manual_seed(0)
    model, x = Plain(), torch.randn(7, 12)
    inject(model, AdapterConfig("lora", 3, 7, trainable=["heads.0", "heads.1"]))
    assert find_blocks(model) == [[f"blocks.{i}" for i in range(5)]]

    def run():
        torch.manual_seed(2)
        model.zero_grad()
        model(x).backward()
        return [p.grad.clone() for p in model.parameters() if p.requires_grad]

    plain, state = run(), copy.deepcopy(model.state_dict())
    assert checkpoint_blocks(model, 2) == ["blocks.0", "blocks.2", "blocks.4"]
    assert all(map(torch.equal, run(), plain))
    assert state.keys() == model.state_dict().keys()
    assert find_blocks(nn.ModuleList(Block(3, 4) for _ in range(2))) == [["0", "1"]]


def test_adapters_may_come_afterwards():
    model, given = build("llama").train(), batch("llama")
    checkpoint_blocks(model)
    inject(model, AdapterConfig("lora", 3, 7))
    for p in model.parameters():
        if p.requires_grad:
            nn.init.normal_(p, std=0.3)
    checkpointed = gradients(model, given)[1]
    undo_checkpointing(model)
    plain = gradients(model, given)[1]
    assert plain and all(torch.equal(checkpointed[n], gradient) for n, gradient in plain.items())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_is_checkpointed_on_its_own(copied):
    model, given = adapted("gpt2"), batch("gpt2")
    checkpoint_blocks(model)
    loss, plain = gradients(model, given)
    twin = copied(model)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()  # a twin that still called the blocks of the first would see that
    again, theirs = gradients(twin, given)
    assert torch.equal(again, loss) and all(torch.equal(theirs[n], gradient) for n, gradient in plain.items())
    assert len(undo_checkpointing(twin)) == 2 and len(undo_checkpointing(model)) == 2


def test_generation_still_uses_the_cache():
    model = build("llama")
    ids = torch.tensor([[3, 4, 5]])
    plain = model.generate(ids, max_new_tokens=4, do_sample=False, pad_token_id=0)
    checkpoint_blocks(model)
    assert torch.equal(model.generate(ids, max_new_tokens=4, do_sample=False, pad_token_id=0), plain)
    with torch.no_grad():
        assert model(ids, use_cache=True).past_key_values.get_seq_length() == 3


def test_a_cache_from_outside_is_refused():
    model, ids = build("llama").train(), torch.tensor([[3, 4, 5]])
    checkpoint_blocks(model)
    with torch.no_grad():
        cache = model(ids, use_cache=True).past_key_values
    with pytest.raises(ValueError, match="would write into past_key_values twice: call the model without it"):
        model(ids, past_key_values=cache)


def test_refusals():
    with pytest.raises(ValueError, match="found no blocks in Sequential: blocks are the members of an nn.ModuleList"):
        checkpoint_blocks(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)))
    layers = nn.ModuleDict({"layers": nn.ModuleList(nn.Linear(4, 4) for _ in range(3))})
    for inside in (layers, inject(layers, AdapterConfig("lora", 2, 3))):
        with pytest.raises(ValueError, match="found no blocks"):
            checkpoint_blocks(inside)
    model = build("bert")
    with pytest.raises(ValueError, match="every is 1 for every block.* got 0"):
        checkpoint_blocks(model, 0)
    with pytest.raises(ValueError, match="no block of this BertForSequenceClassification is checkpointed"):
        undo_checkpointing(model)
    checkpoint_blocks(model, 2)
    with pytest.raises(ValueError, match=r"bert.encoder.layer.0 is checkpointed already: undo_checkpointing\(model\)"):
        checkpoint_blocks(model)
    assert undo_checkpointing(model) == ["bert.encoder.layer.0"]  # the refusal changed nothing
    model.bert.encoder.layer[1].forward = lambda x: x
    with pytest.raises(ValueError, match="layer.1 has a forward of its own"):
        checkpoint_blocks(model)
    theirs = build("gpt2").train()
    theirs.activation_checkpointing_enable()
    with pytest.raises(ValueError, match=r"transformer.h.0 is checkpointed by transformers already: call model.activ"):
        checkpoint_blocks(theirs)
