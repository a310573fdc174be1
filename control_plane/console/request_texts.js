// The same request, written for curl, for Python and for the command line.

const DEFAULT_URL = "http://127.0.0.1:8000";

const quoted = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`);
const compact = (value) => JSON.stringify(value);

export function curl(body, { origin, locked }) {
  const lines = [`curl ${origin}/api/jobs`, "-H 'Content-Type: application/json'"];
  if (locked) lines.push('-H "Authorization: Bearer $DIHEDRAL_API_KEY"');
  lines.push(`-d ${quoted(JSON.stringify(body, null, 2))}`);
  return lines.join(" \\\n  ");
}

const SNAKE = { startAt: "start_at", rerunOf: "rerun_of" };

export function python(body, { origin }) {
  const { sweep, ...rest } = body;
  const given = Object.entries(rest).map(([name, value]) => `    ${SNAKE[name] ?? name}=${literal(value, 4)},`);
  const url = origin === DEFAULT_URL ? "" : literal(origin, 0);
  if (sweep) return ["from dihedral import Client", "", `client = Client(${url})`, "found = client.sweep(", `    ${literal(sweep, 4)},`, ...given, ")", 'for each in found["jobs"]:', '    job = client.wait(each["jobId"])', '    print(job["status"], job["artifacts"])'].join("\n");
  return ["from dihedral import Client", "", `client = Client(${url})`, "job = client.submit(", ...given, ")", 'job = client.wait(job["jobId"])', 'print(job["status"], job["artifacts"])'].join("\n");
}

function literal(value, indent) {
  if (value === null || value === undefined) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (typeof value !== "object" || JSON.isRawJSON?.(value)) return compact(value);
  const pad = " ".repeat(indent + 4);
  const items = Array.isArray(value) ? value.map((each) => pad + literal(each, indent + 4)) : Object.entries(value).map(([name, each]) => `${pad}${compact(name)}: ${literal(each, indent + 4)}`);
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  const short = compact(value).length < 60 && (Array.isArray(value) ? value : Object.values(value)).every((each) => each === null || typeof each !== "object" || Object.keys(each).length < 3);
  if (!items.length) return open + close;
  return short ? `${open}${items.map((each) => each.trim()).join(", ")}${close}` : `${open}\n${items.join(",\n")},\n${" ".repeat(indent)}${close}`;
}

// A text that would be read as JSON is written as JSON.
function parameter(value) {
  if (typeof value !== "string") return compact(value);
  try {
    JSON.parse(value);
    return compact(value);
  } catch {
    return value;
  }
}

// Words stand as they are between commas; what a param could read otherwise is a JSON list.
const WORD = /^(?!(true|false|yes|no|on|off|null|none)$)[a-z_][\w.-]*$/i;
const several = (values) => (values.every((each) => typeof each !== "string" || WORD.test(each)) ? values.map((each) => (typeof each === "string" ? each : compact(each))).join(",") : compact(values));

export function commandLine(body, { origin }) {
  const url = origin === DEFAULT_URL ? [] : [`--url ${origin}`];
  const common = [
    ...Object.entries(body.sweep ?? {}).map(([name, values]) => `--sweep ${quoted(`${name}=${several(values)}`)}`),
    ...(body.name ? [`--name ${quoted(body.name)}`] : []),
    ...(body.tags ?? []).map((tag) => `--tag ${quoted(tag)}`),
    ...(body.priority ? [`--priority ${body.priority}`] : []),
    ...(body.startAt ? [`--start-at ${body.startAt}`] : []),
    ...url,
  ];
  const params = Object.entries(body.params ?? {}).map(([name, value]) => quoted(`${name}=${parameter(value)}`));
  const isDocument = body.webhook || (body.task && body.startAt); // no option carries these
  if (body.task && !isDocument) return [`dihedral run ${body.task}`, ...params, ...common].join(" \\\n  ");
  if (body.pipeline && !isDocument) return [`dihedral submit --pipeline ${body.pipeline}`, ...params.map((each) => `--param ${each}`), ...common, "--watch"].join(" \\\n  ");
  return [`dihedral submit - ${[...url, "--watch"].join(" ")} <<'END'`, JSON.stringify(body, null, 2), "END"].join("\n");
}
