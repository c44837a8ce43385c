"""A model spread over several processes: sharded (FSDP2, HSDP), tensor parallel, and context parallel (Ulysses).

Nothing of it is loaded by `import mmdit`.
"""

from mmdit.parallel.mesh_layout import MeshLayout, data_place
from mmdit.parallel.parallelize import parallelize
from mmdit.parallel.whole_weights import load_whole_state, whole_state

__all__ = ["MeshLayout", "data_place", "load_whole_state", "parallelize", "whole_state"]
