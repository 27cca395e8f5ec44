"""Errors of a training run that its user can mend."""


class DataError(ValueError):
  """The data are not as a run needs them; says what was wrong, what was expected, what to do."""


class NonFiniteError(ValueError):
  """A loss or a gradient became NaN or infinite."""


class ConfigError(ValueError):
  """A config field that cannot be used as it is."""


class CheckpointError(ValueError):
  """A work directory that this run cannot use."""
