/** Points that InfluxDB refuses, each with the reason, in a file that a person can read and mend. */
import { type FileHandle, mkdir, open, readFile, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { eachLine } from '../../core/influxdb/lines.ts';

export class SetAside implements AsyncDisposable {
  count = 0;
  readonly path: string;
  /** What was last written about, so that a thousand lines of one kind have one heading. */
  #heading = '';
  #handle: FileHandle | null = null;
  #bytes: number;
  #writing: Promise<unknown> = Promise.resolve();

  private constructor(path: string, kept: { count: number; bytes: number }) {
    this.path = path;
    this.count = kept.count;
    this.#bytes = kept.bytes;
  }

  /** What stands behind `kept.bytes` is of a part that is done anew, and goes. */
  static async open(path: string, kept: { count: number; bytes: number }): Promise<SetAside> {
    const file = new SetAside(path, kept);
    await mkdir(dirname(path), { recursive: true });
    file.#handle = await open(path, kept.bytes === 0 ? 'w' : 'r+', 0o640);
    await file.#handle.truncate(kept.bytes);
    return file;
  }

  /** What is durable when this resolves. */
  async keep(): Promise<{ count: number; bytes: number }> {
    const kept = { count: this.count, bytes: this.#bytes };
    await this.#writing;
    await this.#handle?.sync();
    return kept;
  }

  /** `line` without its newline. */
  async add(policy: string, precision: string, reason: string, line: Buffer): Promise<void> {
    this.count += 1;
    const heading = `# retention policy ${JSON.stringify(policy)}, precision ${precision === '' ? 'ns' : precision}: ${reason.replaceAll('\n', ' ')}\n`;
    const text = heading === this.#heading ? '' : heading;
    this.#heading = heading;
    const bytes = Buffer.concat([Buffer.from(text), line, newline]);
    const position = this.#bytes;
    this.#bytes += bytes.length;
    this.#writing = this.#writing.then(() => this.#handle?.write(bytes, 0, bytes.length, position));
    await this.#writing;
  }

  /** All that was written so far. */
  async read(): Promise<{ policy: string; line: Buffer }[]> {
    await this.#writing;
    const bytes = await readFile(this.path);
    const found: { policy: string; line: Buffer }[] = [];
    let policy = '';
    eachLine(bytes, (start, end) => {
      const line = bytes.subarray(start, end);
      const heading = /^# retention policy ("(?:[^"\\]|\\.)*"), precision /.exec(line.toString('utf8', 0, 1024))?.[1];
      if (heading !== undefined) policy = JSON.parse(heading) as string;
      else found.push({ policy, line });
    });
    return found;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#writing;
    await this.#handle?.close();
    this.#handle = null;
    if (this.count === 0) await rm(this.path, { force: true });
  }
}

const newline = Buffer.from('\n');
