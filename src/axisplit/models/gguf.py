"""A GGUF file as an ordinary checkpoint: dequantised once per machine, kept as float32 safetensors in the cache.

`axisplit` needs named tensors that can be sliced; GGUF holds blocks of quantised ones under other names. transformers
knows both, in about 15 s for 135M parameters; the result is keyed by the file's SHA-256 and the versions that made it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from axisplit.checkpoint.manifest import sha256_of
from axisplit.models.cache import Progress, find_cached, make_cached, no_progress
from axisplit.models.gguf_header import GgufHeader, read_gguf_header
from axisplit.models.libraries import library_errors, quiet, require

if TYPE_CHECKING:
    from transformers import PretrainedConfig

CONVERTER_VERSION = 1


def gguf_checkpoint(path: Path, progress: Progress = no_progress, *, contents: bool = False) -> Path:
    """The directory of safetensors, config and tokenizer that a GGUF file was converted to, now or before.

    An earlier conversion that was damaged since is made again; `contents` as in `make_cached`.
    Raises: InputError if the file is damaged, its architecture is not supported, or the cache cannot be written.
    """
    header, key, made_from = _identify(path)
    build = functools.partial(_convert, path, header, progress=progress)
    return make_cached(key, build, made_from, progress, contents=contents)


def gguf_config(path: Path) -> PretrainedConfig | Path:
    """The model's config: the `config.json` of an earlier conversion, or read from the file (some seconds)."""
    _, key, _ = _identify(path)
    found = find_cached(key)
    if found is not None:
        return found / "config.json"
    import transformers

    with _library_errors(path), quiet(), _alone(path) as where:
        config = transformers.AutoConfig.from_pretrained(**where)
        config.architectures = [transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].__name__]
    return config


def _identify(path: Path) -> tuple[GgufHeader, str, dict[str, str]]:
    """(checked header, cache key, what the manifest says it was made from)."""
    require("transformers", "gguf", "accelerate")
    header = read_gguf_header(path)
    made_from = {
        "sha256": sha256_of(path),
        "converter": str(CONVERTER_VERSION),
        "transformers": version("transformers"),
        "gguf": version("gguf"),
    }
    key = f"gguf-{made_from['sha256'][:32]}-c{CONVERTER_VERSION}-t{made_from['transformers']}-g{made_from['gguf']}"
    return header, key, made_from


def _convert(path: Path, header: GgufHeader, target: Path, progress: Progress) -> None:
    """Write the model as safetensors, its config and its tokenizer into `target`."""
    import transformers

    with _library_errors(path), quiet(), _alone(path) as where, _read_once(path, progress):
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            output_loading_info=True, dtype="float32", **where
        )
        lacking = sorted([*info["missing_keys"], *(str(item) for item in info["mismatched_keys"])])
        if lacking:
            raise ValueError(f"it lacks {', '.join(lacking[:20])} ({len(lacking)} tensors)")
        tokenizer = transformers.AutoTokenizer.from_pretrained(**where) if header.has_tokenizer else None
    _forget_quantisation(model)
    progress("writing", 0, 1)
    with _write_errors(target), quiet():
        model.save_pretrained(target)
        if tokenizer is not None:
            tokenizer.save_pretrained(target)
    progress("writing", 1, 1)


@contextmanager
def _alone(path: Path) -> Iterator[dict[str, Any]]:
    """Arguments of `from_pretrained` for the file alone: what lies beside it is not looked at."""
    with TemporaryDirectory(prefix="axisplit-") as folder:
        (Path(folder) / "model.gguf").symlink_to(path.resolve())
        yield {
            "pretrained_model_name_or_path": folder,
            "gguf_file": "model.gguf",
            "local_files_only": True,
            "trust_remote_code": False,
        }


def _forget_quantisation(model: Any) -> None:
    """The weights are plain floats now; saving must not say otherwise."""
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.config.architectures = [type(model).__name__]


@contextmanager
def _read_once(path: Path, progress: Progress) -> Iterator[None]:
    """Within, transformers parses the file and maps its names once instead of 3 and 400 times (11 s of 20).

    Its bar goes to `progress`.
    """
    import gguf
    from transformers import modeling_gguf_pytorch_utils as loader

    progress("reading", 0, 1)
    reader_class, name_map, bar = gguf.GGUFReader, gguf.get_tensor_name_map, loader.tqdm
    reader = reader_class(path)
    progress("reading", 1, 1)
    gguf.GGUFReader = lambda *_args, **_options: reader
    gguf.get_tensor_name_map = functools.cache(name_map)
    loader.tqdm = _bar(progress)
    try:
        yield
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map = reader_class, name_map
        loader.tqdm = bar


def _bar(progress: Progress) -> Callable[..., Iterator[Any]]:
    def iterate(items: Iterable[Any], **_options: Any) -> Iterator[Any]:
        listed = list(items)
        for done, item in enumerate(listed):
            progress("dequantising", done, len(listed))
            yield item
        progress("dequantising", len(listed), len(listed))

    return iterate


def _library_errors(path: Path) -> AbstractContextManager[None]:
    return library_errors(
        what="cannot convert a GGUF file",
        where=str(path),
        needed="a causal language model of an architecture that transformers reads from GGUF",
        do="use another file, or the model's own safetensors",
    )


def _write_errors(target: Path) -> AbstractContextManager[None]:
    return library_errors(
        what="cannot write the converted model",
        where=str(target.parent),
        needed="room for four bytes a parameter",
        do="free some space, or set AXISPLIT_CACHE to another directory",
    )
