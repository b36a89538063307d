#!/bin/sh
# Table 7: experiments/causal_probe/run.sh [DATA]
#
# In the environment, besides that of ../common.sh: BY (module; linear as in the paper, 210 on the embedded model; layer), PROBE
# (items of each trait).
. "$(dirname "$0")/../common.sh"
runs causal_probe persona=infp evaluator.choice.limit="$(full 12 2)" controls='[random]' control_seeds=1
mask=$(ls -td "$out"/causal_probe/*/persona.safetensors 2>/dev/null | head -n 1)
run=$(dirname "${mask:-none}") by=${BY:-module} limit=${PROBE:-$(full 12 2)}
probe=$out/causal_probe/probe-$(basename "$run")-$by-$limit
[ -z "$mask" ] || [ "$probe/analysis.json" -nt "$mask" ] || python -m persona_prune.analyse INFP="$run" --by "$by" --limit "$limit" \
    --figure margin_introvert margin_intuitive margin_feeler margin_perceiver --output "$probe" || failed=1
publish
