"""The parts of the command line that decide something."""

from dataclasses import replace

import pytest

from axisplit.cli.demo import DemoResult, KeptVerdict
from axisplit.cli.generation import Generation, TextStream
from axisplit.cli.rank import RankReport
from axisplit.cli.store import find_or_make
from axisplit.errors import InputError


class Letters:
    """A tokenizer of bytes: a letter of two bytes is two tokens."""

    def decode(self, ids, skip_special_tokens):
        return bytes(ids).decode(errors="replace")


def test_half_a_letter_waits_and_escapes_are_not_shown():
    stream = TextStream(Letters())
    assert [stream.add(byte) for byte in "aé\x1b\n".encode()] == ["a", "", "é", "", "\n"]
    assert stream.text == "aé\x1b\n"


def generation(*token_ids, decode_s=2.0, sent=600.0):
    report = RankReport(list(token_ids), 1.0, 0.5, decode_s, 90.0, sent, 100, 500, 1000, None)
    waited = replace(report, prefill_s=0.75, decode_comm_bytes=sent / 2)
    return Generation("", list(token_ids), 2, 1, [waited, report])


def test_figures_are_those_of_the_busiest_rank_and_of_decode_steps():
    made = generation(1, 2, 3, 4)
    assert (made.tokens_per_s, made.comm_bytes_per_token, made.prefill_s) == (1.5, 200.0, 0.5)
    one = generation(1, decode_s=0.0, sent=0.0)
    assert (one.tokens_per_s, one.comm_bytes_per_token) == (None, None)


@pytest.mark.parametrize(
    ("whole", "equal", "caught", "code", "at"),
    [
        ((1, 2, 3), True, True, 0, None),
        ((1, 9, 3), True, True, 1, 1),
        ((1, 2), True, True, 1, 2),
        ((1, 2, 3), False, True, 1, None),
        ((1, 2, 3), True, False, 2, None),
    ],
)
def test_the_demo_fails_where_tokens_or_the_verdict_do(whole, equal, caught, code, at):
    verdict = KeptVerdict("", {"equal": equal, "control_caught": caught}, "")
    result = DemoResult(None, verdict, generation(1, 2, 3), generation(*whole))
    assert (result.exit_code, result.first_difference) == (code, at)


def test_what_is_kept_is_found_by_all_that_it_depends_on(monkeypatch, tmp_path):
    monkeypatch.setenv("AXISPLIT_CACHE", str(tmp_path))
    built = []

    def build(directory):
        built.append(directory)
        (directory / "plan.json").write_text("{}")

    first, made = find_or_make("plan", {"ranks": 2}, build)
    assert made == ""
    again, made = find_or_make("plan", {"ranks": 2}, build)
    assert (again, len(built)) == (first, 1)
    assert made.startswith("20")
    find_or_make("plan", {"ranks": 3}, build)
    monkeypatch.setattr("axisplit.cli.store._code_digest", lambda: "changed")
    find_or_make("plan", {"ranks": 2}, build)
    assert len(built) == 3
    (first / "plan.json").write_text("[]")  # damaged: of the same size
    monkeypatch.undo()
    monkeypatch.setenv("AXISPLIT_CACHE", str(tmp_path))
    find_or_make("plan", {"ranks": 2}, build)
    assert len(built) == 4


def test_a_prompt_without_a_token_is_refused():
    from axisplit.cli.generation import encode

    class Silent:
        chat_template = None

        def __call__(self, prompt):
            return {"input_ids": []}

    with pytest.raises(InputError, match="the prompt has no token"):
        encode(Silent(), "", None)
    with pytest.raises(InputError, match="no chat template"):
        encode(Silent(), "hello", True)
