/**
 * The same numbers as /metrics, to an InfluxDB, again and again. What cannot be sent waits in bounded memory; what has to be
 * dropped is counted, and an alarm is up all the while. Nothing of the backup ever waits for it.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { isKind, transientError } from '../../core/errors/error.ts';
import type { Logger } from '../../core/logging/logger.ts';
import type { Alarms } from '../alarms.ts';
import { type Metric, metricsOf } from '../http/metrics.ts';
import type { MetricsPushStatus, StatusSnapshot } from '../http/status.ts';
import type { MetricsSender } from './influxdb-client.ts';

export interface MetricsPushOptions {
  sender: MetricsSender;
  status: () => Promise<StatusSnapshot>;
  everyMs: number;
  alarms: Alarms;
  logger: Logger;
  /** For tests. */
  waitingMaxBytes?: number;
}

const defaultWaitingMax = 1024 * 1024;
/** One request; a server that was away for long gets several. */
const batchLines = 5000;

export class MetricsPush {
  readonly counters: MetricsPushStatus = { sentPoints: 0, droppedPoints: 0, waitingPoints: 0 };
  readonly #options: MetricsPushOptions;
  #waiting: string[] = [];
  #waitingBytes = 0;

  constructor(options: MetricsPushOptions) {
    this.#options = options;
  }

  /** Until the signal aborts; never rejects. */
  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      await this.round();
      await sleep(this.#options.everyMs, undefined, { signal }).catch(() => undefined);
    }
  }

  /** Adds how things stand now, and sends what waits. */
  async round(): Promise<void> {
    const { status, alarms, logger } = this.#options;
    try {
      const now = await status();
      this.#keep(linesOf(now.atMicros, metricsOf(now, process.memoryUsage.rss()), now.source));
      await this.#sendAll();
      alarms.clear('metrics');
    } catch (error) {
      if (!isKind(error, 'transient')) logger.error('metrics could not be sent', { reason: String(error) });
      else
        alarms.raise('metrics', {
          code: error.code,
          message: `${error.message}${this.#droppedText()}`,
          hint: error.hint,
        });
    }
  }

  async #sendAll(): Promise<void> {
    while (this.#waiting.length > 0) {
      const batch = this.#waiting.slice(0, batchLines);
      const outcome = await this.#options.sender.send(batch);
      this.#forget(batch.length);
      if (outcome === 'taken') this.counters.sentPoints += batch.length;
      else {
        this.counters.droppedPoints += batch.length;
        throw refusedPoints(outcome.refused);
      }
    }
  }

  /** The oldest make room. */
  #keep(lines: readonly string[]): void {
    const waitingMax = this.#options.waitingMaxBytes ?? defaultWaitingMax;
    this.#waiting.push(...lines);
    this.#waitingBytes += lines.reduce((sum, line) => sum + line.length, 0);
    let dropped = 0;
    for (let bytes = this.#waitingBytes; bytes > waitingMax; dropped += 1)
      bytes -= this.#waiting[dropped]?.length ?? bytes;
    if (dropped > 0) this.#options.logger.warn(`${dropped} points of metrics were dropped: too many wait`);
    this.#forget(dropped);
    this.counters.droppedPoints += dropped;
  }

  #forget(count: number): void {
    const gone = this.#waiting.splice(0, count);
    this.#waitingBytes -= gone.reduce((sum, line) => sum + line.length, 0);
    this.counters.waitingPoints = this.#waiting.length;
  }

  #droppedText(): string {
    const { droppedPoints } = this.counters;
    return droppedPoints === 0 ? '' : ` ${droppedPoints} points were dropped since the start.`;
  }
}

/** One point for each set of labels, with a field for each metric. */
export function linesOf(atMicros: number, metrics: readonly Metric[], source: string): string[] {
  const points = new Map<string, string[]>();
  for (const { name, samples } of metrics) {
    for (const [labels, value] of samples) {
      if (value === null) continue;
      const tags = Object.entries({ source, ...labels }).map(([key, text]) => `,${escaped(key)}=${escaped(text)}`);
      const key = `qazyna${tags.sort().join('')}`;
      points.set(key, [...(points.get(key) ?? []), `${escaped(name)}=${value}`]);
    }
  }
  const atMs = Math.floor(atMicros / 1000);
  return [...points].map(([key, fields]) => `${key} ${fields.join(',')} ${atMs}`);
}

function escaped(text: string): string {
  return text.replace(/[,= ]/g, '\\$&').replaceAll('\n', ' ') || '-';
}

function refusedPoints(reason: string) {
  return transientError(
    'QZ4931',
    `InfluxDB refuses metrics: ${reason}.`,
    'They are dropped and counted; look whether another program writes to the measurement qazyna there.',
  );
}
