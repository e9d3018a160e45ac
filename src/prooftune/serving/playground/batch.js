// A whole file: its columns are matched, its rows asked in parts, and the answers written beside them.

import { call, count, make, Problem } from "./api.js";
import { BadCsv, delimiterOf, rowsOf, written } from "./csv.js";

const ROWS = 32;
const TRIES = 20;
const get = (id) => document.getElementById(id);

let model = null, chosen = null, stopping = null, url = null;

export function useModel(card) {
  model = card;
  reset();
  get("file").value = "";
  chosen = null;
  get("columns").replaceChildren();
  get("start").disabled = true;
}

function reset() {
  get("batch-status").textContent = get("batch-problem").textContent = "";
  get("running").hidden = get("download").hidden = true;
  if (url) URL.revokeObjectURL(url);
  url = null;
}

export function connect() {
  get("file").addEventListener("change", () => look().catch(tell));
  get("batch-form").addEventListener("submit", (event) => {
    event.preventDefault();
    run().catch(tell);
  });
  get("cancel").addEventListener("click", () => stopping?.abort());
}

function tell(error) {
  get("batch-problem").textContent = error.message;
}

async function look() {
  reset();
  chosen = null;
  get("start").disabled = true;
  get("columns").replaceChildren();
  const file = get("file").files[0];
  if (!file) return;
  const delimiter = delimiterOf(await file.slice(0, 65536).text());
  const { value } = await rowsOf(file, delimiter).next();
  if (!value) throw new BadCsv("The file is empty.");
  const header = value.cells.map((name) => name.trim());
  chosen = { file, delimiter, header, selects: {} };
  for (const field of model.prooftune.fields) get("columns").append(matched(field, header));
  get("start").disabled = false;
}

function matched(field, header) {
  const wanted = [field, ...(model.prooftune.fields.length === 1 ? ["text", "question"] : [])].map((name) => name.toLowerCase());
  const names = header.map((name) => name.toLowerCase());
  const found = wanted.map((name) => names.indexOf(name)).find((place) => place >= 0) ?? 0;
  const select = make("select", { id: `column-${field}` },
    ...header.map((name, place) => make("option", { value: place, selected: place === found }, name || `column ${place + 1}`)));
  chosen.selects[field] = select;
  return make("div", {}, make("label", { for: `column-${field}` }, `Column with the ${field}`), select);
}

function added() {
  const about = model.prooftune;
  if (about.task !== "classification") return ["answer", "sources", "truncated_tokens"];
  const shares = about.probabilities ? about.labels.map((label) => `probability_${label}`) : [];
  return ["label", "probability", ...shares, ...(about.threshold === null ? [] : ["abstained"]), "truncated_tokens"];
}

// What they are called behind the columns of a file, which may have some of them: labels that people gave.
function headings(header) {
  const names = added().map((name) => (header.includes(name) ? `predicted_${name}` : name));
  const taken = names.filter((name) => header.includes(name));
  if (taken.length) throw new BadCsv(`The file has a column ${taken.join(", ")} already, where the answer would be written.`);
  return names;
}

function cells(result) {
  const about = model.prooftune;
  if (about.task !== "classification") return [result.answer, JSON.stringify(result.sources), result.truncated_tokens];
  const shares = about.probabilities ? about.labels.map((label) => result.probabilities[label]) : [];
  return [result.label, result.probability, ...shares, ...(about.threshold === null ? [] : [result.abstained]),
    result.truncated_tokens];
}

async function run() {
  reset();
  const { file, delimiter, header, selects } = chosen;
  const names = headings(header);
  const places = Object.fromEntries(Object.entries(selects).map(([field, select]) => [field, Number(select.value)]));
  stopping = new AbortController();
  busy(true);
  const parts = [], progress = get("progress");
  let done = 0, read = 0, first = true, waiting = [];
  // Parts are kept as blobs, which the browser may put on disk.
  const flush = async () => {
    if (!waiting.length) return;
    const results = await asked(waiting.map((row) => Object.fromEntries(
      Object.entries(places).map(([field, place]) => [field, row[place]]))));
    parts.push(new Blob(waiting.map((row, i) => written([...row, ...cells(results[i])], delimiter))));
    done += waiting.length;
    waiting = [];
    progress.value = read / Math.max(1, file.size);
    get("progress-label").textContent = `Progress: ${count(done)} rows`;
  };
  try {
    for await (const { cells: row, line } of rowsOf(file, delimiter, (bytes) => { read = bytes; })) {
      if (first) {
        parts.push(new Blob([written([...row, ...names], delimiter)]));
        first = false;
        continue;
      }
      if (row.length !== header.length) {
        throw new BadCsv(`Line ${line}: ${count(row.length)} cells where the header has ${count(header.length)}.`);
      }
      waiting.push(row);
      if (waiting.length >= ROWS) await flush();
    }
    await flush();
    progress.value = 1;
    get("batch-status").textContent = `${count(done)} row${done === 1 ? "" : "s"} done.`;
    offer(parts, file.name, "");
  } catch (error) {
    if (done) offer(parts, file.name, `the first ${count(done)} rows`);
    if (error.name !== "AbortError") throw error;
    get("batch-status").textContent = `Stopped after ${count(done)} rows.`;
  } finally {
    busy(false);
  }
}

// The answers to a part; where the server is full, it says when to come again.
async function asked(rows) {
  const labels = model.prooftune.task === "classification";
  for (let attempt = 1; ; attempt++) {
    try {
      const body = { model: model.id, [labels ? "texts" : "questions"]: rows };
      return (await call(labels ? "v1/classify" : "v1/answer", body, stopping.signal)).results;
    } catch (error) {
      if (!(error instanceof Problem) || ![429, 503].includes(error.status) || attempt === TRIES) throw error;
      get("batch-status").textContent = "The server is busy; waiting…";
      await new Promise((wake) => setTimeout(wake, 1000 * (error.retryAfter ?? 1)));
      get("batch-status").textContent = "";
      stopping.signal.throwIfAborted();
    }
  }
}

function offer(parts, name, what) {
  const link = get("download");
  url = URL.createObjectURL(new Blob(parts, { type: "text/csv;charset=utf-8" }));
  link.href = url;
  link.download = name.replace(/(\.[^.]*)?$/, (ending) => `-answers${ending || ".csv"}`);
  link.textContent = what ? `Download ${what}` : "Download the result";
  link.hidden = false;
}

function busy(is) {
  get("running").hidden = !is && get("progress").value < 1;
  get("cancel").hidden = !is;
  get("start").disabled = is;
  get("file").disabled = is;
  if (is) {
    get("progress").value = 0;
    get("progress-label").textContent = "Progress";
  }
}
