"""A language model as judge: rubric scores, pairwise preferences, and how far people agree with it.

`judge` scores answers on each criterion, `compare` asks which of two variants' answers is better;
both keep every reply in a cache folder. `summary`, `difference` and `preference_summary` turn what
came back into figures with intervals. A judgement that could not be had or read is no score: it is
counted apart with its reason and excluded.
"""

from prooftune.judge.human import HumanScores, read_human
from prooftune.judge.scoring import compare, judge
from prooftune.judge.summary import difference, preference_summary, summary
from prooftune.judge.types import (
    Complete,
    Item,
    Judgement,
    Judgements,
    Message,
    Preference,
    Preferences,
)

__all__ = [
    "Complete",
    "HumanScores",
    "Item",
    "Judgement",
    "Judgements",
    "Message",
    "Preference",
    "Preferences",
    "compare",
    "difference",
    "judge",
    "preference_summary",
    "read_human",
    "summary",
]
