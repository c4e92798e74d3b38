"""A Hugging Face folder in and out: what is in the folder of a real model, read and written by
hand.

One idea: a model on a disk is some small texts and one big block of numbers.

    config.json              the shape: layers, channels, heads, base of RoPE ...
    model.safetensors        the numbers, see safetensors_file.py
    tokenizer.json           the tokens, and how a text is cut, see tokenizer_json.py
    chat_template.jinja      how a conversation becomes one text, see chat_template.py; in other
                             folders it is a field of tokenizer_config.json
    generation_config.json   with which tokens a reply ends

Everything is checked before memory is taken, for a folder comes from a stranger. What a GPT of ours
does not do (scaled RoPE, windows, other families) is refused by the name of its field: no model is
loaded half. And a text never makes a special token here, while in transformers it does.

Read before: gpt.py. Left out: downloads, quantised weights, tokenizers other than byte-level BPE.
"""

import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from kittenllm import checks
from kittenllm.chat_template import read_template, write_template
from kittenllm.gpt import GPT, GPTConfig
from kittenllm.runs.checkpoints import (
    LONGEST_CONTEXT,
    weight_shapes,
    write_json_atomic,
    write_text_atomic,
)
from kittenllm.runs.json_files import printable, read_bytes
from kittenllm.safetensors_file import (
    find_tensors,
    object_of,
    read_object,
    read_safetensors,
    read_tensor,
    write_safetensors,
)
from kittenllm.tokenizer import Dialect, Tokenizer
from kittenllm.tokenizer_json import read_tokenizer_json, write_tokenizer_json

__all__ = ["load_folder", "read_safetensors", "save_folder", "write_safetensors"]

LONGEST_TEMPLATE = 2**16  # letters
NAMES = {  # in config.json: in GPTConfig
    "vocab_size": "vocab_size",
    "max_position_embeddings": "context_length",
    "num_hidden_layers": "layers",
    "hidden_size": "channels",
    "num_attention_heads": "heads",
    "num_key_value_heads": "kv_heads",
    "intermediate_size": "ffn_channels",
    "head_dim": "head_dim",
    "rms_norm_eps": "norm_eps",
    "rope_theta": "rope_base",
    "tie_word_embeddings": "tied",
}
SIZES = [name for name, ours in NAMES.items() if ours not in ("norm_eps", "rope_base", "tied")]
DEFAULTS = {"rms_norm_eps": 1e-6, "rope_theta": 10_000.0, "tie_word_embeddings": False}
FAMILIES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}  # the second has biases
# Fields that change no logit: how it was trained, by which version, which tokens end a text.
HARMLESS = "architectures attention_dropout bos_token_id dtype eos_token_id initializer_range"
HARMLESS += " is_llama_config pad_token_id pretraining_tp torch_dtype transformers.js_config"
HARMLESS += " transformers_version unk_token_id unsloth_version use_cache _name_or_path"


# ------------------------------------------------------------------------------------ config.json


def read_config(path: Path, fields: dict) -> GPTConfig:
    """The shape of a GPT.  Raises: ValueError that names the first field that cannot be obeyed."""
    fields = {"hidden_act": "silu", **DEFAULTS, **fields}
    family = fields.pop("model_type", None)
    if family not in list(FAMILIES):
        known = f"a family that can be loaded ({', '.join(FAMILIES)})"
        raise ValueError(f"{path}: model_type: {printable(family, 40)} is not {known}")
    for name in ("rope_parameters", "rope_scaling"):  # today's name, and the older one
        rope = {**object_of(path, name, fields.pop(name, None) or {})}
        fields["rope_theta"] = rope.pop("rope_theta", fields["rope_theta"])
        if rope not in ({}, {"rope_type": "default"}, {"type": "default"}):
            raise ValueError(f"{path}: {name}: {printable(rope, 80)} is not supported")
    if fields.pop("hidden_act") != "silu":
        raise ValueError(f"{path}: hidden_act: only silu is supported")
    if family == "qwen2" and not fields.get("use_sliding_window"):
        fields = {**fields, "sliding_window": None, "max_window_layers": None}
    if all(kind == "full_attention" for kind in as_list(fields.get("layer_types"))):
        fields["layer_types"] = None
    for name, value in fields.items():  # null, false and 0 mean that something is switched off
        if name not in (*NAMES, *HARMLESS.split()) and value not in (None, False):
            what = f"{printable(name, 60)}: {printable(value, 60)}"
            raise ValueError(f"{path}: {what} is not supported")
    if fields.get("num_key_value_heads") is None:
        fields["num_key_value_heads"] = fields.get("num_attention_heads")
    for name in NAMES:
        if isinstance(fields.get(name), (str, list, dict)):
            raise ValueError(f"{path}: {name}: {printable(fields[name], 60)} is no number")
    for name in SIZES:
        if name != "head_dim" or fields.get(name) is not None:
            checks.count(f"{path}: {name}", fields.get(name))
    checks.between(f"{path}: rope_theta", fields["rope_theta"], 1, 1e12)
    checks.between(f"{path}: rms_norm_eps", fields["rms_norm_eps"], 0, 1, include_low=False)
    checks.flags(**{f"{path}: tie_word_embeddings": fields["tie_word_embeddings"]})
    if fields["max_position_embeddings"] > LONGEST_CONTEXT:
        raise ValueError(f"{path}: max_position_embeddings: more than {LONGEST_CONTEXT}")
    values: dict[str, Any] = {ours: fields.get(name) for name, ours in NAMES.items()}
    try:
        return GPTConfig(**values, qkv_bias=family == "qwen2")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def as_list(value: object) -> list:
    """Some fields are one value, a list of them, or null."""
    return value if isinstance(value, list) else [] if value is None else [value]


def config_fields(gpt: GPT, tokenizer: Tokenizer) -> dict:
    """The reverse of `read_config`."""
    family = "qwen2" if gpt.config.qkv_bias else "llama"
    shape = {name: getattr(gpt.config, ours) for name, ours in NAMES.items()}
    return shape | {
        "model_type": family,
        "architectures": [FAMILIES[family]],
        "head_dim": gpt.config.head_channels,
        "hidden_act": "silu",
        "dtype": str(gpt.dtype).removeprefix("torch."),
        "bos_token_id": tokenizer.endoftext_id,
        "eos_token_id": list(gpt.config.stop_ids),
        "pad_token_id": gpt.config.pad_id,
    }


# --------------------------------------------------------------------------------- the tokenizer


def read_tokenizer(folder: Path, config: GPTConfig, fields: dict) -> tuple[Tokenizer, GPTConfig]:
    """The tokenizer, and the config with the tokens that end a reply and that fill up a row.

    Raises: ValueError that names file and field.
    """
    path = folder / "tokenizer.json"
    chats, turn_end, system = read_chat(folder)
    generation = folder / "generation_config.json"
    ends = read_object(generation if generation.exists() else folder / "config.json")
    stop_ids = tuple(as_list(ends.get("eos_token_id")))
    try:
        found = read_tokenizer_json(read_object(path))
        specials = found["special_ids"]
        endoftext = specials.get("<|endoftext|>", fields.get("bos_token_id"))
        used = (
            None,
            *stop_ids,
            endoftext,
            specials.get("<|im_start|>"),
            specials.get("<|im_end|>"),
        )
        likely_pads = (specials.get("<|pad|>"), fields.get("pad_token_id"), *specials.values())
        pad = next(token for token in (*likely_pads, *range(99)) if token not in used)
        dialect = Dialect(
            split=found["split"],
            special_ids=specials,
            vocab_size=config.vocab_size,
            endoftext_id=pad if endoftext is None else endoftext,
            pad_id=pad,
            nfc=found["nfc"],
            chats=chats,
            turn_end=turn_end,
            system=system,
        )
        tokenizer = Tokenizer(found["ranks"], dialect)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if chats and -1 in (tokenizer.im_start_id, tokenizer.im_end_id):
        raise ValueError(f"{path}: added_tokens: no <|im_start|> and <|im_end|> for the template")
    try:
        return tokenizer, replace(config, stop_ids=stop_ids, pad_id=pad)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{folder}: eos_token_id, pad_token_id: {error}") from error


def read_chat(folder: Path) -> tuple[bool, str, str]:
    """Has the model a chat template, what stands behind a turn, and the default system message."""
    path, other = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    settings = read_object(other) if other.exists() else {}
    if settings.get("add_prefix_space"):
        raise ValueError(f"{other}: add_prefix_space: true is not supported")
    template = settings.get("chat_template")
    if path.exists():
        template = (read_bytes(path) or b"").decode(errors="replace")
    else:
        path = other
    if template is None:
        return False, "", ""
    if not isinstance(template, str) or len(template) > LONGEST_TEMPLATE:
        raise ValueError(f"{path}: chat_template: {printable(template, 60)} is no short text")
    try:
        return True, *read_template(template)
    except ValueError as error:
        raise ValueError(f"{path}: chat_template: {error}") from error


# ------------------------------------------------------------------------------------- the folder


def load_folder(path, *, device: torch.device | str, dtype: torch.dtype) -> tuple[GPT, Tokenizer]:
    """The model and the tokenizer of a folder. No weight is drawn, and numbers are converted while
    they are read: the memory is that of the model in `dtype`, and of the tokenizer.

    Raises: ValueError that names the file and the field of the first thing that does not fit.
    """
    folder = Path(path)
    fields = read_object(folder / "config.json")
    config = read_config(folder / "config.json", fields)
    places = find_tensors(folder)
    places = {name: place for name, place in places.items() if not name.endswith(".inv_freq")}
    head = places.pop("lm_head.weight", None) if config.tied else None
    try:
        shapes = weight_shapes(config, count=len(places))
    except ValueError as error:
        raise ValueError(f"{folder / 'config.json'}: num_hidden_layers: {error}") from error
    for name, shape in shapes.items():
        place = places.get(their_name(name))
        if place is None or place.shape != shape:
            given = place.shape if place else "not there"
            raise ValueError(f"{folder}: {their_name(name)}: {given}, config.json says {shape}")
    tokenizer, config = read_tokenizer(folder, config, fields)
    weights = {}
    for name in shapes:
        place = places[their_name(name)]
        weights[name] = read_tensor(place, dtype).to(device)
        lowest, highest = weights[name].aminmax()  # nan, if there is one
        if not bool(lowest.isfinite() & highest.isfinite()):
            what = f"{their_name(name)}: it holds values that are no numbers"
            raise ValueError(f"{place.path}: {what} in {dtype}")
    with torch.device("meta"):
        gpt = GPT(config)  # its shape, without numbers
    gpt.load_state_dict(weights, assign=True)
    gpt.to(device=device, dtype=dtype)
    embedding = gpt.embed_tokens.weight
    if head and not torch.equal(read_tensor(head).to(embedding), embedding):
        raise ValueError(f"{folder / 'config.json'}: tie_word_embeddings: lm_head.weight differs")
    return gpt, tokenizer


def save_folder(path, gpt: GPT, tokenizer: Tokenizer, *, card: str, chats: bool = True) -> None:
    """A folder that transformers loads, complete or not at all; `card` becomes its README.md.

    chats=False: without a chat template, for a base model.
    Raises: ValueError if the folder is there and not empty.
    """
    folder = Path(path).resolve()
    check_free(folder)
    chats = chats and tokenizer.chats
    end = tokenizer.im_end_id if chats else tokenizer.endoftext_id
    names = {"bos": tokenizer.endoftext_id, "eos": end, "pad": tokenizer.pad_id}
    settings: dict[str, object] = {
        f"{key}_token": tokenizer.decode([token]) for key, token in names.items()
    }
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    settings["model_max_length"] = gpt.config.context_length
    settings["model_input_names"] = ["input_ids", "attention_mask"]
    if chats:
        settings["chat_template"] = write_template(tokenizer.turn_end, tokenizer.system)
    fields = config_fields(gpt, tokenizer)
    ids = {key: value for key, value in fields.items() if key.endswith("_token_id")}
    weights = {their_name(name): tensor for name, tensor in gpt.state_dict().items()}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        made = Path(temporary) / folder.name  # becomes the folder in one step, at the end
        write_safetensors(made / "model.safetensors", weights)
        write_json_atomic(made / "config.json", fields)
        write_json_atomic(made / "generation_config.json", ids)
        write_json_atomic(made / "tokenizer.json", write_tokenizer_json(tokenizer))
        write_json_atomic(made / "tokenizer_config.json", settings)
        write_text_atomic(made / "README.md", card)
        if folder.exists():
            folder.rmdir()  # it is empty
        os.replace(made, folder)


def check_free(folder: Path) -> None:
    """Raises: ValueError unless a new folder can be made here."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder}: there is something already. Give the name of a new folder")


def their_name(name: str) -> str:
    """layers.0.mlp.up_proj.weight is model.layers.0.mlp.up_proj.weight in a Llama checkpoint."""
    return name if name.startswith("lm_head.") else f"model.{name}"
