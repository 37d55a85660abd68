"""A conversation with images or sounds goes to models that declare them, and to no other."""

from __future__ import annotations

import pytest

from moltbot_mesh.errors import InvalidArgument, NotFound
from moltbot_models.manifest import Manifest
from moltbot_router.health import Health
from moltbot_router.policy import Policy, Table, Wanted
from moltbot_router.rules import Rule, Strategy


def model(name: str, *modalities, **rest) -> Manifest:
    return Manifest(name, "text-generation", "openai", input_modalities=modalities, **rest)


MODELS = {
    manifest.id: manifest
    for manifest in (
        model("plain"),
        model("eyes", "image"),
        model("eyes-too", "text", "image"),
        model("ears", "audio"),
        model("theirs", "image", "audio", tenants=("other",)),
        Manifest("vectors", "embedding", "openai", input_modalities=("image", "audio")),
    )
}
RULE = Rule("chat", ("plain", "eyes"), Strategy.PRIORITY, Strategy.PRIORITY)


def decide(*modalities: str, model: str = "", task_type: str = "chat", tenant: str = "acme", models=MODELS):
    table = Table(1, models, {"chat": RULE})
    wanted = Wanted(tenant, "text-generation", model, task_type, modalities=modalities)
    return Policy(Health(failures=3, open_s=5.0)).decide(table, wanted).models


def test_a_text_may_go_to_any_model():
    assert decide(task_type="other") == ("plain", "eyes", "eyes-too", "ears")


@pytest.mark.parametrize("asked", ["", "auto"])
def test_an_image_goes_to_models_that_declare_images_by_rule_and_by_default(asked):
    assert decide("image", model=asked) == ("eyes", "eyes-too")
    assert decide("image", model=asked, task_type="other") == ("eyes", "eyes-too")


def test_a_named_model_fails_over_to_none_that_cannot_take_the_image():
    assert decide(model="eyes") == ("eyes", "plain")
    assert decide("image", model="eyes") == ("eyes",)


def test_a_named_model_that_does_not_declare_images_is_refused_and_not_replaced():
    with pytest.raises(InvalidArgument) as refused:
        decide("image", model="plain")
    assert "'plain' does not take images" in refused.value.message
    assert "images are taken by: eyes, eyes-too;" in refused.value.message
    assert [violation.field for violation in refused.value.violations] == ["model"]


def test_where_no_model_takes_all_of_it_the_error_says_who_takes_which():
    with pytest.raises(NotFound) as refused:
        decide("audio", "image")
    assert refused.value.reason == "MODEL_NOT_FOUND"
    assert "no model takes sounds and images" in refused.value.message
    assert "sounds are taken by: ears; images are taken by: eyes, eyes-too;" in refused.value.message
    assert decide("audio", "image", tenant="other") == ("theirs",)


def test_models_of_others_are_neither_used_nor_named():
    with pytest.raises(NotFound) as refused:
        decide("image", models={name: MODELS[name] for name in ("plain", "theirs")})
    assert "images are taken by: none;" in refused.value.message
    with pytest.raises(NotFound, match="no model 'theirs'"):
        decide("image", model="theirs")


def test_a_long_list_is_cut():
    many = {f"m{number:02}": model(f"m{number:02}", "image") for number in range(20)}
    with pytest.raises(InvalidArgument, match="m07 and 12 more;"):
        decide("image", model="plain", models={"plain": MODELS["plain"]} | many)
