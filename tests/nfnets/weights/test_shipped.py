"""The small networks that come with the library, and the table that describes them."""

import pathlib
import re

import numpy as np
import pytest
from sklearn import datasets, model_selection

import nfnets
from nfnets.weights.published import SHIPPED

ROOT = pathlib.Path(__file__).parents[3]
ROWS = {
  row[0]: row[1:]
  for row in re.findall(
    r'^\| `(\w+)` \|.*\| (\d+) \| (\d+) k \| (\d+) \| ([\d.]+) \| ([\d.]+) MB \| `nfnets train',
    (ROOT / 'docs/models.md').read_text(),
    re.MULTILINE,
  )
}


def test_the_table_names_them_all():
  assert list(ROWS) == list(SHIPPED)


@pytest.mark.parametrize('name', SHIPPED)
def test_the_table_says_what_the_files_hold(name):
  loaded = nfnets.load_pretrained(name.upper())
  count = sum(x.size for entries in loaded.params.values() for x in entries.values())
  classes, thousands, size, _, megabytes = ROWS[name]
  assert loaded.name == name
  assert len(loaded.class_names) == int(classes)
  assert round(count / 1e3) == int(thousands)
  assert loaded.preprocessing.size == int(size)
  assert round(SHIPPED[name].stat().st_size / 1e6, 1) == float(megabytes) < 2


def test_the_digits_are_read_as_the_table_says():
  bunch = datasets.load_digits()
  _, test = model_selection.train_test_split(
    np.arange(len(bunch.images)), test_size=360, stratify=bunch.target, random_state=0
  )
  pictures = np.round(bunch.images[test] * (255 / 16)).astype(np.uint8)
  classifier = nfnets.Classifier.from_pretrained('digits', batch_size=120)
  labels = [top.index for (top,) in classifier(list(pictures), top=1)]
  right = np.mean(np.equal(labels, bunch.target[test]))
  assert round(100 * right, 1) == float(ROWS['digits'][3])
