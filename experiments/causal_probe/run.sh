#!/bin/sh
# Table 7: experiments/causal_probe/run.sh [DATA]
#
# In the environment, besides that of ../common.sh: BY (module; linear as in the paper, 210 on the embedded model; layer), PROBE
# (items of each trait; ITEMS of common.sh if not given).
. "$(dirname "$0")/../common.sh"
probed=${PROBE:-$(full "$items" 2)}
runs causal_probe persona=infp evaluator.choice.limit="$probed" controls='[random]' control_seeds=1
run=$(last causal_probe)
mask=$run/persona.safetensors by=${BY:-module} limit=$probed
probe=$out/causal_probe/probe-$(basename "$run")-$by-$limit
# By its time, the table finds the probe that was last asked for.
[ ! "$probe/analysis.json" -nt "$mask" ] || touch "$probe/analysis.json"
[ ! -e "$mask" ] || [ "$probe/analysis.json" -nt "$mask" ] || python -m persona_prune.analyse INFP="$run" --by "$by" --limit "$limit" \
    --figure margin_introvert margin_intuitive margin_feeler margin_perceiver --output "$probe" || failed=1
publish
