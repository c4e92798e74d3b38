"""Folders of real models: read as transformers reads them, refused where they lie.

transformers, tokenizers and safetensors are the judges where they are installed (the extra
`test-peers`); the other tests need none of them.
"""

import io
import json
import os
import random
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from chapters.chat import __main__ as chat_program
from chapters.export import __main__ as export_program
from kittenllm import safetensors_file
from kittenllm.chat import chat_prompt, encode_chat
from kittenllm.chat_template import OTHERS, read_template, write_template
from kittenllm.gpt import GPT, GPTConfig
from kittenllm.huggingface import load_folder, read_safetensors, save_folder, write_safetensors
from kittenllm.reward_model import RewardModel
from kittenllm.runs.checkpoints import load_model, save_model, weight_shapes
from kittenllm.runs.summaries import write_summary
from kittenllm.sampling import generate
from kittenllm.scorer import reward_extra
from kittenllm.tokenizer import SPLIT_PATTERNS, Tokenizer, last_merges, train_bpe
from kittenllm.tokenizer_json import check_merges, split_steps
from tests.byte_kitten import TOKENIZER, new_gpt, small_config

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test looks nothing up
ROOT = Path(__file__).parent.parent
PEERS = "a peer to compare with: pip install '.[test-peers]'"
ON_CPU = {"device": "cpu", "dtype": torch.float32}
WORD_LIST = """the kitten's 7 paws aren't 12345 months old, it'LL
    cost 3.50!   two  spaces\n\nlines\r\n
    tab\there ... “quotes” naïve café über
    你好世界
    кошка かわいい 🐱🐾 ½ ² x=1; </a> <think> f(x)
    \u3000 \u00a0 \x85 e\u0301 ſ\u017f 'S 'RE don't
    ---- ==== _a_b http://x.y/z"""
WORDS = WORD_LIST.split(" ")


@pytest.fixture
def transformers():
    return pytest.importorskip("transformers", reason=PEERS)


@pytest.fixture
def tokenizers():
    return pytest.importorskip("tokenizers", reason=PEERS)


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    return Tokenizer(train_bpe((ROOT / "README.md").read_text(encoding="utf-8"), 700))


@pytest.fixture
def folder(tmp_path) -> Path:
    """A good folder, to be spoiled."""
    save_folder(tmp_path / "model", new_gpt(), TOKENIZER, card="a card")
    return tmp_path / "model"


def texts(count: int, seed: int = 0) -> list[str]:
    """Words in any order and characters of all kinds; none spells a special token."""
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        if rng.random() < 0.7:
            made.append(rng.choice(["", " ", "  "]).join(rng.choices(WORDS, k=rng.randint(1, 12))))
        else:
            codes = [rng.choice([rng.randint(9, 126), rng.randint(128, 0xD7FF)]) for _ in range(15)]
            made.append("".join(map(chr, codes)))
    return made


# ------------------------------------------------------------------------------- safetensors


def test_the_file_of_the_docstring(tmp_path):
    table = b'{"norm.weight": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}} '
    numbers = bytes.fromhex("0000803f 00000040")
    (tmp_path / "a.safetensors").write_bytes(b"\x48" + bytes(7) + table + numbers)
    tensors = read_safetensors(tmp_path / "a.safetensors")
    assert tensors.keys() == {"norm.weight"} and tensors["norm.weight"].tolist() == [1.0, 2.0]


def some_tensors() -> dict[str, torch.Tensor]:
    noise = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    return {
        "a": noise,
        "b": noise.half(),
        "turned": noise.bfloat16().T,  # not stored row by row
        "one number": torch.tensor(3.0),
        "none": torch.zeros(0, 4),
    }


def test_what_is_written_is_read(tmp_path):
    write_safetensors(tmp_path / "x.safetensors", some_tensors())
    tensors = read_safetensors(tmp_path / "x.safetensors")
    for name, tensor in some_tensors().items():
        assert tensors[name].dtype == tensor.dtype and torch.equal(tensors[name], tensor)
    with pytest.raises(ValueError, match="int64"):
        write_safetensors(tmp_path / "y.safetensors", {"a": torch.tensor([1])})
    assert not (tmp_path / "y.safetensors").exists()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_numbers_are_converted_block_by_block(tmp_path, dtype, monkeypatch):
    """Blocks of 5 numbers: some tensors end inside one, some at its end, some are smaller."""
    monkeypatch.setattr(safetensors_file, "BLOCK", 5)
    numbers = {str(count): torch.arange(count).to(torch.float16) / 7 for count in (0, 1, 4, 5, 12)}
    write_safetensors(tmp_path / "x.safetensors", numbers)
    for name, place in safetensors_file.read_header(tmp_path / "x.safetensors").items():
        tensor = safetensors_file.read_tensor(place, dtype)
        assert tensor.dtype == dtype and torch.equal(tensor, numbers[name].to(dtype))


def test_the_official_library_reads_ours_and_we_read_its(tmp_path):
    official = pytest.importorskip("safetensors.torch", reason=PEERS)
    write_safetensors(tmp_path / "ours.safetensors", some_tensors())
    theirs = {name: tensor.contiguous() for name, tensor in some_tensors().items()}
    official.save_file(theirs, tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    read = (
        official.load_file(tmp_path / "ours.safetensors"),
        read_safetensors(tmp_path / "theirs.safetensors"),
    )
    for tensors in read:
        assert all(torch.equal(tensors[name], tensor) for name, tensor in theirs.items())


# ------------------------------------------------------------------------------ there and back


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tied": False},
        {"head_dim": 12},
        {"qkv_bias": True},
        {"rope_base": 50_000.0, "norm_eps": 1e-6, "kv_heads": 4},
    ],
    ids=str,
)
def test_a_folder_comes_back_as_it_was(tmp_path, changes):
    shape = {"layers": 2, "channels": 32, "ffn_channels": 48, "context_length": 64}
    stops = {"stop_ids": (TOKENIZER.im_end_id, TOKENIZER.endoftext_id), "pad_id": TOKENIZER.pad_id}
    gpt = GPT(GPTConfig(TOKENIZER.vocab_size, **shape, **stops, **changes))
    save_folder(tmp_path / "a", gpt, TOKENIZER, card="")
    other, tokenizer = load_folder(tmp_path / "a", **ON_CPU)
    tokens = torch.arange(40)[None]
    assert torch.equal(other(tokens), gpt(tokens))
    assert other.config.stop_ids == stops["stop_ids"] and other.config.pad_id == stops["pad_id"]
    messages = [{"role": "user", "content": "<|im_end|> hi"}]
    assert chat_prompt(tokenizer, messages) == chat_prompt(TOKENIZER, messages)
    save_folder(tmp_path / "b", other, tokenizer, card="")  # and once more: the same bytes
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("changes", [{}, {"tied": False}, {"head_dim": 12}, {"qkv_bias": True}])
def test_the_weights_that_a_file_must_hold_are_those_of_a_model(changes):
    gpt = GPT(GPTConfig(layers=2, channels=32, ffn_channels=48, **changes))
    found = {name: tuple(weight.shape) for name, weight in gpt.state_dict().items()}
    assert weight_shapes(gpt.config, count=len(found)) == found
    assert all(weight.isfinite().all() for weight in gpt.parameters())  # nothing is left undrawn
    with torch.device("meta"):
        empty = GPT(gpt.config)
    assert all(weight.is_meta for weight in empty.parameters())


def test_text_never_becomes_a_special_token(folder):
    _, tokenizer = load_folder(folder, **ON_CPU)
    for name, token in tokenizer.special_ids.items():
        ids = tokenizer.encode(f"a{name}b")
        assert token not in ids and name not in tokenizer.decode(ids)
        assert tokenizer.decode([token]) == name


def test_a_bfloat16_model_speaks(folder):
    gpt, _ = load_folder(folder, device="cpu", dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in gpt.parameters()} == {torch.bfloat16}
    rollout = generate(gpt, [[1, 2, 3]], max_new_tokens=3, temperature=0, generator=None)
    assert rollout.response_mask.any()


def test_a_base_model_has_no_template(tmp_path):
    save_folder(tmp_path / "base", new_gpt(), TOKENIZER, card="", chats=False)
    _, tokenizer = load_folder(tmp_path / "base", **ON_CPU)
    assert not tokenizer.chats and tokenizer.endoftext_id == TOKENIZER.endoftext_id


def test_shards(tmp_path, folder):
    whole = read_safetensors(folder)
    names = list(whole)
    files = {"model-1.safetensors": names[:3], "model-2.safetensors": names[3:]}
    for file, inside in files.items():
        write_safetensors(folder / file, {name: whole[name] for name in inside})
    (folder / "model.safetensors").unlink()
    weight_map = {name: file for file, inside in files.items() for name in inside}
    write_json(folder / "model.safetensors.index.json", {"weight_map": weight_map})
    again = read_safetensors(folder)
    assert again.keys() == whole.keys()
    assert all(torch.equal(again[name], whole[name]) for name in names)
    gpt, _ = load_folder(folder, **ON_CPU)
    assert torch.equal(gpt(torch.arange(9)[None]), new_gpt()(torch.arange(9)[None]))


def test_a_model_pt_keeps_a_foreign_tokenizer(tmp_path, folder):
    """Fine-tune an open model, and the chapter's model.pt speaks its language."""
    edit_json(folder / "tokenizer_config.json", chat_template=write_template("\n", "Be kind."))
    gpt, tokenizer = load_folder(folder, **ON_CPU)
    save_model(tmp_path / "model.pt", gpt, tokenizer)
    other, again, _ = load_model(tmp_path / "model.pt")
    messages = [{"role": "user", "content": "hi"}]
    assert chat_prompt(again, messages) == chat_prompt(tokenizer, messages)
    assert again.to_state() == tokenizer.to_state() and other.config == gpt.config


# ------------------------------------------------------------------------------- chat templates


def test_a_template_is_known_by_its_looks():
    for end, system in (("", ""), ("\n", ""), ("\n", "You are a kitten."), ("", "Meow.")):
        template = write_template(end, system)
        assert read_template(template) == (end, system)
        with_dashes = template.replace("%}", "-%}\n").replace("{%", "{%- ").replace("'", '"')
        assert read_template(with_dashes) == (end, system)
    assert read_template(QWEN) == ("\n", "You are Qwen.")


QWEN = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}{%- for tool in tools %}{{- tool | tojson }}{%- endfor %}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>system\\nYou are Qwen.<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or \
(message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


@pytest.mark.parametrize(
    "template",
    [
        "",
        "{{ messages }}",
        write_template("\n", "").replace("user", "").replace("message['content']", "'x'"),
        write_template("\n", "").replace("+ message['content']", "+ message['content'] | trim"),
        write_template("\n", "").replace("}}{% endfor", "}}\n{% endfor"),  # prints a line break
        write_template("\n", "") + "<think>",
        *OTHERS,
    ],
)
def test_another_template_is_refused(template):
    name = OTHERS.get(template, "unknown")
    with pytest.raises(ValueError, match=name):
        read_template(template)


def test_the_system_message_and_the_line_break_of_a_template(folder):
    edit_json(folder / "tokenizer_config.json", chat_template=write_template("\n", "Be kind."))
    _, tokenizer = load_folder(folder, **ON_CPU)
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
    chat = encode_chat(tokenizer, messages)
    assert tokenizer.decode(chat.tokens) == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
        "<|im_start|>assistant\nyes<|im_end|>\n"
    )
    trained = [token for token, mask in zip(chat.tokens, chat.loss_mask, strict=True) if mask]
    assert tokenizer.decode(trained) == "yes<|im_end|>"  # the line break is only read
    own = encode_chat(tokenizer, [{"role": "system", "content": "No."}, *messages])
    assert "Be kind" not in tokenizer.decode(own.tokens)


# ------------------------------------------------------------------------------ spoiled folders


def write_json(path: Path, value) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def edit_json(path: Path, **changes) -> None:
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | changes)


def config(**changes):
    return lambda folder: edit_json(folder / "config.json", **changes)


def cut(name: str, keep: float):
    def spoil(folder):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(keep * len(content))])

    return spoil


def header(change, *, extra: bytes = b""):
    """`change` the table of model.safetensors and leave the numbers as they are."""

    def spoil(folder):
        path = folder / "model.safetensors"
        content = path.read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        table = json.loads(content[8 : 8 + length])
        change(table)
        text = json.dumps(table).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :] + extra)

    return spoil


def entry(**changes):
    return header(lambda table: table["model.norm.weight"].update(changes))


def index(weight_map):
    def spoil(folder):
        os.rename(folder / "model.safetensors", folder / "model-1.safetensors")
        names = read_safetensors(folder / "model-1.safetensors")
        value = weight_map(dict.fromkeys(names, "model-1.safetensors"))
        write_json(folder / "model.safetensors.index.json", {"weight_map": value})

    return spoil


def tokenizer_json(change):
    def spoil(folder):
        content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        change(content)
        write_json(folder / "tokenizer.json", content)

    return spoil


def weights(change):
    def spoil(folder):
        tensors = read_safetensors(folder)
        change(tensors)
        write_safetensors(folder / "model.safetensors", tensors)

    return spoil


def add_pairs(*pairs):
    """Tokens of two letters, with ids behind all others, and their merges in this order."""

    def change(content):
        for left, right in pairs:
            content["model"]["vocab"].setdefault(
                left + right, 266 + len(pairs) - pairs.index((left, right)) - 1
            )
        content["model"]["merges"] += [list(pair) for pair in pairs]

    return tokenizer_json(change)


EMBEDDING = "model.embed_tokens.weight"
LONG_HEADER = struct.pack("<Q", 2**60)
SPOILED = {  # what is wrong: (how it is made, what the line must name)
    "no config": (lambda f: (f / "config.json").unlink(), "config.json: there is no such file"),
    "config is no JSON": (cut("config.json", 0.5), "config.json"),
    "config is a list": (lambda f: write_json(f / "config.json", []), "config.json"),
    "another family": (config(model_type="gpt2"), "config.json: model_type: gpt2"),
    "mixture of experts": (config(num_experts=8), "config.json: num_experts: 8"),
    "scaled RoPE": (
        config(rope_scaling={"rope_type": "llama3", "factor": 8.0}),
        "config.json: rope_scaling",
    ),
    "scaled RoPE, new name": (
        config(rope_parameters={"rope_type": "yarn", "rope_theta": 1e4}),
        "config.json: rope_parameters",
    ),
    "sliding window": (config(sliding_window=4096), "config.json: sliding_window: 4096"),
    "some layers slide": (config(layer_types=["sliding_attention"]), "config.json: layer_types"),
    "another activation": (config(hidden_act="gelu"), "config.json: hidden_act"),
    "biases in all of attention": (config(attention_bias=True), "config.json: attention_bias"),
    "biases in the feed-forward": (config(mlp_bias=True), "config.json: mlp_bias"),
    "quantised": (config(quantization_config={"bits": 4}), "config.json: quantization_config"),
    "three million layers": (config(num_hidden_layers=3_000_000), "config.json: num_hidden_layers"),
    "half a layer": (config(num_hidden_layers=0.5), "config.json: num_hidden_layers"),
    "no heads": (config(num_attention_heads=0), "config.json: num_attention_heads"),
    "heads are text": (config(num_key_value_heads="two"), "config.json: num_key_value_heads"),
    "a context of 10^9": (
        config(max_position_embeddings=10**9),
        "config.json: max_position_embeddings",
    ),
    "huge vocabulary": (config(vocab_size=10**12), f"{EMBEDDING}"),
    "RoPE's base is text": (config(rope_theta="big"), "config.json: rope_theta"),
    "eps is 0": (config(rms_norm_eps=0), "config.json: rms_norm_eps"),
    "tied is a word": (config(tie_word_embeddings="yes"), "config.json: tie_word_embeddings"),
    "untied without a head": (config(tie_word_embeddings=False), "config.json: num_hidden_layers"),
    "tied, and another head": (
        weights(lambda t: t.update({"lm_head.weight": 2 * t[EMBEDDING]})),
        "config.json: tie_word_embeddings",
    ),
    "qwen without biases": (config(model_type="qwen2"), "config.json: num_hidden_layers"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors"),
    "weights cut in two": (cut("model.safetensors", 0.5), "model.safetensors: data_offsets"),
    "weights are four bytes": (cut("model.safetensors", 1e-5), "model.safetensors: header"),
    "a header of 2^60 bytes": (
        lambda f: (f / "model.safetensors").write_bytes(LONG_HEADER + b"{}"),
        "model.safetensors: header",
    ),
    "a header that is no JSON": (
        lambda f: (f / "model.safetensors").write_bytes(struct.pack("<Q", 4) + b"{\xff\xff}"),
        "model.safetensors: header",
    ),
    "a header that is a list": (
        lambda f: (f / "model.safetensors").write_bytes(struct.pack("<Q", 2) + b"[]"),
        "model.safetensors: header",
    ),
    "bytes behind the end": (header(lambda t: None, extra=b"1234"), "data_offsets"),
    "huge shape": (entry(shape=[10**9, 10**9]), "model.norm.weight: shape"),
    "negative shape": (entry(shape=[-1, -32]), "model.norm.weight: shape"),
    "shape of a million dimensions": (entry(shape=[1] * 9), "model.norm.weight: shape"),
    "another kind of numbers": (entry(dtype="I64"), "model.norm.weight: dtype: I64"),
    "no kind": (entry(dtype=None), "model.norm.weight: dtype"),
    "a kind of half the size": (entry(dtype="F16"), "model.norm.weight: shape"),
    "offsets backwards": (entry(data_offsets=[128, 0]), "model.norm.weight: shape"),
    "offsets beyond the file": (
        entry(data_offsets=[10**12, 10**12 + 128]),
        "model.norm.weight: data_offsets",
    ),
    "overlap": (entry(data_offsets=[0, 128]), "data_offsets"),
    "a hole": (header(lambda t: t.pop("model.norm.weight")), "data_offsets"),
    "a weight is missing": (weights(lambda t: t.pop("model.norm.weight")), "num_hidden_layers"),
    "a weight with another name": (
        weights(lambda t: t.update({"model.bias": t.pop("model.norm.weight")})),
        "model.norm.weight: not there",
    ),
    "a weight turned round": (
        weights(lambda t: t.update({EMBEDDING: t[EMBEDDING].T})),
        f"{EMBEDDING}: (32, 266)",
    ),
    "not a number": (
        weights(lambda t: t["model.norm.weight"].fill_(float("nan"))),
        "model.safetensors: model.norm.weight",
    ),
    "shard outside the folder": (
        index(lambda m: dict.fromkeys(m, "../model-1.safetensors")),
        "model.safetensors.index.json: weight_map: ../model",
    ),
    "shard with the path of a system": (
        index(lambda m: dict.fromkeys(m, "/etc/passwd")),
        "model.safetensors.index.json: weight_map: /etc",
    ),
    "missing shard": (
        index(lambda m: m | {EMBEDDING: "model-2.safetensors"}),
        "model-2.safetensors: cannot be read",
    ),
    "index names what no shard has": (
        index(lambda m: m | {"model.x": "model-1.safetensors"}),
        "model.safetensors.index.json: weight_map: model.x",
    ),
    "index is a list": (index(lambda m: [1]), "model.safetensors.index.json: weight_map"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json: there is no"),
    "another tokenizer": (
        tokenizer_json(lambda t: t["model"].update(type="Unigram")),
        "tokenizer.json: model.type",
    ),
    "byte fallback": (
        tokenizer_json(lambda t: t["model"].update(byte_fallback=True)),
        "tokenizer.json: model.byte_fallback",
    ),
    "another normal form": (
        tokenizer_json(lambda t: t.update(normalizer={"type": "NFKC"})),
        "tokenizer.json: normalizer",
    ),
    "another way to cut": (
        tokenizer_json(lambda t: t.update(pre_tokenizer={"type": "Whitespace"})),
        "tokenizer.json: pre_tokenizer",
    ),
    "a pattern that hangs": (
        tokenizer_json(
            lambda t: t["pre_tokenizer"]["pretokenizers"][0].update(pattern={"Regex": "(a+)+$"})
        ),
        "tokenizer.json: pre_tokenizer",
    ),
    "no way to cut": (tokenizer_json(lambda t: t.pop("pre_tokenizer")), "pre_tokenizer"),
    "a word as an added token": (
        tokenizer_json(
            lambda t: t["added_tokens"].append({"content": "cat", "id": 266, "special": False})
        ),
        "tokenizer.json: added_tokens: 'cat'",
    ),
    "merges in another order": (add_pairs(("a", "b"), ("c", "d")), "tokenizer.json: model.merges"),
    "a token that no merge makes": (
        tokenizer_json(lambda t: t["model"]["vocab"].update({"qx": 266})),
        "tokenizer.json: model.merges: they do not make the token b'qx'",
    ),
    "a merge of a token that is not there": (
        tokenizer_json(lambda t: t["model"]["merges"].append(["q", "q"])),
        "tokenizer.json: model.merges: b'q' + b'q'",
    ),
    "a merge of three": (
        tokenizer_json(lambda t: t["model"]["merges"].append("a b c")),
        "tokenizer.json: model.merges: a b c",
    ),
    "a token in other letters": (
        tokenizer_json(lambda t: t["model"]["vocab"].update({"a b": 266})),
        "tokenizer.json: model.vocab: 'a b'",
    ),
    "an id too many": (
        tokenizer_json(lambda t: t["model"]["vocab"].update({"a": 300})),
        "tokenizer.json: ranks must be 0, 1, 2",
    ),
    "more tokens than rows": (
        tokenizer_json(
            lambda t: t["added_tokens"].append({"content": "<x>", "id": 266, "special": True})
        ),
        "tokenizer.json: token ids must be",
    ),
    "another template": (
        lambda f: edit_json(f / "tokenizer_config.json", chat_template="[INST] {{ messages }}"),
        "tokenizer_config.json: chat_template: the template is not one of ChatML",
    ),
    "another template in its own file": (
        lambda f: (f / "chat_template.jinja").write_text("<|start_header_id|>"),
        "chat_template.jinja: chat_template",
    ),
    "a space before each text": (
        lambda f: edit_json(f / "tokenizer_config.json", add_prefix_space=True),
        "tokenizer_config.json: add_prefix_space",
    ),
    "replies end with token 10^6": (
        lambda f: edit_json(f / "generation_config.json", eos_token_id=10**6),
        "eos_token_id",
    ),
    "replies end with a word": (
        lambda f: edit_json(f / "generation_config.json", eos_token_id="end"),
        "eos_token_id",
    ),
}


@pytest.mark.parametrize("what", SPOILED)
def test_a_spoiled_folder_is_one_clear_line(folder, what):
    spoil, names = SPOILED[what]
    load_folder(folder, **ON_CPU)  # it was good
    spoil(folder)
    with pytest.raises(ValueError) as caught:
        load_folder(folder, **ON_CPU)
    message = str(caught.value)
    assert names in message and str(folder) in message
    assert message.isprintable() and len(message) < len(str(folder)) + 400


PROGRAM = """
import sys
from pathlib import Path
import torch
from kittenllm.huggingface import load_folder
from kittenllm.runs.memory import peak_memory_mb
good, *spoiled = map(Path, sys.argv[1:])
load_folder(good, device="cpu", dtype=torch.float32)
before = peak_memory_mb()
for folder in spoiled:
    try:
        load_folder(folder, device="cpu", dtype=torch.float32)
    except ValueError:
        continue
    sys.exit(f"{folder} was loaded")
print(peak_memory_mb() - before)
"""


def test_spoiled_folders_take_no_memory(tmp_path):
    folders = []
    for number, (spoil, _) in enumerate([(lambda folder: None, ""), *SPOILED.values()]):
        folders.append(tmp_path / str(number))
        save_folder(folders[-1], new_gpt(), TOKENIZER, card="")
        spoil(folders[-1])
    command = [sys.executable, "-c", PROGRAM, *map(str, folders)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8")
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) < 40  # megabytes


def test_memory_of_a_load_is_that_of_the_model(tmp_path):
    """A bfloat16 file of 50 MB becomes a float32 model of 100 MB."""
    config = small_config(TOKENIZER)
    changes = {"layers": 6, "channels": 640, "heads": 10, "kv_heads": 2, "ffn_channels": 1600}
    gpt = GPT(GPTConfig(**{**vars(config), **changes})).bfloat16()
    save_folder(tmp_path / "small", new_gpt(), TOKENIZER, card="")
    save_folder(tmp_path / "large", gpt, TOKENIZER, card="")
    lines = PROGRAM.splitlines()
    program = "\n".join(lines[: lines.index("for folder in spoiled:")])
    program += "\nload_folder(*spoiled, device='cpu', dtype=torch.float32)\n" + lines[-1]
    command = [sys.executable, "-c", program, str(tmp_path / "small"), str(tmp_path / "large")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8")
    assert result.returncode == 0, result.stderr
    model = 4 * gpt.parameter_count / 2**20
    assert model > 80 and float(result.stdout) < 1.2 * model


# ------------------------------------------------------------------------------ the tokenizers


def test_how_tokens_are_made_by_hand():
    ranks = {b"a": 0, b"b": 1, b"c": 2, b"ab": 3, b"abc": 4, b"bc": 5, b"cab": 6}
    made = last_merges(ranks)
    assert made == {
        b"ab": (b"a", b"b"),
        b"abc": (b"ab", b"c"),
        b"bc": (b"b", b"c"),
        b"cab": (b"c", b"ab"),
    }


def test_merges_that_ids_cannot_say_are_refused():
    letters = {b"a": 0, b"b": 1, b"c": 2, b"d": 3}
    ab, bc, abc = (b"a", b"b"), (b"b", b"c"), (b"ab", b"c")
    check_merges(letters | {b"ab": 4, b"bc": 5, b"abc": 6}, [ab, bc, abc], False)
    with pytest.raises(ValueError, match="order of the ids"):
        check_merges(letters | {b"ab": 5, b"bc": 4, b"abc": 6}, [ab, bc, abc], False)
    # bc comes first, so that "abc" alone ends in a + bc, which is no merge: never made there,
    # while tiktoken would join any two tokens that spell it
    with pytest.raises(ValueError, match="they do not make the token b'abc'"):
        check_merges(letters | {b"bc": 4, b"ab": 5, b"abc": 6}, [bc, ab, abc], False)
    # Llama 3 lists every cut of such a token, and takes whole words without merging
    both = [bc, ab, (b"a", b"bc"), abc]
    check_merges(letters | {b"bc": 4, b"ab": 5, b"abc": 6}, both, True)
    with pytest.raises(ValueError, match="order of the ids"):
        check_merges(letters | {b"bc": 4, b"ab": 5, b"abc": 6}, both, False)


@pytest.mark.parametrize("split", SPLIT_PATTERNS)
def test_tokens_of_each_pattern_are_those_of_the_tokenizers_library(tokenizers, tmp_path, split):
    """A tokenizer trained by the library, with our own as the pupil, on texts of all kinds."""
    from tokenizers import decoders, models, pre_tokenizers, trainers

    steps = {"type": "Sequence", "pretokenizers": split_steps(split)}
    theirs = tokenizers.Tokenizer(models.BPE())
    content = json.loads(theirs.to_str())
    theirs = tokenizers.Tokenizer.from_str(json.dumps(content | {"pre_tokenizer": steps}))
    theirs.decoder = decoders.ByteLevel()
    theirs.normalizer = tokenizers.normalizers.NFC() if split == "qwen" else None
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=names, initial_alphabet=alphabet, show_progress=False
    )
    theirs.train_from_iterator(
        [(ROOT / "README.md").read_text(encoding="utf-8"), *texts(200)], trainer
    )
    save_folder(tmp_path / "model", new_gpt(), TOKENIZER, card="")
    theirs.save(str(tmp_path / "model" / "tokenizer.json"))
    rows = torch.zeros(theirs.get_vocab_size(), 32)
    weights(lambda t: t.update({EMBEDDING: rows}))(tmp_path / "model")
    ids = {"eos_token_id": 2, "bos_token_id": 0, "pad_token_id": None}
    edit_json(tmp_path / "model" / "config.json", vocab_size=len(rows), **ids)
    edit_json(tmp_path / "model" / "generation_config.json", **ids)
    gpt, ours = load_folder(tmp_path / "model", **ON_CPU)
    assert (ours.endoftext_id, ours.im_start_id, ours.im_end_id) == (0, 1, 2)
    assert gpt.config.stop_ids == (2,) and gpt.config.pad_id not in (0, 1, 2)
    samples = texts(3000, seed=1)
    for text, encoding in zip(samples, theirs.encode_batch(samples), strict=True):
        assert ours.encode(text) == encoding.ids, text


def test_bytes_that_a_vocabulary_lacks_are_left_out(folder):
    def without_the_last_byte(content):
        vocab = content["model"]["vocab"]
        letter = next(text for text, token in vocab.items() if token == 255)
        del vocab[letter]
        for entry in content["added_tokens"]:
            entry["id"] -= 1
            vocab[entry["content"]] = entry["id"]

    tokenizer_json(without_the_last_byte)(folder)
    ids = {"eos_token_id": 258, "pad_token_id": 256, "bos_token_id": 255}
    edit_json(folder / "generation_config.json", **ids)
    _, tokenizer = load_folder(folder, **ON_CPU)
    assert tokenizer.encode("aÿ") == [97, 195, 191]  # 255 is in no UTF-8
    assert tokenizer.decode([97, 265]) == "a<|unused 265|>"  # the row that is free now


# ------------------------------------------------------------------------------- real families

SHAPE = {
    "vocab_size": 266,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,  # so that a wrong formula shows
}
MODELS = {
    "tied": {"tie_word_embeddings": True},
    "untied": {"tie_word_embeddings": False},
    "one head of keys": {"num_key_value_heads": 1},
    "a head for each": {"num_key_value_heads": 4},
    "head_dim": {"head_dim": 12},
    "theta": {"rope_theta": 500_000.0},
    "eps": {"rms_norm_eps": 1e-2},
    "bfloat16": {"dtype": "bfloat16"},
    "float16, untied": {"dtype": "float16", "tie_word_embeddings": False},
    "shards": {"max_shard_size": "20KB"},
    "shards of bfloat16, untied": {
        "max_shard_size": "20KB",
        "dtype": "bfloat16",
        "tie_word_embeddings": False,
    },
    "qwen2": {"model_type": "qwen2"},
    "qwen2, tied, bfloat16": {
        "model_type": "qwen2",
        "tie_word_embeddings": True,
        "dtype": "bfloat16",
    },
}


@pytest.mark.parametrize("which", MODELS)
def test_logits_are_those_of_transformers(transformers, folder, which):
    changes = dict(MODELS[which])
    family = changes.pop("model_type", "llama")
    shard = {"max_shard_size": changes.pop("max_shard_size", "1GB")}
    dtype = getattr(torch, changes.pop("dtype", "float32"))
    theta = changes.pop("rope_theta", 10_000.0)
    rope = {"rope_theta": theta, "rope_type": "default"}
    ids = {"bos_token_id": 256, "eos_token_id": [259, 256], "pad_token_id": 257}
    settings = transformers.AutoConfig.for_model(
        family, **{**SHAPE, **ids, "rope_parameters": rope, **changes}
    )
    torch.manual_seed(0)
    theirs = transformers.AutoModelForCausalLM.from_config(settings)
    for name, parameter in theirs.named_parameters():
        if name.endswith(("norm.weight", "bias")):  # they start at 1 and 0, which hides mistakes
            torch.nn.init.normal_(parameter, 1.0, 0.3)
    (folder / "model.safetensors").unlink()
    theirs.to(dtype).save_pretrained(folder, **shard)
    assert (folder / "model.safetensors.index.json").exists() == ("shards" in which)
    gpt, _ = load_folder(folder, **ON_CPU)
    tokens = torch.randint(266, (2, 40), generator=torch.Generator().manual_seed(1))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        expected = theirs(tokens).logits
    assert expected.std() > 0.1
    torch.testing.assert_close(gpt(tokens), expected, atol=1e-4, rtol=0)
    assert gpt.config.rope_base == theta and gpt.config.tied == settings.tie_word_embeddings


# -------------------------------------------------------------------------------------- export


@pytest.fixture
def runs(tmp_path, bpe) -> Path:
    """A runs folder in which ch1_sft has finished, with a kitten that knows nothing."""
    gpt = GPT(small_config(bpe), generator=torch.Generator().manual_seed(3))
    save_model(tmp_path / "runs" / "ch1_sft" / "model.pt", gpt, bpe)
    summary = {"chapter": "ch1_sft", "seed": 7, "seconds": 12.0, "peak_rss_mb": 99, "config": {}}
    summary |= {"model": "model.pt", "answer_accuracy": 0.625, "answer_accuracy_stderr": 0.031}
    write_summary(tmp_path / "runs" / "ch1_sft" / "summary.json", summary)
    return tmp_path / "runs"


@pytest.fixture
def exported(runs, tmp_path, capsys) -> Path:
    arguments = ["ch1_sft", "--to", str(tmp_path / "out"), "--runs", str(runs)]
    assert export_program.main(arguments) == 0
    assert "chapters.chat --model" in capsys.readouterr().out
    return tmp_path / "out"


def test_a_kitten_comes_back_with_the_same_tokenizer(runs, exported):
    """So a run that begins with it has the tokenizer state that it would have had at home."""
    _, tokenizer, _ = load_model(runs / "ch1_sft" / "model.pt")
    _, back = load_folder(exported, **ON_CPU)
    assert back.to_state() == tokenizer.to_state() and back.dialect is None
    assert back.special_ids == tokenizer.special_ids and back.vocab_size == tokenizer.vocab_size


@pytest.mark.parametrize("field", ["hidden_size", "rope_theta", "tie_word_embeddings", "head_dim"])
@pytest.mark.parametrize("value", ["9" * 5000, [7] * 5000, {"a": "b" * 5000}])
def test_a_long_value_in_a_field_is_not_printed_whole(folder, field, value):
    fields = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(fields | {field: value}), encoding="utf-8")
    with pytest.raises(ValueError, match=field) as error:
        load_folder(folder, **ON_CPU)
    assert len(str(error.value)) < len(str(folder)) + 200


def test_the_model_card_holds_the_numbers_of_the_run(exported):
    card = (exported / "README.md").read_text(encoding="utf-8")
    assert "62.5 ± 3.1 %" in card and "seed 7" in card and "license: mit" in card


def test_export_overwrites_nothing(exported, runs, tmp_path, capsys):
    before = {path.name: path.read_bytes() for path in exported.iterdir()}
    arguments = ["--runs", str(runs), "--to"]
    assert export_program.main(["ch1_sft", *arguments, str(exported)]) == 1
    assert "there is something already" in capsys.readouterr().err
    assert before == {path.name: path.read_bytes() for path in exported.iterdir()}
    assert not list(tmp_path.glob(".out*"))  # nothing is left over beside it
    (tmp_path / "empty").mkdir()
    assert export_program.main(["ch1_sft", *arguments, str(tmp_path / "empty")]) == 0
    for chapter, says in (("ch3_ppo", "has not finished"), ("ch3", "Did you mean ch3_ppo")):
        assert export_program.main([chapter, *arguments, str(tmp_path / "x")]) == 1
        assert says in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_a_reward_model_is_not_exported(runs, tmp_path, capsys):
    gpt, tokenizer, _ = load_model(runs / "ch1_sft" / "model.pt")
    extra = reward_extra(RewardModel(gpt))
    save_model(runs / "ch1_sft" / "model.pt", gpt, tokenizer, extra=extra)
    assert export_program.main(["ch1_sft", "--runs", str(runs), "--to", str(tmp_path / "x")]) == 1
    assert "cannot speak" in capsys.readouterr().err


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def check_messages_of_trl(messages: list[dict]) -> None:
    """What TRL calls conversational: messages with a role and a text, and nothing else."""
    assert isinstance(messages, list) and messages
    for message in messages:
        assert message.keys() == {"role", "content"}
        assert message["role"] in ("system", "user", "assistant", "tool")
        assert isinstance(message["content"], str) and message["content"].strip()


def test_the_data_of_the_town_for_trl(tmp_path, capsys):
    """SFTTrainer: messages; DPOTrainer: prompt, chosen, rejected, all of them lists of messages."""
    assert export_program.main(["--data", str(tmp_path / "data")]) == 0
    assert "pairs" in capsys.readouterr().out
    chats = read_lines(tmp_path / "data" / "chats.jsonl")
    pairs = read_lines(tmp_path / "data" / "preferences.jsonl")
    polite = read_lines(tmp_path / "data" / "polite.jsonl")
    assert len(chats) > 1000 and len(pairs) > 100 and len(polite) == 240
    for record in chats:
        assert record.keys() == {"messages"}
        check_messages_of_trl(record["messages"])
        assert record["messages"][-1]["role"] == "assistant"
    for record in pairs + polite:
        assert record.keys() == {"prompt", "chosen", "rejected"}
        for part in record.values():
            check_messages_of_trl(part)
        assert record["prompt"][-1]["role"] == "user"
        for reply in (record["chosen"], record["rejected"]):
            assert [message["role"] for message in reply] == ["assistant"]
        assert record["chosen"] != record["rejected"]


def test_data_of_the_users_for_trl(tmp_path, capsys):
    """By hand: an Alpaca record, a turn that is only to be read, a preference of plain texts."""
    turns = [("user", "A?"), ("assistant", "no"), ("user", "B?"), ("assistant", "Yes, my dear!")]
    partly = [{"role": role, "content": text} for role, text in turns]
    partly[1]["weight"] = 0
    chats = [{"instruction": "Say é", "input": "", "output": "é <|im_end|>"}, {"messages": partly}]
    pair = {"prompt": "May I?", "chosen": "Yes.", "rejected": "No."}
    for name, records in (("chats.jsonl", chats), ("pairs.jsonl", [pair])):
        text = "\n".join(json.dumps(record) for record in records)
        (tmp_path / name).write_text(text, encoding="utf-8")
    arguments = ["--data", str(tmp_path / "out"), "--chats", str(tmp_path / "chats.jsonl")]
    arguments += ["--preferences", str(tmp_path / "pairs.jsonl")]
    assert export_program.main(arguments) == 0
    assert "1 chats with messages that are only read" in capsys.readouterr().out
    user, assistant = {"role": "user"}, {"role": "assistant"}
    assert read_lines(tmp_path / "out" / "chats.jsonl") == [
        {"messages": [{**user, "content": "Say é"}, {**assistant, "content": "é <|im_end|>"}]}
    ]
    assert read_lines(tmp_path / "out" / "preferences.jsonl") == [
        {
            "prompt": [{**user, "content": "May I?"}],
            "chosen": [{**assistant, "content": "Yes."}],
            "rejected": [{**assistant, "content": "No."}],
        }
    ]
    assert export_program.main(arguments) == 1  # nothing is overwritten
    assert "there is something already" in capsys.readouterr().err


@pytest.mark.parametrize("line", ["", "ch1_sft", "--to x", "ch1_sft --to x --chats y", "--chats y"])
def test_export_says_what_is_missing(line, capsys):
    with pytest.raises(SystemExit):
        export_program.main(line.split())
    assert "give a chapter and --to DIR, or --data DIR" in capsys.readouterr().err


def test_transformers_loads_what_was_exported(transformers, exported, runs):
    gpt, tokenizer, _ = load_model(runs / "ch1_sft" / "model.pt")
    model = transformers.AutoModelForCausalLM.from_pretrained(exported)
    theirs = transformers.AutoTokenizer.from_pretrained(exported)
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "May I chew the wire?"},
        {"role": "assistant", "content": "No, my dear!"},
        {"role": "user", "content": "Why?"},
    ]
    prompt = chat_prompt(tokenizer, messages)
    settings = {"add_generation_prompt": True, "return_tensors": "pt", "return_dict": True}
    inputs = theirs.apply_chat_template(messages, **settings)
    assert inputs["input_ids"].tolist() == [prompt]
    with torch.no_grad():
        expected = model(inputs["input_ids"]).logits
    torch.testing.assert_close(gpt(inputs["input_ids"]), expected, atol=1e-4, rtol=0)
    reply = model.generate(**inputs, max_new_tokens=40, do_sample=False)[0, len(prompt) :]
    rollout = generate(gpt, [prompt], max_new_tokens=40, temperature=0, generator=None)
    assert rollout.tokens[0, len(prompt) :].tolist() == reply.tolist()
    ends = {model.generation_config.pad_token_id, *model.generation_config.eos_token_id}
    assert ends == {tokenizer.pad_id, *gpt.config.stop_ids}
    assert theirs.eos_token == "<|im_end|>" and theirs.pad_token == "<|pad|>"


def test_equal_tokens_on_ten_thousand_strings(transformers, exported, bpe):
    theirs = transformers.AutoTokenizer.from_pretrained(exported)
    samples = [text for text in texts(10_200, seed=2) if "<think>" not in text][:10_000]
    samples += ["".join(samples[:50])] * (10_000 - len(samples))
    for text, ids in zip(
        samples, theirs(samples, add_special_tokens=False)["input_ids"], strict=True
    ):
        assert bpe.encode(text) == ids, text


# ---------------------------------------------------------------------------------------- chat


def test_chat_talks_to_a_folder(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "model"
    save_folder(folder, new_gpt(context_length=512), TOKENIZER, card="")
    edit_json(folder / "tokenizer_config.json", chat_template=write_template("\n", "Be kind."))
    heard = []

    def listen(gpt, prompt, **options):
        heard.append(TOKENIZER.decode(prompt))
        return iter(TOKENIZER.encode("yes"))

    monkeypatch.setattr(chat_program, "stream", listen)
    monkeypatch.setattr("sys.stdin", io.StringIO("one\ntwo\n"))
    assert chat_program.main(["--model", str(folder), "--device", "cpu"]) == 0
    assert "kitten> yes" in capsys.readouterr().out
    first = "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\none<|im_end|>\n"
    first += "<|im_start|>assistant\n"
    assert heard == [
        first,
        first + "yes<|im_end|>\n<|im_start|>user\ntwo<|im_end|>\n<|im_start|>assistant\n",
    ]


def test_chat_with_a_base_model_and_with_what_is_no_model(tmp_path, monkeypatch, capsys):
    save_folder(tmp_path / "base", new_gpt(), TOKENIZER, card="", chats=False)
    monkeypatch.setattr("sys.stdin", io.StringIO("Once upon\n"))
    command = ["--model", str(tmp_path / "base"), "--max-new-tokens", "5"]
    assert chat_program.main(command) == 0
    assert "has not learned to chat" in capsys.readouterr().out
    (tmp_path / "text.txt").write_text("hello")
    (tmp_path / "empty").mkdir()
    for name, says in (("text.txt", "not a checkpoint"), ("empty", "config.json: there is no")):
        assert chat_program.main(["--model", str(tmp_path / name)]) == 1
        error = capsys.readouterr().err
        assert says in error and len(error.splitlines()) == 1
