"""The config, read once: everything else receives the typed parts of a `Run`.

Nothing outside this package reads `config.model` and `config.optimizer`, and nothing outside
`experiments.data` reads `config.data`.
"""

from experiments.training.settings.effects import require_effect
from experiments.training.settings.fields import resolve
from experiments.training.settings.run import Plan, Run, read, read_evaluation

__all__ = ['Plan', 'Run', 'read', 'read_evaluation', 'require_effect', 'resolve']
