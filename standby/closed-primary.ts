/**
 * A switchover makes the primary read-only, and one that comes to nothing gives it its writes back. Who is closed is noted
 * before: a standby that died in between, or could not reach it then, does it as soon as it can.
 */
import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import { replaceFile } from '../core/bytes/durable-file.ts';
import type { ChainState } from '../core/chain/types.ts';
import { isKind, type QazynaError, transientError } from '../core/errors/error.ts';
import type { Logger } from '../core/logging/logger.ts';
import { connectMysql, type MysqlConnection, type MysqlEndpoint } from '../core/mysql/connection.ts';
import { serverUuidOf } from './server.ts';

const noteName = 'switchover.json';
export const closeStatement = 'SET GLOBAL super_read_only = ON';
const schema = z.strictObject({ format: z.literal(1), closed: z.uuid() });
const lookEveryMs = 1000;
const killedWithinMs = 5000;
const pollMs = 20;

export interface ClosedPrimaryOptions {
  dir: string;
  /** The primary as this host reaches it. */
  primary: MysqlEndpoint;
  live: { readonly state: ChainState; changed(after: number, signal: AbortSignal): Promise<ChainState> };
  onAlarm: (topic: string, error: QazynaError | null) => void;
  signal: AbortSignal;
  logger: Logger;
}

export class ClosedPrimary {
  readonly #options: ClosedPrimaryOptions;
  readonly #path: string;
  /** server_uuid of the one that we closed; null for none. */
  #closed: string | null;
  /** By a switchover of this very process, which has not come to its end. */
  #isSwitching = false;

  private constructor(options: ClosedPrimaryOptions, closed: string | null) {
    this.#options = options;
    this.#path = join(options.dir, noteName);
    this.#closed = closed;
  }

  /** A note that cannot be understood is none: a person finds the primary read-only. */
  static async open(options: ClosedPrimaryOptions): Promise<ClosedPrimary> {
    const text = await readFile(join(options.dir, noteName), 'utf8').catch(() => '{}');
    const note = schema.safeParse(parsed(text));
    return new ClosedPrimary(options, note.success ? note.data.closed : null);
  }

  /** Before the first statement that closes it. */
  async note(serverUuid: string): Promise<void> {
    this.#isSwitching = true;
    this.#closed = serverUuid;
    await replaceFile(this.#path, `${JSON.stringify({ format: 1, closed: serverUuid })}\n`);
  }

  /** The switchover was won, or the primary has its writes back. */
  async forget(): Promise<void> {
    await rm(this.#path, { force: true });
    this.#closed = null;
    this.#isSwitching = false;
  }

  /** The switchover came to nothing. Never throws: what fails now, or has to wait, is done by `watch`. */
  async giveBack({ later }: { later: boolean }): Promise<void> {
    const { primary, signal, logger } = this.#options;
    try {
      if (later) return;
      const connection = await connectMysql(primary, signal);
      try {
        await open(connection, signal);
      } finally {
        await connection.close();
      }
      await this.forget();
    } catch (error) {
      logger.error('the primary is left read-only for now', { reason: String(error) });
    } finally {
      this.#isSwitching = false;
    }
  }

  /** Until the signal aborts: what was left closed is opened, once it is certain that it is the primary still. */
  async watch(): Promise<void> {
    const { onAlarm, signal, logger } = this.#options;
    while (!signal.aborted) {
      try {
        if (this.#closed !== null && !this.#isSwitching) await this.#openLeft(this.#closed);
      } catch (error) {
        if (signal.aborted) return;
        if (!isKind(error, 'transient')) logger.error(`the primary is still read-only: ${String(error)}`);
      }
      await sleep(lookEveryMs, undefined, { signal }).catch(() => undefined);
    }
    onAlarm('switchover', null);
  }

  async #openLeft(uuid: string): Promise<void> {
    const { live, primary, onAlarm, signal, logger } = this.#options;
    if (live.state.sourceUuid === uuid) {
      onAlarm('switchover', leftClosed(uuid));
      // The promotion may be under way yet. It cannot count any more once somebody else has written in its place.
      const { sourceUuid } = await live.changed(live.state.next, signal);
      if (sourceUuid === uuid) {
        const connection = await connectMysql(primary, signal);
        try {
          if ((await serverUuidOf(connection)) !== uuid) return;
          await open(connection, signal);
        } finally {
          await connection.close();
        }
        logger.warn('the primary takes writes again: a switchover was cut short before it was decided');
      }
    }
    await this.forget();
    onAlarm('switchover', null);
  }
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

async function open(connection: MysqlConnection, signal: AbortSignal): Promise<void> {
  await withoutPending(connection, signal);
  await connection.query('SET GLOBAL super_read_only = OFF');
  await connection.query('SET GLOBAL read_only = OFF');
}

/** One that waits in the server yet, behind commits that wait themselves, would close it again after we have gone. */
async function withoutPending(connection: MysqlConnection, signal: AbortSignal): Promise<void> {
  for (const until = performance.now() + killedWithinMs; performance.now() < until; ) {
    const threads = await connection.query('SHOW PROCESSLIST');
    const pending = threads.filter(({ Info }) => String(Info) === closeStatement);
    if (pending.length === 0) return;
    // Gone meanwhile: that is as good.
    for (const { Id } of pending) await connection.query(`KILL ${Number(Id)}`).catch(() => undefined);
    await sleep(pollMs, undefined, { signal });
  }
}

function leftClosed(uuid: string): QazynaError {
  return transientError(
    'QZ4728',
    `A switchover was cut short after the primary ${uuid} had been made read-only.`,
    'It gets its writes back by itself as soon as its agent is heard of in the log and this host reaches it; by hand: SET GLOBAL read_only = OFF.',
  );
}
