// JSON whose whole numbers beyond 2^53 stay what they are: they become JSON.rawJSON objects, which JSON.stringify writes as they came.

const WHOLE = /^-?\d+$/;
const LONG = /\d{16}/;

const kept = (_, value, context) =>
  typeof value === "number" && !Number.isSafeInteger(value) && WHOLE.test(context?.source ?? "") ? JSON.rawJSON(context.source) : value;

// Browsers without rawJSON (before 2025) round, as before.
export const parse = (text) => (JSON.rawJSON && LONG.test(text) ? JSON.parse(text, kept) : JSON.parse(text));

export const isLarge = (value) => JSON.isRawJSON?.(value) ?? false;

// A number that the user typed.
export const typedNumber = (text) =>
  isLarge(text) ? text : WHOLE.test(text) && !Number.isSafeInteger(Number(text)) && JSON.rawJSON ? JSON.rawJSON(String(text)) : Number(text);
