"""Example inputs run, are the same every time, and are refused where nothing is known."""

import pytest
import torch
import transformers
from torch import nn

from axisplit.errors import InputError
from axisplit.models import example_inputs

WIDTH = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
D_MODEL = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
D_MODEL |= {"decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
IMAGE = {**WIDTH, "image_size": 32, "patch_size": 8}
CLIP = {"text_config": {**WIDTH, "vocab_size": 64}, "vision_config": IMAGE, "projection_dim": 8}

CASES = {
    "BertModel": ({**WIDTH, "vocab_size": 64}, {"input_ids": (3, 10)}),
    "ViTModel": (IMAGE, {"pixel_values": (3, 3, 32, 32)}),
    "CLIPModel": (CLIP, {"input_ids": (3, 10), "pixel_values": (3, 3, 32, 32)}),
    "BartForConditionalGeneration": (
        {**D_MODEL, "vocab_size": 64, "max_position_embeddings": 16},
        {"input_ids": (3, 10), "decoder_input_ids": (3, 10)},
    ),
    "WhisperForConditionalGeneration": (
        {**D_MODEL, "vocab_size": 64, "num_mel_bins": 8, "max_source_positions": 20, "pad_token_id": 0},
        {"input_features": (3, 8, 40), "decoder_input_ids": (3, 10)},
    ),
    "Wav2Vec2Model": ({**WIDTH, "num_conv_pos_embeddings": 8}, {"input_values": (3, 11 * 320)}),
}


@pytest.mark.parametrize("name", CASES)
def test_inputs_run(name):
    fields, shapes = CASES[name]
    kind = getattr(transformers, name)
    model = kind(kind.config_class(**fields)).eval()
    inputs = example_inputs(model, 3, 10)
    assert {key: tuple(tensor.shape) for key, tensor in inputs.items()} == shapes
    assert all(torch.equal(tensor, inputs[key]) for key, tensor in example_inputs(model, 3, 10).items())
    with torch.no_grad():
        model(**inputs)


def test_ids_with_a_meaning_are_avoided():
    config = transformers.LlamaConfig(**WIDTH, vocab_size=8, bos_token_id=1, eos_token_id=[2, 3], pad_token_id=0)
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config)
    ids = example_inputs(model, 8, 64)["input_ids"]
    assert ids.device.type == "cpu"
    assert ids.unique().tolist() == [4, 5, 6, 7]


def test_what_cannot_be_made():
    with pytest.raises(InputError, match=r"got: a module without a transformers config\n.*\n  do: write a factory"):
        example_inputs(nn.Linear(2, 2), 2, 3)
    bert = transformers.BertModel(transformers.BertConfig(**WIDTH, vocab_size=8, max_position_embeddings=16))
    with pytest.raises(InputError, match="got: 17 positions\n  needed: at most 16\n  do: use --seq 16 or less"):
        example_inputs(bert, 2, 17)
