"""Forty cases of every kind, always the same: planned, verified, checked, generated with and differentiated."""

from __future__ import annotations

import warnings
from collections import Counter

import pytest

from benchmarks.coverage.family import FAMILIES
from benchmarks.coverage.measure import Subject, measure
from benchmarks.coverage.record import Case
from benchmarks.coverage.totals import LEAST_SPLIT
from benchmarks.zoo import build

FIXED = {
    "text": [
        ("gpt2", "causal", 3), ("opt", "causal", 2), ("bloom", "causal", 4), ("bert", "base", 3), ("gemma2", "base", 2),
        ("llama", "base", 4), ("roberta", "base", 3),
    ],
    "experts": [
        ("granitemoeshared", "causal", 2), ("aria_text", "causal", 3), ("afmoe", "base", 3),
        ("ernie4_5_moe", "base", 2), ("mixtral", "base", 4), ("deepseek_v2", "base", 2),
    ],
    "recurrent": [
        ("falcon_mamba", "causal", 2), ("jamba", "base", 3), ("mamba2", "base", 2), ("bamba", "base", 2),
        ("mamba", "base", 4),
    ],
    "encoder-decoder": [
        ("bart", "base", 3), ("t5", "base", 2), ("marian", "base", 4), ("blenderbot-small", "base", 2),
        ("pegasus", "base", 3),
    ],
    "multimodal": [
        ("got_ocr2", "causal", 2), ("clip", "base", 2), ("aya_vision", "base", 3), ("deepseek_vl", "base", 4),
        ("llava", "base", 4), ("glm46v", "base", 2),
    ],
    "vision": [
        ("vit", "base", 3), ("beit", "base", 2), ("dinov2", "base", 4), ("deit", "base", 2), ("ijepa", "base", 3),
    ],
    "audio": [
        ("whisper", "base", 3), ("voxtral_encoder", "base", 2), ("audio-spectrogram-transformer", "base", 4),
        ("canary", "base", 2),
    ],
    "other": [("decision_transformer", "base", 3), ("musicgen", "causal", 2)],
}  # fmt: skip
CASES = [(family, Case(*each)) for family, found in FIXED.items() for each in found]


def test_of_every_kind():
    assert len(CASES) == len({case for _, case in CASES}) == 40
    assert FIXED.keys() == set(FAMILIES)
    ranks = Counter(case.ranks for _, case in CASES)
    assert min(ranks[2], ranks[3], ranks[4]) >= 8


@pytest.mark.parametrize(("family", "case"), CASES, ids=[f"{c.model} {c.head} {c.ranks}" for _, c in CASES])
def test_equal(family: str, case: Case) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers' own
        record = measure(case, Subject(*build(case.model, case.head)), lambda *_: None)
    assert record.outcome == "equal", f"{record.stage}: {record.reason}"
    assert record.family == family
    assert record.generate_equal is not False, record.generate_reason
    assert record.gradients_equal, record.gradients_reason
    assert record.split_fraction >= LEAST_SPLIT, record.kept_whole
    print(f"| {case.model} | {case.head} | {case.ranks} | {record.cpu_s} |")
