"""Rows of results as text and as Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
_KEY = ('model', 'task', 'batch', 'size', 'dtype')
_HEADER = (
  'model', 'task', 'batch', 'px', 'contestant', 'ms', 'spread', 'images/s', 'MiB', 'of a call',
  'GFLOP/s', 'of ceiling', 'x ours', 'x timm',
)  # fmt: skip
_TEXT_COLUMNS = (0, 1, 4)
_EAGER = ('timm', 'timm-contiguous')


def case_key(row: Row) -> tuple:
  """What rows of one case have in common."""
  return tuple(row[field] for field in _KEY)


def with_best(rows: Sequence[Row]) -> list[Row]:
  """Adds, to each case with several of timm's, the row 'timm best': the quicker of eager ones."""
  found = []
  for key in dict.fromkeys(map(case_key, rows)):
    case = [row for row in rows if case_key(row) == key]
    if sum(row['contestant'] in _EAGER and 'median' in row for row in case) > 1:
      case.append({**timms_best(case, case[0]), 'contestant': 'timm best'})
    found += case
  return found


def ours(rows: Sequence[Row], row: Row) -> Row | None:
  """Our row of the same case, None if it failed."""
  same = (r for r in rows if r['contestant'] == 'ours' and case_key(r) == case_key(row))
  return next((r for r in same if 'median' in r), None)


def timms_best(rows: Sequence[Row], row: Row) -> Row | None:
  """The quicker of eager timm's rows of the same case, None if none of them has a time."""
  same = (r for r in rows if r['contestant'] in _EAGER and case_key(r) == case_key(row))
  return min((r for r in same if 'median' in r), key=lambda r: r['median'], default=None)


def cells(rows: Sequence[Row]) -> list[tuple[str, ...]]:
  """Returns the table's lines as text, the header first."""
  lines = [_HEADER]
  rows = with_best(rows)
  for row in rows:
    name = model_cell(row['model'], row['dtype'])
    start = (name, row['task'], str(row['batch']), str(row['size']), row['contestant'])
    if 'median' not in row:
      lines.append((*start, f'failed: {row.get("failed", "no round was made")}'))
      continue
    mine, timms = ours(rows, row), timms_best(rows, row)
    share = row.get('share_of_ceiling')
    lines.append((
      *start,
      digits(1e3 * row['median']),
      f'{row["spread"]:.1%}',
      digits(row['images_per_second']),
      mebibytes(row),
      mebibytes(row, 'call_memory_bytes'),
      digits(row['gflops_per_second']) if 'gflops_per_second' in row else '-',
      '-' if share is None else f'{share:.0%}',
      f'{row["median"] / mine["median"]:.2f}' if mine else '-',
      f'{row["median"] / timms["median"]:.2f}' if timms else '-',
    ))  # fmt: skip
  return lines


def model_cell(model: str, dtype: str) -> str:
  """The model's name, with what it computes in if that is unusual."""
  return model if dtype == 'float32' else f'{model} ({dtype})'


def mebibytes(row: Row, field: str = 'peak_memory_bytes') -> str:
  """Memory of a row."""
  value = row.get(field)
  return '-' if value is None else f'{value / 2**20:.0f}'


def digits(value: float) -> str:
  """Three or more significant digits, without an exponent."""
  return f'{value:.0f}' if value >= 100 else f'{value:#.3g}'


def text(lines: Sequence[Sequence[str]], text_columns: Sequence[int] = _TEXT_COLUMNS) -> str:
  """Aligns the columns of a table; a line shorter than the header ends in a sentence."""
  count = len(lines[0])
  widths = [0] * count
  for line in lines:
    aligned = line if len(line) == count else line[:-1]
    for i, cell in enumerate(aligned):
      widths[i] = max(widths[i], len(cell))

  def align(line: Sequence[str]) -> str:
    cells = [
      cell.ljust(width) if i in text_columns else cell.rjust(width)
      for i, (cell, width) in enumerate(zip(line, widths, strict=False))
    ]
    if len(line) < count:
      cells[-1] = line[-1]
    return '  '.join(cells).rstrip()

  return '\n'.join(map(align, lines))


def markdown(lines: Sequence[Sequence[str]], text_columns: Sequence[int] = _TEXT_COLUMNS) -> str:
  """The same as a Markdown table."""
  rule = ['---' if i in text_columns else '--:' for i in range(len(lines[0]))]
  padded = [(*line, *[''] * (len(rule) - len(line))) for line in lines]
  return '\n'.join('| ' + ' | '.join(line) + ' |' for line in (padded[0], rule, *padded[1:]))
