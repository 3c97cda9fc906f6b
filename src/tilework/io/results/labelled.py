"""Results as an `xarray.Dataset`: named axes, coordinates in physical units."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tilework.exceptions import ResultFileError
from tilework.io.results.coordinates import shared_coordinates, with_distinct_axes
from tilework.io.results.document import make_document

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tilework.io.results.channel import ResultChannel

__all__ = ["to_xarray"]


def to_xarray(channels: Mapping[str, ResultChannel], provenance: Mapping[str, Any]) -> Any:
    """Return results as an `xarray.Dataset`.

    Parameters
    ----------
    channels
        The results by name.
    provenance
        Where they come from; kept in the attributes, what is nested as JSON text, so that the dataset can be saved as
        NetCDF.

    Returns
    -------
    xarray.Dataset
        One variable per result, and ``<name>_valid`` where a result does not hold everywhere. Axes have the names of
        the dataset's (``scan_x`` for ``x`` where a result is called ``x``), and coordinates where it knows their scale.

    Raises
    ------
    ResultFileError
        When xarray is not installed.

    Examples
    --------
    Results of a run are given to it by their own method:

    >>> from tilework.udf.sumsigudf import SumSigUDF
    >>> result = ctx.run_udf(dataset=ds, udf=SumSigUDF()).to_xarray()
    >>> dict(result["intensity"].sizes), result.attrs["udf"]
    ({'y': 6, 'x': 8}, 'SumSigUDF')
    """
    try:
        import xarray as xr
    except ImportError as error:
        msg = f"to_xarray needs a library that is not installed ({error}): pip install 'tilework[xarray]'"
        raise ResultFileError(msg) from error

    variables: dict[str, Any] = {}
    channels = with_distinct_axes(channels)
    for name, channel in channels.items():
        dims = [axis.name for axis in channel.dims]
        variables[name] = xr.Variable(dims, channel.data, channel.attributes())
        if channel.valid is not None:
            variables[f"{name}_valid"] = xr.Variable(dims, channel.valid, {"kind": channel.kind})
    coordinates = {
        name: xr.Variable([name], values, {} if axis.units is None else {"units": axis.units})
        for name, (axis, values) in shared_coordinates(channels).items()
    }
    facts = make_document(channels, provenance)["provenance"]
    return xr.Dataset(
        variables,
        coordinates,
        {key: value if isinstance(value, str | int | float) else json.dumps(value) for key, value in facts.items()},
    )
