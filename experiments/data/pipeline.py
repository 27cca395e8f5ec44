"""The input pipeline: settings -> batches.

Batch k of a run is a function of (seed, k) alone: not of the number of workers or threads, nor of
where a run was interrupted. So the step number is the whole state of the input, and starting at a
step reads nothing of what came before.

With `num_workers > 0` the program that calls this must be importable without side
effects (`if __name__ == '__main__':`), because Grain starts its workers as fresh processes.
"""

import dataclasses
import functools
import pathlib
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self

import grain
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from experiments.data import collate, examples, handover, one_example, sources
from experiments.data.batch import NATURAL_LAYOUT, Batch, ImageLayout
from experiments.data.identity import Identity, identify
from experiments.data.poisson import HostDraws, PoissonSampling
from experiments.data.settings import DataSettings
from experiments.data.sizes import typical_side
from experiments.data.unreadable import Limits, Record, UnreadablePictures
from experiments.runtime.errors import DataError
from nfnets import interruption

_BATCHES_AHEAD = 2  # made while the device works
# Examples that a worker process hands over at once. Fewer of the test set: its images may be four
# times as large, and its processes keep some while the run trains.
_SLICE, _TEST_SLICE = 64, 16


class DatasetInfo(NamedTuple):
  """What a run needs to know of its data before it starts."""

  num_train: int
  num_test: int
  num_classes: int
  class_names: tuple[str, ...]
  identity: Identity | None = None  # None: of data that nobody looked at, such as a plan's


class TrainingPictures(NamedTuple):
  """What a recipe's open fields follow from."""

  count: int
  side: int | None = None  # see `sizes.typical_side`


def look_at_training_pictures(config: ConfigDict, *, sizes: bool) -> TrainingPictures:
  """Counts the training pictures of a config, whose other fields may be open.

  Args:
    config: the whole config.
    sizes: whether to look at their sizes too.

  Raises:
    DataError: what the source needs is missing, or there are none.
  """
  settings = DataSettings.from_config(config)
  train, _ = sources.open_sources(settings)
  if not len(train):
    raise DataError(
      f'there are no training {settings.noun}s: --config.data.train_split is '
      f'{config.data.train_split!r}; choose one that has some'
    )
  return TrainingPictures(len(train), typical_side(train) if sizes else None)


def describe(settings: DataSettings) -> DatasetInfo:
  """Looks at the data set without decoding any picture.

  Args:
    settings: of the data.

  Raises:
    DataError: what the source needs is missing, the test set is empty, or fields do not go
      together.
  """
  train, test = sources.open_sources(settings)
  if not len(test):
    raise DataError(
      f'there are no test {settings.noun}s: --config.data.test_split is {settings.test_split!r}; '
      'choose one that has some'
    )
  _make_train_example(train, settings)  # checks the fields before a run starts
  examples.for_evaluation(test, settings)
  return DatasetInfo(
    len(train), len(test), len(train.class_names), train.class_names, identify(train, test)
  )


def check_test_set(settings: DataSettings) -> None:
  """Looks for a test picture that can be read, before a run trains for nothing.

  Raises:
    DataError: there is none.
  """
  _, test = sources.open_sources(settings)
  make_example = examples.for_evaluation(test, settings)
  out = np.empty(make_example.shape, np.float32)
  made = None
  for index in range(len(test)):
    made = make_example(index, out)
    if made.mask:
      return
  last, *_ = made.unreadable
  raise DataError(
    f'none of the {len(test)} test {settings.noun}s can be read, the last being '
    f'{last.name} ({last.reason}): mend '
    'them, or choose another --config.data.test_split'
  )


class Batches(Iterator[Batch]):
  """An iterator of batches that counts unreadable pictures; close it to end its processes.

  Attributes:
    unreadable: the pictures that could not be used so far, across all workers.
  """

  def __init__(
    self, elements: Iterator[handover.Element], num_devices: int, unreadable: UnreadablePictures
  ):
    self.unreadable = unreadable
    self._elements = elements  # of whole batches [N, ...]
    self._num_devices = num_devices
    self._started = False

  def __next__(self) -> Batch:
    """Returns the next batch.

    Raises:
      DataError: more pictures are unreadable than `data.max_corrupt_fraction` allows, or most of a
        class; a picture is gone; the machine cannot read; a worker process was killed.
    """
    try:
      batch, unreadable = self._next_element()
      self.unreadable.add(unreadable)
    except DataError:
      self.close()
      raise
    split = (self._num_devices, len(batch.labels) // self._num_devices)
    return Batch(*(part.reshape(split + part.shape[1:]) for part in batch))

  @property
  def corrupt(self) -> dict[str, str]:
    """Name -> reason of every unreadable picture met so far."""
    return {name: one.reason for name, one in self.unreadable.met.items()}

  def _next_element(self) -> handover.Element:
    try:
      if self._started:
        return next(self._elements)
      with interruption.kept_from_children():  # the first one starts the processes
        element = next(self._elements)
    except RuntimeError as error:
      raise _of_a_worker(error) from None
    self._started = True
    return element

  def close(self) -> None:
    """Ends the worker processes and threads; the iterator gives no more batches."""
    self._elements.close()

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *_: object) -> None:
    self.close()


def _of_a_worker(error: RuntimeError) -> Exception:
  """What to raise: Grain's error for a worker that has ended comes as DataError in a sentence."""
  match = re.search(
    r'Worker process was terminated unexpectedly with exit code (-?\d+)', str(error)
  )
  if match is None:
    return error
  code = int(match[1])
  how = f'ended with exit code {code}'
  if code < 0:
    how = f'was killed by signal {-code} ({signal.strsignal(-code)})'
  why = {
    signal.SIGKILL: '; most often memory has run out: lower --config.data.num_workers',
    signal.SIGBUS: '; most often /dev/shm is full: enlarge it, or lower --config.data.num_workers',
  }.get(-code, '')
  return DataError(f'a worker process that prepares batches {how}{why}. Give the command again.')


def train_batches(
  settings: DataSettings,
  start_step: int,
  num_devices: int,
  process_index: int = 0,
  process_count: int = 1,
  layout: ImageLayout = NATURAL_LAYOUT,
  workdir: pathlib.Path | None = None,
  sampling: PoissonSampling | None = None,
) -> Batches:
  """Returns this host's share of the training batches, without end, from a step on.

  The examples run through epoch after epoch, each in a new order and newly augmented; a batch may
  span two epochs. With `data.augmentations_per_image` above 1 each picture of an epoch is in its
  batch so many times, in places one after the other, with the same picture to mix with. An
  unreadable picture is replaced by the next readable one of its source.

  Args:
    settings: of the data.
    start_step: number of the first batch.
    num_devices: local devices of this host.
    process_index: number of this host.
    process_count: number of hosts; each takes every process_count-th picture.
    layout: of the images, as the train step was built for it.
    workdir: keeps which pictures could not be used, for other hosts and other starts of the run.
    sampling: draws the examples of each batch by itself, in the place of epochs. An unreadable
      picture is then left out: the next one in its place would count twice.

  Returns:
    Iterator of Batch with B = global_batch_size / (process_count * num_devices); with `sampling` of
    slots * views / (process_count * num_devices).

  Raises:
    ConfigError: the batch does not divide by `data.augmentations_per_image`.
    DataError: the data are not as the configuration says, or the batch does not divide.
  """
  source, _ = sources.open_sources(settings)
  host_batch = _host_batch(
    'global_batch_size', settings.global_batch_size, num_devices, process_count
  )
  settings.check_repeats(process_count)
  repeats = settings.augmentations_per_image
  mixes_within = settings.mixing != 'none' and settings.mix_pairing == 'within_batch'
  if mixes_within and host_batch == repeats:
    raise DataError(
      f'a batch of 1 {settings.noun} cannot be mixed within itself: raise '
      '--config.global_batch_size, or set --config.data.mix_pairing=second_image.'
    )
  make_example = _make_train_example(source, settings)
  if sampling is None:
    draws = _epochs(len(source), settings.seed, repeats, process_index, process_count)
  else:
    draws = HostDraws(sampling, num_devices, process_index, process_count)
    host_batch, repeats = draws.batch, sampling.views
    make_example = dataclasses.replace(make_example, max_unreadable=1)
  shares = _shares(host_batch, settings, max(1, _SLICE // repeats) * repeats)
  if settings.num_workers > 0:
    _require_shared_memory(settings, shares, layout)
  make_slice = collate.TrainSlice(
    draws,
    shares,
    make_example,
    settings.mixing,
    settings.mix_pairing,
    settings.num_threads,
    layout,
    repeats,
  )
  slices = grain.MapDataset.range(start_step * shares.count, sys.maxsize).map(make_slice)
  limits = Limits(
    len(source),
    settings.max_corrupt_fraction,
    source.labels,
    source.class_names,
    noun=settings.noun,
  )
  record = None
  if workdir is not None:
    record = Record(workdir, process_index, process_count, new=start_step == 0)
  elements = _iterate(slices, shares, settings, ahead=_BATCHES_AHEAD)
  return Batches(elements, num_devices, UnreadablePictures(limits, record))


@dataclasses.dataclass(frozen=True)
class _OneByOne:
  """Draws as a sequence, of `repeats` together."""

  groups: Sequence[tuple[one_example.Draw, ...]]
  repeats: int

  def __getitem__(self, place: int) -> one_example.Draw:
    group, place = divmod(place, self.repeats)
    return self.groups[group][place]


def _epochs(
  size: int, seed: int, repeats: int, process_index: int, process_count: int
) -> Sequence[one_example.Draw]:
  """The draws of a host, epoch after epoch; each picture of an epoch has so many, together."""
  groups = (
    grain.experimental.ZipMapDataset([
      _shuffled(size, seed),
      # The pictures to mix with: every one once an epoch as well, in an order of their own.
      _shuffled(size, int(np.random.SeedSequence([seed, 1]).generate_state(1)[0])),
    ])
    .seed(seed)
    .random_map(functools.partial(one_example.draw, count=repeats))
    .slice(slice(process_index, None, process_count))
  )  # fmt: skip
  return _OneByOne(groups, repeats)


def _shuffled(size: int, seed: int) -> grain.MapDataset:
  """Indices below `size`, epoch after epoch, each in a new order."""
  return grain.MapDataset.range(size).seed(seed).shuffle().repeat()


def _make_train_example(source: sources.Source, settings: DataSettings) -> examples.TrainExample:
  max_unreadable = min(int(settings.max_corrupt_fraction * len(source)) + 1, len(source))
  return examples.for_training(source, settings, max_unreadable)


def test_batches(
  settings: DataSettings,
  num_devices: int,
  process_index: int = 0,  # noqa: PT028 (not a test)
  process_count: int = 1,  # noqa: PT028
  of_training_set: bool = False,  # noqa: PT028
  layout: ImageLayout = NATURAL_LAYOUT,  # noqa: PT028
) -> Batches:
  """Returns this host's share of the test set, every picture once and in order.

  The last batch is padded with mask 0, as are unreadable pictures. Every host gets as many batches
  as the others.

  Args:
    settings: of the data.
    num_devices: local devices of this host.
    process_index: number of this host.
    process_count: number of hosts; each takes every process_count-th example.
    of_training_set: the training pictures instead, prepared as those of a test set.
    layout: of the images: NATURAL_LAYOUT or `settings.test_layout`.

  Returns:
    Iterator of Batch with B = data.eval_batch_size / (process_count * num_devices).

  Raises:
    DataError: the data are not as the configuration says, or the batch does not divide.
  """
  train, test = sources.open_sources(settings)
  source = train if of_training_set else test
  size = settings.eval_batch_size
  host_batch = _host_batch('data.eval_batch_size', size, num_devices, process_count)
  shares = _shares(host_batch, settings, _TEST_SLICE)
  make_example = examples.for_evaluation(source, settings)
  if settings.num_workers > 0:
    needed = _shared_bytes(shares, layout, make_example.shape, settings)
    handover.require_shared_memory(needed, settings.num_workers)
  num_batches = -(-len(source) // size)  # indices past the end are padding
  indices = grain.MapDataset.range(num_batches * size).slice(
    slice(process_index, None, process_count)
  )
  make_slice = collate.TestSlice(indices, shares, make_example, settings.num_threads, layout)
  slices = grain.MapDataset.range(num_batches * shares.count).map(make_slice)
  limits = Limits(len(source), settings.max_corrupt_fraction, noun=settings.noun)
  return Batches(_iterate(slices, shares, settings), num_devices, UnreadablePictures(limits))


def _host_batch(field: str, size: int, num_devices: int, process_count: int) -> int:
  if size < 1 or size % (num_devices * process_count):
    raise DataError(
      f'--config.{field} is {size}, but must be a multiple of all devices: {process_count} hosts '
      f'with {num_devices} each'
    )
  return size // process_count


def _shares(host_batch: int, settings: DataSettings, size: int) -> handover.Shares:
  """Threads of this process make whole batches: only worker processes hand anything over."""
  return handover.Shares(host_batch, size if settings.num_workers > 0 else host_batch)


def _shared_bytes(
  shares: handover.Shares, layout: ImageLayout, shape: tuple[int, int, int], settings: DataSettings
) -> int:
  *size, channels = shape
  of_an_image = layout.empty(1, tuple(size), channels).nbytes
  return handover.shared_bytes(shares, of_an_image, settings.num_workers)


def _require_shared_memory(
  settings: DataSettings, shares: handover.Shares, layout: ImageLayout
) -> None:
  """Looks for room for a run, which evaluates while the workers of its training wait."""
  needed = _shared_bytes(shares, layout, settings.train_shape, settings)
  if settings.eval_image_size is not None:
    tests = handover.Shares(_TEST_SLICE, _TEST_SLICE)
    needed += _shared_bytes(tests, settings.test_layout, settings.eval_shape, settings)
  handover.require_shared_memory(needed, settings.num_workers)


def _iterate(
  slices: grain.MapDataset, shares: handover.Shares, settings: DataSettings, ahead: int = 0
) -> Iterator[handover.Element]:
  """Whole batches; `ahead` of them are put together before they are asked for."""
  # One thread makes slices in order and spreads the examples of each over its own threads.
  elements = slices.to_iter_dataset(
    grain.ReadOptions(num_threads=1, prefetch_buffer_size=_BATCHES_AHEAD)
  )
  if settings.num_workers == 0:
    return iter(elements)
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()  # Grain reads its debug flags when it starts a worker
  elements = elements.mp_prefetch(
    grain.MultiprocessingOptions(num_workers=settings.num_workers, per_worker_buffer_size=1)
  )
  with interruption.kept_from_children():
    regrouped = handover.Regrouped(iter(elements), shares)
  return handover.Ahead(regrouped, ahead) if ahead else regrouped
