"""Prepares TFDS data sets as the training reads them: array_record files, once.

This is the one part that needs TensorFlow (the extra `tfds`); TFDS imports it when it builds.
"""

import os
import pathlib
import shutil
import tarfile

from absl import logging

from experiments.runtime.errors import DataError
from nfnets import installation, interruption

IMAGENET = 'imagenet2012'
# What TFDS looks for; without the test tar, which has no labels, nothing is missing.
IMAGENET_TARS = ('ILSVRC2012_img_train.tar', 'ILSVRC2012_img_val.tar')


def check_tars(folder: str | os.PathLike) -> None:
  """Checks that ImageNet's two tar files are there and whole, by their tables of contents.

  Args:
    folder: where they are.

  Raises:
    DataError: one is missing, no tar file, or cut off.
  """
  for name in IMAGENET_TARS:
    path = pathlib.Path(folder).expanduser() / name
    if not path.is_file():
      raise DataError(
        f'{path} does not exist; download it from image-net.org and name its folder with --tars'
      )
    _check_tar(path)


def _check_tar(path: pathlib.Path) -> None:
  size, end, count = path.stat().st_size, 0, 0
  try:
    # Members are skipped over, so this reads a table of contents of 50,000 in a second or two.
    with tarfile.open(path, 'r:') as tar:
      for member in tar:
        count += 1
        end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
  except tarfile.TarError as error:
    raise DataError(f'{path} is no readable tar file ({error}); download it again') from None
  # A whole archive ends with a block of zeros after its last member.
  if not count or size < end + tarfile.BLOCKSIZE:
    raise DataError(
      f'{path} is cut off: it has {size:,} bytes, but its {count} entries and their end mark need '
      f'{end + 2 * tarfile.BLOCKSIZE:,}; download it again'
    )


def prepare(name: str, out: str | os.PathLike, tars: str | os.PathLike | None = None):
  """Builds a TFDS data set in the array_record format, with TFDS's own progress bars.

  A prepared data set is left as it is. What a killed run left is removed and built anew: TFDS
  gives a data set its name only when it is whole.

  Args:
    name: a TFDS name, e.g. 'imagenet2012' or 'cifar10'.
    out: TFDS's data directory, `data.dir` of the training.
    tars: for data sets that must be downloaded by hand, the folder of the downloaded files.

  Returns:
    TFDS's builder, whose `info` tells the splits.

  Raises:
    DataError: TFDS or TensorFlow is not installed, the name is unknown, a tar is missing or cut,
      files of another format are in the way, or TFDS cannot build it.
  """
  try:
    import tensorflow  # noqa: F401 (TFDS would fail later, with a long message)
    import tensorflow_datasets as tfds
  except ImportError as error:
    raise DataError(
      f'preparing data needs the package {error.name}: {installation.command("tfds")}'
    ) from None
  if name == IMAGENET:
    if not tars:
      raise DataError(f'{IMAGENET} is built from tar files; name their folder with --tars')
    check_tars(tars)
  out = pathlib.Path(out).expanduser()
  try:
    builder = tfds.builder(name, data_dir=out)
  except (tfds.core.DatasetNotFoundError, ValueError) as error:
    # TFDS's sentence comes first, then lists of all its data sets.
    reason = _first_line(error)
    raise DataError(f'TFDS cannot open {name!r} in {out}: {reason}') from None
  if builder.info.splits and builder.info.file_format.value != 'array_record':
    raise DataError(
      f'{name} is already prepared in {out} as {builder.info.file_format.value}; choose another '
      '--out, or remove it'
    )
  place = builder.data_path  # it is another one while TFDS builds
  _remove_unfinished(place)
  config = tfds.download.DownloadConfig(manual_dir=os.fspath(tars) if tars else None)
  downloads = out / 'downloads'

  def clean() -> None:
    _remove_unfinished(place)
    for left in (*downloads.glob('*.tmp.*'), *downloads.glob('extracted/*incomplete*')):
      shutil.rmtree(left)

  try:
    with interruption.undone(clean):
      builder.download_and_prepare(
        download_dir=downloads, download_config=config, file_format='array_record'
      )
  except (AssertionError, OSError, ValueError, tfds.core.DatasetNotFoundError) as error:
    raise DataError(
      f'TFDS could not prepare {name} in {out}: {_first_line(error)}; mend that and run this again'
    ) from error
  return builder


def _first_line(error: Exception) -> str:
  return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip('.')


def _remove_unfinished(place: os.PathLike) -> None:
  place = pathlib.Path(place)
  for left in place.parent.glob(f'incomplete.*{place.name}*'):
    logging.info('removing what an interrupted run left: %s', left)
    shutil.rmtree(left)


def summary(builder) -> str:
  """Returns one sentence on a prepared data set: its splits, their sizes, its folder."""
  splits = ', '.join(
    f'{split} {part.num_examples:,}' for split, part in builder.info.splits.items()
  )
  return f'{builder.info.full_name} is prepared in {builder.data_path} ({splits} examples)'
