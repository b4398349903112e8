/**
 * Whether this host's server is the writable primary, asked of it twice a second and kept for whoever wants to know
 * (agent/http/role.ts). A server that lets nobody in counts as no at once, and what is older than three seconds does as
 * well: a server that hangs, an agent that was frozen.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { ChainState } from '../core/chain/types.ts';
import type { Logger } from '../core/logging/logger.ts';
import { connectMysql, type MysqlConnection, type MysqlEndpoint } from '../core/mysql/connection.ts';
import { formatDuration } from '../core/progress/format.ts';
import { notSo, type RoleTeller, type RoleVerdict } from './http/role.ts';

export interface PrimaryWatchOptions {
  endpoint: MysqlEndpoint;
  /** The fold through the last accepted entry; null before this agent has claimed the chain. */
  chain: () => ChainState | null;
  /** When the chain last took an entry of ours, as performance.now(); null: that need not be fresh. */
  acceptedAtMs: () => number | null;
  /** Something else says that this server must not be written to; its reason, or null. */
  fenced?: () => string | null;
  logger: Logger;
}

/** The server as it was when it last answered. */
interface Seen {
  at: Instant;
  serverUuid: string;
  readOnly: boolean;
  offline: boolean;
}

/** By both clocks: one stands still while the machine sleeps, the other can be set. */
interface Instant {
  monotonicMs: number;
  wallMs: number;
}

const everyMs = 500;
const answerWithinMs = 2000;
const staleMs = 3000;
const statement =
  'SELECT @@GLOBAL.server_uuid AS uuid, @@GLOBAL.read_only AS ro, @@GLOBAL.super_read_only AS sro, @@GLOBAL.offline_mode AS off';

export class PrimaryWatch implements RoleTeller {
  readonly #options: PrimaryWatchOptions;
  #seen: Seen | null = null;
  /** Why the server could not be asked when it was last tried; '' when it could. */
  #trouble = '';

  constructor(options: PrimaryWatchOptions) {
    this.#options = options;
  }

  /** Until the signal aborts; never throws. */
  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      let wasConnected = false;
      try {
        await this.#watch(signal, () => {
          wasConnected = true;
        });
      } catch (error) {
        // A connection that ended says little: the next one, made at once, says more.
        if (wasConnected) continue;
        this.#trouble = error instanceof Error ? error.message : String(error);
        this.#options.logger.debug('the server was not asked for its role', { reason: this.#trouble });
      }
      await sleep(everyMs, undefined, { signal }).catch(() => undefined);
    }
  }

  primary(): RoleVerdict {
    const { chain, acceptedAtMs, fenced } = this.#options;
    const state = chain();
    if (state === null) return notSo('The agent has not claimed the chain yet.');
    const { generation, sourceUuid } = state;
    const seen = this.#seen;
    const known = { generation, serverUuid: seen?.serverUuid ?? '' };
    const no = (reason: string) => notSo(reason, known);
    if (this.#trouble !== '') return no(`The server lets nobody in: ${this.#trouble}`);
    if (seen === null) return no('The server has not answered yet.');
    const ageMs = ageOf(seen.at);
    if (ageMs > staleMs) return no(`The server has not answered for ${formatDuration(ageMs)}.`);
    if (seen.serverUuid !== sourceUuid)
      return no(`The server is ${seen.serverUuid}, but generation ${generation} belongs to ${sourceUuid}.`);
    const fence = fenced?.() ?? null;
    if (fence !== null) return no(`The server is fenced: ${fence}`);
    if (seen.offline) return no('The server is in offline_mode: it lets no application in.');
    if (seen.readOnly) return no('The server is read-only.');
    const acceptedMs = acceptedAtMs();
    if (acceptedMs !== null && performance.now() - acceptedMs > staleMs)
      return no('The log has taken nothing from this agent lately, so another server may have taken over.');
    return { ...notSo(`It is the writable primary of generation ${generation}.`, known), holds: true };
  }

  replica(_withinMs: number): RoleVerdict {
    return notSo('No standby runs in this process.', { serverUuid: this.#seen?.serverUuid ?? '' });
  }

  async #watch(signal: AbortSignal, onAnswer: () => void): Promise<void> {
    const { endpoint } = this.#options;
    const connection = await connectMysql({ ...endpoint, connectTimeoutMs: answerWithinMs }, signal);
    try {
      while (!signal.aborted) {
        this.#seen = await look(connection);
        this.#trouble = '';
        onAnswer();
        await sleep(everyMs, undefined, { signal }).catch(() => undefined);
      }
    } finally {
      await connection.close().catch(() => undefined);
    }
  }
}

/** As of the moment of asking: the answer may have been under way for long. */
async function look(connection: MysqlConnection): Promise<Seen> {
  const at = { monotonicMs: performance.now(), wallMs: Date.now() };
  const [row] = await connection.query(statement, [], answerWithinMs);
  return {
    at,
    serverUuid: String(row?.uuid).toLowerCase(),
    readOnly: Number(row?.ro) !== 0 || Number(row?.sro) !== 0,
    offline: Number(row?.off) !== 0,
  };
}

function ageOf(at: Instant): number {
  return Math.max(performance.now() - at.monotonicMs, Date.now() - at.wallMs);
}
