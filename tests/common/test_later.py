from __future__ import annotations

import re
import sys

import pytest

from tilework.common.later import import_later


def test_a_name_is_imported_when_it_is_asked_for() -> None:
    get = import_later("mine", "json", {"py_scanstring": "decoder", "main": "tool"})
    sys.modules.pop("json.tool", None)
    assert callable(get("py_scanstring"))
    assert "json.tool" not in sys.modules
    assert callable(get("main"))
    assert "json.tool" in sys.modules


def test_another_name_is_not_there() -> None:
    get = import_later("mine", "json", {"main": "tool"})
    with pytest.raises(AttributeError, match=re.escape("module 'mine' has no attribute 'other'")):
        get("other")
