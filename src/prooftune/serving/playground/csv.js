// Streaming CSV (RFC 4180): a file of any size is parsed in chunks, so memory use is bounded.

export class CsvError extends Error {}

// Returns a function that takes chunks of text and returns completed rows; null ends the input.
export function parser(delimiter) {
  let row = [], cell = "", quoted = false, closed = false, pending = "", line = 1, started = 1;
  return (chunk) => {
    const rows = [];
    const text = pending + (chunk ?? "");
    pending = "";
    const endRow = () => {
      // Skip blank lines.
      if (row.length || cell !== "" || closed) rows.push({ cells: [...row, cell], line: started });
      row = []; cell = ""; closed = false;
    };
    for (let i = 0; i < text.length; i++) {
      const c = text[i];
      if ((c === "\r" || (c === '"' && quoted)) && i + 1 === text.length && chunk !== null) {
        pending = c; // the next character decides
        break;
      }
      if (c === "\n" || (c === "\r" && text[i + 1] !== "\n")) line++;
      if (quoted) {
        if (c !== '"') cell += c;
        else if (text[i + 1] === '"') { cell += '"'; i++; }
        else { quoted = false; closed = true; }
      } else if (c === '"' && cell === "" && !closed) quoted = true;
      else if (c === delimiter) { row.push(cell); cell = ""; closed = false; }
      else if (c === "\n" || c === "\r") {
        if (c === "\r" && text[i + 1] === "\n") { i++; line++; }
        endRow();
        started = line;
      } else cell += c;
    }
    if (chunk === null) {
      if (quoted) throw new CsvError(`The quote that opens in the row at line ${started} is never closed.`);
      endRow();
    }
    return rows;
  };
}

export function formatRow(cells, delimiter) {
  const quote = (cell) => {
    const text = cell === null || cell === undefined ? "" : String(cell);
    return /["\r\n]/.test(text) || text.includes(delimiter) || text !== text.trim() ? `"${text.replaceAll('"', '""')}"` : text;
  };
  // Without quotes, a row of one empty cell would be a blank line.
  return (cells.length === 1 && quote(cells[0]) === "" ? '""' : cells.map(quote).join(delimiter)) + "\n";
}

// Returns the delimiter that occurs most often in the header, outside quotes.
export function detectDelimiter(start) {
  const header = start.replace(/"[^"]*"/g, "").split(/[\r\n]/, 1)[0];
  const counts = [",", ";", "\t", "|"].map((d) => [header.split(d).length, d]);
  return counts.reduce((best, candidate) => (candidate[0] > best[0] ? candidate : best))[1];
}

// Yields the rows of a file as {cells, line}; calls `onProgress` with the number of bytes read.
export async function* readRows(file, delimiter, onProgress = () => {}) {
  const parse = parser(delimiter), decoder = new TextDecoder("utf-8", { fatal: true }), reader = file.stream().getReader();
  let read = 0;
  try {
    for (;;) {
      const { done, value } = await reader.read();
      let text;
      try {
        text = done ? decoder.decode() : decoder.decode(value, { stream: true });
      } catch {
        throw new CsvError("The file is not UTF-8 text. Save it as UTF-8.");
      }
      read += value?.length ?? 0;
      if (text) yield* parse(text);
      onProgress(read);
      if (done) break;
    }
    yield* parse(null);
  } finally {
    reader.cancel().catch(() => {});
  }
}
