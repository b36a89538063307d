#!/bin/sh
# Appendix F: experiments/mixing/run.sh [DATA]
#
# In the environment, besides that of ../common.sh: METHOD, SPARSITY.
. "$(dirname "$0")/../common.sh"
runs mixing method="${METHOD:-wanda}" method.sparsity="${SPARSITY:-0.6}" evaluator.choice.limit="$items" controls='[]'
mask=$(last mixing)/persona.safetensors
[ ! -e "$mask" ] || runs saved_mask method.path="$mask" persona="$(full introvert,thinker,intuitive,judger introvert,thinker,judger)" \
    control_seeds=1 evaluator.choice.limit="$items"
publish
