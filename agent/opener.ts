/**
 * Opens a source that boots fenced (ops/mysql/pair.cnf), whenever its binlog is read and the chain names it as the source: after a
 * failover the chain names another one, and this one stays shut.
 */
import { QazynaError } from '../core/errors/error.ts';
import { retrying } from '../core/errors/retry.ts';
import type { Logger } from '../core/logging/logger.ts';
import { connectMysql, type MysqlEndpoint } from '../core/mysql/connection.ts';
import { isFenced, liftFence } from '../core/mysql/fence.ts';
import type { Alarms } from './alarms.ts';

const topic = 'fence';

export class SourceOpener {
  readonly #endpoint: MysqlEndpoint;
  readonly #alarms: Alarms;
  readonly #signal: AbortSignal;
  readonly #logger: Logger;
  #opening = Promise.resolve();

  constructor(endpoint: MysqlEndpoint, options: { alarms: Alarms; signal: AbortSignal; logger: Logger }) {
    this.#endpoint = endpoint;
    this.#alarms = options.alarms;
    this.#signal = options.signal;
    this.#logger = options.logger;
  }

  /** As the agent's `onAttached`. What cannot be done becomes an alarm, and is tried again when it may pass. */
  attached(): void {
    this.#opening = this.#opening
      .then(() => this.#open())
      .catch((error: unknown) => {
        if (error instanceof QazynaError && !this.#signal.aborted) this.#alarms.raise(topic, error);
      });
  }

  async #open(): Promise<void> {
    const onFailure = (error: Error) => error instanceof QazynaError && this.#alarms.raise(topic, error);
    const patience = { signal: this.#signal, logger: this.#logger, deadlineMs: Number.POSITIVE_INFINITY, onFailure };
    await retrying('opening the source', () => this.#openOnce(), patience);
    this.#alarms.clear(topic);
  }

  async #openOnce(): Promise<void> {
    const connection = await connectMysql(this.#endpoint, this.#signal);
    try {
      if (!(await isFenced(connection))) return;
      await liftFence(connection);
      this.#logger.info(`${connection.name} booted fenced, and takes writes now: the chain names it as the source`);
    } finally {
      await connection.close();
    }
  }
}
