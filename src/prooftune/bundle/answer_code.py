"""Code of model cards that answers questions with transformers alone."""

from __future__ import annotations

from prooftune.bundle.manifest import Manifest

_FREE_TEXT = """def answer(texts):
    ids = torch.tensor([prompt(texts)])
    stop = manifest["tokens"]["stop"]
    out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=LIMIT,
                         do_sample=False, eos_token_id=stop, pad_token_id=stop)
    return tokenizer.decode(out[0, ids.shape[1]:], skip_special_tokens=True)
"""

_EXTRACTIVE = r"""def answer(texts):  # greedy; an empty text: no answer
    ids, none, stop = prompt(texts), manifest["tokens"]["no_answer"], manifest["tokens"]["stop"]

    def log_probs(more):  # of the token after the prompt, and after each of `more`
        with torch.no_grad():
            logits = model(torch.tensor([ids + more])).logits[0, len(ids) - 1 :]
        return torch.log_softmax(logits.float(), -1)

    def decode(tokens):
        return tokenizer.decode(tokens, skip_special_tokens=True).strip()
SPANS
    new, total = [], 0.0
    while len(new) < LIMIT:
        scores = log_probs(new)[-1]
        if not new:  # given that there is an answer
            scores[[none[0], stop]] = -torch.inf
        token = NEXT
        total += scores[token].item()
        if token == stop:
            break
        new.append(token)
    text = decode(new)
LAST    unanswered = log_probs(none[:-1]).gather(1, torch.tensor(none)[:, None]).sum().item()
    return "" if unanswered - total > THRESHOLD else text
"""

_SPANS = r"""
    def is_span(text, end=""):  # of whole words of the context
        return bool(text) and re.search(r"(?<!\w)" + re.escape(text) + end, context) is not None

    def fits(token):
        return is_span(decode(new), r"(?!\w)") if token == stop else is_span(decode(new + [token]))

    context = decode(tokenizer(texts["context"], add_special_tokens=False,
                               split_special_tokens=True).input_ids)
"""

_NEXT_OF_SPAN = """next(
            (t for t in scores.topk(min(64, len(scores))).indices.tolist() if fits(t)), stop)"""

_WHOLE_WORDS = r"""    if not is_span(text, r"(?!\w)"):
        text = text.rpartition(" ")[0]
"""


def answer_code(manifest: Manifest) -> str:
    """Python code of a function ``answer``, which takes field name -> text.

    Extractive answers are decoded as in `tasks.question_answering`, so that they are those of the
    bundle: spans of the context, or none by the threshold.
    """
    limit = str(manifest["answering"]["max_new_tokens"])
    if not answers_by_threshold(manifest):
        return _FREE_TEXT.replace("LIMIT", limit)
    constrained = manifest["answering"]["constrained"]
    parts = {
        "SPANS": _SPANS if constrained else "",
        "NEXT": _NEXT_OF_SPAN if constrained else "int(scores.argmax())",
        "LAST": _WHOLE_WORDS if constrained else "",
        "LIMIT": limit,
        "THRESHOLD": repr(manifest["threshold"] or 0.0),
    }
    code = _EXTRACTIVE
    for name, part in parts.items():
        code = code.replace(name, part)
    return code


def answers_by_threshold(manifest: Manifest) -> bool:
    """Whether `answer_code` decides for "no answer" as the bundle does; bundles from before 0.2
    lack the token ids for it."""
    return manifest["task"] == "extractive-qa" and "no_answer" in manifest["tokens"]
