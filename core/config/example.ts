/** `qazyna config example`: a whole configuration with a comment on each key, written from the schema itself. */
import type { z } from 'zod';
import type { KeyMeta } from './keys.ts';
import { configSchema } from './schema.ts';
import { itemShapeOf, shapeOf } from './shape.ts';

const lineWidth = 100;

/** YAML that the schema accepts as it stands. Keys that few files need stand as comments. */
export function configExample(): string {
  const head = comment(
    'qazyna: near-continuous backup and restore of a MySQL server. Durations: 10ms, 30s, 6h, 30d; sizes: 8MiB, 20GiB. Check this file with `qazyna config check`.',
    '',
  );
  return `${[...head, '', ...body(shapeOf(configSchema) ?? {}, '', true)].join('\n')}\n`;
}

function body(shape: Readonly<Record<string, z.ZodType>>, indent: string, spaced = false): string[] {
  return Object.entries(shape)
    .flatMap(([name, schema]) => {
      const { description, example, seldom } = (schema.meta() ?? { description: '' }) as KeyMeta;
      const children = shapeOf(schema);
      const lines = comment(description, indent);
      const item = itemShapeOf(schema);
      if (item) lines.push(...list(name, item, indent));
      else if (children) lines.push(...section(name, children, indent, seldom === true));
      else if (typeof example === 'object') lines.push(`${indent}${name}:`, ...record(schema, example, `${indent}  `));
      else lines.push(`${indent}${seldom ? '# ' : ''}${name}: ${scalar(example)}`);
      return spaced ? [...lines, ''] : lines;
    })
    .slice(0, spaced ? -1 : undefined);
}

/** A section that most files do without stands as one comment, its own comments included. */
function section(name: string, shape: Readonly<Record<string, z.ZodType>>, indent: string, seldom: boolean): string[] {
  if (!seldom) return [`${indent}${name}:`, ...body(shape, `${indent}  `)];
  return [`${name}:`, ...body(shape, '  ')].map((line) => `${indent}# ${line}`);
}

/** A list of mappings stands as one comment with one item. */
function list(name: string, item: Readonly<Record<string, z.ZodType>>, indent: string): string[] {
  return [`${name}:`, '  -', ...body(item, '    ')].map((line) => `${indent}# ${line}`);
}

/** A mapping with free names: the first entry is commented key by key, the others only show what is possible. */
function record(schema: z.ZodType, example: Record<string, unknown>, indent: string): string[] {
  const shape = shapeOf((schema.def as unknown as { valueType: z.ZodType }).valueType) ?? {};
  return Object.entries(example).flatMap(([name, value], index) => [
    `${indent}${name}:`,
    ...Object.entries(value as Record<string, string>).flatMap(([field, text]) => {
      const { description: about, seldom } = (shape[field]?.meta() ?? {}) as Partial<KeyMeta>;
      const first =
        index === 0 ||
        !Object.values(example)
          .slice(0, index)
          .some((other) => Object.hasOwn(other as object, field));
      const children = shape[field] && shapeOf(shape[field]);
      return [
        ...(first && about ? comment(about, `${indent}  `) : []),
        ...(children
          ? section(field, children, `${indent}  `, seldom === true)
          : [`${indent}  ${seldom ? '# ' : ''}${field}: ${scalar(text)}`]),
      ];
    }),
  ]);
}

function scalar(value: unknown): string {
  return typeof value === 'string' && /^[^[{].*[:#]/.test(value) ? JSON.stringify(value) : String(value);
}

function comment(text: string, indent: string): string[] {
  const lines: string[] = [];
  let line = '';
  for (const word of text.split(' ')) {
    if (line !== '' && indent.length + 2 + line.length + word.length >= lineWidth) {
      lines.push(line);
      line = '';
    }
    line += line === '' ? word : ` ${word}`;
  }
  return [...lines, line].map((each) => `${indent}# ${each}`);
}
