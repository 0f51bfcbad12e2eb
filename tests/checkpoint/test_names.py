"""Checkpoint names find their parameters, and whatever does not fit is listed at once."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    conversion_mapping,
)
from transformers.core_model_loading import WeightRenaming

from axisplit.checkpoint import compare_model, match_model, match_names, model_tensors, open_checkpoint
from axisplit.errors import InputError

TINY = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 32}


def bert(kind):
    return kind(BertConfig(**TINY))


def resave(directory, change):
    tensors = {name: tensor.clone() for name, tensor in load_file(directory / "model.safetensors").items()}
    save_file(change(tensors), directory / "model.safetensors", {"format": "pt"})


def assert_streams(model, directory, names):
    checkpoint, state = open_checkpoint(directory), model.state_dict()
    assert set(names) == set(state)
    for name, source in names.items():
        assert torch.equal(checkpoint.read(source), state[name]), name


def test_llama_with_tied_head(tmp_path):
    model = LlamaForCausalLM(LlamaConfig(**TINY, tie_word_embeddings=True))
    model.save_pretrained(tmp_path)
    names = match_model(model, open_checkpoint(tmp_path))
    assert names["lm_head.weight"] == "model.embed_tokens.weight"
    assert_streams(model, tmp_path, names)


def test_tied_tensor_known_only_by_its_other_name(tmp_path):
    model = nn.ModuleDict({"embed": nn.Embedding(4, 3), "head": nn.Linear(3, 4, bias=False)})
    model["head"].weight = model["embed"].weight
    save_file({"head.weight": model["head"].weight.detach()}, tmp_path / "model.safetensors")
    names = match_model(model, open_checkpoint(tmp_path))
    assert names == {"embed.weight": "head.weight", "head.weight": "head.weight"}


def test_base_model_prefix_is_taken_away(tmp_path):
    whole = bert(BertForMaskedLM)
    whole.save_pretrained(tmp_path)
    names = match_model(whole.bert, open_checkpoint(tmp_path))
    assert names["embeddings.LayerNorm.bias"] == "bert.embeddings.LayerNorm.bias"
    assert_streams(whole.bert, tmp_path, names)


def test_base_model_prefix_is_added(tmp_path):
    base, whole = bert(BertModel), bert(BertForMaskedLM)
    base.save_pretrained(tmp_path)
    matching = compare_model(whole, open_checkpoint(tmp_path))
    assert matching.names["bert.embeddings.LayerNorm.bias"] == "embeddings.LayerNorm.bias"
    assert matching.unused == ("pooler.dense.bias", "pooler.dense.weight")
    assert matching.problems
    assert all(problem.startswith("cls.") for problem in matching.problems)


def test_gamma_and_beta(tmp_path):
    model = bert(BertModel)
    model.save_pretrained(tmp_path)
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}

    def rename(tensors):
        for new, legacy in old.items():
            tensors = {name.replace(new, legacy): tensor for name, tensor in tensors.items()}
        return tensors

    resave(tmp_path, rename)
    names = match_model(model, open_checkpoint(tmp_path))
    assert names["embeddings.LayerNorm.weight"] == "embeddings.LayerNorm.gamma"
    assert_streams(model, tmp_path, names)
    specs, tied = model_tensors(model)
    assert match_names(specs, open_checkpoint(tmp_path), tied) == names


def test_a_parameter_really_called_gamma_keeps_its_name(tmp_path):
    layer = nn.Module()
    layer.gamma, layer.weight = nn.Parameter(torch.ones(2)), nn.Parameter(torch.zeros(2))
    model = nn.ModuleDict({"layer": layer})
    save_file(dict(model.state_dict()), tmp_path / "model.safetensors")
    assert match_model(model, open_checkpoint(tmp_path)) == {n: n for n in ("layer.gamma", "layer.weight")}


def test_one_tensor_under_two_names_is_refused(tmp_path):
    model = bert(BertModel)
    model.save_pretrained(tmp_path)
    resave(tmp_path, lambda tensors: tensors | {"bert.pooler.dense.bias": torch.zeros(16)})
    with pytest.raises(InputError, match=r"pooler\.dense\.bias is there twice, as bert\.pooler.* and pooler"):
        match_model(model, open_checkpoint(tmp_path))


def test_a_renaming_that_spoils_the_models_own_name_is_not_applied(tmp_path, monkeypatch):
    conversion_mapping.get_checkpoint_conversion_mapping("llama")
    renaming = WeightRenaming(r"^model\.norm", "model.kv_norm")  # as deepseek_v4 has it
    monkeypatch.setitem(conversion_mapping._checkpoint_conversion_mapping_cache, "llama", [renaming])
    model = LlamaForCausalLM(LlamaConfig(**TINY))
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    assert match_model(model, open_checkpoint(tmp_path))["model.norm.weight"] == "model.norm.weight"


def test_everything_wrong_is_listed_at_once(tmp_path):
    model = LlamaForCausalLM(LlamaConfig(**TINY)).to(torch.bfloat16)
    model.save_pretrained(tmp_path)

    def damage(tensors):
        del tensors["model.norm.weight"]
        tensors["lm_head.weight"] = tensors["lm_head.weight"].T.contiguous()
        tensors["model.layers.0.mlp.up_proj.weight"] = tensors["model.layers.0.mlp.up_proj.weight"].half()
        tensors["model.layers.1.mlp.up_proj.weight"] = tensors["model.layers.1.mlp.up_proj.weight"].float()  # a cast
        tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"].to(torch.float8_e4m3fn)
        return tensors

    resave(tmp_path, damage)
    with pytest.raises(InputError) as caught:
        match_model(model, open_checkpoint(tmp_path))
    assert str(caught.value) == (
        "the checkpoint does not fit the model\n"
        f"  where: {tmp_path}\n"
        "  got: model.embed_tokens.weight is float8_e4m3fn, the model's is bfloat16\n"
        "    model.layers.0.mlp.up_proj.weight is float16, the model's is bfloat16\n"
        "    model.norm.weight [16] is missing\n"
        "    lm_head.weight is [16, 32], the model's is [32, 16]\n"
        "  needed: every tensor of the model, in its shape and dtype\n"
        "  do: use the checkpoint that was saved with this config.json"
    )


def test_fused_experts_cannot_be_streamed_by_name(tmp_path):
    model = MixtralForCausalLM(MixtralConfig(**TINY, num_local_experts=2, num_key_value_heads=2))
    model.save_pretrained(tmp_path / "split")
    with pytest.raises(InputError) as caught:
        match_model(model, open_checkpoint(tmp_path / "split"))
    assert "this checkpoint cannot be streamed tensor by tensor" in str(caught.value)
    assert "model.layers.1.mlp.experts.gate_up_proj" in str(caught.value)
    model.save_pretrained(tmp_path / "fused", save_original_format=False)  # the advice that the error gives
    assert_streams(model, tmp_path / "fused", match_model(model, open_checkpoint(tmp_path / "fused")))
