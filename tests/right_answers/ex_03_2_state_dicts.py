"""03.2"""

from torch import nn


def answer(attention):
    d = attention.embed_dim
    layers = []
    for rows in (slice(0, d), slice(d, 2 * d), slice(2 * d, None)):
        state = {"weight": attention.in_proj_weight[rows]}
        if attention.in_proj_bias is not None:
            state["bias"] = attention.in_proj_bias[rows]
        layer = nn.Linear(d, d, bias="bias" in state).to(attention.in_proj_weight)
        layer.load_state_dict(state)
        layers.append(layer)
    return layers
