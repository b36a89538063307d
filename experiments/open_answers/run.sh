#!/bin/sh
# Tables 9, 16 and 17: experiments/open_answers/run.sh [DATA]
#
# In the environment, besides that of ../common.sh: PERSONAS, METHODS, PROMPTS (how many).
. "$(dirname "$0")/../common.sh"
runs open_answers persona="${PERSONAS:-$(full power_seeking,extrovert,dr_watson dr_watson)}" \
    method="${METHODS:-$(full prompt,wanda,sparse,contrastive_wanda,contrastive_sparse prompt,wanda)}" \
    evaluator.speech.limit="${PROMPTS:-$(full 6 3)}" evaluator.speech.samples="$(full 1 0)" \
    evaluator.speech.max_new_tokens="$(full 48 24)"
publish
