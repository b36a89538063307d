#!/bin/sh
# Table 6: experiments/capability/run.sh DATA; DATA/capability/{arc_easy,piqa}.jsonl stand for MMLU and HellaSwag.
#
# In the environment, besides that of ../common.sh: DOCUMENTS (questions of each set), SETS (any FILE.jsonl of DATA/capability).
. "$(dirname "$0")/../common.sh"
needs_data "$@"
for set in ${SETS:-$(full "arc_easy piqa" arc_easy)}; do
    runs capability_local persona=extrovert method="$(full wanda,sparse wanda)" control_seeds=1 \
        "evaluator.lm_eval.metadata={local_questions: $data/capability/$set.jsonl}" evaluator.lm_eval.limit="${DOCUMENTS:-$(full 100 16)}"
done
publish
