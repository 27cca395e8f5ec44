"""What makes the examples of a data set: of pictures or of sounds."""

from experiments.data import one_example, sound_example
from experiments.data.settings import DataSettings
from experiments.data.sources.source import Source

TrainExample = one_example.TrainExample | sound_example.SoundTrainExample
EvaluationExample = one_example.EvaluationExample | sound_example.SoundEvaluationExample


def for_training(source: Source, settings: DataSettings, max_unreadable: int) -> TrainExample:
  """Returns what makes training examples; it gives up after so many unreadable ones in a row.

  Raises:
    DataError: fields do not go together.
  """
  kind = sound_example.SoundTrainExample if settings.is_sound else one_example.TrainExample
  return kind.from_settings(source, settings, max_unreadable)


def for_evaluation(source: Source, settings: DataSettings) -> EvaluationExample:
  """Returns what makes the examples of a test set."""
  kind = one_example.EvaluationExample
  kind = sound_example.SoundEvaluationExample if settings.is_sound else kind
  return kind.from_settings(source, settings)
