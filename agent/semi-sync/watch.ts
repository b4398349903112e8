/**
 * Whether RPO 0 is in force, by the server's own counters: asked several times a second, never assumed. It is said only while
 * every condition is seen to hold, and what is older than two seconds counts as not seen. When they hold (again), commits that
 * did not wait may be under way still: it is in force once everything before that is accepted.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { type QazynaError, transientError } from '../../core/errors/error.ts';
import type { Logger } from '../../core/logging/logger.ts';
import { connectMysql, type MysqlConnection, type MysqlEndpoint } from '../../core/mysql/connection.ts';
import { binlogStatus } from '../../core/mysql/source-facts.ts';
import { compareFiles } from '../capture/file-name.ts';
import { readSemiSync, readSemiSyncStatus, shortcomings } from './settings.ts';

const everyMs = 400;
const staleMs = 2000;
/** Just after a start, or while we connect anew: so long it may take to hold (again) without an alarm. */
const graceMs = 1000;

interface Place {
  file: string;
  position: number;
}

interface Shortfall {
  why: string;
  /** Commits return, or may at any moment, without an acknowledgement: no time is given to that. */
  isFallback: boolean;
}

export interface RpoWatchOptions {
  endpoint: MysqlEndpoint;
  /** Why acknowledgements do not go out just now, as far as this side knows; null when they do. */
  hindrance: () => string | null;
  /** Up to where the source's binlog is accepted; null while that is not known. */
  accepted: () => Place | null;
  onAlarm: (error: QazynaError | null) => void;
  logger: Logger;
}

export class RpoWatch {
  readonly #options: RpoWatchOptions;
  #heldAtMs = Number.NEGATIVE_INFINITY;
  #unacknowledged: number | null = null;
  /** The end of the binlog when all conditions were first seen to hold; null while they do not. */
  #holdsFrom: Place | null = null;

  constructor(options: RpoWatchOptions) {
    this.#options = options;
  }

  /** All conditions were seen to hold, just now. */
  get holds(): boolean {
    return performance.now() - this.#heldAtMs < staleMs && this.#options.hindrance() === null;
  }

  /** Until the signal aborts. */
  async run(signal: AbortSignal): Promise<void> {
    const { onAlarm } = this.#options;
    let brokenSinceMs = performance.now();
    while (!signal.aborted) {
      const { why, isFallback } = await this.#watch(signal, () => {
        brokenSinceMs = performance.now();
        onAlarm(null);
      });
      if (signal.aborted) break;
      this.#heldAtMs = Number.NEGATIVE_INFINITY;
      if (isFallback || performance.now() - brokenSinceMs > graceMs) onAlarm(notInForce(why));
      await sleep(everyMs, undefined, { signal }).catch(() => undefined);
    }
  }

  /** For as long as all holds; resolves with what does not. */
  async #watch(signal: AbortSignal, onHolds: () => void): Promise<Shortfall> {
    let connection: MysqlConnection | null = null;
    try {
      connection = await connectMysql({ ...this.#options.endpoint, connectTimeoutMs: staleMs }, signal);
      for (;;) {
        const shortfall = await this.#look(connection);
        if (shortfall !== null) return shortfall;
        this.#heldAtMs = performance.now();
        onHolds();
        await sleep(everyMs, undefined, { signal });
      }
    } catch (error) {
      // Nobody looked meanwhile.
      this.#holdsFrom = null;
      return passing(error instanceof Error ? error.message.replace(/\.$/, '') : String(error));
    } finally {
      await connection?.close().catch(() => undefined);
    }
  }

  async #look(connection: MysqlConnection): Promise<Shortfall | null> {
    const shortfall = await this.#shortfall(connection);
    if (shortfall !== null) {
      this.#holdsFrom = null;
      return shortfall;
    }
    this.#holdsFrom ??= await binlogStatus(connection);
    const accepted = this.#options.accepted();
    return accepted === null || isBefore(accepted, this.#holdsFrom)
      ? passing('commits that did not wait are not all acknowledged yet')
      : null;
  }

  async #shortfall(connection: MysqlConnection): Promise<Shortfall | null> {
    const hindrance = this.#options.hindrance();
    const status = await readSemiSyncStatus(connection);
    const before = this.#unacknowledged;
    this.#unacknowledged = status.unacknowledged;
    // Lower: the server has started anew.
    if (before !== null && status.unacknowledged > before)
      return fallback(`${status.unacknowledged - before} commits of the source returned without an acknowledgement`);
    if (hindrance !== null) return passing(hindrance);
    const [wrong] = shortcomings(await readSemiSync(connection));
    if (wrong !== undefined) return fallback(wrong);
    if (!status.isOn) return fallback('the source has fallen back to asynchronous replication');
    if (status.clients !== 1)
      return passing(`${status.clients} semi-sync replicas are attached to the source, not ours alone`);
    return null;
  }
}

function fallback(why: string): Shortfall {
  return { why, isFallback: true };
}

function passing(why: string): Shortfall {
  return { why, isFallback: false };
}

function isBefore(one: Place, other: Place): boolean {
  const files = compareFiles(one.file, other.file);
  return files < 0 || (files === 0 && one.position < other.position);
}

function notInForce(why: string): QazynaError {
  return transientError(
    'QZ4130',
    `RPO 0 is not in force: ${why}.`,
    'Commits may wait, or return although they are on this host alone. It is in force again by itself once this is put right; `qazyna doctor` examines the settings.',
  );
}
