"""Planning at the scale of Llama-3-405B: from a config alone, no weight allocated."""

import json
import subprocess
import sys

import pytest

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 16384,
    "intermediate_size": 53248,
    "num_hidden_layers": 126,
    "num_attention_heads": 128,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-05,
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
SCRIPT = """
import json, sys, time
import torch, transformers
from transformers import LlamaForCausalLM
import axisplit
from axisplit.api import plan as make
from axisplit.models import example_inputs, resolve_model
torch.set_num_threads(1)
start = time.process_time()
model = resolve_model(sys.argv[1]).build_meta()
plan = make(model, example_inputs(model, 1, 2048), ranks=int(sys.argv[2]))
spent = time.process_time() - start
status = dict(line.split(":", 1) for line in open("/proc/self/status"))  # getrusage counts what was before exec
peak = int(status["VmHWM"].split()[0]) * 1024
print(json.dumps({"cpu_s": spent, "peak_bytes": peak, "plan": plan.to_json(), "places": len(plan.places)}))
"""


@pytest.mark.parametrize("ranks", [8, 16])
def test_a_config_of_126_layers_is_planned_in_seconds_and_without_weights(tmp_path, ranks):
    config = tmp_path / "config.json"
    config.write_text(json.dumps(CONFIG))
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(config), str(ranks)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["cpu_s"] < 10, "imports not counted"
    assert found["peak_bytes"] < 2 * 2**30
    plan = found["plan"]
    assert plan["optimal"]
    assert plan["parameters"]["split_fraction"] > 0.999
    assert plan["parameters"]["total_bytes"] == 2 * 405_853_388_800
    assert max(plan["parameters"]["bytes_per_rank"]) < 1.05 * plan["parameters"]["total_bytes"] / min(ranks, 8)
    in_prefill = [c for c in plan["collectives"] if c["phase"] == "prefill"]
    assert {(c["kind"], c["where"], c["count"]) for c in in_prefill} == {
        ("all_gather", "model.embed_tokens", 1),
        ("all_reduce", "model.layers.*.self_attn.o_proj", 126),
        ("all_reduce", "model.layers.*.mlp.down_proj", 126),
        ("all_gather", "lm_head", 1),
    }
    assert found["places"] == 254
