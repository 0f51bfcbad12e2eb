"""Tiny randomly initialised instances of every transformers model type (generic config shrinking + generic inputs)."""
import os, re, math, inspect, json, sys
os.environ.setdefault("HF_HUB_OFFLINE", "1"); os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
import torch
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto import modeling_auto as MA
transformers.logging.set_verbosity_error()

H, FF, HEADS, KV, HD, V, E, TOPK = 64, 128, 4, 2, 16, 256, 4, 2
B, S = 2, 12

WIDTH = re.compile(r"^(hidden_size|d_model|n_embd|embed_dim|embedding_size|dim|hidden_dim|model_dim|width|projection_dim|"
    r"out_hidden_size|emb_dim|project_dim|word_embed_proj_dim|embedding_dim|hidden_channels|pooler_output_size|"
    r"true_hidden_size|reduce_dim|d_latents|lru_width|attention_hidden_size|projection_size|fusion_hidden_size|"
    r"classifier_proj_size|output_dim|input_embedding_size|vit_dim|d_embed|n_state|text_dim|vision_dim|"
    r"hidden_size_global|projector_dim|adapter_(in|out)_dim|input_size_dim|mask_dim|head_hidden_size|"
    r".*_(hidden_size|hidden_dim|embed_dim|embedding_size|d_model|output_dim|input_dim|width|hidden_channels|hidden_sizes?_int|"
    r"hidden_dims?|model_dim|dim))$")
FFN = re.compile(r"^(intermediate_size|ffn_dim|d_ff|n_inner|mlp_dim|dim_feedforward|dim_ff|dff|d_inner|feed_forward_size|ff_dim|"
    r"ffn_hidden_size|ffn_size|.*(intermediate_size|ffn_dim|ffn_hidden_size|dim_feedforward|feedforward_dim|linear_units|"
    r"intermediate_dim|intermediate_size_mlp|mlp_dim|feed_forward_hidden_size|feedforward_size))$")
LAYERS = re.compile(r"^(num_hidden_layers|num_layers|n_layers?|depth|layers|encoder_layers|decoder_layers|num_blocks|"
    r"num_decoder_layers|num_encoder_layers|(?!num_residual|num_kv|.*_every).*(_hidden_layers|encoder_layers|decoder_layers|_num_layers|_n_layer|num_.*_blocks))$")
HEADSRE = re.compile(r"^(num_attention_heads|num_heads|n_heads?|attention_heads|encoder_attention_heads|decoder_attention_heads|"
    r".*(_attention_heads|_num_heads|_n_heads?|_heads))$")
KVRE = re.compile(r"^(num_key_value_heads|num_kv_heads|n_kv_heads|num_query_groups|.*(num_key_value_heads|kv_heads|kv_n_heads))$")
HDRE = re.compile(r"^(head_dim|d_kv|d_head|kv_channels|attention_head_dim|attention_head_size|dim_head|global_head_dim|qk_nope_head_dim|"
    r"v_head_dim|kv_head_dim|.*(head_dim|_d_head|head_size))$")
VOCRE = re.compile(r"^(vocab_size|.*vocab_size|vocab_size_per_layer_input|n_vocab|codebook_vocab_size|entity_vocab_size)$")
TOKRE = re.compile(r"(token_id|token_ids|token_index|_id|_ids)$")
EXPRE = re.compile(r"^(num_experts|n_routed_experts|num_local_experts|moe_num_experts|num_routed_experts|zero_expert_num|n_experts|"
    r".*(_num_experts|num_moe_experts))$")
TOPKRE = re.compile(r"^(num_experts_per_tok|moe_topk|top_k_experts|moe_top_k|num_experts_per_token|moe_k|num_selected_experts|top_k_expert)$")

FIXED = dict(  # field -> tiny value
    max_position_embeddings=128, n_positions=128, n_ctx=128, max_seq_len=128, max_sequence_length=128, max_source_positions=32,
    max_target_positions=64, q_lora_rank=32, kv_lora_rank=32, qk_rope_head_dim=16, qk_head_dim=32, o_lora_rank=16,
    first_k_dense_replace=1, n_group=1, topk_group=1, num_expert_groups=1,
    sliding_window=8, attention_window=8, local_attention=8, window_size_ph=4, num_kv_shared_layers=0, max_window_layers=1,
    mamba_d_state=16, state_size=16, ssm_state_size=16, mamba_n_heads=8, mamba_num_heads=8, mamba_d_head=16, mamba_head_dim=16,
    mamba_headdim=16, mamba_d_ssm=128, n_mamba_heads=2, mamba_dt_rank=8, time_step_rank=8, mamba_chunk_size=8, chunk_size_ssm=8,
    linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=16, linear_value_head_dim=16, linear_num_heads=4, linear_head_dim=16,
    num_query_tokens=4, num_image_tokens=4, mm_tokens_per_image=4, image_seq_length=16, image_seq_len=16, num_mel_bins=16, n_mels=16, n_mel_bins=16,
    num_queries=10, num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=4, hidden_size_per_layer_input=16,
    laurel_rank=8, index_head_dim=16, index_n_heads=4, index_topk=8, num_codevectors_per_group=8, index_kpool=4, codevector_dim=16, proj_codevector_dim=16,
    type_vocab_size=2, attention_chunk_size=8, attn_layer_period=2, attn_layer_offset=1, expert_layer_period=2, expert_layer_offset=1,
    codebook_size=32, codebook_dim=16, num_filters=8, latent_dim=16, num_latents=4, num_position_embeddings=16,
    num_attention_groups=2, stem_hidden_channels=16, query_pre_attn_scalar=16, d_rel=16, rel_extent=32, num_nextn_predict_layers=0,
    vision_feature_layer=-1, compress_ratio=4, pretraining_tp=1, rotary_dim=8, encoder_hash_byte_group_vocab=64, upsample_initial_channel=32, max_num_patches=16, num_patches=16,
    embedding_rank=16, adapter_rank=8, gated_norm_rank=8, num_hash_buckets=16, mem_len=16, max_2d_position_embeddings=128,
    fpn_hidden_size=32, coordinate_size=12, shape_size=8, position_embedding_size=64, posemb_grid_size=8, num_timestamp_prediction_layers=2,
    resampler_n_heads=4, resampler_n_latents=4, resampler_head_dim=16, prompt_length=4, xvector_output_dim=32, stem_channels_i=16,
)
LISTS = dict(mrope_section=[4, 2, 2])


class Ctx:
    def __init__(self): self.tok = {}; self.next = V - 1
    def token(self, v):
        if not isinstance(v, int) or isinstance(v, bool) or v < 0: return v
        if v < 16: return v
        if v not in self.tok: self.tok[v] = self.next; self.next -= 1
        return self.tok[v]


def is_int(v): return isinstance(v, int) and not isinstance(v, bool)


def shrink_int(k, v, d, ctx):
    if k in ("chunk_size",) and ("state_size" in d or "expand" in d): return 8
    if k in FIXED:
        if FIXED[k] < 0 or v is None: return FIXED[k]
        return FIXED[k] if v > 0 or k in ("first_k_dense_replace",) else v
    if VOCRE.match(k): return V if v > 0 else v
    if TOKRE.search(k): return ctx.token(v)
    if v <= 1: return v
    if ("expand" in d or "state_size" in d) and k in ("num_heads",): return 8
    if KVRE.match(k):
        h = next((d[x] for x in ("num_attention_heads", "num_heads", "n_head", "n_heads") if is_int(d.get(x))), None)
        return HEADS if (h is not None and v == h) else KV
    if EXPRE.match(k): return E
    if TOPKRE.match(k): return min(v, TOPK)
    if HEADSRE.match(k): return HEADS
    if HDRE.match(k): return HD
    if LAYERS.match(k): return min(v, 2)
    if FFN.match(k): return FF
    if WIDTH.match(k): return H
    return v


def scale_list(lst, f):
    return [scale_list(x, f) if isinstance(x, (list, tuple)) else (f(x) if is_int(x) else x) for x in lst]


def shrink(d, ctx, opts):
    """config dict -> tiny config dict"""
    d = dict(d); out = {}
    backbone = "stage_names" in d or "out_features" in d
    for k in ("stage_names", "out_features", "out_indices", "_out_features", "_out_indices"):
        d.pop(k, None)
    if isinstance(d.get("depths"), (list, tuple)) and "hidden_size" in d and opts.get("hier", True): d.pop("hidden_size")
    L0 = None
    for k in ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "depth", "decoder_layers", "encoder_layers"):
        if is_int(d.get(k)): L0 = d[k]; break
    lists = [k for k, v in d.items() if isinstance(v, (list, tuple)) and L0 and L0 > 2 and len(v) == L0 and all(not isinstance(x, (list, tuple, dict)) for x in v)]
    nl = 2
    pick = None
    if lists and opts.get("cover", True):
        tl = [k for k in lists if all(isinstance(x, str) for x in d[k])] or lists
        # choose layer indices covering every distinct combination (up to 4)
        combos = {}
        for i in range(L0):
            combos.setdefault(tuple(str(d[k][i]) for k in tl), i)
        pick = sorted(combos.values())[:4]
        while len(pick) < 2: pick.append(L0 - 1)
        nl = len(pick)
    for k, v in d.items():
        if k == "per_layer_config" and isinstance(v, dict):
            idx = pick if pick is not None else list(range(nl))
            out[k] = {j: {a: shrink_plc(a, b, d, ctx) for a, b in v.get(i, v.get(str(i), {})).items()} for j, i in enumerate(idx)}
            out[k] = {j: x for j, x in out[k].items() if x}
        elif isinstance(v, dict):
            if "model_type" in v or k.endswith("_config"):
                out[k] = shrink(v, ctx, opts)
            elif "rope" in k:
                out[k] = shrink_rope(v)
            else: out[k] = v
        elif k in lists and pick is not None:
            vals = [v[i] for i in pick]
            out[k] = [shrink_int(k.replace("_per_layer", "").rstrip("s") if k.replace("_per_layer", "") not in ("num_attention_heads", "num_key_value_heads") else k.replace("_per_layer", ""), x, d, ctx) if is_int(x) and x > 4 else x for x in vals]
        elif k in LISTS and isinstance(v, (list, tuple)): out[k] = LISTS[k]
        elif isinstance(v, (list, tuple)) and opts.get("mild") and not IDXLIST.search(k) and not TOKRE.search(k): out[k] = v
        elif isinstance(v, (list, tuple)):
            out[k] = shrink_list(k, v, d, ctx, nl)
        elif is_int(v):
            nv = shrink_int(k, v, d, ctx) if not opts.get("mild") or LAYERS.match(k) or VOCRE.match(k) or TOKRE.search(k) else v
            if isinstance(d.get("depths"), (list, tuple)) and k == "embed_dim" and isinstance(d.get("num_heads"), (list, tuple)): nv = 32
            if LAYERS.match(k) and nl > 2 and v == L0: nv = nl
            out[k] = nv
        else: out[k] = v
    if isinstance(out.get("num_heads"), (list, tuple)) and isinstance(d.get("depths"), (list, tuple)) and is_int(out.get("embed_dim")): out["num_heads"] = [2 ** (i + 1) for i in range(len(out["depths"]))]
    if opts.get("mild"):
        return out
    # vision geometry
    ps, im = out.get("patch_size"), out.get("image_size")
    if is_int(ps) and "hidden_sizes" not in d and "depths" not in d:
        if ps > 8: out["patch_size"] = 8
        if is_int(im): out["image_size"] = 4 * out["patch_size"] if ps > 4 else 32
        elif isinstance(im, (list, tuple)) and len(im) == 2: out["image_size"] = [4 * out["patch_size"]] * 2
    elif is_int(im): out["image_size"] = 64 if im >= 64 else im
    for k in ("img_size", "pretrain_image_size", "crop_size", "max_image_size", "input_image_size"):
        if is_int(out.get(k)) and out[k] >= 64: out[k] = 64
    return out


def shrink_plc(a, b, d, ctx):
    if not is_int(b): return b
    if HDRE.match(a): return 2 * HD if is_int(d.get(a)) and b > d[a] else HD
    return shrink_int(a, b, d, ctx)


NONE_FILL = dict(num_key_value_heads=KV, head_dim=HD, n_routed_experts=E, num_experts=E, num_experts_per_tok=TOPK, n_shared_experts=1, index_compress_ratio=1, n_group=1, topk_group=1, moe_topk=TOPK, num_local_experts=E)
def fill_none(d):
    for k in d:
        if isinstance(d[k], dict): fill_none(d[k])
        elif d[k] is None and k in NONE_FILL: d[k] = NONE_FILL[k]


def shrink_rope(v):
    r = {}
    for k, x in v.items():
        if HD > 16: r[k] = x; continue
        if isinstance(x, dict): r[k] = shrink_rope(x)
        elif k == "mrope_section": r[k] = [4, 2, 2]
        elif k in ("short_factor", "long_factor"): r[k] = [1.0 + 0.1 * i for i in range(8)]
        elif k == "original_max_position_embeddings": r[k] = 64
        else: r[k] = x
    return r


IDXLIST = re.compile(r"(indices|indexes|_idxs?|_layers|layer_ids|_ids|block_indexes|out_indices|attn_layers|attn_indexes)$")


def shrink_list(k, v, d, ctx, nl):
    if not v: return v
    if k in ("conv_dim", "tdnn_dim"): return [32] * len(v)
    if k in ("hidden_sizes", "embed_dims", "stage_out_channels", "encoder_in_channels", "neck_hidden_sizes", "backbone_channel_list", "embed_dim", "decoder_hidden_sizes",
             "embed_dim_per_stage", "backbone_fused_channels") and all(is_int(x) for x in v):
        g = 8 if max(v) >= 512 else 4 if max(v) >= 256 else 1
        return [max(8, x // g) for x in v]
    if k == "depths" and all(is_int(x) for x in v): return [min(x, 2) for x in v]
    if k == "out_features": return v
    if TOKRE.search(k) and not IDXLIST.search(k): return [ctx.token(x) if is_int(x) else x for x in v]
    if IDXLIST.search(k) and all(is_int(x) for x in v) and "stage" not in k:
        keep = [x for x in v if -nl <= x < nl]
        return keep or [nl - 1]
    if k == "layer_types" or k == "mlp_layer_types":
        return list(v)[:nl]
    return list(v)


OVERRIDES = {}   # model_type -> function(dict) applied after shrinking
def override(*names):
    def deco(f):
        for n in names: OVERRIDES[n] = f
        return f
    return deco


def tiny_config(mt, opts=None):
    opts = opts or {}
    cls = CONFIG_MAPPING[mt]
    try: d = cls().to_dict()
    except Exception:
        if mt == "gemma4_assistant": d = cls(text_config={"model_type": "gemma4_text", "hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0}).to_dict()
        else: raise
    ctx = Ctx()
    t = shrink(d, ctx, opts) if not opts.get("default") else d
    for k in ("model_type", "transformers_version", "architectures", "_name_or_path", "dtype"): t.pop(k, None)
    clean(t)
    from benchmarks.zoo import zoo_fix
    if opts.get("fill"): fill_none(t)
    if mt in zoo_fix.FIX and not opts.get("hd") and not opts.get("mild") and not opts.get("default"): zoo_fix.FIX[mt](t)
    cfg = cls.from_dict(t)
    return cfg


def clean(d):
    for k in list(d):
        if k in ("dtype", "transformers_version", "_name_or_path", "_attn_implementation", "_experts_implementation"): d.pop(k)
        elif isinstance(d[k], dict): clean(d[k])


def perturb(model, seed=0):
    """make every parameter count: random biases, norm weights, unit-scale matrices"""
    g = torch.Generator().manual_seed(seed); seen = set()
    with torch.no_grad():
        for n, p in model.named_parameters():
            if id(p) in seen or not p.is_floating_point(): continue
            seen.add(id(p))
            r = torch.randn(p.shape, generator=g)
            low = n.lower()
            if p.ndim < 2 or re.search(r"a_log|\.d$|dt|decay|time_|scale|norm|codebook|basis|freq|slope|mix|gate_bias|lambda|sink", low):
                p.add_(0.05 * r)
            elif "embed" in low or "wte" in low or "wpe" in low or "shared.weight" in low: p.copy_(0.5 * r)
            elif p.ndim == 2: p.copy_(r / math.sqrt(p.shape[1]))
            elif p.ndim == 3 and ("expert" in low or p.shape[0] == E): p.copy_(r / math.sqrt(p.shape[1]))
            else: p.copy_(r / math.sqrt(max(1, p[0].numel())))


def model_class(mt, head):
    names = (MA.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if head == "causal" else MA.MODEL_MAPPING_NAMES)[mt]
    if isinstance(names, (tuple, list)): names = names[0]
    return getattr(transformers, names)


LEVELS = [dict(), dict(fill=True), dict(fill=True, hd=64), dict(fill=True, hd=128), dict(mild=True), dict(default=True)]


def build(mt, head="causal", inputs=True, seed=0, info=None):
    """(model, inputs_dict): tries ever milder shrinking until the model builds and its forward runs on some generic input"""
    first = None; got = None
    for lv, opts in enumerate(LEVELS):
        try: model, _ = build1(mt, head, False, seed, opts)
        except Exception as e:
            first = first or e
            if isinstance(e, ImportError): break
            continue
        try:
            x = make_inputs(model, mt, head) if inputs else None
            if info is not None: info["level"] = lv
            return model, x
        except Exception as e:
            if got is None: got = (model, e)
    if got is not None:
        if info is not None: info["model"] = got[0]
        raise got[1]
    raise first


def build1(mt, head, inputs, seed, opts):
    global H, FF, HD
    H, FF, HD = {64: (256, 512, 64), 128: (512, 1024, 128)}.get(opts.get("hd"), (64, 128, 16))
    cfg = tiny_config(mt, opts)
    cls = model_class(mt, head)
    # a composite config may map to a model class of a sub-config
    if cls.config_class is not None and not isinstance(cfg, cls.config_class):
        sub = [v for v in vars(cfg).values() if isinstance(v, cls.config_class)]
        if sub: cfg = sub[0]
    if head == "causal":
        for c in [cfg] + [v for v in vars(cfg).values() if hasattr(v, "model_type")]:
            if hasattr(c, "is_decoder") and not getattr(c, "is_encoder_decoder", False):
                try: c.is_decoder = True
                except Exception: pass
    torch.manual_seed(seed)
    if opts:
        with torch.device("meta"): n = sum(p.numel() for p in cls(cfg).parameters())
        if n > 120e6: raise RuntimeError(f"too big: {n}")
    model = cls._from_config(cfg, dtype=torch.float32) if hasattr(cls, "_from_config") else cls(cfg)
    model = model.float().eval()
    perturb(model, seed)
    return (model, make_inputs(model, mt, head)) if inputs else (model, None)


def find(cfg, *names, default=None):
    """first int found in cfg or its sub-configs under one of the names"""
    def walk(c):
        for n in names:
            v = getattr(c, n, None)
            if isinstance(v, (list, tuple)) and v and is_int(v[0]): v = v[0]
            if is_int(v): return v
        for k, v in vars(c).items():
            if hasattr(v, "model_type") and hasattr(v, "to_dict"):
                r = walk(v)
                if r is not None: return r
        return None
    r = walk(cfg)
    return default if r is None else r


def gen(name, model, g, variant=0):
    """one generic input tensor by argument name, or None"""
    cfg = model.config
    ri = lambda hi, *s: torch.randint(16, max(17, hi), s, generator=g)
    rf = lambda *s: torch.randn(s, generator=g)
    vocab = find(cfg, "vocab_size", default=V)
    safe = min(vocab, 100)
    im = find(cfg, "image_size", "img_size", "input_image_size", default=64)
    ch = find(cfg, "num_channels", default=3)
    if ch not in (1, 2, 3, 4, 9): ch = 3
    ps = find(cfg, "patch_size", default=8); tp = find(cfg, "temporal_patch_size", default=2)
    mel = find(cfg, "num_mel_bins", "n_mels", "input_feat_per_channel", "feature_size", "input_dim", default=16)
    if name in ("input_ids", "decoder_input_ids"): return ri(safe, B, S if name == "input_ids" else 8)
    if name in ("attention_mask", "decoder_attention_mask"): return None
    if name == "pixel_values":
        if variant == 3: return rf(16, ch * tp * ps * ps)
        if variant == 4: return rf(B, 1, ch, im, im)
        if variant == 5: return rf(B, find(cfg, "num_frames", default=4), ch, im, im)
        if variant == 6: return rf(B, 16, ch * ps * ps)
        return rf(B, ch, im, im)
    if name == "pixel_values_videos": return rf(B, find(cfg, "num_frames", "frames_per_clip", default=4), ch, im, im)
    if name in ("input_features", "audio_features", "input_values_features"):
        T = 2 * find(cfg, "max_source_positions", default=32)
        if variant == 1: return rf(B, T, mel)
        if variant == 2: return rf(B, mel, 100)
        return rf(B, mel, T)
    if name == "input_values":
        if variant == 1: return rf(B, 1, 4000)
        if variant == 2: return rf(B, find(cfg, "max_length", default=64), mel)
        if variant == 3: return rf(B, 1, 64, mel)
        return rf(B, 4000)
    if name in ("audio", "audio_values", "waveform"): return rf(B, 1, 4000)
    if name in ("past_values", "time_series"): return rf(B, find(cfg, "context_length", default=64), max(1, find(cfg, "num_input_channels", "input_size", default=1))) if variant == 0 else rf(B, find(cfg, "context_length", default=64))
    if name == "bbox":
        x = torch.randint(0, 50, (B, S, 4), generator=g); x[..., 2:] = x[..., :2] + 10; return x
    if name == "image_grid_thw": return torch.tensor([[1, 4, 4]])
    if name == "grid_thw": return torch.tensor([[1, 4, 4]])
    if name == "pixel_mask" : return torch.ones(B, im, im, dtype=torch.long)
    if name == "token_type_ids": return torch.zeros(B, S, dtype=torch.long)
    if name == "inputs_embeds": return rf(B, S, find(cfg, "hidden_size", "d_model", default=H))
    if name == "hidden_states": return rf(B, S, find(cfg, "hidden_size", "d_model", default=H)) if variant != 3 else rf(16, ch * tp * ps * ps)
    if name == "input_points": return torch.rand(B, 1, 1, 2, generator=g) * im
    if name == "spectrogram": return rf(B, S, mel)
    if name == "visual_feats": return rf(B, 4, find(cfg, "visual_feat_dim", default=H))
    if name == "visual_pos": return torch.rand(B, 4, 4, generator=g)
    if name in ("encoder_hidden_states",): return rf(B, S, find(cfg, "hidden_size", "d_model", default=H))
    if name == "inputs": return ri(safe, B, S)
    if name == "padding_mask": return None
    return None


def make_inputs(model, mt, head, seed=1):
    """try generic input sets until the forward runs; returns the dict that worked (raises the most informative error otherwise)"""
    from benchmarks.zoo import zoo_fix
    if (mt, head) in zoo_fix.INPUTS:
        x = zoo_fix.INPUTS[(mt, head)](model)
        run(model, x); return x
    if mt in zoo_fix.INPUTS:
        x = zoo_fix.INPUTS[mt](model)
        run(model, x); return x
    sig = inspect.signature(model.forward); params = sig.parameters
    main = getattr(model, "main_input_name", "input_ids")
    if main not in params: main = next((p for p in params if p not in ("self", "kwargs", "args")), main)
    required = [n for n, p in params.items() if p.default is inspect._empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    errs = []
    base_sets = []
    def add(*names):
        n = [x for x in dict.fromkeys(names) if x in params]
        if n and n not in base_sets: base_sets.append(n)
    add(main, *required)
    if "decoder_input_ids" in params: add(main, *required, "decoder_input_ids")
    if "input_ids" in params:
        add("input_ids"); add("input_ids", "pixel_values"); add("input_ids", "decoder_input_ids"); add("input_ids", "bbox"); add("input_ids", "input_features"); add("input_ids", "pixel_values", "bbox")
        add("input_ids", "input_values"); add("input_ids", "visual_feats", "visual_pos")
    add("pixel_values"); add("pixel_values_videos"); add("input_values"); add("input_features"); add("input_features", "decoder_input_ids"); add("input_values", "decoder_input_ids"); add("pixel_values", "decoder_input_ids")
    add("inputs_embeds"); add("hidden_states"); add("hidden_states", "grid_thw"); add("past_values")
    for names in base_sets:
        for variant in range(0, 7):
            g = torch.Generator().manual_seed(seed)
            x = {n: gen(n, model, g, variant) for n in names}
            x = {k: v for k, v in x.items() if v is not None}
            if not x: continue
            if variant and not any(k in ("pixel_values", "input_features", "input_values", "hidden_states", "past_values") for k in x): break
            try:
                run(model, x); return x
            except Exception as e:
                errs.append((sorted(x), variant, type(e).__name__ + ": " + str(e)[:160]))
    raise RuntimeError("no input worked: main=%s required=%s params=%s :: %s" % (main, required, list(params)[:12], errs[:6]))


def run(model, x):
    torch.manual_seed(0)
    with torch.no_grad(): return model(**x)


def main_output(out):
    """(name, tensor) of the compared output"""
    items = list(out.items()) if hasattr(out, "items") else [(str(i), v) for i, v in enumerate(out if isinstance(out, (tuple, list)) else [out])]
    pref = ["logits", "last_hidden_state"]
    d = dict(items)
    for k in pref:
        if torch.is_tensor(d.get(k)): return k, d[k]
    for k, v in items:
        if torch.is_tensor(v) and v.is_floating_point(): return k, v
    for k, v in items:
        if hasattr(v, "items") or isinstance(v, (tuple, list)):
            try:
                n, t = main_output(v); return f"{k}.{n}", t
            except Exception: pass
    raise RuntimeError("no float output: " + str([k for k, _ in items]))
