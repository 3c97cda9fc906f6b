"""Live plots in a real Jupyter kernel: pictures in the output of a cell, and widgets."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
from io import BytesIO
from typing import TYPE_CHECKING, Any

import nbclient
import nbformat
import numpy as np
import pytest
from PIL import Image

from tilework.viz.colors import NEUTRAL

if TYPE_CHECKING:
    from collections.abc import Iterator

PREPARE = """
import numpy as np
from tilework.api import Context
from tilework.udf.sumsigudf import SumSigUDF
from tilework.viz.mpl import MPLLive2DPlot

class Often(MPLLive2DPlot):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, min_delta=0, **kwargs)

context = Context.make_with("inline", plot_class=Often)
data = np.random.default_rng(0).poisson(9, (6, 5, 8, 8)).astype(np.uint16)
dataset = context.load("memory", data=data, num_partitions=6)
"""
RUN = "context.run_udf(dataset=dataset, udf=SumSigUDF(), plots=True)['intensity'].data.shape"
PART = """
steps = context.run_udf_iter(dataset=dataset, udf=SumSigUDF(), plots=True)
next(steps)
steps.close()
"""
# As with a browser, which makes the canvas keep no pictures for documents, and draws when somebody zooms.
DRAWN_BY_BOTH = """
plot = Often(dataset, udf := SumSigUDF())
plot.display()
canvas = plot.figure.canvas
canvas.syncing_data_url = False
canvas.draw()
context.run_udf(dataset=dataset, udf=udf, plots=[plot])
canvas.draw()
"""
WINDOWS = """
from matplotlib import pyplot

steps = context.run_udf_iter(dataset=dataset, udf=SumSigUDF(), plots=True)
next(steps)
print([bool(pyplot.figure(number).canvas.manager.window.winfo_viewable()) for number in pyplot.get_fignums()])
steps.close()
"""


class Listening(nbclient.NotebookClient):
    """Notes the messages of the kernel, in their order, as a browser gets them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.messages: list[tuple[int, str, Any, list[bytes]]] = []

    def process_message(self, msg: Any, cell: Any, cell_index: int) -> Any:
        said = msg["content"].get("text") or msg["content"].get("data", {})
        self.messages.append((cell_index, msg["msg_type"], said, [bytes(b) for b in msg.get("buffers", [])]))
        return super().process_message(msg, cell, cell_index)


def run_cells(*sources: str) -> list[Any]:
    """Return the outputs of cells that are run in a kernel."""
    made: Any = nbformat.v4
    notebook = made.new_notebook(cells=[made.new_code_cell(source) for source in sources])
    nbclient.NotebookClient(notebook, timeout=90, kernel_name="python3").execute()
    return [cell.outputs for cell in notebook.cells]


@pytest.mark.filterwarnings("ignore")  # those of Jupyter's own
def test_in_a_kernel() -> None:
    """The picture in the output is the last one; of a part of a run, the rest is grey; widgets with ipympl."""
    pytest.importorskip("ipympl")
    _, whole, part, _, widget = run_cells(PREPARE, RUN, PART, "%matplotlib widget", RUN)
    pictures = []
    for outputs in (whole, part):
        (shown,) = (o for o in outputs if o.output_type == "display_data")
        image = Image.open(BytesIO(base64.b64decode(shown.data["image/png"]))).convert("RGB")
        pictures.append(np.asarray(image, dtype=float))
    grey = [float((abs(p - np.array(NEUTRAL) * 255).max(axis=-1) <= 1).mean()) for p in pictures]
    assert grey[0] < 0.01
    # Five of six rows of the scan.
    assert grey[1] > 0.2
    (view,) = (o for o in widget if "application/vnd.jupyter.widget-view+json" in o.get("data", {}))
    assert view.output_type == "display_data"


@pytest.mark.filterwarnings("ignore")  # those of Jupyter's own
@pytest.mark.parametrize(("module", "name"), [("mpl", "MPLLive2DPlot"), ("bqp", "BQLive2DPlot")])
def test_a_plot_that_is_displayed_by_itself(module: str, name: str) -> None:
    """It is in the output of its cell once, and a run in another cell goes on with it there."""
    if module == "bqp":
        pytest.importorskip("bqplot_image_gl")
    make = f"from tilework.viz.{module} import {name}\nplot = {name}(dataset, udf := SumSigUDF())\nplot.display()"
    _, shown, run = run_cells(PREPARE, make, "context.run_udf(dataset=dataset, udf=udf, plots=[plot]);")
    assert [o.output_type for o in shown] == ["display_data"]
    assert not [o for o in run if o.output_type == "display_data"]


@pytest.mark.filterwarnings("ignore")  # those of Jupyter's own
def test_widgets_are_shown_while_the_cell_runs() -> None:
    """A figure of ipympl comes before the run, and its pictures during it, without a browser that asks for them."""
    pytest.importorskip("ipympl")
    made: Any = nbformat.v4
    run = 'context.run_udf(dataset=dataset, udf=SumSigUDF(), plots=True)\nprint("over")'
    cells = [made.new_code_cell(s) for s in ("%matplotlib widget", PREPARE, run, DRAWN_BY_BOTH)]
    client = Listening(made.new_notebook(cells=cells), timeout=90, kernel_name="python3")
    client.execute()
    kinds, files, documents = [], [], []
    for cell, kind, said, buffers in client.messages:
        if cell == 2 and kind == "display_data":
            kinds.append("view" if "application/vnd.jupyter.widget-view+json" in said else "picture")
        elif cell == 2 and kind == "comm_msg" and buffers:
            kinds.append("pixels")
            files += buffers
        elif cell == 2 and kind == "comm_msg" and "_data_url" in said.get("state", {}):
            documents.append(said["state"]["_data_url"])
        elif cell == 2 and kind == "stream" and "over" in said:
            kinds.append("over")
    assert kinds[0] == "view"
    assert kinds.count("view") == 1
    # The empty picture, one for each of six partitions, and the last.
    assert kinds[1:9] == ["pixels"] * 8
    assert kinds[9] == "over"
    pictures = [Image.open(BytesIO(file)) for file in files]
    # What a document shows that has no kernel is the last one.
    (document,) = documents
    assert document == "data:image/png;base64," + base64.b64encode(files[-1]).decode()
    # What is drawn after a run is sent whole: the browser does not show what the canvas has drawn before.
    drawn = [buffers[0] for cell, kind, _, buffers in client.messages if cell == 3 and kind == "comm_msg" and buffers]
    assert not (np.asarray(Image.open(BytesIO(drawn[-1])))[..., 3] == 0).any()
    assert {picture.size for picture in pictures} == {(640, 480)}


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A screen in memory, that of the programs that the test starts."""
    pytest.importorskip("tkinter")
    if shutil.which("Xvfb") is None:
        pytest.skip("there is no Xvfb, a screen without a screen: apt-get install xvfb")
    reading, writing = os.pipe()
    with os.fdopen(reading) as said:
        server = subprocess.Popen(["Xvfb", "-displayfd", str(writing)], pass_fds=[writing], stderr=subprocess.DEVNULL)
        os.close(writing)
        try:
            monkeypatch.setenv("DISPLAY", f":{said.readline().strip()}")
            yield
        finally:
            server.terminate()
            server.wait()


@pytest.mark.filterwarnings("ignore")  # those of Jupyter's own
@pytest.mark.usefixtures("screen")
def test_windows_of_a_notebook() -> None:
    """With ``%matplotlib tk`` a plot is a window while the run goes on, and no picture in the output of the cell."""
    *_, outputs = run_cells("%matplotlib tk", PREPARE, WINDOWS)
    assert [o.text.strip() for o in outputs if o.output_type == "stream" and o.name == "stdout"] == ["[True]"]
    assert not [o for o in outputs if o.output_type == "display_data"]
