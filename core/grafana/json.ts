/**
 * JSON as Grafana stores it: nothing is lost on the way through, and one text for what is the same. Numbers that a double
 * cannot hold (nanoseconds, ids of 64 bits) keep the text they came with. Pure.
 */

/** A number by its text. */
export class ExactNumber {
  readonly text: string;

  constructor(text: string) {
    this.text = text;
  }
}

export type JsonObject = { [key: string]: Json };
export type Json = null | boolean | number | string | ExactNumber | Json[] | JsonObject;

/** A double holds any number of so many digits. */
const safeDigits = 15;

type Reviver = (key: string, value: unknown, context: { source?: string }) => unknown;
const parseWithSource = JSON.parse as (text: string, reviver: Reviver) => Json;

/** Throws SyntaxError. */
export function parseJson(text: string): Json {
  return parseWithSource(text, (_key, value, { source }) => {
    if (typeof value !== 'number' || source === undefined || source.length <= safeDigits) return value;
    const digits = source.replace(/[eE].*$|[^0-9]/g, '').replace(/^0+/, '').length;
    return digits > safeDigits && String(value) !== source ? new ExactNumber(source) : value;
  });
}

export function isObject(json: Json | undefined): json is JsonObject {
  return typeof json === 'object' && json !== null && !Array.isArray(json) && !(json instanceof ExactNumber);
}

/** The object, or an empty one where something else stands. */
export function objectOf(json: Json | undefined): JsonObject {
  return isObject(json) ? json : {};
}

/** The list's objects; none where something else stands. */
export function objectsOf(json: Json | undefined): JsonObject[] {
  return Array.isArray(json) ? json.filter(isObject) : [];
}

export function textOf(json: Json | undefined): string {
  return typeof json === 'string' ? json : '';
}

export function numberOf(json: Json | undefined): number | null {
  return typeof json === 'number' ? json : null;
}

/** Without these keys. */
export function without(object: JsonObject, ...keys: readonly string[]): JsonObject {
  return Object.fromEntries(Object.entries(object).filter(([key]) => !keys.includes(key)));
}

/** The one text of equal values: keys in order, no spaces. */
export function canonical(json: Json): string {
  return write(json, true, '');
}

/** For people and files: indented by two spaces, keys as they stand. */
export function pretty(json: Json): string {
  return write(json, false, '\n');
}

function write(json: Json, isSorted: boolean, line: string): string {
  if (json instanceof ExactNumber) return json.text;
  if (typeof json !== 'object' || json === null) return JSON.stringify(json);
  const deeper = line === '' ? '' : `${line}  `;
  if (Array.isArray(json)) {
    if (json.length === 0) return '[]';
    return `[${deeper}${json.map((item) => write(item, isSorted, deeper)).join(`,${deeper}`)}${line}]`;
  }
  const keys = Object.keys(json);
  if (isSorted) keys.sort();
  if (keys.length === 0) return '{}';
  const colon = line === '' ? ':' : ': ';
  const fields = keys.map((key) => `${JSON.stringify(key)}${colon}${write(json[key] ?? null, isSorted, deeper)}`);
  return `{${deeper}${fields.join(`,${deeper}`)}${line}}`;
}
