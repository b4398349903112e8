/**
 * What changed between two JSON values, by place: `panels[CPU load].targets[A].expr: "a" → "b"`. Items of lists are known
 * again by what names them (uid, id, refId, name), else by what stands around them. Pure.
 */
import { canonical, ExactNumber, isObject, type Json, type JsonObject, textOf } from '../../core/grafana/json.ts';

export interface Difference {
  /** Readable, and the same for the same place. */
  path: string;
  /** null: it was not there. */
  before: Json | undefined;
  after: Json | undefined;
}

const namingKeys = ['uid', 'id', 'refId', 'name', 'key'] as const;
const shownMax = 120;

export function differences(before: Json | undefined, after: Json | undefined, path = ''): Difference[] {
  if (before !== undefined && after !== undefined && canonical(before) === canonical(after)) return [];
  if (isObject(before) && isObject(after)) return ofObjects(before, after, path);
  if (Array.isArray(before) && Array.isArray(after)) return ofLists(before, after, path);
  return [{ path, before, after }];
}

function ofObjects(before: JsonObject, after: JsonObject, path: string): Difference[] {
  const keys = [...new Set([...Object.keys(before), ...Object.keys(after)])];
  return keys.flatMap((key) =>
    differences(before[key], after[key], path === '' ? plain(key) : `${path}.${plain(key)}`),
  );
}

function ofLists(before: readonly Json[], after: readonly Json[], path: string): Difference[] {
  const key = namingKeys.find((one) => names(before, one) && names(after, one));
  return key === undefined ? ofUnnamed(before, after, path) : ofNamed(before, after, path, key);
}

/** Whether each item is an object, and the key tells them apart. */
function names(items: readonly Json[], key: string): boolean {
  const values = items.map((item) => (isObject(item) ? nameOf(item[key]) : null));
  return !values.includes(null) && new Set(values).size === values.length;
}

function nameOf(value: Json | undefined): string | null {
  if (typeof value === 'number') return String(value);
  return typeof value === 'string' && value !== '' ? value : null;
}

function ofNamed(before: readonly Json[], after: readonly Json[], path: string, key: string): Difference[] {
  const byName = (items: readonly Json[]) =>
    new Map(items.filter(isObject).map((item) => [nameOf(item[key]) ?? '', item]));
  const [old, now] = [byName(before), byName(after)];
  const found = [...new Set([...old.keys(), ...now.keys()])].flatMap((name) => {
    const item = now.get(name) ?? old.get(name) ?? {};
    return differences(old.get(name), now.get(name), `${path}[${labelOf(item, key, name)}]`);
  });
  if (found.length > 0) return found;
  // The same items in another order.
  return [{ path: path === '' ? '(order)' : `${path} (order)`, before: [...old.keys()], after: [...now.keys()] }];
}

/** A panel's title says more than its number. */
function labelOf(item: JsonObject, key: string, name: string): string {
  const title = textOf(item.title);
  return key === 'id' && title !== '' ? `${name} “${cut(title, 40)}”` : `${key} ${name}`;
}

/** What both begin and end with is the same; of the rest, each by its place. */
function ofUnnamed(before: readonly Json[], after: readonly Json[], path: string): Difference[] {
  const same = (a: number, b: number) => canonical(before[a] ?? null) === canonical(after[b] ?? null);
  const shorter = Math.min(before.length, after.length);
  let head = 0;
  while (head < shorter && same(head, head)) head += 1;
  let tail = 0;
  while (tail < shorter - head && same(before.length - 1 - tail, after.length - 1 - tail)) tail += 1;
  const count = Math.max(before.length, after.length) - head - tail;
  return Array.from({ length: count }, (_, index) => index + head).flatMap((index) =>
    differences(
      index < before.length - tail ? before[index] : undefined,
      index < after.length - tail ? after[index] : undefined,
      `${path}[${index}]`,
    ),
  );
}

function plain(key: string): string {
  return /^[\w-]+$/.test(key) ? key : JSON.stringify(key);
}

/** `+`, `-` or `~`, the place, and what stands there. */
export function differenceLine({ path, before, after }: Difference): string {
  const place = path === '' ? '(all of it)' : path;
  if (before === undefined) return `+ ${place}: ${shown(after)}`;
  if (after === undefined) return `- ${place}: ${shown(before)}`;
  return `~ ${place}: ${shown(before)} → ${shown(after)}`;
}

function shown(json: Json | undefined): string {
  if (json === undefined) return '';
  if (json instanceof ExactNumber) return json.text;
  return cut(canonical(json), shownMax);
}

function cut(text: string, length: number): string {
  const characters = [...text];
  return characters.length <= length ? text : `${characters.slice(0, length - 1).join('')}…`;
}
