"""octavo and transformers may be imported in either order, and neither drags the other in."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECK = """
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING
from octavo.hub.configuration import OctavoConfig
from octavo.hub.quantizer import OctavoQuantizer
assert AUTO_QUANTIZER_MAPPING["octavo"] is OctavoQuantizer
assert AUTO_QUANTIZATION_CONFIG_MAPPING["octavo"] is OctavoConfig
import inspect, sys, transformers.quantizers.auto as auto
assert type(auto.__spec__.loader).__name__ == type(auto.__loader__).__name__ == "SourceFileLoader"
assert "register_quantizer" in inspect.getsource(auto)
assert not any(type(f).__name__ == "RegistryFinder" for f in sys.meta_path)
"""


def run(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "first",
    [
        "import octavo; from transformers import AutoModelForCausalLM",
        "import transformers; import octavo; import octavo.hub.hook as hook; hook.install()",
        "import transformers.quantizers; import octavo; import octavo.hub.hook as hook; hook.install()",
    ],
)
def test_octavo_is_registered_in_either_order(first: str) -> None:
    run(first + "\n" + CHECK)


def test_import_octavo_stays_light() -> None:
    run(
        "import sys, octavo\n"
        "heavy = {'torch', 'transformers', 'matplotlib', 'scipy', 'triton', 'safetensors'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
        "assert octavo.__version__ and 'compress' in dir(octavo)"
    )


def test_unknown_names_are_attribute_errors() -> None:
    import octavo

    with pytest.raises(AttributeError, match="no attribute 'fold'"):
        octavo.fold  # noqa: B018


def test_the_server_behind_transformers_chat_loads_packed_models(tiny_llama: Path, tmp_path: Path) -> None:
    from packed_directory import pack
    from transformers.cli.serving.model_manager import ModelManager

    from octavo.formats.format import Format
    from octavo.hub.packed import packed_tensors

    shutil.copytree(tiny_llama, tmp_path / "dense")
    pack(tmp_path / "dense", tmp_path / "packed", Format.parse("int@4 b32 absmax:fp16"))
    manager = ModelManager(device="cpu")
    model, tokenizer = manager.load_model_and_processor(f"{tmp_path / 'packed'}@main")
    assert len(packed_tensors(model)) == 15
    assert tokenizer.chat_template


@pytest.mark.parametrize("name", ["Format", "Importance", "OctavoError", "compress", "evaluate", "export", "generate"])
def test_public_names_are_found(name: str) -> None:
    import octavo

    assert callable(getattr(octavo, name))
    assert name in octavo.__all__
