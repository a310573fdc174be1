// Where each part of a JSON text stands: a map from JSON pointer to line, or the line where the text stops being JSON.

export class NotJson extends Error {
  constructor(message, line) {
    super(message);
    this.line = line;
  }
}

const STRING = /"(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"/y;
const NUMBER = /-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?/y;
const WORD = /true|false|null/y;
const DEEPEST = 200;

// Raises NotJson.
export function linesOf(text) {
  const lines = new Map();
  let at = 0;
  let line = 1;

  const fail = (message) => {
    throw new NotJson(message, line);
  };
  const skip = () => {
    for (; at < text.length && " \t\r\n".includes(text[at]); at += 1) if (text[at] === "\n") line += 1;
  };
  const token = (pattern) => {
    pattern.lastIndex = at;
    const found = pattern.exec(text);
    if (found) at = pattern.lastIndex;
    return found?.[0];
  };
  const want = (sign, what) => {
    skip();
    if (text[at] !== sign) fail(`${what} is missing${at < text.length ? ` before ${JSON.stringify(text[at])}` : " at the end"}`);
    at += 1;
  };

  function value(pointer, depth) {
    skip();
    if (depth > DEEPEST) fail("it is nested too deeply");
    lines.set(pointer, line);
    if (text[at] === "{") return members(pointer, depth, "}", () => {
      skip();
      const key = token(STRING);
      if (key === undefined) fail("a name in double quotes is missing");
      const below = `${pointer}/${JSON.parse(key).replaceAll("~", "~0").replaceAll("/", "~1")}`;
      const named = line;
      want(":", "a colon");
      value(below, depth + 1);
      lines.set(below, named);
    });
    if (text[at] === "[") {
      let index = 0;
      return members(pointer, depth, "]", () => value(`${pointer}/${index++}`, depth + 1));
    }
    if (token(STRING) ?? token(NUMBER) ?? token(WORD)) return undefined;
    return fail(at < text.length ? `no value begins with ${JSON.stringify(text[at])}` : "a value is missing at the end");
  }

  function members(pointer, depth, end, member) {
    at += 1;
    skip();
    if (text[at] === end) {
      at += 1;
      return;
    }
    for (;;) {
      member();
      skip();
      if (text[at] === end) {
        at += 1;
        return;
      }
      want(",", `a comma or ${end}`);
    }
  }

  value("", 0);
  skip();
  if (at < text.length) fail(`nothing may follow, but there is ${JSON.stringify(text[at])}`);
  return lines;
}

// The line of a pointer, or of the nearest part around it that is there.
export function lineOf(lines, pointer) {
  for (let part = pointer; part; part = part.slice(0, part.lastIndexOf("/"))) if (lines.has(part)) return lines.get(part);
  return lines.get("") ?? 1;
}
