/**
 * Lines into a database, in batches, several at once. What belongs to one series goes through one lane, so that a later
 * value of a point comes after an earlier one. What the server refuses is halved until each line that it minds is found.
 */
import { retrying } from '../../core/errors/retry.ts';
import { eachLine } from '../../core/influxdb/lines.ts';
import type { InfluxdbServer } from '../../core/influxdb/server.ts';
import type { Logger } from '../../core/logging/logger.ts';
import type { SetAside } from './set-aside.ts';

export interface PointWriterOptions {
  server: InfluxdbServer;
  database: string;
  setAside: SetAside;
  /** Lines that the server took, in the order of their lane. */
  onTaken: (policy: string, precision: string, lines: readonly Buffer[]) => void | Promise<void>;
  signal: AbortSignal;
  logger: Logger;
}

export const lanes = 4;
const batchBytes = 1024 * 1024;
const batchLines = 10_000;
/** A server that stays away longer ends the restore; the same command goes on later. */
const patienceMs = 5 * 60_000;

interface Lane {
  policy: string;
  precision: string;
  lines: Buffer[];
  bytes: number;
  sending: Promise<void>;
}

export class PointWriter {
  readonly #options: PointWriterOptions;
  readonly #lanes: Lane[];
  #next = 0;
  #failure: unknown = null;

  constructor(options: PointWriterOptions) {
    this.#options = options;
    const empty = (): Lane => ({ policy: '', precision: '', lines: [], bytes: 0, sending: Promise.resolve() });
    this.#lanes = Array.from({ length: lanes }, empty);
  }

  /** `line` without its newline; it is kept, not copied. Wait for what it returns, if anything, before the next one. */
  add(hash: number, policy: string, precision: string, line: Buffer): Promise<void> | null {
    const lane = this.#lanes[hash % lanes] as Lane;
    const isOther = lane.policy !== policy || lane.precision !== precision;
    const isFull = lane.bytes + line.length >= batchBytes || lane.lines.length >= batchLines;
    const sent = (isOther || isFull) && lane.lines.length > 0 ? this.#send(lane) : null;
    if (sent === null) this.#put(lane, policy, precision, line);
    else return sent.then(() => this.#put(lane, policy, precision, line));
    return null;
  }

  /** Lines whose points are all different, so that any lane will do. */
  async addBlock(policy: string, block: Buffer): Promise<void> {
    const lane = this.#lanes[this.#next % lanes] as Lane;
    this.#next += 1;
    if (lane.lines.length > 0) await this.#send(lane);
    this.#put(lane, policy, 'ns', block);
    await this.#send(lane);
  }

  /** All that was added is at the server. Throws what stopped any of it. */
  async flush(): Promise<void> {
    for (const lane of this.#lanes) if (lane.lines.length > 0) await this.#send(lane);
    await Promise.all(this.#lanes.map(({ sending }) => sending));
    if (this.#failure !== null) throw this.#failure;
  }

  #put(lane: Lane, policy: string, precision: string, line: Buffer): void {
    lane.policy = policy;
    lane.precision = precision;
    lane.lines.push(line);
    lane.bytes += line.length + 1;
  }

  /** Waits for the lane's batch before; resolves when this one is on its way. */
  async #send(lane: Lane): Promise<void> {
    const { policy, precision, lines } = lane;
    lane.lines = [];
    lane.bytes = 0;
    await lane.sending;
    if (this.#failure !== null) throw this.#failure;
    lane.sending = this.#write(policy, precision, lines).catch((error: unknown) => {
      this.#failure ??= error;
    });
  }

  async #write(policy: string, precision: string, lines: readonly Buffer[]): Promise<void> {
    const { server, database, onTaken, setAside, signal, logger } = this.#options;
    const body = Buffer.concat(lines.flatMap((line) => [line, newline]));
    const place = { database, policy, precision };
    const options = { signal, logger, deadlineMs: patienceMs };
    const outcome = await retrying('writing to InfluxDB', () => server.write(place, body, signal), options);
    if (outcome === 'taken') return await onTaken(policy, precision, lines);
    const [only] = lines;
    const parts = lines.length === 1 && only !== undefined ? splitLines(only) : lines;
    if (parts.length <= 1) {
      if (only !== undefined) await setAside.add(policy, precision, outcome.rejected, only);
      return;
    }
    const half = Math.ceil(parts.length / 2);
    await this.#write(policy, precision, parts.slice(0, half));
    await this.#write(policy, precision, parts.slice(half));
  }
}

/** A block may be added as one. */
function splitLines(block: Buffer): Buffer[] {
  const lines: Buffer[] = [];
  eachLine(block, (start, end) => lines.push(block.subarray(start, end)));
  return lines;
}

const newline = Buffer.from('\n');
