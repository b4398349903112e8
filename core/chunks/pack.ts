/**
 * A pack: chunks one after the other, then a table of what is where, then a footer. Object stores see few, large puts, and
 * a pack explains itself when every manifest is lost. FORMAT.md ("Pack") is the authority for the bytes.
 */
import { createHash, type Hash } from 'node:crypto';
import { integrityError } from '../errors/error.ts';
import { chunkBytes, chunkHashBytes, encodings } from './chunk.ts';

export const packMagic = 'QZPK';
export const packVersion = 1;
export const packRowBytes = 48;
export const packFooterBytes = 48;

/** No pack's chunks take more than this (its table comes on top), nor are there more of them than that. */
export const packChunkBytesMax = 16 * 1024 * 1024;
export const packRowsMax = 16_384;
/** From here on a pack ends after a chunk whose hash says so, at the latest when the next one has no room. */
const packCutBytes = 10 * 1024 * 1024;
/** A chunk that nobody needs: it gives the same chunks another name. */
export const fillBytes = 32;
/** One hash in 32 says so: rare enough that two runs out of step meet at the same chunk again. */
const cutBelow = 8;

export interface PackRow {
  hash: Buffer;
  /** In the pack's body. */
  offset: number;
  storedBytes: number;
  plainBytes: number;
}

export interface FinishedPack {
  /** SHA-256 of the body, hex: the same chunks in the same order make the same pack, stored once. */
  id: string;
  body: readonly Buffer[];
  /** Of the body, without the object's envelope. */
  sizeBytes: number;
}

/** Key of a pack in an archive: `packs/<first two digits>/<id>`. */
export function packKey(id: string): string {
  return `packs/${id.slice(0, 2)}/${id}`;
}

/**
 * Gathers chunks into one pack. Where it ends depends on the chunks themselves, so that a snapshot begun again after a
 * crash falls back into step with the packs that are already there, and does not store them twice.
 */
export class PackBuilder {
  #parts: Buffer[] = [];
  #rows: PackRow[] = [];
  #bytes = 0;
  #wantsCut = false;
  #digest: Hash = createHash('sha256');

  get isEmpty(): boolean {
    return this.#rows.length === 0;
  }

  /** Whether this pack must be finished before a chunk of that many stored bytes is added. */
  endsBefore(storedBytes: number): boolean {
    // Room for one more is left: see `#finishedPack` in PackWriter.
    const isFull = this.#rows.length >= packRowsMax - 1 || this.#bytes + storedBytes > packChunkBytesMax - fillBytes;
    return this.#wantsCut || isFull;
  }

  /** Returns the chunk's offset. The buffer is kept, not copied: the caller must not change it any more. */
  add(hash: Buffer, stored: Buffer, plainBytes: number): number {
    const offset = this.#bytes;
    this.#parts.push(stored);
    this.#rows.push({ hash, offset, storedBytes: stored.length, plainBytes });
    this.#digest.update(stored);
    this.#bytes += stored.length;
    this.#wantsCut = this.#bytes >= packCutBytes && (hash[chunkHashBytes - 1] ?? 0) < cutBelow;
    return offset;
  }

  finish(): FinishedPack {
    const table = encodePackTable(this.#rows, this.#bytes);
    const id = this.#digest.copy().update(table).digest('hex');
    return { id, body: [...this.#parts, table], sizeBytes: this.#bytes + table.length };
  }
}

/** The rows and the footer behind `dataBytes` bytes of chunks. */
export function encodePackTable(rows: readonly PackRow[], dataBytes: number): Buffer {
  const tableBytes = rows.length * packRowBytes;
  const table = Buffer.alloc(tableBytes + packFooterBytes);
  for (const [index, row] of rows.entries()) {
    const at = index * packRowBytes;
    row.hash.copy(table, at, 0, chunkHashBytes);
    table.writeUInt32LE(row.offset, at + 32);
    table.writeUInt32LE(row.storedBytes, at + 36);
    table.writeUInt32LE(row.plainBytes, at + 40);
    table.writeUInt8(row.storedBytes === row.plainBytes ? encodings.raw : encodings.zstd, at + 44);
  }
  table.write(packMagic, tableBytes, 'latin1');
  table.writeUInt16LE(packVersion, tableBytes + 4);
  table.writeUInt32LE(rows.length, tableBytes + 8);
  table.writeUInt32LE(dataBytes, tableBytes + 12);
  createHash('sha256')
    .update(table.subarray(0, tableBytes))
    .digest()
    .copy(table, tableBytes + 16);
  return table;
}

/** The rows of a whole pack body. Throws QZ3501 naming `name` when it is cut, damaged or not a pack. */
export function decodePack(body: Buffer, name: string): PackRow[] {
  const problem = (reason: string) =>
    integrityError('QZ3501', `Pack ${name} is damaged: ${reason}.`, 'Restore from another archive (--from).');
  const footer = body.length - packFooterBytes;
  if (footer < 0 || body.toString('latin1', footer, footer + 4) !== packMagic) throw problem('it has no footer');
  if (body.readUInt16LE(footer + 4) !== packVersion)
    throw problem(`version ${body.readUInt16LE(footer + 4)} is unknown`);
  const count = body.readUInt32LE(footer + 8);
  const dataBytes = body.readUInt32LE(footer + 12);
  if (body.readUInt16LE(footer + 6) !== 0 || count > packRowsMax || dataBytes > packChunkBytesMax) {
    throw problem('its footer is out of bounds');
  }
  if (dataBytes + count * packRowBytes !== footer) throw problem('its length does not fit its footer');
  const table = body.subarray(dataBytes, footer);
  const sha256 = createHash('sha256').update(table).digest();
  if (!sha256.equals(body.subarray(footer + 16))) throw problem('its table does not fit its hash');
  const rows: PackRow[] = [];
  let offset = 0;
  for (let at = 0; at < table.length; at += packRowBytes) {
    const row = {
      hash: table.subarray(at, at + chunkHashBytes),
      offset: table.readUInt32LE(at + 32),
      storedBytes: table.readUInt32LE(at + 36),
      plainBytes: table.readUInt32LE(at + 40),
    };
    const encoding = row.storedBytes === row.plainBytes ? encodings.raw : encodings.zstd;
    const fits = row.offset === offset && row.storedBytes > 0 && row.storedBytes <= row.plainBytes;
    if (!fits || row.plainBytes > chunkBytes || table.readUInt32LE(at + 44) !== encoding) {
      throw problem(`row ${at / packRowBytes} is out of bounds`);
    }
    offset += row.storedBytes;
    rows.push(row);
  }
  if (offset !== dataBytes) throw problem('its chunks do not fill it');
  return rows;
}
