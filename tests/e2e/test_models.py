"""Models are added, changed and removed on a running mesh by one command each, without a failed request."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

import pytest

import moltbot_models
from moltbot_testkit.gguf_model import byte_entries, write_gguf
from moltbot_testkit.random_encoder import write_encoder
from moltbot_testkit.random_model import model_config, random_weights, write_model

TINY = Path(moltbot_models.__file__).parent / "shipped" / "tiny"
pytestmark = pytest.mark.timeout(180)


def ask(world, model, tokens=8):
    return world.http().post(
        "/v1/chat/completions",
        json={"model": model, "max_tokens": tokens, "messages": [{"role": "user", "content": "What is 3 times 4?"}]},
    )


def until(probe, what):
    for _ in range(200):
        if probe():
            return
        time.sleep(0.05)
    raise AssertionError(what)


def test_a_directory_is_served_by_one_command_and_goes_with_another(world, tmp_path):
    path = shutil.copytree(TINY, tmp_path / "Some-Model")
    shown = world.mesh.json("model", "add", str(path), "--set", "step_tokens=64", "--label", "site=here")
    assert shown["state"] == "serving"
    assert shown["id"] == "some-model"
    until(lambda: ask(world, "some-model").status_code == 200, "the model does not answer")
    assert "some-model" in {model.id for model in world.client().models.list()}
    assert world.mesh.json("model", "show", "some-model")["options"] == {"step_tokens": "64"}
    assert world.mesh.command("model", "add", str(path), expect=64).stderr.count("--replace") == 1
    (path / "config.json").write_text((path / "config.json").read_text() + "\n")
    assert "config.json: has changed" in world.mesh.command("model", "verify", expect=65).stdout
    world.mesh.command("model", "remove", "some-model")
    until(lambda: ask(world, "some-model").status_code == 404, "the model still answers")


def test_a_new_version_comes_without_a_failed_request(world, tmp_path):
    config = model_config("llama", vocab_size=300)
    for number, name in enumerate(("one", "two")):
        write_model(tmp_path / name, config, random_weights(config, seed=number))
    world.mesh.command("model", "add", str(tmp_path / "one"), "--id", "switch", "--set", "weights=f32")
    until(lambda: ask(world, "switch").status_code == 200, "the model does not answer")
    first = ask(world, "switch").json()["choices"][0]["message"]["content"]
    answers, over = [], threading.Event()

    def client():
        while not over.is_set():
            answers.append(ask(world, "switch"))

    threads = [threading.Thread(target=client) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        world.mesh.command("model", "add", str(tmp_path / "two"), "--id", "switch", "--replace", "--set", "weights=f32")
        until(lambda: answers[-1].json()["choices"][0]["message"]["content"] != first, "the old version still answers")
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["choices"][0]["message"]["content"] for answer in answers}) == 2
    world.mesh.command("model", "remove", "switch")


def test_a_url_is_served_by_one_command_and_checked_first(world):
    url = next(m for m in world.mesh.json("model", "list") if m["id"] == "echo")["endpoint"]
    world.mesh.command("model", "add", url, "--id", "far", "--upstream-model", "echo")
    until(lambda: ask(world, "far").status_code == 200, "the upstream does not answer")
    world.mesh.command("model", "remove", "far")
    nobody = next(m for m in world.mesh.json("model", "list") if m["id"] == "down")["endpoint"]
    assert "--no-check" in world.mesh.command("model", "add", nobody, "--id", "nobody", expect=69).stderr


def test_what_cannot_be_served_is_refused_before_anything_is_kept(world, tmp_path):
    (tmp_path / "config.json").write_text('{"architectures": ["MixtralForCausalLM"]}')
    assert "no weights" in world.mesh.command("model", "add", str(tmp_path), expect=64).stderr
    assert "colour" in world.mesh.command("model", "add", str(TINY), "--id", "x", "--set", "colour=1", expect=64).stderr
    assert "x" not in {model["id"] for model in world.mesh.json("model", "list")}


def test_a_gguf_file_is_served_by_one_command(world, tmp_path):
    config = model_config("qwen2")
    weights = random_weights(config)
    file = write_gguf(tmp_path / "Model.Q8.gguf", config, weights, byte_entries(), kind="Q8_0")
    world.mesh.command("model", "add", str(file), "--sha256", "0" * 64, expect=64)
    world.mesh.command("model", "add", str(file), "--no-gate")  # random weights
    until(lambda: ask(world, "model.q8").status_code == 200, "the model does not answer")
    shown = world.mesh.json("model", "show", "model.q8")
    assert shown["labels"]["source"] == "Model.Q8.gguf"
    assert Path(shown["path"]).is_relative_to(world.mesh.data_dir)
    world.mesh.command("model", "remove", "model.q8")
    assert not Path(shown["path"]).exists()
    world.mesh.command("model", "import", str(file), str(tmp_path / "out"))
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_rerankers_and_classifiers_are_served_too(world, tmp_path):
    write_encoder(tmp_path / "judge", labels=1)
    write_encoder(tmp_path / "moods", "roberta", labels=3)
    for name, task in (("judge", "rerank"), ("moods", "classification")):
        # Random weights have no margin between classes: in BF16 they would not pass the gate.
        added = world.mesh.json("model", "add", str(tmp_path / name), "--set", "precision=f32")
        assert added["state"] == "serving"
        listed = {row["id"]: row for row in world.mesh.json("model", "list")}
        assert listed[name]["task"] == task
    http = world.http()
    documents = ["w5 w6", "w7 w8 w9", "w40"]
    ranking = {"model": "judge", "query": "w5", "documents": documents, "top_n": 2}
    until(lambda: http.post("/v1/rerank", json=ranking).status_code == 200, "the reranker does not answer")
    ranked = http.post("/v1/rerank", json=ranking)
    scores = [one["relevance_score"] for one in ranked.json()["results"]]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) == 2
    assert ranked.json()["results"][0]["document"]["text"] == documents[ranked.json()["results"][0]["index"]]
    assert ranked.headers["x-moltbot-model"] == "judge"
    assert ranked.json()["usage"]["total_tokens"] == 18

    classes = http.post("/v1/classify", json={"model": "moods", "input": ["w5", "w6 w7"]})
    assert classes.status_code == 200, classes.text
    assert classes.json()["labels"] == ["class 0", "class 1", "class 2"]
    assert all(abs(sum(one["probs"]) - 1) < 1e-3 for one in classes.json()["data"])
    typed = http.post("/moltbot/v1/classify", json={"model": "moods", "inputs": ["w5", "w6 w7"]})
    assert [one["label"] for one in typed.json()["results"]] == [one["label"] for one in classes.json()["data"]]
    typed = http.post("/moltbot/v1/rerank", json={"model": "judge", "query": "w5", "documents": documents})
    assert [one.get("index", 0) for one in typed.json()["results"]][:2] == [
        one["index"] for one in ranked.json()["results"]
    ]

    wrong = http.post("/v1/classify", json={"model": "judge", "input": "w5"})
    assert wrong.status_code in {400, 404}, wrong.text
    assert http.post("/v1/rerank", json={"model": "judge", "query": "w5 " * 80, "documents": ["w6"]}).status_code == 400
    for name in ("judge", "moods"):
        world.mesh.command("model", "remove", name)


def test_a_model_that_fails_its_gate_is_not_served_and_gives_no_former_one_up(world, tmp_path):
    hard = ("--bound", "kl_mean=0")
    refused = world.mesh.command("model", "add", str(TINY), "--id", "judged", *hard, expect=64)
    assert "kl_mean on 32 held_out texts is" in refused.stderr
    shown = world.mesh.json("model", "show", "judged")
    assert shown["gate"]["passed"] is False
    until(lambda: world.mesh.json("model", "show", "judged")["state"] == "failed", "nobody says that it is not served")
    assert ask(world, "judged").status_code == 404
    assert world.mesh.json("model", "add", str(TINY), "--id", "judged", "--replace")["state"] == "serving"
    assert world.mesh.json("model", "show", "judged")["gate"]["passed"] is True
    world.mesh.command("model", "add", str(TINY), "--id", "judged", "--replace", *hard, expect=64)
    assert ask(world, "judged").status_code == 200
    world.mesh.command("model", "remove", "judged")


def test_a_model_is_measured_and_tuned_by_one_command(world, tmp_path):
    plot = tmp_path / "plot.svg"
    arguments = ("--clients", "1,4", "--seconds", "0.4", "--tokens-out", "8", "--engine", "embedded")
    found = world.mesh.json("model", "bench", str(TINY), *arguments, "--plot", str(plot))
    assert [level["clients"] for level in found["levels"]] == [1, 4]
    assert all(level["answers"] > 0 and level["failures"] == 0 for level in found["levels"])
    assert all(level["p50_ms"] <= level["p99_ms"] and level["cpu_ms_per_unit"] > 0 for level in found["levels"])
    assert plot.read_text().startswith("<svg")
    assert "clients" in world.mesh.command("model", "bench", str(TINY), *arguments).stdout

    world.mesh.command("model", "add", str(TINY), "--id", "tuned")
    tune = ("--tune", "throughput", "--seconds", "0.2", "--tokens-out", "4", "--clients", "4", "--minutes", "0.2")
    found = world.mesh.json("model", "bench", "tuned", *tune, "--engine", "embedded", "--write")
    assert found["trials"]
    shown = world.mesh.json("model", "show", "tuned")
    assert shown.get("options", {}) == found["changed"]
    assert found["written"] is bool(found["changed"])
    until(lambda: ask(world, "tuned").status_code == 200, "the tuned model does not answer")
    assert "--write" in world.mesh.command("model", "bench", str(TINY), "--write", expect=64).stderr
    world.mesh.command("model", "bench", "tuned", "--clients", "0", expect=64)
    world.mesh.command("model", "remove", "tuned")


def test_a_model_is_compiled_for_another_engine(world, tmp_path):
    found = world.mesh.json("model", "build", str(TINY), "--target", "triton-vllm", "--out", str(tmp_path / "out"))
    assert {"serve.sh", "manifest.yaml"} <= set(found["files"])
    refused = world.mesh.command(
        "model", "build", str(TINY), "--target", "triton-trt", "--out", str(tmp_path / "x"), expect=64
    )
    assert "targets for it are" in refused.stderr
