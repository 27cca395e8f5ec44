"""The claims, by name."""

from scripts.reproducing.claims.design import DESIGN
from scripts.reproducing.claims.large_batch import CLIP, LARGE_BATCH
from scripts.reproducing.claims.one_batch import BATCH_INDEPENDENCE, STEP_COST
from scripts.reproducing.claims.same_accuracy import ABLATION, MATCH
from scripts.reproducing.claims.small_batch import SMALL_BATCH

CLAIMS = {
  claim.name: claim
  for claim in (
    MATCH,
    ABLATION,
    SMALL_BATCH,
    LARGE_BATCH,
    CLIP,
    BATCH_INDEPENDENCE,
    STEP_COST,
    DESIGN,
  )
}
