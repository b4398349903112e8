/**
 * Records of what was checked, in the archive itself: of each verification, each drill, and of rows counted up on the source.
 * Immutable, put once; they carry a hash of their own. FORMAT.md ("Records of checks") is the authority.
 */
import { hash } from 'node:crypto';
import { z } from 'zod';
import { parseObject } from '../archive/open.ts';
import type { ObjectStore } from '../archive/store.ts';
import { integrityError, isKind } from '../errors/error.ts';
import { newSnapshotId } from '../snapshot/manifest.ts';

const recordFormat = 1;
export const recordKinds = ['verified', 'drilled', 'rows'] as const;
export type RecordKind = (typeof recordKinds)[number];

const count = z.number().int().nonnegative().safe();
const common = { format: z.literal(recordFormat), id: z.string(), source: z.string() };

const schemas = {
  verified: z.strictObject({
    ...common,
    startedMicros: count,
    finishedMicros: count,
    full: z.boolean(),
    fullMicros: count,
    objects: count,
    bytes: count,
    damaged: count,
    healed: count,
    findings: z.array(z.strictObject({ object: z.string(), problem: z.string(), healedBy: z.string() })),
    stored: z.strictObject({
      objects: count,
      bytes: count,
      aDay: z
        .strictObject({ historyBytes: count, historyObjects: count, snapshots: count, snapshotBytes: count })
        .nullable(),
    }),
  }),
  drilled: z.strictObject({
    ...common,
    startedMicros: count,
    finishedMicros: count,
    good: z.boolean(),
    goodMicros: count,
    problem: z.string(),
    to: z.string(),
    gtids: z.string(),
    lastCommitMicros: count,
    snapshot: z.string(),
    restoreMs: count,
    seconds: z.record(z.string(), z.number()),
    assertions: z.array(z.strictObject({ sql: z.string(), held: z.boolean(), answer: z.string() })),
    rows: z
      .strictObject({
        record: z.string(),
        tables: count,
        different: z.array(z.string()),
        unsure: z.array(z.string()).default([]),
      })
      .nullable(),
  }),
  rows: z.strictObject({
    ...common,
    generation: count,
    file: z.string(),
    position: count,
    gtids: z.string(),
    atMicros: count,
    tables: z.record(z.string(), z.number().nullable()),
  }),
};

export type VerifiedRecord = z.output<typeof schemas.verified>;
export type DrilledRecord = z.output<typeof schemas.drilled>;
export type RowsRecord = z.output<typeof schemas.rows>;
interface Records {
  verified: VerifiedRecord;
  drilled: DrilledRecord;
  rows: RowsRecord;
}

export function recordsPrefix(source: string, kind?: RecordKind): string {
  return kind === undefined ? `checks/${source}/` : `checks/${source}/${kind}/`;
}

/** Of records of that kind that were made from then on. */
function keyAfter(source: string, kind: RecordKind, sinceMs: number): string {
  return `${recordsPrefix(source, kind)}${newSnapshotId(sinceMs).slice(0, 16)}`;
}

export function newRecordId(nowMs = Date.now()): string {
  return newSnapshotId(nowMs);
}

export function encodeRecord<K extends RecordKind>(kind: K, record: Records[K]): Buffer {
  // In the schema's order, whatever the caller's was.
  const ordered = schemas[kind].parse(record);
  const sha256 = hash('sha256', JSON.stringify(ordered));
  return Buffer.from(`${JSON.stringify({ ...ordered, sha256 })}\n`);
}

/** Throws QZ3428 naming `key` for anything that `encodeRecord` did not write. */
export function decodeRecord<K extends RecordKind>(kind: K, bytes: Buffer, key: string): Records[K] {
  const { sha256, ...rest } = parseObject(bytes.toString()) ?? {};
  const record = schemas[kind].safeParse(rest);
  const isWhole = record.success && hash('sha256', JSON.stringify(rest)) === sha256;
  const isAsWritten = `${JSON.stringify({ ...rest, sha256 })}\n` === bytes.toString();
  if (!record.success || !isWhole || !isAsWritten) throw damagedRecord(key);
  return record.data as Records[K];
}

export async function putRecord<K extends RecordKind>(store: ObjectStore, kind: K, record: Records[K]): Promise<void> {
  await store.putIfAbsent(`${recordsPrefix(record.source, kind)}${record.id}`, [encodeRecord(kind, record)]);
}

export interface RecordsOptions {
  /** Those made since then (ms since 1970). */
  sinceMs: number;
  signal: AbortSignal;
}

/** Oldest first; damaged ones are left out. */
export async function listRecords<K extends RecordKind>(
  store: ObjectStore,
  source: string,
  kind: K,
  options: RecordsOptions,
): Promise<Records[K][]> {
  const found: Records[K][] = [];
  for (const key of await keysOf(store, source, kind, options)) {
    const record = await readRecord(store, kind, key);
    if (record !== null) found.push(record);
  }
  return found;
}

/** The newest one that is not damaged; null where there is none. */
export async function newestRecord<K extends RecordKind>(
  store: ObjectStore,
  source: string,
  kind: K,
  options: RecordsOptions,
): Promise<Records[K] | null> {
  for (const key of (await keysOf(store, source, kind, options)).reverse()) {
    const record = await readRecord(store, kind, key);
    if (record !== null) return record;
  }
  return null;
}

async function keysOf(
  store: ObjectStore,
  source: string,
  kind: RecordKind,
  { sinceMs, signal }: RecordsOptions,
): Promise<string[]> {
  const keys: string[] = [];
  const after = keyAfter(source, kind, sinceMs);
  for await (const { key } of store.list(recordsPrefix(source, kind), { after, signal })) keys.push(key);
  signal.throwIfAborted();
  return keys;
}

async function readRecord<K extends RecordKind>(store: ObjectStore, kind: K, key: string): Promise<Records[K] | null> {
  try {
    const bytes = await store.get(key);
    return bytes === null ? null : decodeRecord(kind, bytes, key);
  } catch (error) {
    if (isKind(error, 'integrity')) return null;
    throw error;
  }
}

/** The kind of the record of that name; null where it is none. */
export function kindOfRecord(key: string): RecordKind | null {
  const name = key.split('/')[2];
  return recordKinds.find((kind) => kind === name) ?? null;
}

function damagedRecord(key: string) {
  return integrityError(
    'QZ3428',
    `Object ${key} is damaged: it is not as it was written.`,
    'It is a note of an earlier check and nothing of the history: delete it.',
    { details: { object: key } },
  );
}
