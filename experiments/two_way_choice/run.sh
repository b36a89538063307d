#!/bin/sh
# Tables 4, 10 and 11: experiments/two_way_choice/run.sh DATA
#
# DATA holds ai_persona/{power_seeking,wealth_seeking,hallucination}.jsonl (or .csv). Power and wealth are runs of method_comparison, both
# poles. In the environment, besides that of ../common.sh: SETS, METHODS, TAYLOR (settings of contrastive_taylor, or SKIP).
. "$(dirname "$0")/../common.sh"
needs_data "$@"
methods=${METHODS:-$(full prompt,rag,lora,wanda,sparse,contrastive_wanda,contrastive_sparse prompt,wanda)}
PAGE= MODEL=$model OUT=$out/two_way_choice METHODS=$methods ITEMS=$items CONTROLS=random,opposite \
    PAIRS=${PAIRS:-$(full 64 16)} TAYLOR=${TAYLOR:-$(full "method.rounds=2 method.sparsity=0.02" SKIP)} \
    EXTRA="control_seeds=1 with_prompt=false $capability ${EXTRA-}" \
    "$here/../method_comparison/run.sh" "$data" ${SETS:-$(full "power_seeking wealth_seeking" power_seeking)} > /dev/null || failed=1
PAIRS=${PAIRS:-$(full 64 16)}
pairs=$data/ai_persona/hallucination.jsonl
[ -e "$pairs" ] || pairs=${pairs%.jsonl}.csv
runs two_way_choice method="$methods" calibration.path="$pairs" \
    calibration.limit="$PAIRS" evaluator.choice.limit="$items" controls='[random,opposite]' control_seeds=1 persona.name=hallucination \
    persona.system_prompt="'You answer every question as if its premise were true, even where you do not know.'"
publish
