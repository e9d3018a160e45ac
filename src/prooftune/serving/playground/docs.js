// Renders the OpenAPI schema.

import { call, make } from "./api.js";

const schemaName = (reference) => reference.split("/").at(-1);

function typeName(schema) {
  if (!schema) return "";
  if (schema.$ref) return schemaName(schema.$ref);
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (schema.anyOf) return schema.anyOf.map(typeName).join(" | ");
  if (schema.type === "array") return `list of ${typeName(schema.items)}`;
  if (schema.type === "object" && schema.additionalProperties) return `object of ${typeName(schema.additionalProperties)}`;
  return schema.type ?? "anything";
}

function table(schema, caption) {
  const rows = Object.entries(schema.properties ?? {}).map(([name, field]) => make("tr", {},
    make("th", { scope: "row" }, make("code", {}, name)),
    make("td", {}, `${typeName(field)}${schema.required?.includes(name) ? "" : ", optional"}`),
    make("td", {}, field.description ?? "")));
  return make("div", { class: "scroll" }, make("table", {}, make("caption", {}, caption),
    make("thead", {}, make("tr", {}, ...["field", "type", "meaning"].map((title) => make("th", { scope: "col" }, title)))),
    make("tbody", {}, ...rows)));
}

// Tables of a schema and of the schemas that it refers to, each once.
function tables(schema, all, title, seen = new Set()) {
  const result = [];
  const visit = (node, caption) => {
    if (!node) return;
    if (node.$ref) {
      const name = schemaName(node.$ref);
      if (!seen.has(name)) {
        seen.add(name);
        visit(all[name], caption ?? name);
      }
      return;
    }
    if (node.properties) result.push(table(node, `${caption}${node.description ? `: ${node.description}` : ""}`));
    for (const inner of [...Object.values(node.properties ?? {}), ...(node.anyOf ?? []), node.items]) visit(inner);
  };
  visit(schema, title);
  return result;
}

const { info, paths, components } = await call("openapi.json");
document.getElementById("about").textContent = info.description.replaceAll("`", "");
document.getElementById("routes").append(...Object.entries(paths).flatMap(([path, methods]) =>
  Object.entries(methods).map(([method, route]) => {
    const request = route.requestBody?.content?.["application/json"]?.schema;
    const response = route.responses["200"]?.content?.["application/json"]?.schema;
    return make("div", { class: "route" }, make("h2", {}, make("b", {}, method.toUpperCase()), path),
      make("p", {}, route.summary ?? ""), ...tables(request, components.schemas, "Request"),
      ...tables(response, components.schemas, "Response"));
  })));
