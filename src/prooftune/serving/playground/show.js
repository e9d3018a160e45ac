// Answers as they are shown: labels with bars and numbers, answers with their passages, and what each word does.

import { make, percent, count } from "./api.js";

const MOST_BARS = 12;

export function showLabel(place, result, threshold) {
  const parts = [];
  if (!result.label) {
    parts.push(make("p", { class: "verdict none" }, "no label"),
      make("p", { class: "more" }, "The text that the model wrote names none of the labels."));
  } else {
    parts.push(make("p", { class: "verdict" }, result.label));
  }
  if (result.abstained) {
    parts.push(make("p", { class: "note" }, make("b", {}, "Abstains. "),
      `Its probability, ${percent(result.probability)}, is below the threshold of ${percent(threshold)}: better ask a person.`));
  }
  const ranked = Object.entries(result.probabilities).sort((a, b) => b[1] - a[1]);
  if (ranked.length) parts.push(bars(ranked.slice(0, MOST_BARS), result.label, result.abstained === null ? null : threshold));
  if (ranked.length && result.abstained === false) {
    parts.push(make("p", { class: "more" }, `The mark on the bar is the threshold, ${percent(threshold)}: below it, the bundle abstains.`));
  }
  if (ranked.length > MOST_BARS) {
    const rest = ranked.slice(MOST_BARS).reduce((sum, [, share]) => sum + share, 0);
    parts.push(make("p", { class: "more" }, `${count(ranked.length - MOST_BARS)} more labels, ${percent(rest)} together`));
  }
  if (!ranked.length && result.label) parts.push(make("p", { class: "more" }, "Generated, so without probabilities."));
  place.replaceChildren(...parts, ...cut(result.truncated_tokens));
}

function bars(ranked, label, threshold) {
  return make("ul", { class: "bars" }, ...ranked.map(([name, share]) => {
    const fill = make("span", { class: "fill" });
    fill.style.width = `${100 * share}%`;
    const track = make("span", { class: "track", "aria-hidden": "true" }, fill);
    if (threshold !== null && name === label) {
      const limit = make("span", { class: "limit" });
      limit.style.left = `${100 * threshold}%`;
      track.append(limit);
    }
    return make("li", {}, make("span", { class: name === label ? "name chosen" : "name" }, name),
      make("span", { class: "share" }, percent(share)), track);
  }));
}

function cut(tokens) {
  return tokens ? [make("p", { class: "more" }, `${count(tokens)} tokens did not fit and were not read.`)] : [];
}

export function showAnswer(place, result, retrieves) {
  const parts = [result.answer ? make("p", { class: "verdict long" }, result.answer)
    : make("p", { class: "verdict none" }, "no answer")];
  if (result.unknown_citations) {
    parts.push(make("p", { class: "note" }, make("b", {}, "Careful. "),
      `It cites ${count(result.unknown_citations)} passage${result.unknown_citations > 1 ? "s" : ""} that it was not shown.`));
  }
  if (retrieves) {
    const cited = result.sources.map((passage) => passage.number).join(", ");
    parts.push(make("p", { class: "more" }, cited ? `Cites passage ${cited}.` : "Cites no passage."));
    const shown = result.retrieved.map((passage) => make("li", { class: passage.cited ? "cited" : null },
      make("p", { class: "place" }, make("b", {}, `${passage.number}`), ` · ${[passage.document,
        passage.page && `page ${passage.page}`, passage.section].filter(Boolean).join(" · ")}`,
      passage.cited ? make("span", { class: "is-cited" }, " · cited") : null),
      make("p", { class: "text", tabindex: "0" }, ...marked(passage.text, result.answer))));
    parts.push(make("details", { open: result.sources.length > 0 },
      make("summary", {}, found(result.retrieved.length)), make("ol", { class: "passages" }, ...shown)));
  }
  place.replaceChildren(...parts, ...cut(result.truncated_tokens));
}

const found = (number) => (number === 1 ? "1 passage was found" : `${count(number)} passages were found`);

// The text with the answer marked where it stands in it word for word.
function marked(text, answer) {
  const wanted = answer.trim().replace(/[.!?]$/, "").toLowerCase();
  const lower = text.toLowerCase();
  // Some letters change their length in lower case; then places would not agree.
  if (wanted.length < 3 || lower.length !== text.length) return [text];
  const parts = [];
  let from = 0;
  for (let at = lower.indexOf(wanted); at >= 0; at = lower.indexOf(wanted, from)) {
    parts.push(text.slice(from, at), make("mark", {}, text.slice(at, at + wanted.length)));
    from = at + wanted.length;
  }
  return [...parts, text.slice(from)];
}

export function showWords(text, table, hint, words, label) {
  const strongest = Math.max(...words.map((word) => Math.abs(word.change)), 1e-9);
  const fields = [...new Set(words.map((word) => word.field))];
  text.replaceChildren(...fields.flatMap((field) => [
    ...(fields.length > 1 ? [make("h3", {}, field)] : []),
    make("p", {}, ...words.filter((word) => word.field === field).flatMap((word) => piece(word, strongest)))]));
  const runs = words.some((word) => /\S\s+\S/.test(word.text));
  hint.textContent = `How much the log-probability of “${label}” falls when a ${runs ? "run of words" : "word"} is left out, `
    + "each asked anew (leave-one-out). It says what happens without this word alone; words that only count together show little. "
    + `The strongest here changes it by ${strongest.toFixed(2)} nats.`;
  const ranked = [...words].sort((a, b) => Math.abs(b.change) - Math.abs(a.change));
  table.replaceChildren(
    make("caption", {}, `Change of the log-probability of “${label}”, in nats; above 0: the word spoke for it`),
    make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "left out"), make("th", { scope: "col", class: "num" }, "change"))),
    make("tbody", {}, ...ranked.map((word) => make("tr", {}, make("th", { scope: "row" }, word.text.trim()),
      make("td", { class: "num" }, signed(word.change))))));
}

function piece(word, strongest) {
  const strength = Math.abs(word.change) / strongest;
  const [, before, inner, after] = word.text.match(/^(\s*)([\s\S]*?)(\s*)$/);
  if (strength < 0.1) return [word.text];
  const element = make("span", { class: `word ${word.change > 0 ? "for" : "against"}`, title: `${signed(word.change)} nats` }, inner);
  element.style.setProperty("--tint", (0.15 + 0.85 * strength).toFixed(2));
  return [before, element, after];
}

const signed = (value) => `${value > 0 ? "+" : value < 0 ? "−" : ""}${Math.abs(value).toFixed(2)}`;
