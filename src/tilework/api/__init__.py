"""What users' programs import: `Context`, and the iterators that its runs return."""

from tilework.api.context import Context, ExecutorSpecType
from tilework.api.generators import ResultAsyncGenerator, ResultGenerator
from tilework.common.roi import RoiT

__all__ = ["Context", "ExecutorSpecType", "ResultAsyncGenerator", "ResultGenerator", "RoiT"]
