# %% [markdown]
# # 99 · A lesson to try the gates on
#
# **The question.** Does every gate open and close?
#
# **What you will be able to do**
# - say which gate failed, and why
#
# **Time and memory.** About 15 minutes and
# 300 MiB.

# %%
import sys

import torch
from torch import nn
from tqdm.auto import tqdm

from lora_course.teaching.exercises import check
from lora_course.teaching.profiles import by_profile, current_profile
from tests.teaching.fixture_course.fixture_checks import BASE

# %% [markdown]
# ## Doubling
#
# For $x$ in $[0, 1]$, `x[0](1)` is not a link, and [this](https://arxiv.org/abs/2106.09685) is one.
#
# ![A line that goes up](https://example.org/line.svg)
#
# ## Exercise 99.1 · Twice as much
#
# ★ · 5 minutes
#
# Write a function that doubles.
#
# <details><summary>Nudge</summary>
#
# It is an operation with one number.
# </details>
#
# <details><summary>Bigger nudge</summary>
#
# Multiply.
# </details>
#
# <details><summary>Outline</summary>
#
# Return two times `x`.
# </details>

# %% exercise="99.1"
def double(x):
    """x: any shape; returns the same shape."""
    ### BEGIN SOLUTION
    return 2 * x
    ### END SOLUTION


# %% check="99.1" tags=["nbval-check-output"]
double = check("99.1", double)

# %% [markdown]
# ## Exercise 99.2 · A module that shifts
#
# ★★ · 10 minutes
#
# <details><summary>Nudge</summary>
#
# Keep the number.
# </details>
# <details><summary>Bigger nudge</summary>
#
# Keep it in `self`.
# </details>
# <details><summary>Outline</summary>
#
# Store it in the constructor, add it in `forward`.
# </details>

# %% tags=["setup"]
STEP = 1.0

# %% exercise="99.2"
class Shift(nn.Module):
    def __init__(self, by):
        super().__init__()
        ### BEGIN SOLUTION
        self.by = by * STEP
        ### END SOLUTION

    def forward(self, x):
        ### BEGIN SOLUTION
        moved = torch.as_tensor(x) + self.by
        return moved
        ### END SOLUTION


# %% check="99.2" tags=["nbval-check-output"]
Shift = check("99.2", Shift)

# %% tags=["nbval-check-output"] jupyter={"source_hidden": true}
print(current_profile() in ("smoke", "cpu"), double(Shift(1.0)(torch.ones(2))).tolist())

# %%
for _ in tqdm(range(by_profile(smoke=2, cpu=3, full=4))):
    pass
for _ in tqdm(range(3), file=sys.stderr):
    pass

# %% [markdown]
# ## Bug lab · A shift that squares

# %% tags=["nbval-check-output"]
pow(BASE, 3)

# %%
pow(BASE, 3)

# %% [markdown]
# ## Self-test
#
# <details><summary>1. What is twice one?</summary>
#
# Two.
# </details>
#
# <details><summary>2. And three times?</summary>
#
# Three.
# </details>
#
# <details><summary>3. Why?</summary>
#
# Because.
# </details>
#
# ## Reading
#
# - [LoRA](https://arxiv.org/abs/2106.09685), for the method.
