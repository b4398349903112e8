/**
 * Whether RPO 0 is in force, by the server's own counters: asked several times a second, never assumed. It is said only while
 * every condition is seen to hold, and what is older than two seconds counts as not seen.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { type QazynaError, transientError } from '../../core/errors/error.ts';
import type { Logger } from '../../core/logging/logger.ts';
import { connectMysql, type MysqlConnection, type MysqlEndpoint } from '../../core/mysql/connection.ts';
import { readSemiSync, readSemiSyncStatus, shortcomings } from './settings.ts';

const everyMs = 400;
const staleMs = 2000;
/** Just after a start, or once it held: so long it may take to hold (again) without an alarm. */
const graceMs = 1000;

export interface RpoWatchOptions {
  endpoint: MysqlEndpoint;
  /** Why acknowledgements do not go out just now, as far as this side knows; null when they do. */
  hindrance: () => string | null;
  onAlarm: (error: QazynaError | null) => void;
  logger: Logger;
}

export class RpoWatch {
  readonly #options: RpoWatchOptions;
  #heldAtMs = Number.NEGATIVE_INFINITY;
  #unacknowledged: number | null = null;

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
      const why = await this.#watch(signal, () => {
        brokenSinceMs = performance.now();
        onAlarm(null);
      });
      if (signal.aborted) break;
      this.#heldAtMs = Number.NEGATIVE_INFINITY;
      if (performance.now() - brokenSinceMs > graceMs) onAlarm(notInForce(why));
      await sleep(everyMs, undefined, { signal }).catch(() => undefined);
    }
  }

  /** For as long as all holds; resolves with what does not. */
  async #watch(signal: AbortSignal, onHolds: () => void): Promise<string> {
    let connection: MysqlConnection | null = null;
    try {
      connection = await connectMysql({ ...this.#options.endpoint, connectTimeoutMs: staleMs }, signal);
      for (;;) {
        const why = await this.#look(connection);
        if (why !== null) return why;
        this.#heldAtMs = performance.now();
        onHolds();
        await sleep(everyMs, undefined, { signal });
      }
    } catch (error) {
      return error instanceof Error ? error.message.replace(/\.$/, '') : String(error);
    } finally {
      await connection?.close().catch(() => undefined);
    }
  }

  async #look(connection: MysqlConnection): Promise<string | null> {
    const hindrance = this.#options.hindrance();
    const status = await readSemiSyncStatus(connection);
    const before = this.#unacknowledged;
    this.#unacknowledged = status.unacknowledged;
    if (hindrance !== null) return hindrance;
    const [wrong] = shortcomings(await readSemiSync(connection));
    if (wrong !== undefined) return wrong;
    if (!status.isOn) return 'the source has fallen back to asynchronous replication';
    if (status.clients !== 1) return `${status.clients} semi-sync replicas are attached to the source, not ours alone`;
    // Lower: the server has started anew.
    if (before !== null && status.unacknowledged > before)
      return `${status.unacknowledged - before} commits of the source returned without an acknowledgement`;
    return null;
  }
}

function notInForce(why: string): QazynaError {
  return transientError(
    'QZ4130',
    `RPO 0 is not in force: ${why}.`,
    'Commits may wait, or return although they are on this host alone. It is in force again by itself once this is put right; `qazyna doctor` examines the settings.',
  );
}
