"""What a model does not see is refused by name and place, never left out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from moltbot_models.engine import EngineConfig, EngineError, TextEngine
from moltbot_models.engine.architecture import read_architecture
from moltbot_models.engine.blocks import block_hash, root_hash
from moltbot_models.engine.chat_template import ChatTemplate
from moltbot_models.engine.insets import Inset, content_between, rows_between
from moltbot_models.engine.prompting import build_prompt
from moltbot_models.generation import GenerationRequest, Media, Message
from moltbot_models.vision.picture import Picture
from moltbot_models.vision.shape import image_rows, read_vision
from moltbot_testkit.conversations import ask, image, message
from moltbot_testkit.engine import held
from moltbot_testkit.random_llava import TEMPLATE, llava_config, llava_weights, write_llava
from moltbot_testkit.random_model import model_config, random_weights, write_model

EXACT = EngineConfig(weights="f32", kv="f32", kv_cache_bytes=4 << 20)
FLAT = "{%- for message in messages %}{{ message.role + ': ' + message.content + '\n' }}{%- endfor %}"


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    config = llava_config()
    engine = TextEngine.load(write_llava(tmp_path_factory.mktemp("llava"), config, llava_weights(config)), EXACT)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def text_engine(tmp_path_factory):
    config = model_config("llama")
    engine = TextEngine.load(write_model(tmp_path_factory.mktemp("text"), config, random_weights(config)), EXACT)
    yield engine
    engine.close()


def refused(engine, messages, said, reason="INVALID_ARGUMENT", **fields):
    with pytest.raises(EngineError, match=said) as error:
        engine.submit(GenerationRequest("m", tuple(messages), **fields), lambda _: None, on_error=lambda _: None)
    assert error.value.reason == reason


def test_a_text_model_takes_no_image(text_engine, files):
    look = [Message("user", "hi"), message("user", "what is ", image(files["png"]))]
    refused(text_engine, look, r"messages\[1\]\.parts\[1\]: this model takes text alone, not images")


def test_a_text_model_takes_parts_of_text(text_engine):
    assert ask(text_engine, [message("user", "one", "two")], max_tokens=2).wait().usage.prompt_tokens > 6


def test_sounds_are_refused_by_place(engine, files):
    parts = [image(files["png"]), "hear ", Media("audio", b"RIFF", "audio/wav")]
    refused(engine, [message("user", *parts)], r"messages\[0\]\.parts\[2\]: .*not audio")


def test_a_bad_image_is_refused_by_place(engine, files):
    parts = [image(files["png"]), image(b"GIF89a")]
    refused(engine, [message("user", *parts)], r"messages\[0\]\.parts\[1\]: the image is refused: not a PNG")


def test_images_count_for_the_context(engine, files):
    refused(engine, [message("user", *[image(files["png"])] * 33)], "the prompt has 5", "REQUEST_TOO_LARGE")


def test_the_spelling_of_the_image_token_is_text(engine):
    words = ask(engine, [Message("user", "say <image> twice")], max_tokens=2).wait().usage.prompt_tokens
    assert words > len("say <image> twice"), "every byte is a token of its own here"


def test_a_raw_prompt_cannot_smuggle_an_image_token(engine):
    refused(engine, [], "token that stands for an image", prompt="what is <image>?")


def test_an_assistant_who_spelt_an_image_has_shown_none(engine):
    talk = [Message("assistant", "<image>"), Message("user", "go on")]
    assert ask(engine, talk, max_tokens=2).wait().usage.prompt_tokens > len("<image>go on")


@pytest.mark.parametrize("role", ["user", "assistant", "tool"])
def test_the_spelling_of_the_image_token_moves_no_image(engine, files, role):
    def begins(spelt):
        talk = (
            message(role, spelt, "<ima", "ge>"),
            message("user", spelt, image(files["png"]), "<ima", "ge>", image(files["jpeg"])),
        )
        found = build_prompt(engine._directory, GenerationRequest("m", talk), 260, 4096, engine._eyes.shape)
        return [place for place, _ in found.images], found.image_begins

    width = len("<image>")
    places, plain = begins("x" * width)
    assert places == ["messages[1].parts[1]", "messages[1].parts[4]"]
    assert begins("<image>") == (places, plain)


def test_pictures_must_fit_the_images(engine, files):
    request = GenerationRequest("m", (message("user", image(files["png"])),))
    for pictures in ((), (Picture(b"x", np.zeros((15, 96), np.float32)),)):
        with pytest.raises(EngineError, match="1 images need as many pictures"):
            engine.submit(request, lambda _: None, on_error=lambda _: None, pictures=pictures)


def test_an_engine_without_eyes_says_so(tmp_path, files):
    config = llava_config()
    engine = TextEngine.load(write_llava(tmp_path, config, llava_weights(config)), replace(EXACT, encodes_images=False))
    try:
        refused(engine, [message("user", image(files["png"]))], "encoded elsewhere")
        assert ask(engine, [Message("user", "words")], max_tokens=2).wait().text
    finally:
        engine.close()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"vision_config": {"model_type": "pixtral"}}, "vision_config.model_type pixtral"),
        ({"image_grid_pinpoints": [[336, 672]]}, "image_grid_pinpoints"),
        ({"vision_feature_select_strategy": "cls_patch"}, "vision_feature_select_strategy cls_patch"),
        ({"projector_hidden_act": "relu"}, "projector_hidden_act relu"),
        ({"vision": {"hidden_act": "silu"}}, "vision_config.hidden_act silu"),
        ({"text": {"model_type": "gemma"}}, "text_config.model_type gemma"),
        ({"architectures": ["LlavaNextForConditionalGeneration"]}, "LlavaNextForConditionalGeneration"),
        ({"quantization_config": {"quant_method": "awq"}}, "awq"),
    ],
)
def test_what_is_not_built_is_refused_by_name(change, said):
    config = llava_config(**change)
    with pytest.raises(EngineError, match=said) as error:
        read_vision(config, 96, read_architecture(config, None).vocabulary)
    assert error.value.reason == "MODEL_UNSUPPORTED"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image_token_index": 260}, "image_token_index 260"),
        ({"vision_feature_layer": -5}, "vision_feature_layer -5"),
        ({"vision_feature_layer": []}, "vision_feature_layer"),
        ({"vision": {"num_attention_heads": 5}}, "heads or patches"),
    ],
)
def test_impossible_numbers_are_refused(change, said):
    with pytest.raises(EngineError, match=said) as error:
        read_vision(llava_config(**change), 96, 260)
    assert error.value.reason == "MODEL_INVALID"


def test_what_published_files_leave_out_is_filled_in():
    # llava-hf/llava-1.5-7b-hf says no more than this of its parts.
    config = {
        "architectures": ["LlavaForConditionalGeneration"],
        "image_token_index": 32000,
        "text_config": {
            "model_type": "llama", "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "vocab_size": 32064,
        },
        "vision_config": {
            "model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096, "image_size": 336,
            "patch_size": 14, "num_hidden_layers": 24, "num_attention_heads": 16,
        },
    }  # fmt: skip
    assert image_rows(config) == (576, 4096)
    text = read_architecture(config, None)
    assert (text.layers, text.intermediate_size, text.context_length, text.tied_head) == (32, 11008, 4096, False)
    shape = read_vision(config, text.hidden_size, text.vocabulary)
    assert (shape.features, shape.activation, shape.drops_first) == ((23,), "quick_gelu", True)


def test_content_is_parts_or_placeholders_as_the_template_reads_it():
    look = (message("user", image(b""), "what?"), Message("assistant", "that"))
    assert ChatTemplate(FLAT, {}, "<image>").render(look, ()) == "user: <image>\nwhat?\nassistant: that\n"
    assert "user\n<image>what?<|im_end|>" in ChatTemplate(TEMPLATE, {}, "<image>").render(look, ())


def test_images_with_equal_tokens_have_hashes_of_their_own():
    def hashed(*insets):
        return block_hash(root_hash("t"), [259] * 32, content_between(insets, 0, 32))

    rows = np.zeros((16, 4), np.float32)
    one, other = Inset(4, b"a" * 32, rows), Inset(4, b"b" * 32, rows)
    assert hashed(one) == hashed(Inset(4, b"a" * 32, rows + 1)), "the file tells images apart, not how it was encoded"
    assert len({hashed(), hashed(one), hashed(other), hashed(Inset(5, b"a" * 32, rows))}) == 4
    assert content_between([one], 20, 52) == b"", "an image that ends before a block is in the hashes before it"


def test_rows_are_cut_at_every_place():
    rows = np.arange(20, dtype=np.float32).reshape(5, 4)
    insets = [Inset(3, b"", rows), Inset(8, b"", rows + 100)]
    whole = {begin + n: row for begin, part in rows_between(insets, 0, 16) for n, row in enumerate(part)}
    assert sorted(whole) == list(range(3, 13))
    for size in range(1, 16):
        cut = {
            start + begin + n: row
            for start in range(0, 16, size)
            for begin, part in rows_between(insets, start, start + size)
            for n, row in enumerate(part)
        }
        assert sorted(cut) == sorted(whole)
        assert all((cut[place] == whole[place]).all() for place in whole)


def test_images_of_requests_under_way_have_a_bound(engine, files, monkeypatch):
    rows_bytes = 16 * 96 * 4
    monkeypatch.setattr("moltbot_models.engine.engine.MAX_ROWS_BYTES", 3 * rows_bytes)
    look = [message("user", image(files["png"]), image(files["jpeg"]), "what?")]
    with held(engine):
        first = ask(engine, look, max_tokens=400, ignore_eos=True)
        refused(engine, look, "room for images", "QUEUE_FULL")
        more = ask(engine, [Message("user", "words need no room")], max_tokens=2)
    assert more.wait().text
    first.wait()
    many = [message("user", *[image(files["png"])] * 4)]
    assert ask(engine, many, max_tokens=2).wait().usage.prompt_tokens > 64, "alone it may have more than the bound"
    assert engine._rows_bytes == 0
