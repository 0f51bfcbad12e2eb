"""GGUF files: converted faithfully and once, refused when damaged."""

import struct

import pytest
import torch
from transformers import LlamaForCausalLM

from axisplit.checkpoint import manifest_problems, match_model, open_checkpoint
from axisplit.errors import InputError
from axisplit.models import resolve_model


def test_converted_once_and_equal_to_transformers_own_loading(llama_gguf):
    source = resolve_model(str(llama_gguf))
    assert (source.kind, source.has_weights) == ("gguf", True)
    before = source.build_meta()
    seen = []
    directory = source.checkpoint_dir(lambda *report: seen.append(report))
    assert ("dequantising", 20, 20) in seen
    assert seen[-1] == ("writing", 1, 1)
    assert not manifest_problems(directory, contents=True)
    assert source.checkpoint_dir(lambda *report: pytest.fail("converted twice")) == directory

    expected = LlamaForCausalLM.from_pretrained(llama_gguf.parent, gguf_file=llama_gguf.name).state_dict()
    model = source.load()
    assert model.config.to_dict().get("quantization_config") is None
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    checkpoint = open_checkpoint(directory)
    for meta in (before, source.build_meta()):
        names = match_model(meta, checkpoint)
        assert all(torch.equal(checkpoint.read(names[name]), tensor) for name, tensor in expected.items())
    with pytest.raises(InputError, match="cannot load the tokenizer"):
        source.tokenizer()


def test_flipped_byte_in_the_cache_is_found_and_mended_by_loading(llama_gguf):
    source = resolve_model(str(llama_gguf))
    directory = source.checkpoint_dir()
    weights = directory / "model.safetensors"
    whole = weights.read_bytes()
    data = bytearray(whole)
    data[-1] ^= 1
    weights.write_bytes(data)
    assert manifest_problems(directory, contents=False) == []
    assert manifest_problems(directory, contents=True) == ["model.safetensors has other contents than were written"]
    source.load()
    assert weights.read_bytes() == whole


def message(path, data):
    path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        resolve_model(str(path)).load()
    return str(caught.value)


def test_damaged_files(llama_gguf):
    data = llama_gguf.read_bytes()
    assert message(llama_gguf, data[:-1]) == (
        "cannot read a GGUF file\n"
        f"  where: {llama_gguf}\n"
        f"  got: {len(data) - 1:,} bytes\n"
        f"  needed: {len(data):,} bytes, as its header says\n"
        "  do: the file is damaged, cut short or of another format: copy or download it again"
    )
    assert "needed: a header that goes on to byte" in message(llama_gguf, data[:200])
    assert "got: magic b'\\x89PNG', version 3" in message(llama_gguf, b"\x89PNG" + data[4:])
    many = data[:8] + struct.pack("<QQ", 2**63, 1) + data[24:]
    assert "got: 9,223,372,036,854,775,808 tensors and 1 fields\n  needed: at most 100,000 and 4,096" in message(
        llama_gguf, many
    )
    at = data.index(b"blk.1.attn_k.weight")
    twice = data[:at] + b"blk.0.attn_k.weight" + data[at + 19 :]
    assert "got: tensor 'blk.0.attn_k.weight' of type 0" in message(llama_gguf, twice)


def test_array_that_claims_more_than_there_is():
    from axisplit.models.gguf_header import _Cursor

    for kind in (8, 4):  # strings, u32
        cursor = _Cursor("x.gguf", struct.pack("<IIQ", 9, kind, 2**62) + bytes(64))
        with pytest.raises(InputError, match="got: 80 bytes"):
            cursor.value()


def test_unsupported_architecture(llama_gguf):
    data = llama_gguf.read_bytes().replace(b"llama", b"lllll")
    text = message(llama_gguf, data)
    assert "cannot convert a GGUF file" in text
    assert "got: ValueError: GGUF model with architecture lllll is not supported yet." in text


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_smollm2():
    """The real thing: 135M parameters from Q4_1, converted once per machine."""
    source = resolve_model("smollm2")
    model, tokenizer = source.load(), source.tokenizer()
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    generated = model.generate(**prompt, max_new_tokens=2, do_sample=False)
    assert tokenizer.decode(generated[0]) == "The capital of France is Paris."
    assert tokenizer.chat_template
    checkpoint = open_checkpoint(source.checkpoint_dir())
    names = match_model(model, checkpoint)
    weight = model.state_dict()["model.layers.7.self_attn.q_proj.weight"]
    heads = ((6 * 64, 9 * 64),)  # the last 3 of 9 heads: rank 1 of 2
    read = checkpoint.read_slice(names["model.layers.7.self_attn.q_proj.weight"], (heads, None))
    assert torch.equal(read, weight[6 * 64 :])
