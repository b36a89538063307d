#!/bin/sh
# Table 12: experiments/layer_aware/run.sh [DATA]; the uniform masks are those of ../sparsity.
. "$(dirname "$0")/../common.sh"
runs sparsity persona="$poles" method=wanda method.sparsity=0.4,0.6 evaluator.choice.limit="$items"
runs layer_aware persona="$poles" evaluator.choice.limit="$items"
publish
