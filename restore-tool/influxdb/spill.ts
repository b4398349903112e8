/** What was replayed, by range, in files of the work folder: what the comparison expects beside the snapshot. */
import { createReadStream } from 'node:fs';
import { appendFile, mkdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { TimeRange } from './ranges.ts';

/** All ranges together, before they are written out. */
const bufferedMax = 16 * 1024 * 1024;

export class Spill {
  readonly #dir: string;
  readonly #paths = new Map<TimeRange, string>();
  readonly #buffered = new Map<TimeRange, Buffer[]>();
  #bufferedBytes = 0;
  /** One write-out at a time: lines of a range stay in their order. */
  #writing: Promise<void> = Promise.resolve();

  private constructor(dir: string) {
    this.#dir = dir;
  }

  /** Empty. */
  static async open(dir: string): Promise<Spill> {
    await rm(dir, { recursive: true, force: true });
    await mkdir(dir, { recursive: true });
    return new Spill(dir);
  }

  /** A line without its newline, in ns and with the names and values of an export. */
  add(range: TimeRange, line: Buffer): Promise<void> | null {
    const lines = this.#buffered.get(range) ?? [];
    lines.push(line);
    this.#buffered.set(range, lines);
    this.#bufferedBytes += line.length + 1;
    return this.#bufferedBytes > bufferedMax ? this.flush() : null;
  }

  async flush(): Promise<void> {
    const taken = [...this.#buffered];
    this.#buffered.clear();
    this.#bufferedBytes = 0;
    this.#writing = this.#writing.then(async () => {
      for (const [range, lines] of taken)
        await appendFile(this.#pathOf(range), Buffer.concat(lines.flatMap((line) => [line, newline])));
    });
    await this.#writing;
  }

  /** Whether anything was replayed into this range. Flush first. */
  has(range: TimeRange): boolean {
    return this.#paths.has(range);
  }

  /** What was replayed into a range, in order, in pieces; and how much it is. */
  read(range: TimeRange): AsyncIterable<Buffer> {
    const path = this.#paths.get(range);
    return path === undefined ? nothing() : createReadStream(path, { highWaterMark: 256 * 1024 });
  }

  async sizeOf(range: TimeRange): Promise<number> {
    const path = this.#paths.get(range);
    return path === undefined ? 0 : (await stat(path)).size;
  }

  async remove(): Promise<void> {
    await rm(this.#dir, { recursive: true, force: true });
  }

  #pathOf(range: TimeRange): string {
    const known = this.#paths.get(range);
    if (known !== undefined) return known;
    const path = join(this.#dir, `${this.#paths.size}.lp`);
    this.#paths.set(range, path);
    return path;
  }
}

const newline = Buffer.from('\n');

async function* nothing(): AsyncIterable<Buffer> {}
