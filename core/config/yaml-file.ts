/** YAML with places: every complaint about the configuration says file, line and column. The only file that knows `yaml`. */
import { isMap, isScalar, isSeq, LineCounter, type Node, parseDocument } from 'yaml';
import { configurationError } from '../errors/error.ts';

export type KeyPath = readonly (string | number)[];

export interface YamlFile {
  /** Plain data: objects, arrays, strings, numbers, booleans, null. */
  data: unknown;
  /** `line 3, column 5` of a value, or of the key itself; of the nearest parent when it is not written there. */
  place(path: KeyPath, of: 'key' | 'value'): string;
}

const maxBytes = 1024 * 1024;

/** Parse; QZ2012 with the place when it is no YAML (or uses a key twice, or is longer than 1 MiB). */
export function parseYamlFile(file: string, text: string): YamlFile {
  const lines = new LineCounter();
  if (text.length > maxBytes)
    throw notYaml(file, 'is longer than 1 MiB', 'a configuration is a page long; check that this is the right file');
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false, uniqueKeys: true });
  const at = (offset: number) => {
    const { line, col } = lines.linePos(offset);
    return `line ${line}, column ${col}`;
  };
  const broken = document.errors[0];
  if (broken)
    throw notYaml(file, `is no valid YAML at ${at(broken.pos[0])}: ${plain(broken.message)}`, 'mend that line');
  return { data: toData(file, document), place: (path, of) => at(offsetOf(document.contents, path, of)) };
}

function toData(file: string, document: { toJS(options: { maxAliasCount: number }): unknown }): unknown {
  try {
    return document.toJS({ maxAliasCount: 100 });
  } catch (error) {
    throw notYaml(file, `is no valid YAML: ${plain(String(error))}`, 'write the values out instead of using aliases');
  }
}

function notYaml(file: string, what: string, hint: string) {
  return configurationError(
    'QZ2012',
    `The configuration ${file} ${what}.`,
    `${hint}; \`qazyna config example\` shows a whole one.`,
  );
}

function plain(message: string): string {
  return (message.split('\n')[0] ?? '').replace(/[.:]+$/, '').slice(0, 200);
}

function offsetOf(root: Node | null, path: KeyPath, of: 'key' | 'value'): number {
  let node: Node | null = root;
  let offset = root?.range?.[0] ?? 0;
  for (const [depth, part] of path.entries()) {
    const wantsKey = of === 'key' && depth === path.length - 1;
    const child = step(node, part);
    if (!child) return offset;
    offset = (wantsKey ? child.key : (child.value ?? child.key))?.range?.[0] ?? offset;
    node = child.value;
  }
  return offset;
}

function step(node: Node | null, part: string | number): { key: Node | null; value: Node | null } | null {
  if (isSeq(node)) {
    const item = node.items[Number(part)];
    return item === undefined ? null : { key: null, value: item as Node };
  }
  if (!isMap(node)) return null;
  for (const pair of node.items) {
    if (isScalar(pair.key) && String(pair.key.value) === String(part))
      return { key: pair.key, value: (pair.value as Node | null) ?? null };
  }
  return null;
}
