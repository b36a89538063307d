#!/bin/sh
# Table 7: experiments/causal_probe/run.sh [DATA]
#
# In the environment, besides that of ../common.sh: BY (module; linear as in the paper, 210 on the embedded model; layer), PROBE
# (items of each trait).
. "$(dirname "$0")/../common.sh"
runs causal_probe persona=infp evaluator.choice.limit="$(full 6 2)" controls='[random]' control_seeds=1
mask=$(ls -td "$out"/causal_probe/*/persona.safetensors 2>/dev/null | head -n 1)
[ -z "$mask" ] || python -m persona_prune.analyse INFP="$(dirname "$mask")" --by "${BY:-module}" --limit "${PROBE:-$(full 6 2)}" \
    --figure margin_introvert margin_intuitive margin_feeler margin_perceiver --output "$out/causal_probe/probe" || failed=1
publish
