from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moltbot_mesh.errors import InvalidArgument
from moltbot_mesh.paging import DEFAULT_PAGE_SIZE, offset_of, page_of


@given(st.integers(0, 300), st.integers(0, 50))
def test_pages_give_every_item_once_and_in_order(length, page_size):
    items, seen, token = list(range(length)), [], ""
    while True:
        page, token = page_of(items, page_size, token)
        assert len(page) <= (page_size or DEFAULT_PAGE_SIZE)
        seen.extend(page)
        if not token:
            break
        assert page, "a page before the last is never empty"
    assert seen == items


def test_a_page_past_the_end_is_empty():
    assert page_of([1, 2], 1, "7") == ([], "")


@pytest.mark.parametrize("token", ["x", "-1", "1.5", "²", "٣", " 1", "9" * 19])
def test_a_token_of_another_list_is_refused(token):
    with pytest.raises(InvalidArgument, match="page_token"):
        offset_of(token)
