#!/bin/sh
# Table 5: experiments/role_play/run.sh DATA; DATA/roles/motivation_choices.json is CroSS-MR, in the place of RoleAgentBench.
. "$(dirname "$0")/../common.sh"
needs_data "$@"
limit=evaluator.multiple_choice.limit=$items
runs role_questions persona="$(full sherlock_holmes,dr_watson sherlock_holmes)" method="$(full prompt,rag,wanda,sparse prompt,wanda)" \
    controls='[random,opposite]' control_seeds=1 "$limit"
# The right answers about the people of seventy novels: as close as one gets to a script without the hub. The name of a part is
# SCRIPT/ROLE; with neither it is all of them.
[ -n "${QUICK-}" ] || runs role_play persona=custom persona.name=cross_mr method=wanda,sparse controls='[random,opposite]' control_seeds=1 "$limit" \
    calibration.path="$data/roles/motivation_choices.json" calibration.name="' /'" calibration.on_leak=drop
publish
