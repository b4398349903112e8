/** The bytes of a manifest and of COMPLETE. Pure. FORMAT.md ("Snapshot manifest", "Snapshot COMPLETE") is the authority. */
import { createHash } from 'node:crypto';
import { constants, zstdCompressSync, zstdDecompressSync } from 'node:zlib';
import { z } from 'zod';
import { GtidSet } from '../binlog/gtid-set.ts';
import { chunkBytes } from '../chunks/chunk.ts';
import { ChunkList, chunkRowBytes, chunkRowsProblem, noPack } from '../chunks/chunk-list.ts';
import { serviceKinds } from '../config/service-keys.ts';
import { integrityError } from '../errors/error.ts';
import type { SnapshotManifest } from './types.ts';

export const manifestMagic = 'QZMF';
export const completeMagic = 'QZSC';
export const snapshotFormatVersion = 1;
export const manifestHeaderBytes = 24;
export const completeHeaderBytes = 52;
const sha256Bytes = 32;
const packIdBytes = 32;

/** Bounds that hold at writing and at reading: 4 TiB in 256 KiB chunks, and 256 MiB of names, settings and columns. */
export const manifestLimits = { chunks: 16_777_216, packs: 4_194_304, metaBytes: 256 * 1024 * 1024 };

/** `<UTC basic time>-<8 hex>`. */
export const snapshotIdPattern = /^\d{8}T\d{6}Z-[0-9a-f]{8}$/;

const count = z.number().int().nonnegative().safe();
const textMap = z.record(z.string(), z.string());
const facts = {
  id: z.string().regex(snapshotIdPattern),
  source: z.string().min(1).max(255),
  engine: z.enum(['clone', 'logical', ...serviceKinds]),
  generation: count,
  sourceUuid: z.string().max(64),
  gtidsBefore: z.string(),
  gtidsAfter: z.string(),
  startedMicros: count,
  finishedMicros: count,
  serverVersion: z.string().max(255),
};
const metaSchema = z.strictObject({
  ...facts,
  settings: textMap,
  columns: z.record(z.string(), z.array(z.string())),
  events: z
    .strictObject({
      gtids: z.string(),
      statuses: z.record(z.string(), z.enum(['ENABLED', 'DISABLED', 'REPLICA_SIDE_DISABLED'])),
    })
    .optional(),
  directories: z.array(z.tuple([z.string(), count])),
  files: z.array(z.tuple([z.string(), count, count])),
});
const summarySchema = z.strictObject({ ...facts, files: count, sizeBytes: count, newBytes: count });

/** What COMPLETE says about a snapshot, so that listing needs no manifest. */
export interface SnapshotSummary
  extends Omit<SnapshotManifest, 'settings' | 'columns' | 'events' | 'directories' | 'files'> {
  files: number;
  /** All files' plain bytes, and the stored bytes of the chunks that this archive did not have before. */
  sizeBytes: number;
  newBytes: number;
}

/** A path below the data directory: relative, no empty, `.` or `..` part, no NUL. */
export function isSafePath(path: string): boolean {
  if (path === '' || Buffer.byteLength(path) > 4096 || path.includes('\0') || path.includes('\\')) return false;
  return path.split('/').every((part) => part !== '' && part !== '.' && part !== '..');
}

export function encodeManifest(manifest: SnapshotManifest): Buffer[] {
  const packs = new PackTable();
  const rows = manifest.files.map((file) => packs.renumber(file));
  const plain = Buffer.from(JSON.stringify(metaOf(manifest)), 'utf8');
  const meta = zstdCompressSync(plain, { params: { [constants.ZSTD_c_compressionLevel]: 3 } });
  const header = Buffer.alloc(manifestHeaderBytes);
  header.write(manifestMagic, 0, 'latin1');
  header.writeUInt16LE(snapshotFormatVersion, 4);
  header.writeUInt32LE(meta.length, 8);
  header.writeUInt32LE(plain.length, 12);
  header.writeUInt32LE(packs.ids.length, 16);
  header.writeUInt32LE(rows.reduce((sum, one) => sum + one.length, 0) / chunkRowBytes, 20);
  const body = [header, meta, ...packs.ids.map((id) => Buffer.from(id, 'hex')), ...rows];
  const sum = createHash('sha256');
  for (const part of body) sum.update(part);
  return [...body, sum.digest()];
}

/** Gives the packs that are really used dense numbers, in order of first use. */
class PackTable {
  readonly ids: string[] = [];
  readonly #numbers = new Map<string, number>();

  renumber(file: SnapshotManifest['files'][number]): Buffer {
    const problem = chunkRowsProblem(file.chunks, file.sizeBytes);
    if (problem !== null) throw new Error(`manifest of ${file.path}: ${problem}`);
    const rows = Buffer.from(file.chunks.rows);
    for (let at = 32; at < rows.length; at += chunkRowBytes) {
      const old = rows.readUInt32LE(at);
      if (old !== noPack) rows.writeUInt32LE(this.#numberOf(file.chunks.packs[old] ?? ''), at);
    }
    return rows;
  }

  #numberOf(id: string): number {
    const known = this.#numbers.get(id);
    if (known !== undefined) return known;
    if (!/^[0-9a-f]{64}$/.test(id)) throw new Error(`'${id}' is no pack id`);
    const number = this.ids.push(id) - 1;
    this.#numbers.set(id, number);
    return number;
  }
}

function factsOf(manifest: SnapshotManifest | SnapshotSummary) {
  const { id, source, engine, generation, sourceUuid, gtidsBefore, gtidsAfter } = manifest;
  const { startedMicros, finishedMicros, serverVersion } = manifest;
  const sets = { gtidsBefore: gtidsBefore.toString(), gtidsAfter: gtidsAfter.toString() };
  return { id, source, engine, generation, sourceUuid, ...sets, startedMicros, finishedMicros, serverVersion };
}

function metaOf(manifest: SnapshotManifest): z.infer<typeof metaSchema> {
  for (const { path } of [...manifest.directories, ...manifest.files]) {
    if (!isSafePath(path)) throw new Error(`'${path}' cannot stand in a manifest`);
  }
  return {
    ...factsOf(manifest),
    settings: manifest.settings,
    columns: manifest.columns,
    ...(manifest.events === undefined ? {} : { events: manifest.events }),
    directories: manifest.directories.map(({ path, mode }) => [path, mode]),
    files: manifest.files.map(({ path, sizeBytes, mode }) => [path, sizeBytes, mode]),
  };
}

/** Throws QZ3506 naming `name` for anything that `encodeManifest` did not write. */
export function decodeManifest(bytes: Buffer, name: string): SnapshotManifest {
  const sections = manifestSections(bytes, name);
  const meta = parseMeta(metaSchema, sections.meta, sections.metaPlainBytes, name);
  const packs = packIdsOf(sections.packs);
  let at = 0;
  const files = meta.files.map(([path, sizeBytes, mode]) => {
    const end = at + Math.ceil(sizeBytes / chunkBytes) * chunkRowBytes;
    const chunks = new ChunkList(sections.rows.subarray(at, end), packs);
    const problem = isSafePath(path) ? chunkRowsProblem(chunks, sizeBytes) : 'its path leads out of the data directory';
    if (problem !== null) throw damaged(name, `file ${JSON.stringify(path)}: ${problem}`);
    at = end;
    return { path, sizeBytes, mode, chunks };
  });
  if (at !== sections.rows.length) throw damaged(name, 'it has more chunks than its files');
  const directories = meta.directories.map(([path, mode]) => ({ path, mode }));
  const unsafe = directories.find(({ path }) => !isSafePath(path));
  if (unsafe) throw damaged(name, `directory ${JSON.stringify(unsafe.path)} leads out of the data directory`);
  if (new Set([...files, ...directories].map(({ path }) => path)).size !== files.length + directories.length) {
    throw damaged(name, 'a path stands in it twice');
  }
  return { ...meta, ...parseSets(meta, name), directories, files };
}

function manifestSections(bytes: Buffer, name: string) {
  const end = bytes.length - sha256Bytes;
  if (end < manifestHeaderBytes) throw damaged(name, 'it is cut short');
  if (bytes.toString('latin1', 0, 4) !== manifestMagic) throw damaged(name, 'it does not begin like a manifest');
  if (bytes.readUInt16LE(4) !== snapshotFormatVersion)
    throw damaged(name, `version ${bytes.readUInt16LE(4)} is unknown`);
  if (bytes.readUInt16LE(6) !== 0) throw damaged(name, 'its header is out of bounds');
  const metaBytes = bytes.readUInt32LE(8);
  const metaPlainBytes = bytes.readUInt32LE(12);
  const packs = bytes.readUInt32LE(16);
  const chunks = bytes.readUInt32LE(20);
  const { metaBytes: metaBytesMax, packs: packsMax, chunks: chunksMax } = manifestLimits;
  if (metaPlainBytes > metaBytesMax || packs > packsMax || chunks > chunksMax) {
    throw damaged(name, 'a length in it is out of bounds');
  }
  const packsAt = manifestHeaderBytes + metaBytes;
  const rowsAt = packsAt + packs * packIdBytes;
  if (rowsAt + chunks * chunkRowBytes !== end) throw damaged(name, 'its length does not fit its header');
  const sum = createHash('sha256').update(bytes.subarray(0, end)).digest();
  if (!sum.equals(bytes.subarray(end))) throw damaged(name, 'it does not fit its own SHA-256');
  return {
    meta: bytes.subarray(manifestHeaderBytes, packsAt),
    metaPlainBytes,
    packs: bytes.subarray(packsAt, rowsAt),
    rows: bytes.subarray(rowsAt, end),
  };
}

/**
 * Where a manifest of `totalBytes` that begins with these 24 bytes has its table of packs: bytes [start, end). Throws QZ3506
 * as `decodeManifest` does, for what can be seen of it here.
 */
export function packTableRange(header: Buffer, totalBytes: number, name: string): { start: number; end: number } {
  if (header.length < manifestHeaderBytes || header.toString('latin1', 0, 4) !== manifestMagic)
    throw damaged(name, 'it does not begin like a manifest');
  if (header.readUInt16LE(4) !== snapshotFormatVersion)
    throw damaged(name, `version ${header.readUInt16LE(4)} is unknown`);
  const start = manifestHeaderBytes + header.readUInt32LE(8);
  const end = start + header.readUInt32LE(16) * packIdBytes;
  if (end + header.readUInt32LE(20) * chunkRowBytes + sha256Bytes !== totalBytes)
    throw damaged(name, 'its length does not fit its header');
  return { start, end };
}

/** The ids in a table of packs. */
export function packIdsOf(table: Buffer): string[] {
  return Array.from({ length: table.length / packIdBytes }, (_, index) =>
    table.toString('hex', index * packIdBytes, (index + 1) * packIdBytes),
  );
}

function parseMeta<T>(schema: z.ZodType<T>, stored: Buffer, plainBytes: number, name: string): T {
  try {
    const plain = zstdDecompressSync(stored, { maxOutputLength: Math.max(1, plainBytes) });
    return schema.parse(JSON.parse(plain.toString('utf8')));
  } catch (error) {
    throw damaged(name, 'what it says about the snapshot cannot be read', error);
  }
}

function parseSets(meta: { gtidsBefore: string; gtidsAfter: string }, name: string) {
  try {
    return { gtidsBefore: GtidSet.parse(meta.gtidsBefore), gtidsAfter: GtidSet.parse(meta.gtidsAfter) };
  } catch (error) {
    throw damaged(name, 'its GTID sets cannot be read', error);
  }
}

function damaged(name: string, reason: string, cause?: unknown) {
  const hint = 'Use another snapshot or another archive (--from).';
  return integrityError('QZ3506', `Snapshot object ${name} is damaged: ${reason}.`, hint, { cause });
}

export interface CompleteMark {
  manifestBytes: number;
  /** 32 bytes: SHA-256 of the manifest's body. */
  manifestSha256: Buffer;
  summary: SnapshotSummary;
}

export function encodeComplete(mark: CompleteMark): Buffer {
  const { summary } = mark;
  const { files, sizeBytes, newBytes } = summary;
  const plain = Buffer.from(JSON.stringify({ ...factsOf(summary), files, sizeBytes, newBytes }), 'utf8');
  const header = Buffer.alloc(completeHeaderBytes);
  header.write(completeMagic, 0, 'latin1');
  header.writeUInt16LE(snapshotFormatVersion, 4);
  header.writeBigUInt64LE(BigInt(mark.manifestBytes), 8);
  mark.manifestSha256.copy(header, 16, 0, sha256Bytes);
  header.writeUInt32LE(plain.length, 48);
  const sum = createHash('sha256').update(header).update(plain).digest();
  return Buffer.concat([header, plain, sum]);
}

/** Throws QZ3506 naming `name` for anything that `encodeComplete` did not write. */
export function decodeComplete(bytes: Buffer, name: string): CompleteMark {
  const end = bytes.length - sha256Bytes;
  if (end < completeHeaderBytes) throw damaged(name, 'it is cut short');
  if (bytes.toString('latin1', 0, 4) !== completeMagic) throw damaged(name, 'it does not begin like a COMPLETE mark');
  if (bytes.readUInt16LE(4) !== snapshotFormatVersion)
    throw damaged(name, `version ${bytes.readUInt16LE(4)} is unknown`);
  const sum = createHash('sha256').update(bytes.subarray(0, end)).digest();
  if (!sum.equals(bytes.subarray(end))) throw damaged(name, 'it does not fit its own SHA-256');
  if (bytes.readUInt16LE(6) !== 0) throw damaged(name, 'its header is out of bounds');
  if (completeHeaderBytes + bytes.readUInt32LE(48) !== end) throw damaged(name, 'its length does not fit its header');
  const manifestBytes = Number(bytes.readBigUInt64LE(8));
  if (!Number.isSafeInteger(manifestBytes)) throw damaged(name, 'a length in it is out of bounds');
  let summary: z.infer<typeof summarySchema>;
  try {
    summary = summarySchema.parse(JSON.parse(bytes.toString('utf8', completeHeaderBytes, end)));
  } catch (error) {
    throw damaged(name, 'what it says about the snapshot cannot be read', error);
  }
  const sets = parseSets(summary, name);
  return { manifestBytes, manifestSha256: bytes.subarray(16, 48), summary: { ...summary, ...sets } };
}
