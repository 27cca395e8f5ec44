"""What is confused with what, and the worst mistakes."""

import numpy as np
import pytest

from experiments.reporting import confusion
from experiments.training.evaluation import Predictions


def test_confusion_and_worst_mistakes_by_hand():
  probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.6, 0.4], [0.1, 0.9]], np.float32)
  labels = np.array([0, 0, 1, 1, 0], np.int32)
  readable = np.array([True, True, True, True, False])
  found = Predictions(probabilities, np.zeros((5, 1)), labels, readable)
  np.testing.assert_array_equal(confusion.confusion_matrix(found), [[1, 1], [2, 0]])
  worst = confusion.worst(found, count=2)
  assert [(m.index, m.label, m.predicted) for m in worst] == [(1, 0, 1), (2, 1, 0)]
  assert worst[0].probability == pytest.approx(0.8)
  assert worst[0].label_probability == pytest.approx(0.2)
