"""Array backends beside LiberTEM, run as a black box in its own Python: the same shapes, dtypes and numbers.

    python -m pytest tests/peer --peer /path/to/python

What is compared is in ``peer_arrays.py``.
"""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import numpy as np
import pytest

import peer_arrays

if TYPE_CHECKING:
    from pathlib import Path

# The dtypes of what is derived from the centre of mass, and what it means for complex data, are compared elsewhere.
DERIVED = {"field", "field_y", "field_x", "magnitude", "divergence", "curl", "regression"}


@pytest.mark.timeout(300)
def test_same_results_on_all_kinds_of_arrays(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    peer = request.config.getoption("--peer", default=None) or os.environ.get("TILEWORK_PEER")
    if not peer:
        pytest.skip("nothing to compare with: name a Python that has LiberTEM with --peer PYTHON or TILEWORK_PEER")
    target = tmp_path / "peer.npz"
    environment = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "PYTHONWARNINGS"}}
    command = [peer, "-W", "ignore", peer_arrays.__file__, "libertem", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-500:]
    ours = peer_arrays.results("tilework")
    with np.load(target) as theirs:
        assert set(theirs.files) == set(ours)
        for key, array in ours.items():
            if key.partition("|")[2] in DERIVED:
                continue
            expected = theirs[key]
            assert (array.shape, array.dtype) == (expected.shape, expected.dtype), key
            scale = float(np.nanmax(np.abs(expected), initial=1))
            np.testing.assert_allclose(array, expected, rtol=2e-5, atol=2e-6 * scale, err_msg=key)
