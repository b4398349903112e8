/** What is wrong with one configuration file, each complaint one sentence with code, place and hint. */
import type { z } from 'zod';
import { nearestWord } from './nearest.ts';
import { configSchema } from './schema.ts';
import { childOf, shapeOf } from './shape.ts';
import type { KeyPath, YamlFile } from './yaml-file.ts';

export interface Complaint {
  code: `QZ2${string}`;
  sentence: string;
  hint: string;
}

/** Empty when the file is good, save for rules that cross keys (config.ts). */
export function complaints(file: string, yaml: YamlFile): Complaint[] {
  const checked = configSchema.safeParse(yaml.data);
  return checked.success ? [] : checked.error.issues.flatMap((issue) => fromIssue(file, yaml, issue));
}

function fromIssue(file: string, yaml: YamlFile, issue: z.core.$ZodIssue): Complaint[] {
  const path = issue.path.map((part) => (typeof part === 'number' ? part : String(part)));
  if (issue.code === 'unrecognized_keys') return issue.keys.map((name) => unknownKey(file, yaml, path, name));
  const at = `(${yaml.place(path, 'value')} of ${file})`;
  const name = path.length === 0 ? 'The configuration' : `\`${path.join('.')}\``;
  const expected = issue.code === 'invalid_key' ? (issue.issues[0]?.message ?? issue.message) : issue.message;
  if (valueAt(yaml.data, path) === undefined && path.length > 0)
    return [{ code: 'QZ2014', sentence: `${name} is missing ${at}.`, hint: `${explain(path)}Give ${expected}.` }];
  return [
    {
      code: 'QZ2015',
      sentence: `${name} must be ${expected} ${at}.`,
      hint: `${explain(path)}It is ${kindOf(valueAt(yaml.data, path))} now.`,
    },
  ];
}

function unknownKey(file: string, yaml: YamlFile, parent: KeyPath, name: string): Complaint {
  const known = Object.keys(shapeAt(parent) ?? {});
  const near = nearestWord(name, known);
  const here = parent.length === 0 ? 'at the top' : `in \`${parent.join('.')}\``;
  return {
    code: 'QZ2013',
    sentence: `Unknown key \`${[...parent, name].join('.')}\` (${yaml.place([...parent, name], 'key')} of ${file}).`,
    hint: `${near === null ? '' : `Did you mean ${near}? `}Known ${here}: ${known.join(', ')}.`,
  };
}

function valueAt(data: unknown, path: KeyPath): unknown {
  let value = data;
  for (const part of path) {
    if (value === null || typeof value !== 'object' || !Object.hasOwn(value, part)) return undefined;
    value = (value as Record<string, unknown>)[part];
  }
  return value;
}

/** Never the value itself: somebody may have written a secret in the wrong place. */
function kindOf(value: unknown): string {
  if (value === null) return 'empty';
  if (Array.isArray(value)) return 'a list';
  if (typeof value === 'object') return 'a mapping';
  if (typeof value === 'string') return 'another text';
  return typeof value === 'number' ? 'a number' : `a ${typeof value}`;
}

function schemaAt(path: KeyPath): z.ZodType | undefined {
  let schema: z.ZodType | undefined = configSchema;
  for (const part of path) schema = schema && childOf(schema, part);
  return schema;
}

function shapeAt(path: KeyPath) {
  const schema = schemaAt(path);
  return schema ? shapeOf(schema) : null;
}

function explain(path: KeyPath): string {
  const description = schemaAt(path)?.meta()?.description;
  return description ? `${description} ` : '';
}
