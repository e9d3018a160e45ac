// The playground: compares the tuned and the untuned model on a text or question.

import { call, givesLabels, make, Problem, useKey } from "./api.js";
import { connect, useModel } from "./batch.js";
import { showAnswer, showLabel, showWords } from "./show.js";

const get = (id) => document.getElementById(id);
const LABELS = { text: "Text", question: "Question", context: "Context" };
let cards = [], controller = null;

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
  showModel();
}

const selectedModel = () => cards.find((card) => card.id === get("model").value);

function showModel() {
  const card = selectedModel(), info = card.prooftune, labels = givesLabels(info);
  document.title = `${card.id}: Prooftune playground`;
  get("title").textContent = `Try ${card.id}`;
  get("about").textContent = labels ? `Labels a text as ${joinLabels(info.labels)}${info.task === "multilabel" ? ", or several of them" : ""}.`
    : `Answers a question${info.retrieves ? ", with passages of its documents" : info.fields.includes("context") ? " from a text" : ""}.`;
  get("about").append(` Tuned from ${info.base}.`);
  get("fields").replaceChildren(...info.fields.map((field) => make("div", {},
    make("label", { for: `field-${field}` }, LABELS[field] ?? field),
    make("textarea", { id: `field-${field}`, rows: 3, dir: "auto", class: field === "question" ? "short" : null }))));
  get("results").hidden = get("words").hidden = true;
  get("status").textContent = get("problem").textContent = "";
  useModel(card);
}

function joinLabels(labels) {
  const shown = labels.slice(0, 6);
  const rest = labels.length - shown.length;
  if (rest > 0) return `${shown.join(", ")} or ${rest === 1 ? "another label" : `one of ${rest} more labels`}`;
  return shown.length > 1 ? `${shown.slice(0, -1).join(", ")} or ${shown.at(-1)}` : shown.join("");
}

async function ask() {
  const card = selectedModel(), info = card.prooftune, labels = givesLabels(info);
  const inputs = Object.fromEntries(info.fields.map((field) => [field, get(`field-${field}`).value]));
  const empty = info.fields.find((field) => !inputs[field].trim());
  get("problem").textContent = "";
  if (empty) {
    get("problem").textContent = `Enter text in “${LABELS[empty] ?? empty}” first.`;
    get(`field-${empty}`).focus();
    return;
  }
  controller?.abort();
  const ownController = controller = new AbortController();
  setBusy(true);
  const started = performance.now();
  const body = (id) => (labels ? { model: id, texts: [inputs] } : { model: id, questions: [inputs] });
  const path = labels ? "v1/classify" : "v1/answer";
  try {
    // Both models are called concurrently; attributions are slow, so they follow the results.
    const [tuned, base] = await Promise.all([call(path, body(card.id), ownController.signal),
      info.base_id ? call(path, body(info.base_id), ownController.signal) : null]);
    show(get("tuned"), tuned, info);
    if (base) show(get("base"), base, info);
    else get("base").querySelector(".output").replaceChildren(make("p", { class: "more" }, `No result: ${info.no_base}.`));
    get("results").hidden = false;
    const seconds = ((performance.now() - started) / 1000).toFixed(1);
    get("status").textContent = `Answered in ${seconds} s. ${summary(tuned, base)}`;
    get("words").hidden = true;
    // Words explain the one label of a text.
    if (info.task === "classification" && info.probabilities) {
      const { words, results: [first] } = await call(path, { ...body(card.id), explain: true }, ownController.signal);
      if (words.length > 1) {
        showWords(get("words-text"), get("words-table"), get("words-hint"), words, first.label);
        get("words").hidden = false;
      }
    }
  } catch (error) {
    if (error.name !== "AbortError") get("problem").textContent = error.message;
    else if (ownController === controller) get("status").textContent = "Stopped.";
    if (!(error instanceof Problem) && error.name !== "AbortError") throw error;
  } finally {
    if (ownController === controller) setBusy(false);
  }
}

function show(side, response, info) {
  const container = side.querySelector(".output");
  if (givesLabels(info)) showLabel(container, response.results[0], response.threshold, response.label_threshold);
  else showAnswer(container, response.results[0], info.retrieves);
}

// A short summary for screen readers (aria-live).
function summary(tuned, base) {
  const describe = (response) => {
    const result = response.results[0];
    const text = (result.label ?? result.answer.slice(0, 200)) || "none";
    return /[.!?…]$/.test(text) ? text : `${text}.`;
  };
  return `Tuned: ${describe(tuned)}${base ? ` Base: ${describe(base)}` : ""}`;
}

function setBusy(isBusy) {
  get("send").disabled = isBusy;
  get("stop").hidden = !isBusy;
  get("results").setAttribute("aria-busy", String(isBusy));
  if (isBusy) get("status").textContent = "Running…";
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
get("stop").addEventListener("click", () => controller?.abort());
get("model").addEventListener("change", showModel);
get("locked").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(get("key").value.trim());
  start();
});
connect();
start();
