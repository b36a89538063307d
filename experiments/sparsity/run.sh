#!/bin/sh
# Figures 3 and 4: experiments/sparsity/run.sh [DATA]
. "$(dirname "$0")/../common.sh"
runs sparsity persona="$poles" method="$(full wanda,sparse wanda)" method.sparsity="$(full 0.2,0.4,0.6,0.8 0.4,0.6)" \
    evaluator.choice.limit="$items"
publish
