// Rendering of results: label probabilities, answers with their passages, and word attributions.

import { make, percent, count } from "./api.js";

const MAX_BARS = 12;

export function showLabel(container, result, threshold, labelThreshold) {
  const parts = [];
  if (!result.label) {
    parts.push(make("p", { class: "verdict none" }, "no label"),
      make("p", { class: "more" }, "The generated text names none of the labels."));
  } else {
    parts.push(make("p", { class: "verdict" }, result.labels ? result.labels.join(", ") || "no label" : result.label));
  }
  if (result.abstained) {
    parts.push(make("p", { class: "note" }, make("b", {}, "Abstains. "),
      `Its probability, ${percent(result.probability)}, is below the threshold of ${percent(threshold)}: send this text to a person.`));
  }
  const ranked = Object.entries(result.probabilities).sort((a, b) => b[1] - a[1]);
  if (ranked.length) parts.push(bars(ranked.slice(0, MAX_BARS), result.labels ?? [result.label], result.abstained === null ? null : threshold));
  if (ranked.length && result.abstained === false) {
    parts.push(make("p", { class: "more" }, `The line on the bar is the threshold, ${percent(threshold)}: below it, the bundle abstains.`));
  }
  if (result.labels) {
    parts.push(make("p", { class: "more" }, `Every label has a separate probability, and is given from ${percent(labelThreshold)} on.`));
  }
  if (ranked.length > MAX_BARS && result.labels) {
    parts.push(make("p", { class: "more" }, `${count(ranked.length - MAX_BARS)} more labels, less probable`));
  } else if (ranked.length > MAX_BARS) {
    const rest = ranked.slice(MAX_BARS).reduce((sum, [, probability]) => sum + probability, 0);
    parts.push(make("p", { class: "more" }, `${count(ranked.length - MAX_BARS)} more labels, ${percent(rest)} in total`));
  }
  if (!ranked.length && result.label) parts.push(make("p", { class: "more" }, "The label was generated, so it has no probability."));
  container.replaceChildren(...parts, ...truncationNote(result.truncated_tokens));
}

function bars(ranked, chosen, threshold) {
  return make("ul", { class: "bars" }, ...ranked.map(([name, probability]) => {
    const fill = make("span", { class: "fill" });
    fill.style.width = `${100 * probability}%`;
    const track = make("span", { class: "track", "aria-hidden": "true" }, fill);
    if (threshold !== null && chosen.includes(name)) {
      const limit = make("span", { class: "limit" });
      limit.style.left = `${100 * threshold}%`;
      track.append(limit);
    }
    return make("li", {}, make("span", { class: chosen.includes(name) ? "name chosen" : "name" }, name),
      make("span", { class: "share" }, percent(probability)), track);
  }));
}

function truncationNote(tokens) {
  return tokens ? [make("p", { class: "more" }, `${count(tokens)} tokens were cut off because the text is too long.`)] : [];
}

export function showAnswer(container, result, retrieves) {
  const parts = [result.answer ? make("p", { class: "verdict long" }, result.answer)
    : make("p", { class: "verdict none" }, "no answer")];
  if (result.unknown_citations) {
    parts.push(make("p", { class: "note" }, make("b", {}, "Warning. "),
      `The answer cites ${count(result.unknown_citations)} passage${result.unknown_citations > 1 ? "s" : ""} that it was not shown.`));
  }
  if (retrieves) {
    const cited = result.sources.map((passage) => passage.number).join(", ");
    parts.push(make("p", { class: "more" }, cited ? `Cites passage ${cited}.` : "Cites no passage."));
    const shown = result.retrieved.map((passage) => make("li", { class: passage.cited ? "cited" : null },
      make("p", { class: "source" }, make("b", {}, `${passage.number}`), ` · ${[passage.document,
        passage.page && `page ${passage.page}`, passage.section].filter(Boolean).join(" · ")}`,
      passage.cited ? make("span", { class: "is-cited" }, " · cited") : null),
      make("p", { class: "text", tabindex: "0" }, ...highlight(passage.text, result.answer))));
    parts.push(make("details", { open: result.sources.length > 0 },
      make("summary", {}, passageCount(result.retrieved.length)), make("ol", { class: "passages" }, ...shown)));
  }
  container.replaceChildren(...parts, ...truncationNote(result.truncated_tokens));
}

const passageCount = (number) => (number === 1 ? "1 retrieved passage" : `${count(number)} retrieved passages`);

// Highlights verbatim occurrences of the answer in the text.
function highlight(text, answer) {
  const needle = answer.trim().replace(/[.!?]$/, "").toLowerCase();
  const lower = text.toLowerCase();
  // Lower-casing changes the length of some letters; offsets would then be wrong.
  if (needle.length < 3 || lower.length !== text.length) return [text];
  const parts = [];
  let from = 0;
  for (let at = lower.indexOf(needle); at >= 0; at = lower.indexOf(needle, from)) {
    parts.push(text.slice(from, at), make("mark", {}, text.slice(at, at + needle.length)));
    from = at + needle.length;
  }
  return [...parts, text.slice(from)];
}

export function showWords(text, table, hint, words, label) {
  const strongest = Math.max(...words.map((word) => Math.abs(word.change)), 1e-9);
  const fields = [...new Set(words.map((word) => word.field))];
  text.replaceChildren(...fields.flatMap((field) => [
    ...(fields.length > 1 ? [make("h3", {}, field)] : []),
    make("p", {}, ...words.filter((word) => word.field === field).flatMap((word) => segment(word, strongest)))]));
  const grouped = words.some((word) => /\S\s+\S/.test(word.text));
  hint.textContent = `Decrease of the log-probability of “${label}” when a ${grouped ? "group of words" : "word"} is left out `
    + "(leave-one-out attribution). Words that matter only in combination have small values. "
    + `The largest change here is ${strongest.toFixed(2)} nats.`;
  const ranked = [...words].sort((a, b) => Math.abs(b.change) - Math.abs(a.change));
  table.replaceChildren(
    make("caption", {}, `Change of the log-probability of “${label}”, in nats; positive: the word supports the label`),
    make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "left out"), make("th", { scope: "col", class: "num" }, "change"))),
    make("tbody", {}, ...ranked.map((word) => make("tr", {}, make("th", { scope: "row" }, word.text.trim()),
      make("td", { class: "num" }, signed(word.change))))));
}

function segment(word, strongest) {
  const strength = Math.abs(word.change) / strongest;
  const [, before, inner, after] = word.text.match(/^(\s*)([\s\S]*?)(\s*)$/);
  if (strength < 0.1) return [word.text];
  const element = make("span", { class: `word ${word.change > 0 ? "for" : "against"}`, title: `${signed(word.change)} nats` }, inner);
  element.style.setProperty("--tint", (0.15 + 0.85 * strength).toFixed(2));
  return [before, element, after];
}

const signed = (value) => `${value > 0 ? "+" : value < 0 ? "−" : ""}${Math.abs(value).toFixed(2)}`;
