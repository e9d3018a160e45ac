// What both pages ask the server, and how an element is made of texts that nobody reads as markup.

let key = null;

export class Problem extends Error {
  constructor(status, message, retryAfter) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

export function useKey(given) {
  key = given;
}

export async function call(path, body, signal) {
  const headers = key ? { authorization: `Bearer ${key}` } : {};
  if (body !== undefined) headers["content-type"] = "application/json";
  let reply;
  try {
    reply = await fetch(path, { method: body === undefined ? "GET" : "POST", headers, signal,
      body: body === undefined ? undefined : JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "The server cannot be reached.");
  }
  let content = null;
  try {
    content = await reply.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
  }
  if (!reply.ok) {
    const said = content?.error?.message ?? `The server replied with status ${reply.status}.`;
    throw new Problem(reply.status, said, Number(reply.headers.get("retry-after")) || undefined);
  }
  return content;
}

// make("li", {class: "cited"}, "text", another): children are elements or texts.
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export const percent = (share) => `${(100 * share).toFixed(1)}%`;
export const count = (number) => number.toLocaleString("en");
