"""Tiny random models of four architectures, and their inputs. Every width differs from every other, r from alpha."""

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

VOCAB = 61


def bert():
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=VOCAB,
            hidden_size=24,
            num_hidden_layers=2,
            num_attention_heads=3,
            intermediate_size=40,
            max_position_embeddings=32,
            num_labels=3,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    )


def gpt2():
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCAB,
            n_embd=24,
            n_layer=2,
            n_head=3,
            n_positions=32,
            n_inner=40,
            bos_token_id=1,
            eos_token_id=1,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        )
    )


def llama():
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=24,
            intermediate_size=40,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=32,
            tie_word_embeddings=True,
        )
    )


def t5():
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=VOCAB,
            d_model=24,
            d_kv=8,
            d_ff=40,
            num_layers=2,
            num_heads=4,
            dropout_rate=0.0,
            decoder_start_token_id=0,
            pad_token_id=0,
        )
    )


BUILDERS = {"bert": bert, "gpt2": gpt2, "llama": llama, "t5": t5}

TARGETS = {
    "bert": [["query", "value"], ["word_embeddings", "output.dense"], "all-linear"],
    "gpt2": [["c_attn"], ["wte", "mlp.c_proj"], "all-linear"],
    "llama": [["q_proj", "v_proj"], ["embed_tokens", "down_proj"], "all-linear"],
    "t5": [["q", "v"], ["wo", "wi"], "all-linear"],
}
CASES = [(name, targets) for name, settings in TARGETS.items() for targets in settings]
HEADS = {"bert": ["classifier"], "gpt2": [], "llama": [], "t5": []}


def build(name, seed=0):
    torch.manual_seed(seed)
    model = BUILDERS[name]()
    with torch.no_grad():  # biases and norms away from their 0 and 1, so that a mistake with them shows
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    return model.eval()


def batch(name, seed=1):
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, VOCAB, (3, 7), generator=g)
    mask = torch.ones_like(ids)
    mask[0, 5:] = 0
    inputs = {"input_ids": ids, "attention_mask": mask}
    if name == "bert":
        inputs["labels"] = torch.tensor([0, 2, 1])
    else:
        inputs["labels"] = torch.randint(2, VOCAB, (3, 7), generator=g)
    return inputs
