"""An LLM as judge: rubric scores, pairwise preferences, and agreement with human raters.

`judge` scores answers on each criterion and `compare` asks which of two variants' answers is
better; both cache every reply. `summarize`, `paired_difference` and `summarize_preferences` turn
the judgements into figures with intervals. A failed judgement is never a score: it is excluded
from the means, and counted with its reason.
"""

from prooftune.chat_client.types import Message
from prooftune.judge.human import HumanScores, read_human_scores
from prooftune.judge.scoring import compare, judge
from prooftune.judge.summary import paired_difference, summarize, summarize_preferences
from prooftune.judge.types import (
    CompletionFn,
    JudgeItem,
    Judgement,
    Judgements,
    Preference,
    Preferences,
)

__all__ = [
    "CompletionFn",
    "HumanScores",
    "JudgeItem",
    "Judgement",
    "Judgements",
    "Message",
    "Preference",
    "Preferences",
    "compare",
    "judge",
    "paired_difference",
    "read_human_scores",
    "summarize",
    "summarize_preferences",
]
