"""A model spread over several processes: sharded (FSDP2, HSDP), tensor parallel, and context parallel (Ulysses).

Nothing of it is loaded by `import mmdit`.
"""

from mmdit.parallel.layout import Layout, data_place
from mmdit.parallel.parallelize import parallelize
from mmdit.parallel.whole_weights import load_whole_state, whole_state

__all__ = ["Layout", "data_place", "load_whole_state", "parallelize", "whole_state"]
