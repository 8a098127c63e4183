"""Opens a language model from wherever it may lie: a directory, a GGUF file, an embedded name, the hub.

A directory goes through transformers' `from_pretrained`, which packed octavo directories are loaded by as well. A GGUF
file is read by octavo's own reader, tensor by tensor into an empty model: no second library is needed, nothing of the
file's quantization clings to the model, and it can be saved like any other.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import octavo  # noqa: F401  (registers octavo's checkpoints with transformers)
from octavo.base.errors import CheckpointError, ModelError, OctavoError
from octavo.checkpoints import Checkpoint, open_checkpoint
from octavo.checkpoints.opening import resolve_source
from octavo.models.quiet import quiet
from octavo.transforms.serving import Activations, serve

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")


def load_language_model(source: str | Path, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """Load a model that predicts tokens, ready to run on the CPU, and its tokenizer (None if it has none).

    Args:
        source: a Hugging Face directory (dense, or compressed by octavo), a GGUF file, an embedded or a hub name.
        dtype: dtype of what is not packed.

    Raises:
        CheckpointError: there is no such model, or it is damaged or incomplete.
        ModelError: it is whole but predicts no tokens, or of an architecture that transformers does not know.
    """
    path = resolve_source(source)
    with quiet():
        if path.is_dir():
            return _from_directory(path, dtype), load_tokenizer(path)
        checkpoint = open_checkpoint(path)
        return _from_checkpoint(checkpoint, dtype), load_tokenizer(checkpoint.sidecars[0].parent)


def context_length(model: Any) -> int | None:
    """Most tokens a sequence may have, where the model's configuration says so."""
    config = model.config.get_text_config()
    return getattr(config, "max_position_embeddings", None)


def _from_directory(path: Path, dtype: torch.dtype) -> Any:
    config = open_checkpoint(path).config
    try:
        model, info = _auto_class(config).from_pretrained(
            path, dtype=dtype, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    except OctavoError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ModelError(
            f"transformers cannot load {path} ({_first_line(error)})", "see `octavo inspect` for what is in it"
        ) from error
    missing = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    if missing:
        raise CheckpointError(
            f"{path} lacks {len(missing)} of the model's tensors, among them {missing[0]}", "fetch the model again"
        )
    return model.eval()


def unloaded_model(checkpoint: Checkpoint, dtype: torch.dtype = torch.float32) -> Any:
    """The model of a checkpoint with its buffers computed and its parameters' memory as it was found.

    Raises:
        ModelError: transformers does not know the architecture.
    """
    from transformers import AutoConfig
    from transformers.initialization import no_init_weights

    try:
        if checkpoint.source.is_dir():
            config = AutoConfig.from_pretrained(checkpoint.source, local_files_only=True)
        else:
            settings = {**checkpoint.config, "dtype": dtype}
            config = AutoConfig.for_model(settings.pop("model_type"), **settings)
        # Initial values would be overwritten at once; buffers that no checkpoint holds are computed all the same.
        with no_init_weights():
            model = _auto_class(checkpoint.config).from_config(config, dtype=dtype)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"transformers cannot build the model of {checkpoint.source} ({_first_line(error)})",
            "give the original Hugging Face directory",
        ) from error
    entry = (checkpoint.quantization or {}).get("activations")
    if entry is not None:
        serve(model, Activations.from_json(entry))
    return model


def _from_checkpoint(checkpoint: Checkpoint, dtype: torch.dtype) -> Any:
    model = unloaded_model(checkpoint, dtype)
    state = {name: checkpoint.read(name).to(dtype) for name in checkpoint.names}
    missing, unexpected = model.load_state_dict(state, strict=False, assign=True)
    model.tie_weights()
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    wrong = [name for name in missing if name not in tied] + unexpected
    if wrong:
        raise CheckpointError(
            f"{checkpoint.source} does not fit its architecture: {wrong[0]}", "give the original Hugging Face directory"
        )
    return model.eval()


def _auto_class(config: Any) -> Any:
    import transformers

    if config.get("is_encoder_decoder"):
        from transformers.models.auto.modeling_auto import MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES

        speech = config.get("model_type") in MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES
        return transformers.AutoModelForSpeechSeq2Seq if speech else transformers.AutoModelForSeq2SeqLM
    architecture = (config.get("architectures") or [""])[0]
    masked = architecture.endswith(("ForMaskedLM", "ForPreTraining")) and config.get("model_type") != "gpt2"
    return transformers.AutoModelForMaskedLM if masked else transformers.AutoModelForCausalLM


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer in a folder, None if there is none.

    Raises:
        ModelError: there is one that transformers cannot read.
    """
    if not any((folder / name).exists() for name in _TOKENIZER_FILES):
        return None
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"transformers cannot read the tokenizer in {folder} ({_first_line(error)})", "fetch the model again"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
