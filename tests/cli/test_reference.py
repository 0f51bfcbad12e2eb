"""The command line's page says what --help says; `--regenerate` writes it anew."""

from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "command-line.md"
COMMANDS = ("plan", "verify", "compare", "fit", "generate", "audit", "export", "run", "demo", "bench")
HEAD = """# Command line

MODEL is a directory with `config.json` and safetensors, a `config.json` alone (planning only), a `.gguf` file,
`package.module:factory` (a function that returns a model, or a model and inputs), a hub id that is already downloaded,
or a name that an installed package carries: `smollm2`, `minilm`.

Exit codes: 0 done or equal, 1 different, 2 could not or bad input. `--json` prints one object; progress goes to stderr.
"""


def test_the_page_says_what_help_says(axisplit_main, monkeypatch, regenerate):
    monkeypatch.setenv("COLUMNS", "100")
    parts = [HEAD]
    for command in COMMANDS:
        ran = axisplit_main(command, "--help")
        assert ran.code == 0
        text = "\n".join(line.rstrip() for line in ran.out.splitlines()).strip()
        parts.append(f"## axisplit {command}\n\n```\n{text}\n```\n")
    page = "\n".join(parts)
    if regenerate:
        PAGE.write_text(page, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == page
