/**
 * From a chunked MessagePack answer to `SELECT *::field … GROUP BY *` to line protocol, point by point and without loss: one
 * line for each point, tags and fields in the order of their names, timestamps in ns. Shapes: services/httpd/response_writer.go.
 *
 * Bytes come in any pieces. Whatever was begun and cannot be read to its end yet (a header, a row) is read anew with more.
 */
import { transientError } from '../errors/error.ts';
import { escapeFieldKey, escapeMeasurement, escapeString, escapeTag } from './escape.ts';
import { MsgpackReader, needMore, unexpected } from './msgpack.ts';

const blockBytes = 256 * 1024;
const minusZero = Buffer.from('-0');

/** What is read next. */
type Step = 'answer' | 'result' | 'resultKey' | 'series' | 'seriesKey' | 'row';

export interface ExportDecoderOptions {
  /** Whether a field holds unsigned integers: small ones look like others. Left out: none does. */
  isUnsigned?: (measurement: Buffer, field: Buffer) => boolean;
  /** How many were asked, each of which is answered. Default 1. */
  statements?: number;
}

export class ExportDecoder {
  /** Points so far. */
  points = 0;
  readonly #reader = new MsgpackReader();
  readonly #options: ExportDecoderOptions;
  #step: Step = 'answer';
  #resultsLeft = 0;
  #resultKeysLeft = 0;
  #seriesLeft = 0;
  #seriesKeysLeft = 0;
  #rowsLeft = 0;
  /** Of the answer's object read last: which statement it answers, and whether more follows. */
  #statement = -1;
  #isPartial = true;
  #measurement: Buffer = Buffer.alloc(0);
  #tags: [Buffer, Buffer][] = [];
  #columns: Buffer[] = [];
  #unsigned: boolean[] = [];
  /** What each line of the series begins with, and each field. */
  #prefix: Buffer = Buffer.alloc(0);
  #fields: Buffer[] = [];
  #block = Buffer.allocUnsafeSlow(blockBytes);
  #filled = 0;

  constructor(options: ExportDecoderOptions = {}) {
    this.#options = options;
  }

  /** The lines that are complete by now, in blocks of whole lines. Throws what the server says is wrong (QZ4921). */
  push(bytes: Buffer): Buffer[] {
    this.#reader.push(bytes);
    const blocks: Buffer[] = [];
    try {
      for (;;) {
        const begin = this.#reader.at;
        try {
          if (!this.#one()) break;
        } catch (error) {
          this.#reader.at = begin;
          throw error;
        }
        if (this.#filled > blockBytes / 2) blocks.push(this.#take());
      }
    } catch (error) {
      if (error !== needMore) throw error;
    }
    return blocks;
  }

  /** What is left, after the last byte. Throws QZ4922 when the answer is not all there. */
  end(): Buffer[] {
    const isLast = this.#statement + 1 === (this.#options.statements ?? 1);
    if (this.#step !== 'answer' || !this.#reader.isEmpty || this.#isPartial || !isLast) throw cutShort();
    return this.#filled === 0 ? [] : [this.#take()];
  }

  #take(): Buffer {
    const taken = this.#block.subarray(0, this.#filled);
    this.#block = Buffer.allocUnsafeSlow(blockBytes);
    this.#filled = 0;
    return taken;
  }

  /** One step; false when nothing more is there. */
  #one(): boolean {
    switch (this.#step) {
      case 'row':
        if (this.#rowsLeft === 0) this.#step = 'seriesKey';
        else {
          this.#row();
          this.#rowsLeft -= 1;
        }
        return true;
      case 'seriesKey':
        this.#seriesKey();
        return true;
      case 'series':
        this.#series();
        return true;
      case 'resultKey':
        this.#resultKey();
        return true;
      case 'result':
        this.#result();
        return true;
      case 'answer':
        if (this.#reader.isEmpty) return false;
        this.#answer();
        return true;
    }
  }

  #answer(): void {
    const reader = this.#reader;
    reader.mapLength();
    const key = reader.text().toString();
    if (key === 'error') throw refused(reader.text().toString());
    this.#resultsLeft = reader.arrayLength();
    this.#isPartial = false;
    this.#step = 'result';
  }

  #result(): void {
    if (this.#resultsLeft === 0) {
      this.#step = 'answer';
      return;
    }
    this.#resultKeysLeft = this.#reader.mapLength();
    this.#resultsLeft -= 1;
    this.#step = 'resultKey';
  }

  #resultKey(): void {
    if (this.#resultKeysLeft === 0) {
      this.#step = 'result';
      return;
    }
    const reader = this.#reader;
    const key = reader.text().toString();
    if (key === 'error') throw refused(reader.text().toString());
    if (key === 'statement_id') this.#statement = Number(reader.integer());
    else if (key === 'partial') this.#isPartial = reader.boolean() || this.#isPartial;
    else if (key === 'series') {
      this.#seriesLeft = reader.arrayLength();
      this.#step = 'series';
    } else reader.skip();
    this.#resultKeysLeft -= 1;
  }

  #series(): void {
    if (this.#seriesLeft === 0) {
      this.#step = 'resultKey';
      return;
    }
    this.#seriesKeysLeft = this.#reader.mapLength();
    this.#measurement = Buffer.alloc(0);
    this.#tags = [];
    this.#seriesLeft -= 1;
    this.#step = 'seriesKey';
  }

  #seriesKey(): void {
    if (this.#seriesKeysLeft === 0) {
      this.#step = 'series';
      return;
    }
    const reader = this.#reader;
    const key = reader.text().toString();
    if (key === 'name') this.#measurement = Buffer.from(reader.text());
    else if (key === 'tags') this.#tags = this.#readTags();
    else if (key === 'columns') this.#columns = repeat(reader.arrayLength(), () => Buffer.from(reader.text()));
    else if (key === 'values') {
      this.#rowsLeft = reader.arrayLength();
      this.#begin();
      this.#step = 'row';
    } else reader.skip();
    this.#seriesKeysLeft -= 1;
  }

  /** All tags of the measurement; an empty one is one that this series does not have. */
  #readTags(): [Buffer, Buffer][] {
    const reader = this.#reader;
    const all = repeat(reader.mapLength(), (): [Buffer, Buffer] => [
      Buffer.from(reader.text()),
      Buffer.from(reader.text()),
    ]);
    return all.filter(([, value]) => value.length > 0).sort(([a], [b]) => Buffer.compare(a, b));
  }

  #begin(): void {
    const parts = [escapeMeasurement(this.#measurement)];
    for (const [key, value] of this.#tags) parts.push(comma, escapeTag(key), equalSign, escapeTag(value));
    this.#prefix = Buffer.concat([...parts, blank]);
    this.#fields = this.#columns.map((name) => Buffer.concat([escapeFieldKey(name), equalSign]));
    const { isUnsigned } = this.#options;
    this.#unsigned = this.#columns.map((name) => isUnsigned?.(this.#measurement, name) ?? false);
  }

  /** The first column is the time; a field that the point does not have is nil. */
  #row(): void {
    const reader = this.#reader;
    const begin = this.#filled;
    try {
      const columns = reader.arrayLength();
      const time = reader.integer();
      this.#bytes(this.#prefix);
      let isFirst = true;
      for (let column = 1; column < columns; column += 1) {
        const marker = reader.marker();
        if (marker === 0xc0) continue;
        if (!isFirst) this.#bytes(comma);
        isFirst = false;
        this.#bytes(this.#fields[column] ?? blank);
        this.#value(marker, this.#unsigned[column] === true);
      }
      if (isFirst) {
        this.#filled = begin;
        return;
      }
      this.#text(` ${time}\n`);
      this.points += 1;
    } catch (error) {
      this.#filled = begin;
      throw error;
    }
  }

  #value(marker: number, isUnsigned: boolean): void {
    const reader = this.#reader;
    if (marker === 0xcb) {
      const value = reader.take(8).readDoubleBE();
      if (value === 0 && Object.is(value, -0)) this.#bytes(minusZero);
      else this.#text(String(value));
    } else if (marker === 0xc2) this.#text('false');
    else if (marker === 0xc3) this.#text('true');
    else {
      const length = reader.textLength(marker);
      if (length >= 0) {
        this.#bytes(quote);
        this.#bytes(escapeString(reader.take(length)));
        this.#bytes(quote);
        return;
      }
      const digits = reader.integerDigits(marker);
      if (digits === null) throw unexpected(marker, 'a field');
      this.#text(digits);
      this.#text(isUnsigned || (marker >= 0xcc && marker <= 0xcf) ? 'u' : 'i');
    }
  }

  #bytes(bytes: Buffer): void {
    this.#ensure(bytes.length);
    this.#filled += bytes.copy(this.#block, this.#filled);
  }

  /** Of ASCII only. */
  #text(text: string): void {
    this.#ensure(text.length);
    this.#filled += this.#block.write(text, this.#filled, 'latin1');
  }

  #ensure(bytes: number): void {
    if (this.#filled + bytes <= this.#block.length) return;
    const larger = Buffer.allocUnsafeSlow(2 * Math.max(this.#block.length, this.#filled + bytes));
    this.#block.copy(larger, 0, 0, this.#filled);
    this.#block = larger;
  }
}

const comma = Buffer.from(',');
const equalSign = Buffer.from('=');
const quote = Buffer.from('"');
const blank = Buffer.from(' ');

function repeat<T>(times: number, make: () => T): T[] {
  const made: T[] = [];
  for (let time = 0; time < times; time += 1) made.push(make());
  return made;
}

export function refused(reason: string) {
  return transientError(
    'QZ4921',
    `InfluxDB answers a query with: ${reason}.`,
    'It is tried again by itself; InfluxDB’s own log may say more.',
  );
}

export function cutShort() {
  return transientError(
    'QZ4922',
    'InfluxDB ended an answer before it was complete.',
    'Nothing of it is used; it is asked for again. InfluxDB’s own log may say why.',
  );
}
