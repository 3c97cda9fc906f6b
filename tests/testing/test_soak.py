"""Two minutes of everything at once; ``python -m tilework.testing.soak --minutes 60`` is the same for longer."""

from __future__ import annotations

import pytest

from tilework.testing.soak import main


@pytest.mark.timeout(400)
def test_soak(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["--minutes", "2"])
    out = capsys.readouterr().out
    assert code == 0, out
    assert "nothing went wrong" in out
