/** What an InfluxDB's journal holds. FORMAT.md ("Frames of InfluxDB") is the authority for kinds, meta and bodies. */
import { z } from 'zod';
import { damagedFrame, type JournalFrame, type JournalItem } from '../journal/frame.ts';
import type { Definitions, FieldTypes } from './definitions.ts';

export const frameKinds = { write: 1, export: 2, exported: 3, fields: 4, definitions: 5, checked: 6 } as const;

/** Line protocol as it came in. `rp` '' means the database's default one. */
export interface WriteMeta {
  db: string;
  rp: string;
  precision: string;
}

/** Line protocol of a shard that was exported again, in ns; it counts once the round's `exported` follows. */
export interface ExportMeta {
  db: string;
  rp: string;
  shard: number;
  round: string;
}

/** Where the round began: what was written to the same place since then is newer than what was exported. */
export interface ExportedMeta extends ExportMeta {
  file: string;
  offset: number;
  points: number;
}

export interface FieldsMeta {
  db: string;
  rp: string;
}

/** What was known of the server when nothing was missing in the journal. */
export interface Checked {
  /** When the server was started, as it says. */
  started: string;
  /** Of its subscriber and its writer: how much they dropped. */
  writeFailures: number;
  subWriteDrop: number;
  /** Points taken and bytes on disk, by the shard's id. */
  shards: Record<string, [pointsOk: number, diskBytes: number]>;
  /** Places (`db`, `rp`) whose writes are forwarded. */
  subscribed: [db: string, rp: string][];
}

const place = { db: z.string(), rp: z.string() };
const exportShape = { ...place, shard: z.number(), round: z.string() };
const metas = {
  write: z.object({ ...place, precision: z.string() }),
  export: z.object(exportShape),
  exported: z.object({ ...exportShape, file: z.string(), offset: z.number(), points: z.number() }),
  fields: z.object(place),
} as const;
const checkedSchema = z.object({
  started: z.string(),
  writeFailures: z.number(),
  subWriteDrop: z.number(),
  shards: z.record(z.string(), z.tuple([z.number(), z.number()])),
  subscribed: z.array(z.tuple([z.string(), z.string()])),
});
const fieldTypesSchema = z.record(z.string(), z.record(z.string(), z.array(z.string())));
export const definitionsSchema = z.object({
  databases: z.array(
    z.object({
      name: z.string(),
      policies: z.array(
        z.object({
          name: z.string(),
          duration: z.string(),
          shardGroupDuration: z.string(),
          replicas: z.number(),
          isDefault: z.boolean(),
        }),
      ),
      continuousQueries: z.array(z.object({ name: z.string(), query: z.string() })),
    }),
  ),
  users: z.array(
    z.object({
      name: z.string(),
      isAdmin: z.boolean(),
      grants: z.array(z.object({ database: z.string(), privilege: z.string() })),
    }),
  ),
});

const nothing = Buffer.alloc(0);

export function writeItem(meta: WriteMeta, body: Buffer): JournalItem {
  return { kind: frameKinds.write, meta: { ...meta }, body };
}

export function exportItem(meta: ExportMeta, body: Buffer): JournalItem {
  return { kind: frameKinds.export, meta: { ...meta }, body };
}

export function exportedItem(meta: ExportedMeta): JournalItem {
  return { kind: frameKinds.exported, meta: { ...meta }, body: nothing };
}

export function fieldsItem(meta: FieldsMeta, types: FieldTypes): JournalItem {
  return { kind: frameKinds.fields, meta: { ...meta }, body: json(types) };
}

export function definitionsItem(definitions: Definitions): JournalItem {
  return { kind: frameKinds.definitions, meta: {}, body: json(definitions) };
}

export function checkedItem(checked: Checked): JournalItem {
  return { kind: frameKinds.checked, meta: {}, body: json(checked) };
}

/** One of them, by its kind. */
export type InfluxdbFrame =
  | { kind: 'write'; meta: WriteMeta; body: Buffer }
  | { kind: 'export'; meta: ExportMeta; body: Buffer }
  | { kind: 'exported'; meta: ExportedMeta }
  | { kind: 'fields'; meta: FieldsMeta; types: FieldTypes }
  | { kind: 'definitions'; definitions: Definitions }
  | { kind: 'checked'; checked: Checked };

/** Throws QZ3330 when it is none of these. `where` is for messages. */
export function openFrame({ kind, meta, body }: JournalFrame, where: string): InfluxdbFrame {
  try {
    switch (kind) {
      case frameKinds.write:
        return { kind: 'write', meta: metas.write.parse(meta), body };
      case frameKinds.export:
        return { kind: 'export', meta: metas.export.parse(meta), body };
      case frameKinds.exported:
        return { kind: 'exported', meta: metas.exported.parse(meta) };
      case frameKinds.fields:
        return { kind: 'fields', meta: metas.fields.parse(meta), types: fieldTypesSchema.parse(parsed(body)) };
      case frameKinds.definitions:
        return { kind: 'definitions', definitions: definitionsSchema.parse(parsed(body)) };
      case frameKinds.checked:
        return { kind: 'checked', checked: checkedSchema.parse(parsed(body)) };
    }
  } catch (error) {
    throw damagedFrame(where, `it is no frame of InfluxDB (${error instanceof Error ? error.name : 'unreadable'})`);
  }
  throw damagedFrame(where, `its kind ${kind} is unknown`);
}

function json(value: unknown): Buffer {
  return Buffer.from(JSON.stringify(value), 'utf8');
}

function parsed(body: Buffer): unknown {
  return JSON.parse(body.toString('utf8'));
}
