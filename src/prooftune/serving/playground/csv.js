// CSV as RFC 4180 has it, read piece by piece, so that a file of any size is never held as a whole.

export class BadCsv extends Error {}

// A function that takes pieces of text and gives the rows that are complete; call it with null at the end.
export function parser(delimiter) {
  let row = [], cell = "", quoted = false, closed = false, held = "", line = 1, started = 1;
  return (piece) => {
    const rows = [];
    const text = held + (piece ?? "");
    held = "";
    const endRow = () => {
      // A line with nothing on it is no row.
      if (row.length || cell !== "" || closed) rows.push({ cells: [...row, cell], line: started });
      row = []; cell = ""; closed = false;
    };
    for (let i = 0; i < text.length; i++) {
      const c = text[i];
      if ((c === "\r" || (c === '"' && quoted)) && i + 1 === text.length && piece !== null) {
        held = c; // what follows decides
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
    if (piece === null) {
      if (quoted) throw new BadCsv(`A quote that is opened in the row at line ${started} is never closed.`);
      endRow();
    }
    return rows;
  };
}

export function written(cells, delimiter) {
  const quote = (cell) => {
    const text = cell === null || cell === undefined ? "" : String(cell);
    return /["\r\n]/.test(text) || text.includes(delimiter) || text !== text.trim() ? `"${text.replaceAll('"', '""')}"` : text;
  };
  // A row of one empty cell would be an empty line.
  return (cells.length === 1 && quote(cells[0]) === "" ? '""' : cells.map(quote).join(delimiter)) + "\n";
}

// The delimiter that the header has most of, outside quotes.
export function delimiterOf(start) {
  const header = start.replace(/"[^"]*"/g, "").split(/[\r\n]/, 1)[0];
  const counts = [",", ";", "\t", "|"].map((d) => [header.split(d).length, d]);
  return counts.reduce((best, one) => (one[0] > best[0] ? one : best))[1];
}

// The rows of a file, each {cells, line}; and, through `seen`, how many of its bytes were read.
export async function* rowsOf(file, delimiter, seen = () => {}) {
  const parse = parser(delimiter), decoder = new TextDecoder("utf-8", { fatal: true }), reader = file.stream().getReader();
  let read = 0;
  try {
    for (;;) {
      const { done, value } = await reader.read();
      let text;
      try {
        text = done ? decoder.decode() : decoder.decode(value, { stream: true });
      } catch {
        throw new BadCsv("The file is not UTF-8 text. Save it as UTF-8.");
      }
      read += value?.length ?? 0;
      if (text) yield* parse(text);
      seen(read);
      if (done) break;
    }
    yield* parse(null);
  } finally {
    reader.cancel().catch(() => {});
  }
}
