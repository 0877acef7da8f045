/** A request as people type it: for curl, in Python and in TypeScript. */

/** @typedef {import("../types.d.ts").ApiRequest} ApiRequest */

/** @type {Record<string, (request: ApiRequest, origin: string, hasKey: boolean) => string>} */
export const LANGUAGES = {
  curl: ({ path, body }, origin, hasKey) =>
    [
      `curl -s ${origin}${path} -H 'Content-Type: application/json' \\`,
      ...(hasKey ? [`  -H "Authorization: Bearer $TRIGEN_API_KEY" \\`] : []),
      `  -d '${JSON.stringify(body).replaceAll("'", `'\\''`)}'`,
    ].join("\n"),
  Python: ({ path, body }, origin, hasKey) =>
    [
      ...(hasKey ? ["import os", ""] : []),
      "import requests",
      "",
      `body = ${python(body, "")}`,
      ...(hasKey ? [`headers = {"Authorization": f"Bearer {os.environ['TRIGEN_API_KEY']}"}`] : []),
      `response = requests.post("${origin}${path}", json=body${hasKey ? ", headers=headers" : ""})`,
      "response.raise_for_status()",
      "print(response.json())",
    ].join("\n"),
  TypeScript: ({ path, body }, origin, hasKey) =>
    [
      `const response = await fetch("${origin}${path}", {`,
      `  method: "POST",`,
      `  headers: { "Content-Type": "application/json"${hasKey ? ", Authorization: `Bearer ${process.env.TRIGEN_API_KEY}`" : ""} },`,
      `  body: JSON.stringify(${JSON.stringify(body, null, 2).replaceAll("\n", "\n  ")}),`,
      `});`,
      `if (!response.ok) throw new Error(await response.text());`,
      `console.log(await response.json());`,
    ].join("\n"),
};

/**
 * @param {unknown} value of JSON
 * @param {string} indent
 * @returns {string} a Python literal: JSON's strings and numbers are Python's, too
 */
function python(value, indent) {
  if (value === true) return "True";
  if (value === false) return "False";
  if (value === null) return "None";
  if (Array.isArray(value)) return `[${value.map((item) => python(item, indent)).join(", ")}]`;
  if (typeof value === "object") {
    const inner = Object.entries(/** @type {object} */ (value)).map(([name, item]) => `${indent}    "${name}": ${python(item, `${indent}    `)},`);
    return `{\n${inner.join("\n")}\n${indent}}`;
  }
  return JSON.stringify(value);
}
