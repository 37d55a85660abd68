"""A GGUF file becomes a directory that answers as the model it was made of."""

from __future__ import annotations

import json
import struct
import threading

import numpy as np
import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from moltbot_mesh.errors import AlreadyExists, InvalidArgument, MoltbotError
from moltbot_models.engine import EngineConfig, TextEngine
from moltbot_models.engine.safetensors import Checkpoint
from moltbot_models.formats.gguf_file import read_gguf
from moltbot_models.formats.gguf_import import import_gguf
from moltbot_models.generation import GenerationRequest, Message, Sampling
from moltbot_testkit.gguf_model import byte_entries, write_gguf
from moltbot_testkit.numpy_decoder import NumpyDecoder
from moltbot_testkit.random_model import CHATML, SPECIAL_TOKENS, model_config, random_weights

EXACT = EngineConfig(weights="f32", kv="f32", step_tokens=64, kv_cache_bytes=4 << 20)
WHOLE = {"hidden_size": 128, "intermediate_size": 160, "num_attention_heads": 4, "head_dim": 32}
"""Rows in whole blocks of 32, as quantised storage needs them."""
LLAMA_3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
SHAPES = {
    "llama": model_config("llama", **WHOLE),
    "llama-biased": model_config("llama", **WHOLE, attention_bias=True, mlp_bias=True, tie_word_embeddings=False),
    "llama-linear": model_config("llama", **WHOLE, rope_scaling={"rope_type": "linear", "factor": 4.0}),
    "llama-3-rope": model_config("llama", **WHOLE, rope_scaling=LLAMA_3),
    "qwen2": model_config("qwen2", **WHOLE, tie_word_embeddings=False),
    "qwen3": model_config("qwen3", **WHOLE | {"head_dim": 64}),
    "mistral": model_config("mistral", **WHOLE, sliding_window=512),
}
TEXTS = [
    "Hello world, it's 12345 o'clock!",
    "  leading and   many spaces \n\n\tand lines\r\n",
    "naïve café — 你好世界 🙂 Ωmega",
    "<|im_start|>user\nhi<|im_end|>\n",
    "don't WON'T we'll",
    "",
]


def rope_entries(config):
    scaling = config.get("rope_scaling")
    if not scaling:
        return {}, {}
    if scaling["rope_type"] == "linear":
        return {"rope.scaling.type": "linear", "rope.scaling.factor": scaling["factor"]}, {}
    reference = NumpyDecoder(config, {})
    plain = config["rope_theta"] ** (-np.arange(0, config["head_dim"], 2) / config["head_dim"])
    factors = plain / reference._frequencies(config["head_dim"])
    return {}, {"rope_freqs.weight": factors.astype(np.float32)}


def write(tmp_path, config, kind="F32", weights=None, tokenizer=None, **metadata):
    weights = random_weights(config, seed=7) if weights is None else weights
    rope, extra = rope_entries(config)
    if config["model_type"] == "mistral":
        rope["attention.sliding_window"] = config["sliding_window"]
    entries = byte_entries() if tokenizer is None else tokenizer
    return write_gguf(
        tmp_path / "model.gguf", config, weights, entries, kind=kind, metadata=rope | metadata, extra=extra
    )


def greedy(engine, prompt, count=12):
    """Return the token ids of an answer; the byte tokenizer's tokens have bytes of their own."""
    deltas, ended = [], threading.Event()

    def put(delta):
        deltas.append(delta)
        if delta.finish_reason is not None:
            ended.set()

    sampling = Sampling(max_tokens=count, ignore_eos=True, logprobs=True, temperature=0)
    engine.submit(
        GenerationRequest(model="m", prompt=prompt, sampling=sampling),
        put,
        on_error=lambda error: pytest.fail(str(error)),
    )
    assert ended.wait(30)
    ids = {engine._directory.vocabulary.bytes_of(token): token for token in range(259)}
    return [ids[logprob.token_bytes] for delta in deltas for logprob in delta.logprobs]


@pytest.mark.parametrize("shape", SHAPES)
def test_an_imported_model_answers_as_the_one_it_was_made_of(tmp_path, shape):
    config = SHAPES[shape]
    weights = random_weights(config, seed=7)
    seen = []
    imported = import_gguf(write(tmp_path, config, weights=weights), tmp_path / "out", lambda *at: seen.append(at))
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert imported.architecture == config["architectures"][0] == written["architectures"][0]
    assert written["rope_theta"] == config["rope_theta"]
    assert written["rms_norm_eps"] == config["rms_norm_eps"]
    assert written.get("rope_scaling") == config.get("rope_scaling")
    assert imported.parameters == sum(one.size for one in weights.values())
    assert seen[-1] == (len(weights), len(weights))
    engine = TextEngine.load(imported.path, EXACT)
    try:
        prompt = "what does it say? " * 4
        answer = greedy(engine, prompt)
        ids = engine._directory.tokenizer.encode(prompt).ids
        assert NumpyDecoder(config, weights).greedy(ids, answer) == answer
    finally:
        engine.close()


@pytest.mark.parametrize(("kind", "most"), [("F16", 1e-3), ("BF16", 0.008), ("Q8_0", 0.01), ("Q4_0", 0.2)])
def test_every_kind_of_storage_stays_as_close_as_it_can(tmp_path, kind, most):
    config = SHAPES["qwen2"]
    weights = random_weights(config, seed=3)
    imported = import_gguf(write(tmp_path, config, kind, weights), tmp_path / "out")
    assert imported.kinds[kind] == sum(one.ndim == 2 for one in weights.values())
    stored = Checkpoint(imported.path)
    for name, wanted in weights.items():
        tensor = stored.tensor(name, wanted.shape)
        assert tensor.kind == ("F32" if wanted.ndim == 1 else "BF16" if kind == "BF16" else "F16")
        assert np.abs(tensor.to_f32() - wanted).max() <= most * np.abs(wanted).max()


def trained(pattern=None, composes=False):
    tokenizer = Tokenizer(models.BPE())
    if composes:
        tokenizer.normalizer = normalizers.NFC()
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    split = [] if pattern is None else [pre_tokenizers.Split(Regex(pattern), behavior="isolated")]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=list(SPECIAL_TOKENS),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS * 5 + ["hello world hello there 1234 56 we will don't"] * 5, trainer)
    tokenizer.add_tokens([AddedToken("<think>", normalized=False)])
    return tokenizer


QWEN_2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA_3_SPLIT = QWEN_2.replace(r"\p{N}| ?", r"\p{N}{1,3}| ?")


def entries_of(tokenizer, pre):
    size = tokenizer.get_vocab_size()
    tokens = [tokenizer.id_to_token(number) for number in range(size)]
    merges = [" ".join(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]
    kinds = [3 if one in SPECIAL_TOKENS else 4 if one == "<think>" else 1 for one in tokens]
    return {
        "ggml.model": "gpt2",
        "ggml.pre": pre,
        "ggml.tokens": tokens,
        "ggml.token_type": kinds,
        "ggml.merges": merges,
        "ggml.eos_token_id": tokens.index("<|im_end|>"),
        "ggml.bos_token_id": tokens.index("<|endoftext|>"),
        "chat_template": CHATML,
    }


@pytest.mark.parametrize(
    ("pre", "pattern", "composes"),
    [("gpt-2", None, False), ("qwen2", QWEN_2, True), ("llama-bpe", LLAMA_3_SPLIT, False)],
)
def test_byte_level_text_is_cut_as_by_the_original_tokenizer(tmp_path, pre, pattern, composes):
    original = trained(pattern, composes)
    size = original.get_vocab_size()
    file = write(tmp_path, model_config("llama", vocab_size=size), tokenizer=entries_of(original, pre))
    out = import_gguf(file, tmp_path / "out").path
    imported = Tokenizer.from_file(str(out / "tokenizer.json"))
    for text in [*TEXTS, "a <think> b<|im_end|>c", "e\u0301 composed", "x" * 50]:
        assert imported.encode(text, add_special_tokens=False).ids == original.encode(text).ids
        ids = original.encode(text).ids
        assert imported.decode(ids) == original.decode(ids)
    # Llama 3's vocabularies begin with their begin token, unless the file says otherwise.
    begins = imported.encode("hi").ids[0] == imported.token_to_id("<|endoftext|>")
    assert begins == (pre == "llama-bpe")


def sentence_pieces():
    """A vocabulary of SentencePiece's kind: unknown, begin, end, 256 bytes, then pieces with falling scores."""
    original = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    original.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))],
        show_progress=False,
    )
    original.train_from_iterator([text for text in TEXTS if text.isascii()] * 9 + ["hello there world"] * 9, trainer)
    original.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return original


def test_sentence_pieces_are_cut_by_merges_rebuilt_from_scores(tmp_path):
    original = sentence_pieces()
    model = json.loads(original.to_str())["model"]
    rank = {"".join(pair): -float(number) for number, pair in reversed(list(enumerate(model["merges"])))}
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    entries = {
        "ggml.model": "llama",
        "ggml.tokens": tokens,
        "ggml.scores": [rank.get(token, -1e9 if len(token) == 1 else 0.0) for token in tokens],
        "ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * (len(tokens) - 259),
        "ggml.bos_token_id": 1,
        "ggml.eos_token_id": 2,
        "ggml.unknown_token_id": 0,
    }
    file = write(tmp_path, model_config("llama", vocab_size=len(tokens)), tokenizer=entries)
    imported = Tokenizer.from_file(str(import_gguf(file, tmp_path / "out").path / "tokenizer.json"))
    for text in ["Hello world, it's 12345 o'clock!", "hello there", "naïve 你好 🙂", " two  spaces"]:
        wanted = original.encode(text).ids
        assert imported.encode(text, add_special_tokens=False).ids == wanted
        assert imported.decode(wanted) == text
        assert imported.encode(text).ids == [1, *wanted]
    assert imported.encode("</s>", add_special_tokens=False).ids == [2]
    assert len(imported.encode("<0x41>").ids) > 2, "a text named a byte token"


def test_template_end_tokens_and_sampling_reach_the_engine(tmp_path):
    config = model_config("qwen2")
    tokenizer = byte_entries() | {"ggml.eot_token_id": 257}
    writer_entries = {**tokenizer, "chat_template.tool_use": "{{ 'tools' }}"}
    out = import_gguf(write(tmp_path, config, tokenizer=writer_entries), tmp_path / "out").path
    engine = TextEngine.load(out, EXACT)
    try:
        directory = engine._directory
        assert directory.end_tokens == {256, 257, 258}
        assert directory.template.render([Message(role="user", content="hi")], ()).startswith("<|im_start|>user\nhi")
        assert "tools" in directory.template.text
    finally:
        engine.close()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"expert_count": 8}, "MoE"),
        ({"rope.scaling.type": "longrope", "rope.scaling.factor": 2.0}, "rope scaling longrope"),
        ({"rope.dimension_count": 16}, "rope.dimension_count"),
        ({"attention.value_length": 16}, "attention.value_length"),
        ({"block_count": 3}, "tensors are missing"),
        ({"block_count": 1}, "has no place"),
        ({"embedding_length": 64}, "embedding_length"),
        ({"feed_forward_length": 0}, "feed_forward_length"),
        ({"attention.head_count": 5}, "attention.head_count|head"),
    ],
)
def test_what_is_not_built_is_refused_by_name(tmp_path, changes, named):
    with pytest.raises(InvalidArgument, match=named):
        import_gguf(write(tmp_path, SHAPES["llama"], **changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".*partial"))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"ggml.model": "bert"}, "tokenizer bert"),
        ({"ggml.pre": "falcon"}, "splitter falcon"),
        ({"ggml.merges": ["a zz"]}, "do not exist"),
        ({"ggml.merges": ["aa"]}, "not a pair"),
        ({"ggml.token_type": [1, 1]}, "token_type"),
        ({"ggml.tokens": [f"t{n}" for n in range(400)]}, "400 tokens"),
        ({"ggml.model": "llama"}, "scores"),
    ],
)
def test_tokenizers_that_cannot_be_rebuilt_are_refused_by_name(tmp_path, changes, named):
    with pytest.raises(InvalidArgument, match=named):
        import_gguf(write(tmp_path, SHAPES["llama"], tokenizer=byte_entries() | changes), tmp_path / "out")


def test_an_unknown_architecture_or_tensor_is_named(tmp_path):
    config = SHAPES["llama"] | {"model_type": "gemma3"}
    with pytest.raises(InvalidArgument, match="architecture gemma3"):
        import_gguf(write(tmp_path, config, weights=random_weights(SHAPES["llama"])), tmp_path / "out")
    odd = {"blk.0.ffn_gate_exps.weight": np.ones((2, 32), np.float32)}
    file = write_gguf(
        tmp_path / "odd.gguf", SHAPES["llama"], random_weights(SHAPES["llama"]), byte_entries(), extra=odd
    )
    with pytest.raises(InvalidArgument, match="ffn_gate_exps"):
        import_gguf(file, tmp_path / "out")


def test_a_directory_that_exists_is_not_touched(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(AlreadyExists):
        import_gguf(write(tmp_path, SHAPES["llama"]), tmp_path / "out")


def test_numbers_that_are_not_finite_are_refused(tmp_path):
    weights = random_weights(SHAPES["llama"])
    weights["model.layers.1.mlp.up_proj.weight"][3, 4] = np.nan
    with pytest.raises(InvalidArgument, match=r"blk\.1\.ffn_up"):
        import_gguf(write(tmp_path, SHAPES["llama"], "F16", weights), tmp_path / "out")


def header(*entries, tensors=0, version=3):
    return b"GGUF" + struct.pack("<IQQ", version, tensors, len(entries)) + b"".join(entries)


def entry(key, kind, value):
    return struct.pack("<Q", len(key)) + key.encode() + struct.pack("<I", kind) + value


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "empty"),
        (b"GGML" + b"\0" * 40, "not a GGUF"),
        (header(version=1), "version 1"),
        (b"GGUF\0\0\0\x03" + b"\0" * 16, "version"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0), "tensors"),
        (header(entry("a", 9, struct.pack("<IQ", 0, 2**60))), "list of"),
        (header(entry("a", 9, struct.pack("<IQ", 0, 1000))), "ends early"),
        (header(entry("a", 9, struct.pack("<IQ", 8, 1000))), "ends early"),
        (header(entry("a", 9, struct.pack("<IQ", 9, 1))), "list of lists"),
        (header(entry("a", 8, struct.pack("<Q", 2**62))), "text of"),
        (header(entry("a", 8, struct.pack("<Q", 100))), "within a text"),
        (header(entry("a", 8, struct.pack("<Q", 1) + b"\xff")), "damaged"),
        (header(entry("a", 77, b"")), "unknown kind 77"),
        (header(entry("a", 4, b"\0" * 4), entry("a", 4, b"\0" * 4)), "stands twice"),
        (header(entry("general.alignment", 4, struct.pack("<I", 3))), "alignment"),
        (header(tensors=1) + struct.pack("<Q", 1) + b"t" + struct.pack("<I", 9), "dimensions"),
        (header(tensors=1) + struct.pack("<Q", 1) + b"t" + struct.pack("<IQIQ", 1, 2**40, 0, 0), "beyond the end"),
        (header(tensors=1) + struct.pack("<Q", 1) + b"t" + struct.pack("<IQIQ", 1, 32, 999, 0), "unknown kind"),
        (header(tensors=1) + struct.pack("<Q", 1) + b"t" + struct.pack("<IQIQ", 1, 33, 8, 0), "blocks of 32"),
    ],
)
def test_hostile_files_are_refused_at_once(tmp_path, content, named):
    file = tmp_path / "hostile.gguf"
    file.write_bytes(content)
    with pytest.raises(MoltbotError, match=named):
        read_gguf(file)


def test_a_file_cut_anywhere_is_refused(tmp_path):
    whole = write(tmp_path, SHAPES["llama"], "Q8_0").read_bytes()
    file = tmp_path / "cut.gguf"
    for length in [*range(0, 4000, 61), len(whole) // 2, len(whole) - 2000]:
        file.write_bytes(whole[:length])
        with pytest.raises(MoltbotError):
            read_gguf(file)
