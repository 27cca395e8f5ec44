"""Hyperparameters are checked where their value is known, and may be traced, as optax's may."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def passes(value: Any, test: Callable[[float], bool]) -> bool:
  """Whether a hyperparameter is one valid number; traced ones pass, as their value is unknown.

  So optax.inject_hyperparams under jit and vmap over hyperparameters work, and a wrong constant is
  still refused.
  """
  if isinstance(value, jax.core.Tracer):
    return True
  try:
    return np.ndim(value) == 0 and not isinstance(value, str) and bool(test(float(value)))
  except (OverflowError, TypeError, ValueError):
    return False
