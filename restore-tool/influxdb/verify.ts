/**
 * Reads the restored database back and compares it, point by point, with what the archive says: range by range, in bounded
 * memory. A range that nothing was replayed into must be the snapshot's own bytes; of any other the points are compared.
 */
import { open } from 'node:fs/promises';
import type { FieldTypes } from '../../core/influxdb/definitions.ts';
import { exportRange, readMeasurements } from '../../core/influxdb/export.ts';
import {
  blocksOfLines,
  canonicalFields,
  canonicalKey,
  eachLine,
  hashBytes,
  parseLine,
} from '../../core/influxdb/lines.ts';
import type { InfluxdbServer } from '../../core/influxdb/server.ts';
import type { TimeRange } from './ranges.ts';
import type { VerifyResult } from './types.ts';

/** What is compared at once, as text; it takes several times as much in memory. */
const partBytes = 32 * 1024 * 1024;
const toldMax = 10_000;

/** Expected in a range: lines in the order in which they were written. */
export interface Expected {
  range: TimeRange;
  sizeBytes: number;
  /** Whether nothing but the snapshot's own lines is expected. */
  isPlain: boolean;
  read(): AsyncIterable<Buffer>;
}

export interface VerifyOptions {
  server: InfluxdbServer;
  database: string;
  types: FieldTypes;
  /** Points that the server refused: `policy key time`; they are not missed. */
  refused: ReadonlySet<string>;
  /** Whether points that are not expected count: not where others were there before. */
  isAlone: boolean;
  differencesFile: string;
  onPoints: (points: number) => void;
  signal: AbortSignal;
}

export class Verifier {
  readonly result: VerifyResult = { points: 0, missing: 0, different: 0, unexpected: 0, differencesFile: null };
  readonly #options: VerifyOptions;
  #measurements: readonly Buffer[] | null = null;
  readonly #told: string[] = [];

  constructor(options: VerifyOptions) {
    this.#options = options;
  }

  async compare(expected: Expected): Promise<void> {
    const { signal } = this.#options;
    signal.throwIfAborted();
    if (expected.isPlain && (await this.#isSame(expected))) return;
    const parts = Math.max(1, Math.ceil(expected.sizeBytes / partBytes));
    for (let part = 0; part < parts; part += 1) await this.#comparePart(expected, part, parts);
  }

  /** Writes down what differs. */
  async finish(): Promise<VerifyResult> {
    if (this.#told.length === 0) return this.result;
    await using file = await open(this.#options.differencesFile, 'w', 0o640);
    await file.writeFile(Buffer.from(`${this.#told.join('\n')}\n`, 'latin1'));
    return { ...this.result, differencesFile: this.#options.differencesFile };
  }

  async #isSame(expected: Expected): Promise<boolean> {
    let points = 0;
    const counted = async function* (blocks: AsyncIterable<Buffer>) {
      for await (const block of blocks) {
        eachLine(block, () => {
          points += 1;
        });
        yield block;
      }
    };
    if (!(await sameBytes(expected.read(), counted(await this.#read(expected.range))))) return false;
    this.#count(points);
    return true;
  }

  async #read(range: TimeRange): Promise<AsyncIterable<Buffer>> {
    const { server, database, types, signal } = this.#options;
    this.#measurements ??= await readMeasurements(server, database, signal);
    return exportRange(server, { database, ...range }, { measurements: this.#measurements, types, signal });
  }

  #count(points: number): void {
    this.result.points += points;
    this.#options.onPoints(points);
  }

  /** Points whose series falls into this part. Fields stay texts as long as that is enough to tell that they are the same. */
  async #comparePart({ range, read }: Expected, part: number, parts: number): Promise<void> {
    const wanted = new Map<string, string>();
    for await (const block of blocksOfLines(read())) {
      eachPoint(block, part, parts, (key, fields) => {
        const known = wanted.get(key);
        wanted.set(key, known === undefined || known === fields ? fields : merged(known, fields));
      });
    }
    let points = 0;
    for await (const block of await this.#read(range)) {
      eachPoint(block, part, parts, (key, fields) => {
        points += 1;
        const expected = wanted.get(key);
        if (expected !== fields) {
          this.#compareOne(range, key, expected === undefined ? undefined : fieldsOf(expected), fieldsOf(fields));
        }
        wanted.delete(key);
      });
    }
    this.#count(points);
    for (const [key, text] of wanted) {
      const fields = fieldsOf(text);
      if (fields.size === 0 || this.#options.refused.has(`${range.policy} ${key}`)) continue;
      this.result.missing += 1;
      this.#tell('missing', range, key, fields);
    }
  }

  #compareOne(
    range: TimeRange,
    key: string,
    wanted: Map<string, string> | undefined,
    found: Map<string, string>,
  ): void {
    const { isAlone } = this.#options;
    if (wanted === undefined) {
      if (!isAlone) return;
      this.result.unexpected += 1;
      this.#tell('unexpected', range, key, found);
      return;
    }
    const isSame = [...wanted].every(([name, value]) => found.get(name) === value);
    if (isSame && (!isAlone || wanted.size === found.size)) return;
    this.result.different += 1;
    this.#tell('expected', range, key, wanted);
    this.#tell('but found', range, key, found);
  }

  #tell(what: string, { policy }: TimeRange, key: string, fields: Map<string, string>): void {
    if (this.#told.length >= toldMax) return;
    const at = key.lastIndexOf(' ');
    const text = [...fields].map(([name, value]) => `${name}=${value}`).join(',');
    this.#told.push(`# ${what}, in ${JSON.stringify(policy)}`, `${key.slice(0, at)} ${text}${key.slice(at)}`);
  }
}

/** `series time` and the fields as they stand there, both as latin1. */
function eachPoint(block: Buffer, part: number, parts: number, tell: (key: string, fields: string) => void): void {
  eachLine(block, (start, end) => {
    const line = parseLine(block, start, end);
    if (line === null || typeof line === 'string') return;
    if (parts > 1 && hashBytes(block, line.start, line.keyEnd) % parts !== part) return;
    tell(`${canonicalKey(block, line)} ${line.time}`, block.toString('latin1', line.fieldsStart, line.fieldsEnd));
  });
}

/** A field called `time` is taken and never stored (tsdb/shard.go, validateSeriesAndFields). */
function fieldsOf(text: string): Map<string, string> {
  const bytes = Buffer.from(text, 'latin1');
  const line = { start: 0, keyEnd: 0, fieldsStart: 0, fieldsEnd: bytes.length, time: null };
  const fields = canonicalFields(bytes, line);
  fields.delete('time');
  return fields;
}

/** The later values stand. */
function merged(earlier: string, later: string): string {
  const fields = new Map([...fieldsOf(earlier), ...fieldsOf(later)]);
  return [...fields].map(([name, value]) => `${name}=${value}`).join(',');
}

async function sameBytes(one: AsyncIterable<Buffer>, other: AsyncIterable<Buffer>): Promise<boolean> {
  const [a, b] = [new Pieces(one), new Pieces(other)];
  try {
    for (;;) {
      const [left, right] = [await a.next(), await b.next()];
      if (left === null || right === null) return left === right;
      const bytes = Math.min(left.length, right.length);
      if (left.compare(right, 0, bytes, 0, bytes) !== 0) return false;
      a.take(bytes);
      b.take(bytes);
    }
  } finally {
    await Promise.all([a.end(), b.end()]);
  }
}

/** What is there of a stream and not taken yet. */
class Pieces {
  readonly #iterator: AsyncIterator<Buffer>;
  #rest: Buffer = Buffer.alloc(0);

  constructor(pieces: AsyncIterable<Buffer>) {
    this.#iterator = pieces[Symbol.asyncIterator]();
  }

  async next(): Promise<Buffer | null> {
    while (this.#rest.length === 0) {
      const next = await this.#iterator.next();
      if (next.done) return null;
      this.#rest = next.value;
    }
    return this.#rest;
  }

  take(bytes: number): void {
    this.#rest = this.#rest.subarray(bytes);
  }

  async end(): Promise<void> {
    await this.#iterator.return?.();
  }
}
