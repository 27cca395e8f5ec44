"""scripts/show_batch.py: a sheet of the training's own batch."""

import cv2
import numpy as np
import PIL.Image
import pytest

from configs import digits
from experiments.data.batch import Batch
from nfnets import images
from nfnets.preprocessing import Preprocessing

PREPROCESSING = Preprocessing(8)


@pytest.fixture(scope='module')
def show_batch(load_script):
  return load_script('show_batch')


def make_batch(count, size, ratio):
  pixels = np.random.default_rng(0).integers(0, 256, (1, count, size, size, 3), dtype=np.uint8)
  labels = np.arange(count, dtype=np.int32)[None] % 3
  ratios = np.full((1, count), ratio, np.float32)
  mask = np.ones((1, count), np.float32)
  return Batch(images.normalize(pixels), labels, (labels + 1) % 3, ratios, mask), pixels


@pytest.mark.parametrize(('count', 'columns'), [(1, 1), (12, 4), (16, 4), (7, 4), (24, 6)])
def test_the_sheet_holds_the_pixels_that_the_network_sees(show_batch, count, columns):
  batch, pixels = make_batch(30, 160, ratio=1)
  sheet = show_batch.draw(batch, ('cat', 'dog', 'owl'), count, PREPROCESSING)
  assert sheet.dtype == np.uint8
  width = (sheet.shape[1] - 12) // columns
  height = (sheet.shape[0] - 12) // -(-count // columns)
  for place in range(count):
    top, left = 12 + place // columns * height, 12 + place % columns * width
    np.testing.assert_array_equal(sheet[top : top + 160, left : left + 160], pixels[0, place])
    caption = sheet[top + 160 : top + height, left : left + width]
    assert (caption < 100).any()  # something is written there


def test_mixed_examples_have_both_labels(show_batch, monkeypatch):
  written = []
  put = cv2.putText
  monkeypatch.setattr(
    cv2, 'putText', lambda s, text, *rest: (written.append(text), put(s, text, *rest))
  )
  batch, _ = make_batch(2, 40, ratio=0.705)
  show_batch.draw(
    batch, ('cat', 'dog', 'a very long name of a class that cannot fit'), 2, PREPROCESSING
  )
  assert written[:3] == ['70 % cat', '30 % dog', '70 % dog']
  assert written[3].startswith('30 % a very')
  assert written[3].endswith('..')
  batch = batch._replace(mix_ratio=np.ones((1, 2)), mask=np.array([[1, 0]]))
  del written[:]
  show_batch.draw(batch, ('cat', 'dog', 'owl'), 2, PREPROCESSING)
  assert written == ['cat', 'padding']


def test_command(run_script, tmp_path):
  arguments = ['--config=configs/digits.py', '--config.data.mixing=mixup_cutmix', '--count=6']
  done = run_script('show_batch', *arguments, f'--out={tmp_path / "batch.png"}')
  assert done.returncode == 0, done.stderr
  assert 'Step 0 of digits is drawn' in done.stdout
  assert PIL.Image.open(tmp_path / 'batch.png').size[0] > 500
  failed = run_script('show_batch', *arguments, f'--out={tmp_path / "batch.gif"}')
  assert failed.returncode == 1
  assert '--out must end in .png, .jpg or .jpeg, got' in failed.stderr
  assert 'Traceback' not in failed.stderr


def test_a_sheet_is_not_put_among_the_pictures(load_script, pictures):
  config = digits.get_config()
  config.data.source, config.data.dir = 'folder', str(pictures)
  before = (pictures / 'one.jpg').read_bytes()
  for name in ('one.jpg', 'inner/new.png'):
    with pytest.raises(ValueError, match=r'lies in --config\.data\.dir, where it would be one of'):
      load_script('show_batch').show(config, str(pictures / name), 0, 1)
  assert (pictures / 'one.jpg').read_bytes() == before
  assert not (pictures / 'inner/new.png').exists()
