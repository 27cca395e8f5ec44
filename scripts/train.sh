#!/usr/bin/env bash
# Trains the embedded default (configs/digits.py), or what the arguments say: they are passed on.
#   ./scripts/train.sh --config=configs/image_folder.py --config.data.dir=DIR --workdir=runs/mine
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
exec python -m experiments.train "$@"
