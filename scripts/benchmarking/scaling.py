"""How times grow with the batch and with the size of the images."""

import math
from collections.abc import Sequence
from typing import Any

from scripts.benchmarking.table import Row

_LEAST_POINTS = 3  # of a line


def series(rows: Sequence[Row]) -> list[dict[str, Any]]:
  """Finds what was measured at three or more batch sizes or image sizes.

  Returns:
    For each contestant of each model and task, with all else equal: 'title', 'against' ('batch' or
    'size'), 'contestant', 'x', 'median' and 'spread' (lists), and 'slope', the exponent of the
    power of x that fits the medians best.
  """
  found = []
  for against, other in (('batch', 'size'), ('size', 'batch')):
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
      if 'median' in row:
        key = (row['model'], row['task'], row['dtype'], row[other], row['contestant'])
        groups.setdefault(key, []).append(row)
    for (model, task, dtype, fixed, contestant), group in groups.items():
      group = sorted(group, key=lambda row: row[against])
      x = [row[against] for row in group]
      if len(set(x)) < _LEAST_POINTS:
        continue
      medians = [row['median'] for row in group]
      at = f'{fixed} px' if other == 'size' else f'batch {fixed}'
      found.append({
        'title': f'{model} {task}, {at}' + ('' if dtype == 'float32' else f', {dtype}'),
        'against': against,
        'contestant': contestant,
        'x': x,
        'median': medians,
        'spread': [row['spread'] for row in group],
        'slope': _slope(x, medians),
      })  # fmt: skip
  return found


def _slope(x: Sequence[float], y: Sequence[float]) -> float:
  """Of the straight line that fits log y over log x best."""
  u, v = [math.log(value) for value in x], [math.log(value) for value in y]
  mean_u, mean_v = sum(u) / len(u), sum(v) / len(v)
  products = sum((a - mean_u) * (b - mean_v) for a, b in zip(u, v, strict=True))
  return products / sum((a - mean_u) ** 2 for a in u)


def slopes(rows: Sequence[Row]) -> str:
  """Formats the slopes, or nothing if there is no series."""
  lines = [
    f'{one["title"]}: time of {one["contestant"]} grows as {one["against"]}^{one["slope"]:.2f} '
    f'over {one["x"][0]} to {one["x"][-1]}'
    for one in series(rows)
  ]
  return '\n'.join(lines)
