"""Chunked computation against the plain one: equal values and gradients, fewer bytes; and where it does nothing."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from lora_course import AdapterConfig, inject
from lora_course.memory import measure
from lora_course.memory.chunking import chunked_cross_entropy, chunked_lm_loss, chunked_over_tokens
from lora_course.memory.measure import model_loss
from lora_course.training.config import TrainingConfig
from lora_course.training.loop import fit
from tests.adapters.models import batch, build

D, VOCABULARY, MIB = 24, 61, 2**20


def plain(hidden, weight, labels, bias=None):
    return F.cross_entropy(F.linear(hidden, weight, bias).flatten(0, -2), labels.flatten())


def inputs(dtype, bias=True, tokens=(3, 7)):
    hidden = torch.randn(*tokens, D, dtype=dtype, requires_grad=True)
    weight = torch.randn(VOCABULARY, D, dtype=dtype, requires_grad=True)
    b = torch.randn(VOCABULARY, dtype=dtype, requires_grad=True) if bias else None
    labels = torch.randint(VOCABULARY, tokens)
    labels[0, 2:5] = -100
    return hidden, weight, labels, b


@pytest.mark.parametrize("chunk", [1, 4, 7, 21, 1000])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-6)])
def test_loss_and_gradients_are_the_plain_ones(chunk, bias, dtype, tolerance):
    torch.manual_seed(0)
    hidden, weight, labels, b = inputs(dtype, bias)
    wanted = [t for t in (hidden, weight, b) if t is not None]
    losses = chunked_cross_entropy(hidden, weight, labels, b, chunk), plain(hidden, weight, labels, b)
    torch.testing.assert_close(*losses, rtol=tolerance, atol=0)
    for mine, right in zip(*(torch.autograd.grad(3 * loss, wanted) for loss in losses), strict=True):
        torch.testing.assert_close(mine, right, rtol=0, atol=tolerance)


def test_gradients_by_finite_differences():
    torch.manual_seed(1)
    hidden, weight, labels, b = inputs(torch.float64)
    assert torch.autograd.gradcheck(lambda h, w, b: chunked_cross_entropy(h, w, labels, b, 5), (hidden, weight, b))


@pytest.mark.parametrize("trained", ["hidden", "weight", "bias"])
def test_only_what_is_asked_for(trained):
    torch.manual_seed(0)
    tensors = dict(zip(("hidden", "weight", "labels", "bias"), inputs(torch.float64), strict=True))
    for name, tensor in tensors.items():
        tensor.requires_grad_(name == trained)
    loss = chunked_cross_entropy(**tensors, chunk=4)
    mine = torch.autograd.grad(loss, tensors[trained], retain_graph=True)[0]
    torch.testing.assert_close(mine, torch.autograd.grad(plain(**tensors), tensors[trained])[0], rtol=0, atol=1e-13)
    assert torch.equal(mine, torch.autograd.grad(loss, tensors[trained])[0])  # a second time over the same graph
    with torch.no_grad():
        assert not chunked_cross_entropy(**tensors, chunk=4).requires_grad


def test_large_logits_do_not_overflow():
    hidden, weight, labels, _ = inputs(torch.float32)
    losses = [f(1e4 * hidden, weight, labels) for f in (chunked_cross_entropy, plain)]
    assert losses[0].isfinite()
    torch.testing.assert_close(*losses)


def test_no_target_at_all():
    hidden, weight, labels, _ = inputs(torch.float32)
    loss = chunked_cross_entropy(hidden, weight, torch.full_like(labels, -100))
    loss.backward()
    assert loss.isnan() and plain(hidden, weight, torch.full_like(labels, -100)).isnan()
    assert not hidden.grad.any() and not weight.grad.any()  # as torch's


def test_bfloat16_is_as_near_to_the_truth_as_the_plain_loss():
    """transformers computes the logits in bfloat16 and goes on in float32, and so do we."""
    torch.manual_seed(0)
    hidden, weight, labels, _ = inputs(torch.bfloat16, bias=False, tokens=(6, 40))
    exact = [t.detach().double().requires_grad_() for t in (hidden, weight)]
    truth = torch.autograd.grad(plain(*exact, labels), exact)
    ours = chunked_cross_entropy(hidden, weight, labels, chunk=16)
    theirs = F.cross_entropy(F.linear(hidden, weight).float().flatten(0, 1), labels.flatten())
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
    for right, mine, plains in zip(
        truth, *(torch.autograd.grad(loss, (hidden, weight)) for loss in (ours, theirs)), strict=True
    ):
        assert mine.dtype == torch.bfloat16
        assert (mine - right).norm() <= 1.05 * (plains - right).norm()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": torch.zeros(4, dtype=torch.long)}, "need hidden .*\\(3, 7, 24\\), \\(4,\\) and \\(61, 24\\)"),
        ({"weight": torch.zeros(61, 25)}, "and \\(61, 25\\)"),
        ({"chunk": 0}, "1 or more, got 0"),
    ],
)
def test_what_does_not_fit(change, words):
    hidden, weight, labels, _ = inputs(torch.float32)
    with pytest.raises(ValueError, match=words):
        chunked_cross_entropy(**{"hidden": hidden, "weight": weight, "labels": labels} | change)


def test_a_label_out_of_range_is_no_target_in_silence():
    hidden, weight, labels, _ = inputs(torch.float32)
    for wrong in (VOCABULARY, -1):
        labels[1, 1] = wrong
        with pytest.raises((RuntimeError, IndexError)):
            chunked_cross_entropy(hidden, weight, labels)


def test_peak_of_the_loss_on_smollm2():
    """1 024 tokens, width 576, 49 152 words, the projection frozen, as LoRA leaves it. Plain: logits and log-softmax on
    the way there, three tensors of that size on the way back. Ours: the logits of one chunk.
    """
    tokens, d, vocabulary = 1024, 576, 49152
    head = nn.Linear(d, vocabulary, bias=False).requires_grad_(False)
    hidden = torch.randn(tokens, d, requires_grad=True)
    labels = torch.randint(vocabulary, (tokens,))
    given = {"hidden": hidden, "labels": labels}
    whole = measure(head, given, lambda head, given: plain(given["hidden"], head.weight, given["labels"]))
    ours = measure(
        head, given, lambda head, given: chunked_cross_entropy(given["hidden"], head.weight, given["labels"])
    )
    logits = 4 * tokens * vocabulary
    assert whole.peak > 3 * logits
    assert whole.peak / ours.peak > 5  # though the weights are in both
    there = head.weight.nbytes + hidden.nbytes + labels.nbytes
    assert (whole.peak - there) / (ours.peak - there) > 30
    assert ours.saved == hidden.nbytes and whole.saved > logits


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("adapter", [None, AdapterConfig("lora", 3, 7)])
def test_a_language_models_own_loss(name, adapter):
    """Tied embeddings in both: their gradient comes from both ends."""
    model = build(name).double().train()
    if adapter:
        inject(model, adapter)
        for p in model.parameters():
            if p.requires_grad:
                nn.init.normal_(p)
    given = batch(name)
    given["labels"][1, 3:] = -100
    gradients = []
    for loss in (model_loss, chunked_lm_loss(4)):
        model.zero_grad()
        value = loss(model, given)
        value.backward()
        gradients.append((value.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}))
    (theirs, right), (ours, mine) = gradients
    torch.testing.assert_close(ours.float(), theirs, rtol=1e-6, atol=0)  # transformers goes on in float32
    assert mine.keys() == right.keys() and len(mine) > 0
    for key, gradient in mine.items():
        torch.testing.assert_close(gradient, right[key], rtol=0, atol=1e-6 * max(1.0, right[key].abs().max()), msg=key)


def test_trains_as_the_models_own_loss():
    """The same run with both, gradient accumulation over ragged batches included."""
    histories = []
    for loss in (model_loss, chunked_lm_loss(5)):
        model = inject(build("llama"), AdapterConfig("lora", 3, 7))
        ids = [{"input_ids": torch.arange(2, 2 + n), "labels": torch.arange(2, 2 + n)} for n in (4, 9, 5, 7, 6, 8)]

        def collate(examples):
            pad = torch.nn.utils.rnn.pad_sequence
            return {
                "input_ids": pad([e["input_ids"] for e in examples], batch_first=True),
                "labels": pad([e["labels"] for e in examples], batch_first=True, padding_value=-100),
            }

        config = TrainingConfig(epochs=3, batch_size=2, accumulation_steps=2, learning_rate=1e-2, seed=0)
        histories.append(fit(model, ids, collate, config, loss=loss, progress=False))
    for mine, right in zip(histories[1].steps, histories[0].steps, strict=True):
        assert mine.loss == pytest.approx(right.loss, rel=1e-5)
        assert mine.grad_norm == pytest.approx(right.grad_norm, rel=1e-4)
    assert chunked_lm_loss(5).__name__ == "chunked_lm_loss(5)"


def test_peak_of_a_language_model_with_a_wide_vocabulary():
    config = GPT2Config(vocab_size=6000, n_embd=32, n_layer=2, n_head=2, n_positions=256, bos_token_id=0,
                        eos_token_id=0)  # fmt: skip
    model = inject(GPT2LMHeadModel(config), AdapterConfig("lora", 3, 7))
    ids = torch.randint(6000, (1, 256))
    whole, ours = (measure(model, {"input_ids": ids, "labels": ids}, loss) for loss in (model_loss, chunked_lm_loss()))
    assert whole.saved - ours.saved > 0.9 * 4 * 256 * 6000
    assert ours.phase_peaks["backward"] < whole.phase_peaks["backward"] / 3
    assert (ours.parameters, ours.gradients) == (whole.parameters, whole.gradients)


def test_models_whose_logits_are_something_else():
    loss = chunked_lm_loss()
    with pytest.raises(ValueError, match="needs a causal language model of transformers, got a T5For"):
        loss(build("t5"), batch("t5"))
    with pytest.raises(ValueError, match="got a BertFor"):
        loss(build("bert"), batch("bert"))
    with pytest.raises(ValueError, match="got a Linear"):
        loss(nn.Linear(3, 4), batch("gpt2"))
    capped = build("llama")
    capped.config.final_logit_softcapping = 30.0
    with pytest.raises(ValueError, match="knows nothing of final_logit_softcapping"):
        loss(capped, batch("llama"))
    adapted = build("llama")
    inject(adapted, AdapterConfig("lora", 3, 7, ["q_proj", "lm_head"]))
    with pytest.raises(ValueError, match="that layer is a LoRA"):
        loss(adapted, batch("llama"))


def mlp(dropout=0.0):
    return nn.Sequential(nn.Linear(D, 4 * D), nn.GELU(), nn.Dropout(dropout), nn.Linear(4 * D, 17))


@pytest.mark.parametrize("chunk", [1, 5, 21, 99])
@pytest.mark.parametrize("adapted", [True, False])
def test_chunked_mlp_is_the_mlp(chunk, adapted):
    torch.manual_seed(0)
    layer = mlp().double().train()
    if adapted:
        inject(layer, AdapterConfig("lora", 3, 7))
        nn.init.normal_(layer[3].lora_B)
    x = torch.randn(3, 7, D, dtype=torch.float64, requires_grad=True)
    wanted = [x, *(p for p in layer.parameters() if p.requires_grad)]
    outputs = chunked_over_tokens(layer, x, chunk), layer(x)
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-12)
    for mine, right in zip(*(torch.autograd.grad(y.square().sum(), wanted) for y in outputs), strict=True):
        torch.testing.assert_close(mine, right, rtol=0, atol=1e-10)


def test_chunked_mlp_draws_its_dropout_again():
    """The gradient of what was computed, by finite differences with the masks held."""
    layer, x = mlp(0.3).double().train(), torch.randn(6, D, dtype=torch.float64, requires_grad=True)

    def seeded(x):
        torch.manual_seed(3)
        return chunked_over_tokens(layer, x, 4)

    assert torch.autograd.gradcheck(seeded, (x,))


def test_peak_of_a_chunked_mlp():
    layer = nn.Sequential(nn.Linear(64, 1024), nn.GELU(), nn.Linear(1024, 64)).requires_grad_(False)
    x = torch.randn(512, 64, requires_grad=True)
    whole = measure(layer, x, lambda layer, x: layer(x).sum())
    ours = measure(layer, x, lambda layer, x: chunked_over_tokens(layer, x, 64).sum())
    inside = 4 * 512 * 1024
    assert whole.saved >= inside and ours.saved < 1.1 * x.nbytes
    assert whole.peak - ours.peak > 1.5 * inside
    with pytest.raises(ValueError, match="1 or more, got 0"):
        chunked_over_tokens(layer, x, 0)


class ChunkedBatch(nn.Module):
    """What is often shown as saving memory: the rows of the batch go through the layer one group after the other."""

    def __init__(self, layer, rows):
        super().__init__()
        self.layer, self.rows = layer, rows

    def forward(self, x):
        return torch.cat([self.layer(part) for part in x.split(self.rows)])


@pytest.mark.parametrize("rows", [1, 4, 16])
def test_chunking_the_batch_saves_nothing(rows):
    """What each group saves waits for the backward pass as the whole batch's would, and the output exists twice."""
    layer = inject(nn.ModuleDict({"layer": nn.Linear(64, 48)}), AdapterConfig("lora", 4, 8)).layer
    x = torch.randn(32, 20, 64)
    both = layer, ChunkedBatch(copy.deepcopy(layer), rows)
    whole, parts = (measure(model, x, lambda model, x: model(x).sum()) for model in both)
    assert parts.saved == whole.saved > 0
    assert parts.peak > whole.peak
