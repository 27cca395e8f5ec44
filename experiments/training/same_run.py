"""That several processes carry out the same run: config, data, weights and versions compared."""

import zlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from experiments.data import DatasetInfo
from experiments.runtime import agreement

# Fields in which hosts may differ: where things lie there, and how the host's own work is shared.
FIELDS_OF_A_HOST = frozenset(
  {
    'compilation_cache',
    'keep_freed_memory',
    'data.dir',
    'data.num_threads',
    'data.num_workers',
  }
)


def require(config: Mapping[str, Any], info: DatasetInfo) -> None:
  """Checks that all processes, which must all call it, were given the same.

  Args:
    config: with every field filled in.
    info: of the data set.

  Raises:
    ConfigError: one differs; names the field.
  """
  data = {
    name: value for name, value in config['data'].items() if f'data.{name}' not in FIELDS_OF_A_HOST
  }
  fields = {name: value for name, value in config.items() if name not in FIELDS_OF_A_HOST}
  agreement.require_same(
    {
      '--config': {**fields, 'data': data},
      'data set': info._asdict(),
      'JAX version': jax.__version__,
      'devices of a process': jax.local_device_count(),
    }
  )


def require_weights(weights: Any) -> None:
  """Checks that all processes loaded the same arrays; raises ConfigError."""
  if jax.process_count() > 1:
    leaves = (np.ascontiguousarray(leaf) for leaf in jax.tree.leaves(weights))
    agreement.require_same({'checksums of the weights': [zlib.crc32(leaf) for leaf in leaves]})
