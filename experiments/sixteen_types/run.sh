#!/bin/sh
# Figure 2 and Table 15: experiments/sixteen_types/run.sh [DATA]
#
# In the environment, besides that of ../common.sh: TYPES, METHOD, SCALE_ITEMS (statements of each axis, 15 at most).
. "$(dirname "$0")/../common.sh"
all=infp,infj,intp,intj,isfp,isfj,istp,istj,enfp,enfj,entp,entj,esfp,esfj,estp,estj
limit=evaluator.questionnaire.limit=${SCALE_ITEMS:-$(full 6 1)}
# The masks of both sides of an axis are each other's control; one random mask shows what any mask does.
runs sixteen_types persona="${TYPES:-$(full "$all" infp,estj)}" method="${METHOD:-wanda}" method.sparsity=0.6 controls='[]' "$limit"
runs sixteen_types persona=infp method=random method.sparsity=0.6 "$limit"
publish
