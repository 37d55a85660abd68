"""Files that change while the router runs."""

from __future__ import annotations

import asyncio

import pytest

from moltbot_router.settings import RouterSettings
from moltbot_router.source import TableSource

MODEL = "models:\n- {{id: {0}, type: text-generation, provider: openai, endpoint: 'http://127.0.0.1:1/v1'}}\n"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "models.yaml"
    path.write_text(MODEL.format("first"))
    return path


@pytest.fixture
def source(file):
    return TableSource(RouterSettings(models=(file,), reload_interval_s=0.01))


async def until(condition) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    "text",
    ["models: [", "models: &a [*a]\n", "models: " + "[" * 5000, "\ud800".encode("utf-8", "surrogatepass"), ""],
    ids=["half written", "holds itself", "nested too deep", "not UTF-8", "empty"],
)
async def test_after_any_invalid_file_the_next_good_one_is_taken(file, source, text):
    async with source.watching():
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        await until(lambda: source.problem or not source.table.models)
        file.write_text(MODEL.format("second"))
        await until(lambda: list(source.table.models) == ["second"])
        assert source.problem == ""


async def test_a_file_that_cannot_be_read_keeps_the_table(file, source, monkeypatch):
    async with source.watching():
        with monkeypatch.context() as patch:
            patch.setattr("moltbot_router.source.read_table", _fail)
            file.write_text(MODEL.format("lost"))
            await until(lambda: source.problem)
            assert list(source.table.models) == ["first"]
        file.write_text(MODEL.format("found again"[:5]))
        await until(lambda: list(source.table.models) == ["found"])


def _fail(*_args):
    raise OSError(5, "Input/output error")


async def test_a_router_that_was_started_again_sends_its_table_to_who_knows_the_former_ones(file):
    former = TableSource(RouterSettings(models=(file,)))
    file.write_text(MODEL.format("other"))
    later = TableSource(RouterSettings(models=(file,)))
    async with asyncio.timeout(20):
        table = await anext(later.versions(former.table.version))
    assert list(table.models) == ["other"]
