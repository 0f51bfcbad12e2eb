"""What a real model holds: its own parameters, the plan's shards, and bytes of a watched forward counted by hand."""

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

import axisplit
from axisplit.errors import CaptureError, LoweringError, PlanMismatchError
from axisplit.memory.formulae import layer_activation_bytes
from axisplit.memory.model import measure


def mlp(inputs=4, hidden=8):
    return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, inputs))


X = (torch.zeros(2, 4),)
WEIGHTS, VECTORS = 2 * 4 * 8, 8 + 4


def test_a_small_model_by_hand_in_training():
    found = axisplit.fit(mlp(), X, ranks=2, training=True)
    whole = found.row("data", "fp32").fullest
    assert whole.parameter_bytes == whole.gradient_bytes == whole.optimizer_bytes / 2 == 4 * (WEIGHTS + VECTORS)
    kept = 4 + 8 + 8 + 4  # of a row: the input, in front of and behind GELU, the output
    assert whole.activation_bytes == 4 * kept  # each of 2 ranks has one of 2 rows
    assert found.row("data", "bf16").fullest.activation_bytes == 2 * kept
    half = found.row("tensor", "fp32").fullest
    assert half.parameter_bytes == 4 * (WEIGHTS / 2 + 4 + 4)  # the bias behind the sum is on both
    assert half.activation_bytes == 4 * 2 * (4 + 4 + 4 + 4)  # both rows, GELU on half of the hidden axis
    first, second = found.row("pipeline", "fp32").by_rank
    assert (first.parameter_bytes, second.parameter_bytes) == (4 * (32 + 8), 4 * (32 + 4))
    assert first.activation_bytes == 4 * 2 * 4  # two rows in flight; what is sent on is the second's
    assert second.activation_bytes == 4 * 1 * (8 + 8 + 4)


def test_what_is_recomputed_keeps_what_it_was_given():
    found = axisplit.fit(mlp(), X, ranks=2, training=True, recompute="full")
    entered, largest = 4 + 8 + 8, 8 + 4  # of a row; the last linear keeps its input and the model's output
    assert found.row("data", "fp32").fullest.activation_bytes == 4 * (entered + largest)
    first, second = found.row("pipeline", "fp32").by_rank
    assert first.activation_bytes == 4 * (2 * 4 + 1 * 4)  # two rows in flight, one computed again
    assert second.activation_bytes == 4 * (8 + 8 + largest)
    assert found.row("tensor", "fp32").fullest.activation_bytes == 4 * 2 * (4 + 4 + 4 + (4 + 4))


class PaperLayer(nn.Module):
    """A decoder layer as Korthikanti et al. 2022 count it: [s, b, h], scores kept, three dropouts."""

    def __init__(self, hidden, heads):
        super().__init__()
        self.heads, self.head_dim = heads, hidden // heads
        self.norm1, self.norm2 = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.qkv, self.out = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)
        self.up, self.down = nn.Linear(hidden, 4 * hidden), nn.Linear(4 * hidden, hidden)
        self.drop = nn.Dropout(0.1)

    def forward(self, x):
        s, b, h = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(s, b * self.heads, 3 * self.head_dim).transpose(0, 1).chunk(3, -1)
        empty = x.new_empty(b * self.heads, s, s)
        scores = torch.baddbmm(empty, q, k.transpose(1, 2), beta=0, alpha=self.head_dim**-0.5)
        mixed = torch.bmm(self.drop(scores.softmax(-1)), v)
        x = x + self.drop(self.out(mixed.transpose(0, 1).reshape(s, b, h)))
        return x + self.drop(self.down(nn.functional.gelu(self.up(self.norm2(x)))))


def test_what_is_measured_is_what_the_formula_says():
    s, b, h, a = 8, 2, 16, 4
    (held,) = measure(PaperLayer(h, a).train(), (torch.zeros(s, b, h),), 1, training=True).parts("data", 1)
    for width, item in enumerate((2, 4)):
        beyond = held.activations[width] - layer_activation_bytes(s, b, h, a, w=item)
        output, statistics = s * b * h, 2 * 2 * s * b  # what it returns; mean and deviation of both norms
        masks = 2 * s * b * h + a * s * s * b  # of a byte each on a GPU, in the activations' dtype on a CPU
        assert beyond == item * (output + statistics) + (item - 1) * masks


class Deep(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Linear(4, 6), nn.Linear(6, 2)
        self.blocks = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def test_only_blocks_are_recomputed_and_gathered_in_turn():
    found = axisplit.fit(Deep(), X, ranks=2, training=True, recompute="full").row("fsdp", "fp32").fullest
    stem, block, head = 4, 6, 6 + 2  # of a row: inputs, and what is returned
    assert found.activation_bytes == 4 * (stem + 2 * block + head + block)
    root, own = (4 * 6 + 6) + (6 * 2 + 2), 6 * 6 + 6
    assert found.gathered_bytes == 4 * (root + 2 * own) + 4 * max(root, own)


def test_a_small_model_by_hand_in_inference():
    found = axisplit.fit(mlp(), X, ranks=1)
    assert found.row("data", "fp32").fullest.activation_bytes == 4 * 2 * (8 + 8)  # in front of and behind GELU
    assert found.row("data", "fp32").fullest.kv_cache_bytes == 0


def test_fsdp_cuts_first_dims_as_torch_does():
    model = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3))
    found = axisplit.fit(model, (torch.zeros(4, 5),), ranks=4)
    first = sum(torch.chunk(p, 4)[0].numel() for p in model.parameters())
    assert found.row("fsdp", "fp32").fullest.parameter_bytes == 4 * first


def test_what_is_frozen_has_no_gradients():
    model = mlp()
    model[0].requires_grad_(False)
    held = axisplit.fit(model, X, ranks=1, training=True).row("data", "bf16").fullest
    trained = 32 + 4
    sizes = (held.parameter_bytes, held.gradient_bytes, held.optimizer_bytes)
    assert sizes == (2 * (WEIGHTS + VECTORS), 2 * trained, 12 * trained)


def llama(**changes):
    sizes = {"hidden_size": 36, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 9,
             "num_key_value_heads": 3, "head_dim": 4, "vocab_size": 40, "tie_word_embeddings": True}  # fmt: skip
    return LlamaForCausalLM(LlamaConfig(**{**sizes, **changes})).eval()


IDS = {"input_ids": torch.zeros(1, 16, dtype=torch.long)}


def test_uneven_heads_are_the_plans_own_parts():
    model = llama()
    plan = axisplit.plan(model, IDS, ranks=2)
    found = axisplit.fit(model, IDS, ranks=2, plan=plan)
    row = found.row("tensor", "fp32")
    assert [held.parameter_bytes for held in row.by_rank] == plan.bytes_per_rank
    assert plan.bytes_per_rank[0] > plan.bytes_per_rank[1]
    assert row.fullest is row.by_rank[0]
    of_a_head = 2 * 3 * 4 * 16 * 4  # keys and values of 16 tokens in 3 layers, heads of 4
    assert [held.kv_cache_bytes for held in row.by_rank] == [2 * of_a_head, of_a_head]
    assert found.row("data", "fp32").fullest.kv_cache_bytes == 3 * of_a_head
    assert found.row("data", "int8").fullest.kv_cache_bytes == 3 * of_a_head / 2


def test_stages_hold_the_whole_model_and_tied_tensors_twice():
    for tied in (True, False):
        model = llama(tie_word_embeddings=tied, num_hidden_layers=4)
        whole = sum(p.numel() for p in model.parameters())
        contents = measure(model, IDS, 1, training=False)
        for ranks in (1, 2, 3):
            stages = contents.parts("pipeline", ranks)
            assert len(stages) == ranks
            assert sum(stage.parameters for stage in stages) == whole + (40 * 36 if tied and ranks > 1 else 0)
            assert sum(stage.caches[1] for stage in stages) == 2 * 4 * 3 * 4 * 16 * 4
        twice = "held by every stage that uses it: model.embed_tokens.weight"
        assert (twice in dict(contents.notes())["pipeline"]) is tied


def test_pieces_are_in_the_order_in_which_they_run():
    model = T5ForConditionalGeneration(
        T5Config(d_model=8, d_ff=16, d_kv=4, num_heads=2, num_layers=2, vocab_size=20, decoder_start_token_id=0)
    ).eval()
    inputs = {**IDS, "decoder_input_ids": IDS["input_ids"][:, :3]}
    names = [piece.name for piece in measure(model, inputs, 1, training=False).pieces]
    assert names == [
        "encoder.embed_tokens", "encoder.block.0", "encoder.block.1", "encoder.final_layer_norm",
        "decoder.embed_tokens", "decoder.block.0", "decoder.block.1", "decoder.final_layer_norm", "lm_head",
    ]  # fmt: skip


def test_a_model_without_parameters():
    found = axisplit.fit(nn.GELU(), X, ranks=2, memory=1000, training=True)
    assert {row.fullest.parameter_bytes for row in found.rows if row.fullest} == {0}
    assert found.helping == ()
    assert "fewer pieces to hand out (1) than ranks" in found.row("pipeline", "bf16").why_not


def test_the_model_is_left_as_it_was():
    model = llama()
    before = {name: p.clone() for name, p in model.named_parameters()}
    axisplit.fit(model, IDS, ranks=2, training=True)
    assert all(torch.equal(before[name], p) and p.grad is None for name, p in model.named_parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_without_a_plan_the_other_ways_are_told(monkeypatch):
    def refuse(*_, **__):
        raise LoweringError("no plan could be put into the model's code")

    monkeypatch.setattr("axisplit.memory.model.make_plan", refuse)
    found = axisplit.fit(mlp(), X, ranks=2, memory=1000)
    assert found.row("tensor", "fp32").why_not == "axisplit has no plan: no plan could be put into the model's code"
    assert found.helping == ("pipeline",)  # what FSDP gathers of two layers is all there is
    assert "tensor: not possible, axisplit has no plan" in str(found)


def test_a_rank_that_cannot_be_measured_counts_as_the_whole(monkeypatch):
    def fails(*_):
        raise RuntimeError("no such path")

    monkeypatch.setattr("axisplit.memory.model.apply_places", fails)
    found = axisplit.fit(mlp(), X, ranks=2, training=True)
    assert found.row("tensor", "fp32").fullest.activation_bytes == 4 * 2 * (4 + 8 + 8 + 4)
    assert dict(found.notes)["rank 0"] == "activations and caches as the whole model's: RuntimeError: no such path"


def test_another_plan_is_refused():
    plan = axisplit.plan(mlp(), X, ranks=2)
    with pytest.raises(PlanMismatchError, match="another number of ranks"):
        axisplit.fit(mlp(), X, ranks=4, plan=plan)
    with pytest.raises(PlanMismatchError, match="another model"):
        axisplit.fit(mlp(hidden=6), X, ranks=2, plan=plan)


class LooksAtValues(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        return self.linear(x) if x.sum() > 0 else x


def test_a_model_that_cannot_be_measured():
    with pytest.raises(CaptureError) as raised:
        axisplit.fit(LooksAtValues(), X, ranks=1)
    assert str(raised.value).startswith("the model's forward cannot be measured without values\n  got: ")
    assert "--params" in raised.value.do
