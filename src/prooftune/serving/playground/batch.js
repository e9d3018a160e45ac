// Batch prediction of a CSV file: map columns to fields, predict in chunks, append the predictions.

import { call, count, givesLabels, make, Problem } from "./api.js";
import { CsvError, detectDelimiter, formatRow, readRows } from "./csv.js";

const CHUNK_ROWS = 32;
const MAX_ATTEMPTS = 20;
const get = (id) => document.getElementById(id);

let model = null, upload = null, controller = null, url = null;

export function useModel(card) {
  model = card;
  reset();
  get("file").value = "";
  upload = null;
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
  get("file").addEventListener("change", () => openFile().catch(showError));
  get("batch-form").addEventListener("submit", (event) => {
    event.preventDefault();
    run().catch(showError);
  });
  get("cancel").addEventListener("click", () => controller?.abort());
}

function showError(error) {
  get("batch-problem").textContent = error.message;
}

async function openFile() {
  reset();
  upload = null;
  get("start").disabled = true;
  get("columns").replaceChildren();
  const file = get("file").files[0];
  if (!file) return;
  const delimiter = detectDelimiter(await file.slice(0, 65536).text());
  const { value } = await readRows(file, delimiter).next();
  if (!value) throw new CsvError("The file is empty.");
  const header = value.cells.map((name) => name.trim());
  upload = { file, delimiter, header, selects: {} };
  for (const field of model.prooftune.fields) get("columns").append(columnSelect(field, header));
  get("start").disabled = false;
}

function columnSelect(field, header) {
  const candidates = [field, ...(model.prooftune.fields.length === 1 ? ["text", "question"] : [])].map((name) => name.toLowerCase());
  const names = header.map((name) => name.toLowerCase());
  const match = candidates.map((name) => names.indexOf(name)).find((index) => index >= 0) ?? 0;
  const select = make("select", { id: `column-${field}` },
    ...header.map((name, index) => make("option", { value: index, selected: index === match }, name || `column ${index + 1}`)));
  upload.selects[field] = select;
  return make("div", {}, make("label", { for: `column-${field}` }, `Column with the ${field}`), select);
}

function outputColumns() {
  const info = model.prooftune;
  if (!givesLabels(info)) return ["answer", "sources", "truncated_tokens"];
  const probabilities = info.probabilities ? info.labels.map((label) => `probability_${label}`) : [];
  if (info.task === "multilabel") return ["labels", ...probabilities, "truncated_tokens"];
  return ["label", "probability", ...probabilities, ...(info.threshold === null ? [] : ["abstained"]), "truncated_tokens"];
}

// Names of the output columns; prefixed where the file has a column of that name, e.g. its labels.
function outputHeader(header) {
  const names = outputColumns().map((name) => (header.includes(name) ? `predicted_${name}` : name));
  const duplicates = names.filter((name) => header.includes(name));
  if (duplicates.length) throw new CsvError(`The file has a column ${duplicates.join(", ")} already, which the output would overwrite.`);
  return names;
}

function outputCells(result) {
  const info = model.prooftune;
  if (!givesLabels(info)) return [result.answer, JSON.stringify(result.sources), result.truncated_tokens];
  const probabilities = info.probabilities ? info.labels.map((label) => result.probabilities[label]) : [];
  if (info.task === "multilabel") return [result.label, ...probabilities, result.truncated_tokens];
  return [result.label, result.probability, ...probabilities, ...(info.threshold === null ? [] : [result.abstained]),
    result.truncated_tokens];
}

async function run() {
  reset();
  const { file, delimiter, header, selects } = upload;
  const names = outputHeader(header);
  const columns = Object.fromEntries(Object.entries(selects).map(([field, select]) => [field, Number(select.value)]));
  controller = new AbortController();
  setBusy(true);
  const parts = [], progress = get("progress");
  let done = 0, read = 0, first = true, chunk = [];
  // Chunks are stored as blobs, which the browser may move from memory to disk.
  const flush = async () => {
    if (!chunk.length) return;
    const results = await predict(chunk.map((row) => Object.fromEntries(
      Object.entries(columns).map(([field, column]) => [field, row[column]]))));
    parts.push(new Blob(chunk.map((row, i) => formatRow([...row, ...outputCells(results[i])], delimiter))));
    done += chunk.length;
    chunk = [];
    progress.value = read / Math.max(1, file.size);
    get("progress-label").textContent = `Progress: ${count(done)} rows`;
  };
  try {
    for await (const { cells: row, line } of readRows(file, delimiter, (bytes) => { read = bytes; })) {
      if (first) {
        parts.push(new Blob([formatRow([...row, ...names], delimiter)]));
        first = false;
        continue;
      }
      if (row.length !== header.length) {
        throw new CsvError(`Line ${line}: ${count(row.length)} cells, but the header has ${count(header.length)}.`);
      }
      chunk.push(row);
      if (chunk.length >= CHUNK_ROWS) await flush();
    }
    await flush();
    progress.value = 1;
    get("batch-status").textContent = `${count(done)} row${done === 1 ? "" : "s"} done.`;
    offerDownload(parts, file.name, "");
  } catch (error) {
    if (done) offerDownload(parts, file.name, `the first ${count(done)} rows`);
    if (error.name !== "AbortError") throw error;
    get("batch-status").textContent = `Stopped after ${count(done)} rows.`;
  } finally {
    setBusy(false);
  }
}

// Predicts a chunk; retries after the server's Retry-After while it is overloaded.
async function predict(rows) {
  const labels = givesLabels(model.prooftune);
  for (let attempt = 1; ; attempt++) {
    try {
      const body = { model: model.id, [labels ? "texts" : "questions"]: rows };
      return (await call(labels ? "v1/classify" : "v1/answer", body, controller.signal)).results;
    } catch (error) {
      if (!(error instanceof Problem) || ![429, 503].includes(error.status) || attempt === MAX_ATTEMPTS) throw error;
      get("batch-status").textContent = "The server is busy; waiting…";
      await new Promise((resolve) => setTimeout(resolve, 1000 * (error.retryAfter ?? 1)));
      get("batch-status").textContent = "";
      controller.signal.throwIfAborted();
    }
  }
}

function offerDownload(parts, name, label) {
  const link = get("download");
  url = URL.createObjectURL(new Blob(parts, { type: "text/csv;charset=utf-8" }));
  link.href = url;
  link.download = name.replace(/(\.[^.]*)?$/, (ending) => `-answers${ending || ".csv"}`);
  link.textContent = label ? `Download ${label}` : "Download the result";
  link.hidden = false;
}

function setBusy(isBusy) {
  get("running").hidden = !isBusy && get("progress").value < 1;
  get("cancel").hidden = !isBusy;
  get("start").disabled = isBusy;
  get("file").disabled = isBusy;
  if (isBusy) {
    get("progress").value = 0;
    get("progress-label").textContent = "Progress";
  }
}
