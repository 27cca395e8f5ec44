"""What a claim is: a sentence of a paper, the runs that try it, what is drawn and said of them."""

import dataclasses
from collections.abc import Callable, Sequence

from matplotlib.figure import Figure

from scripts.reproducing import study as studies
from scripts.reproducing.pictures import Pictures
from scripts.reproducing.rows import Row, Rows

# What is measured beside, or in the place of, training runs: the key of a row, and what fills it.
Measurement = tuple[Row, Callable[[], Row]]


def _none(_pictures: Pictures, _quick: bool) -> list[Measurement]:
  return []


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
  """One claim.

  Attributes:
    name: as in the command.
    statement: what is claimed, in one sentence.
    source: paper and place.
    pictures: to train on, or to look at, with and without `--quick`.
    study: of training runs; None: there are none.
    quick: the same in minutes.
    measurements: (pictures, quick) -> those beside the training runs.
    draw: the figure of the rows.
    say: lines on what the rows show.
  """

  name: str
  statement: str
  source: str
  study: studies.Study | None = None
  quick: studies.Study | None = None
  measurements: Callable[[Pictures, bool], list[Measurement]] = _none
  draw: Callable[[Sequence[Row]], Figure]
  say: Callable[[Sequence[Row]], list[str]]

  def count(self, quick: bool) -> int:
    """How many pictures to train on it needs."""
    chosen = self.quick if quick else self.study
    return chosen.pictures if chosen else 1_000

  def run(self, pictures: Pictures, rows: Rows, *, quick: bool) -> list[Row]:
    """Makes what is not there and returns all rows."""
    chosen = self.quick if quick else self.study
    measurements = self.measurements(pictures, quick)
    rows.expect(len(measurements) + (chosen.runs if chosen else 0))
    found = [rows.get(key, measure) for key, measure in measurements]
    return found + (studies.measure(chosen, pictures, rows) if chosen else [])
