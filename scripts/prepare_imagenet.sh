#!/usr/bin/env bash
# Prepares ImageNet for training, once: the two ILSVRC2012 tars become array_record files.
#   ./scripts/prepare_imagenet.sh --tars DIR --out DIR
# Any other TFDS data set:
#   ./scripts/prepare_imagenet.sh --name cifar10 --out DIR
# Run again after an interruption; a prepared data set is left as it is.
# Relative paths count from the repository.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
if ! python -c 'import importlib.util, sys; sys.exit(not importlib.util.find_spec("tensorflow"))'; then
  echo 'Installing TensorFlow, which only this step needs (a minute or two).' >&2
  python -m pip install --quiet --disable-pip-version-check --constraint requirements.txt \
    --editable '.[tfds]' >&2
fi
TF_CPP_MIN_LOG_LEVEL=2 exec python scripts/prepare_tfds.py "$@"
