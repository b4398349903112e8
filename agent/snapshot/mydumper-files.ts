/**
 * The files that mydumper left, on their way into the chunk store: whose rows they hold, put together into pieces of a good
 * size for a restore by several clients, and held against what the tables must have.
 */
import { createReadStream } from 'node:fs';
import { open, readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { type DataTable, keyOf, nameOfKey, quoted, type Unfit } from './mydumper-plan.ts';
import { DataScanner } from './mydumper-scanner.ts';

const readBytes = 1024 * 1024;
const peekBytes = 64 * 1024;
/** Small files are put together: a client of its own for each would cost more than their rows. */
const pieceBytes = 16 * 1024 * 1024;

export interface DataFile {
  path: string;
  table: DataTable;
  sizeBytes: number;
}

/** In a stable order, so that the same rows fall into the same chunks. */
export async function findDataFiles(folder: string, tables: readonly DataTable[]): Promise<DataFile[] | Unfit> {
  const files: DataFile[] = [];
  for (const name of (await readdir(folder)).sort()) {
    if (/^metadata|-metadata$|-checksum$/.test(name)) continue;
    const path = join(folder, name);
    const head = name.endsWith('.sql') ? await headOf(path) : '';
    const inserted = /^INSERT INTO `([^`]+)`/m.exec(head)?.[1];
    // The name alone is ambiguous: schemas and tables may hold dots.
    const owners = tables.filter((table) => table.name === inserted && name.startsWith(`${table.db}.${table.name}.`));
    const [table] = owners;
    if (table === undefined || owners.length > 1) return { unfit: `it left a file that is not understood: ${name}` };
    files.push({ path, table, sizeBytes: (await stat(path)).size });
  }
  return files;
}

/** Tables, as `db.table`, that have rows and no file. `counted`: by `keyOf`. */
export function leftOut(files: readonly DataFile[], counted: ReadonlyMap<string, number>): string[] {
  const there = new Set(files.map(({ table }) => keyOf(table.db, table.name)));
  return [...counted].filter(([key, rows]) => rows > 0 && !there.has(key)).map(([key]) => nameOfKey(key));
}

async function headOf(path: string): Promise<string> {
  const file = await open(path);
  try {
    const { bytesRead, buffer } = await file.read(Buffer.alloc(peekBytes), 0, peekBytes, 0);
    return buffer.toString('utf8', 0, bytesRead);
  } finally {
    await file.close();
  }
}

/** Neighbours together, up to about 16 MiB; a larger file stands alone. */
export function piecesOf(files: readonly DataFile[]): DataFile[][] {
  const pieces: DataFile[][] = [];
  let bytes = pieceBytes;
  for (const file of files) {
    if (bytes + file.sizeBytes > pieceBytes) {
      pieces.push([]);
      bytes = 0;
    }
    pieces.at(-1)?.push(file);
    bytes += file.sizeBytes;
  }
  return pieces;
}

/** What every file of the dump begins with: it does not depend on the session that loads it. */
export function sessionHead(db: string | null): string {
  const use = db === null ? '' : `USE ${quoted(db)};\n`;
  return `${use}SET SESSION sql_log_bin = 0, time_zone = '+00:00', foreign_key_checks = 0, unique_checks = 0, sql_mode = 'NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES';\n`;
}

/** Adds up what passes, for the check at the end. */
export class PieceReader {
  /** By `keyOf`. */
  readonly rows = new Map<string, number>();
  problem: string | null = null;

  async *read(piece: readonly DataFile[]): AsyncGenerator<Buffer> {
    for (const { path, table } of piece) {
      const scanner = new DataScanner(table.name, table.columns);
      yield Buffer.from(sessionHead(table.db));
      for await (const part of createReadStream(path, { highWaterMark: readBytes })) {
        if (!Buffer.isBuffer(part)) throw new Error('a file is read as bytes');
        scanner.feed(part);
        yield part;
      }
      const wrong = scanner.end();
      if (wrong !== null) this.problem ??= `its file of ${table.db}.${table.name} is not understood: ${wrong}`;
      const key = keyOf(table.db, table.name);
      this.rows.set(key, (this.rows.get(key) ?? 0) + scanner.rows);
    }
  }

  /** Null when every table has as many rows as were counted in it at the same instant. */
  unfit(counted: ReadonlyMap<string, number>): Unfit | null {
    if (this.problem !== null) return { unfit: this.problem };
    for (const [key, rows] of counted) {
      const dumped = this.rows.get(key) ?? 0;
      if (dumped !== rows) return { unfit: `it dumped ${dumped} of ${rows} rows of ${nameOfKey(key)}` };
    }
    return null;
  }
}
