"""evokern: hand-written kernels for evolving populations of neural networks.

>>> import evokern
>>> network = evokern.Network.mlp(196, [256, 128, 64], 10)
>>> genomes = evokern.ops.init_genomes(network.layout, 1000, seed=0)
"""

import os as _os

from evokern import ops
from evokern._default import use_backend
from evokern._dispatch import which
from evokern._version import __version__
from evokern.backends.cpu import set_threads
from evokern.extension import add_op, include_dir
from evokern.layers import (
    Activation,
    Affine,
    AvgPool2d,
    Conv2d,
    Dense,
    Elman,
    Flatten,
    GlobalAvgPool,
    MaxPool2d,
    Residual,
)
from evokern.lineage import Lineages, founders
from evokern.network import Network

__all__ = [
    "Activation",
    "Affine",
    "AvgPool2d",
    "Conv2d",
    "Dense",
    "Elman",
    "Flatten",
    "GlobalAvgPool",
    "Lineages",
    "MaxPool2d",
    "Network",
    "Residual",
    "__version__",
    "add_op",
    "founders",
    "include_dir",
    "ops",
    "set_threads",
    "use_backend",
    "which",
]

# libgomp's threads do not survive fork(): a child that asks for them would wait for ever.
_os.register_at_fork(after_in_child=lambda: set_threads(1))
