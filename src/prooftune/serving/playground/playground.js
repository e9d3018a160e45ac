// The playground: one text or question, the tuned and the untuned model side by side.

import { call, make, Problem, useKey } from "./api.js";
import { connect, useModel } from "./batch.js";
import { showAnswer, showLabel, showWords } from "./show.js";

const get = (id) => document.getElementById(id);
const LABELS = { text: "Text", question: "Question", context: "Context" };
let cards = [], stopping = null;

async function start() {
  get("problem").textContent = "";
  try {
    cards = (await call("v1/models")).data;
  } catch (error) {
    get("about").textContent = "";
    get("locked").hidden = error.status !== 401;
    if (error.status !== 401 || get("key").value) get("problem").textContent = error.message;
    return;
  }
  get("locked").hidden = true;
  const tuned = cards.filter((card) => card.prooftune.tuned);
  get("model").replaceChildren(...tuned.map((card) => make("option", {}, card.id)));
  get("choice").hidden = tuned.length < 2;
  get("ask").hidden = get("batch").hidden = false;
  use();
}

const chosen = () => cards.find((card) => card.id === get("model").value);

function use() {
  const card = chosen(), about = card.prooftune, labels = about.task === "classification";
  document.title = `${card.id}: Prooftune playground`;
  get("title").textContent = `Try ${card.id}`;
  get("about").textContent = labels ? `Labels a text as ${listed(about.labels)}.`
    : `Answers a question${about.retrieves ? ", with passages of its documents" : about.fields.includes("context") ? " from a text" : ""}.`;
  get("about").append(` Tuned from ${about.base}.`);
  get("fields").replaceChildren(...about.fields.map((field) => make("div", {},
    make("label", { for: `field-${field}` }, LABELS[field] ?? field),
    make("textarea", { id: `field-${field}`, rows: 3, dir: "auto", class: field === "question" ? "short" : null }))));
  get("results").hidden = get("words").hidden = true;
  get("status").textContent = get("problem").textContent = "";
  useModel(card);
}

function listed(labels) {
  const few = labels.slice(0, 6);
  const rest = labels.length - few.length;
  if (rest > 0) return `${few.join(", ")} or ${rest === 1 ? "another label" : `one of ${rest} more labels`}`;
  return few.length > 1 ? `${few.slice(0, -1).join(", ")} or ${few.at(-1)}` : few.join("");
}

async function ask() {
  const card = chosen(), about = card.prooftune, labels = about.task === "classification";
  const inputs = Object.fromEntries(about.fields.map((field) => [field, get(`field-${field}`).value]));
  const empty = about.fields.find((field) => !inputs[field].trim());
  get("problem").textContent = "";
  if (empty) {
    get("problem").textContent = `Write something into “${LABELS[empty] ?? empty}” first.`;
    get(`field-${empty}`).focus();
    return;
  }
  stopping?.abort();
  const mine = stopping = new AbortController();
  busy(true);
  const started = performance.now();
  const body = (id) => (labels ? { model: id, texts: [inputs] } : { model: id, questions: [inputs] });
  const path = labels ? "v1/classify" : "v1/answer";
  try {
    // Both are asked at once; what the words do is asked when the answer is there.
    const [tuned, base] = await Promise.all([call(path, body(card.id), mine.signal),
      about.base_id ? call(path, body(about.base_id), mine.signal) : null]);
    show(get("tuned"), tuned, about);
    if (base) show(get("base"), base, about);
    else get("base").querySelector(".said").replaceChildren(make("p", { class: "more" }, `No answer to show: ${about.no_base}.`));
    get("results").hidden = false;
    const seconds = ((performance.now() - started) / 1000).toFixed(1);
    get("status").textContent = `Answered in ${seconds} s. ${summary(tuned, base)}`;
    get("words").hidden = true;
    if (labels && about.probabilities) {
      const { words, results: [first] } = await call(path, { ...body(card.id), explain: true }, mine.signal);
      if (words.length > 1) {
        showWords(get("words-text"), get("words-table"), get("words-hint"), words, first.label);
        get("words").hidden = false;
      }
    }
  } catch (error) {
    if (error.name !== "AbortError") get("problem").textContent = error.message;
    else if (mine === stopping) get("status").textContent = "Stopped.";
    if (!(error instanceof Problem) && error.name !== "AbortError") throw error;
  } finally {
    if (mine === stopping) busy(false);
  }
}

function show(side, reply, about) {
  const place = side.querySelector(".said");
  if (about.task === "classification") showLabel(place, reply.results[0], reply.threshold);
  else showAnswer(place, reply.results[0], about.retrieves);
}

// What a screen reader says, without reading all of the page.
function summary(tuned, base) {
  const said = (reply) => {
    const result = reply.results[0];
    const text = (result.label ?? result.answer.slice(0, 200)) || "none";
    return /[.!?…]$/.test(text) ? text : `${text}.`;
  };
  return `Tuned: ${said(tuned)}${base ? ` Base: ${said(base)}` : ""}`;
}

function busy(is) {
  get("send").disabled = is;
  get("stop").hidden = !is;
  get("results").setAttribute("aria-busy", String(is));
  if (is) get("status").textContent = "Asking…";
}

get("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
get("ask").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !get("send").disabled) {
    event.preventDefault();
    ask();
  }
});
get("stop").addEventListener("click", () => stopping?.abort());
get("model").addEventListener("change", use);
get("locked").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(get("key").value.trim());
  start();
});
connect();
start();
