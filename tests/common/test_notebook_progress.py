"""Progress bars in a real Jupyter kernel."""

from __future__ import annotations

from typing import Any

import nbclient
import nbformat
import pytest

PREPARE = """
import gc
import numpy as np
from tilework.api import Context
from tilework.common.progress import TQDMProgressReporter
from tilework.udf.sum import SumUDF
from tqdm.notebook import tqdm

context = Context.make_with("inline")
dataset = context.load("memory", data=np.ones((4, 4, 8, 8), dtype=np.uint16), num_partitions=4)

def run():
    context.run_udf(dataset=dataset, udf=SumUDF(), progress=True)

run()
gc.collect()
gc.disable()
"""
LEFT = "run(); print([type(each) for each in gc.get_objects() if issubclass(type(each), tqdm)])"


@pytest.mark.filterwarnings("ignore")  # those of Jupyter's own
def test_no_bar_is_left_to_the_garbage_collector() -> None:
    """The code of a bar that is collected swallows Ctrl-C that comes while the collector is at work."""
    pytest.importorskip("ipywidgets")
    made: Any = nbformat.v4
    notebook = made.new_notebook(cells=[made.new_code_cell(source) for source in (PREPARE, LEFT)])
    nbclient.NotebookClient(notebook, timeout=90, kernel_name="python3").execute()
    views = [o for o in notebook.cells[1].outputs if "application/vnd.jupyter.widget-view+json" in o.get("data", {})]
    assert len(views) == 1
    assert [o["text"] for o in notebook.cells[1].outputs if o.output_type == "stream"] == ["[]\n"]
