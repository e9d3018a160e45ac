// The OpenAPI description as a page.

import { call, make } from "./api.js";

const named = (reference) => reference.split("/").at(-1);

function kind(schema) {
  if (!schema) return "";
  if (schema.$ref) return named(schema.$ref);
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (schema.anyOf) return schema.anyOf.map(kind).join(" | ");
  if (schema.type === "array") return `list of ${kind(schema.items)}`;
  if (schema.type === "object" && schema.additionalProperties) return `object of ${kind(schema.additionalProperties)}`;
  return schema.type ?? "anything";
}

function table(schema, caption) {
  const rows = Object.entries(schema.properties ?? {}).map(([name, field]) => make("tr", {},
    make("th", { scope: "row" }, make("code", {}, name)),
    make("td", {}, `${kind(field)}${schema.required?.includes(name) ? "" : ", optional"}`),
    make("td", {}, field.description ?? "")));
  return make("div", { class: "scroll" }, make("table", {}, make("caption", {}, caption),
    make("thead", {}, make("tr", {}, ...["field", "type", "meaning"].map((title) => make("th", { scope: "col" }, title)))),
    make("tbody", {}, ...rows)));
}

// A schema and those that it is made of, each once.
function tables(schema, all, title, seen = new Set()) {
  const found = [];
  const visit = (one, caption) => {
    if (!one) return;
    if (one.$ref) {
      const name = named(one.$ref);
      if (!seen.has(name)) {
        seen.add(name);
        visit(all[name], caption ?? name);
      }
      return;
    }
    if (one.properties) found.push(table(one, `${caption}${one.description ? `: ${one.description}` : ""}`));
    for (const inner of [...Object.values(one.properties ?? {}), ...(one.anyOf ?? []), one.items]) visit(inner);
  };
  visit(schema, title);
  return found;
}

const { info, paths, components } = await call("openapi.json");
document.getElementById("about").textContent = info.description.replaceAll("`", "");
document.getElementById("routes").append(...Object.entries(paths).flatMap(([path, methods]) =>
  Object.entries(methods).map(([method, route]) => {
    const asked = route.requestBody?.content?.["application/json"]?.schema;
    const reply = route.responses["200"]?.content?.["application/json"]?.schema;
    return make("div", { class: "route" }, make("h2", {}, make("b", {}, method.toUpperCase()), path),
      make("p", {}, route.summary ?? ""), ...tables(asked, components.schemas, "Request"),
      ...tables(reply, components.schemas, "Reply"));
  })));
