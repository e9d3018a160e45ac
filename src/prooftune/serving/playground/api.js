// HTTP client and DOM helper of both pages. Texts are inserted as text nodes, never as markup.

let key = null;

export class Problem extends Error {
  constructor(status, message, retryAfter) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

// Whether a model gives labels, one for each text or several; others answer questions.
export const givesLabels = (info) => info.task === "classification" || info.task === "multilabel";

export function useKey(apiKey) {
  key = apiKey;
}

export async function call(path, body, signal) {
  const headers = key ? { authorization: `Bearer ${key}` } : {};
  if (body !== undefined) headers["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method: body === undefined ? "GET" : "POST", headers, signal,
      body: body === undefined ? undefined : JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "The server cannot be reached.");
  }
  let content = null;
  try {
    content = await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
  }
  if (!response.ok) {
    const message = content?.error?.message ?? `The server responded with status ${response.status}.`;
    throw new Problem(response.status, message, Number(response.headers.get("retry-after")) || undefined);
  }
  return content;
}

// make("li", {class: "cited"}, "text", element): children are elements or strings.
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export const percent = (fraction) => `${(100 * fraction).toFixed(1)}%`;
export const count = (number) => number.toLocaleString("en");
