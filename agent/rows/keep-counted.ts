/** Rows of the source counted up now and then, and noted in every archive. A failure raises an alarm, and costs nothing else. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { ObjectStore } from '../../core/archive/store.ts';
import type { ChainState } from '../../core/chain/types.ts';
import { QazynaError } from '../../core/errors/error.ts';
import type { Logger } from '../../core/logging/logger.ts';
import { connectMysql, type MysqlEndpoint } from '../../core/mysql/connection.ts';
import { sourceClockMicros } from '../../core/mysql/source-facts.ts';
import { newestRecord, newRecordId, putRecord } from '../../core/verify/record.ts';
import type { Alarms } from '../alarms.ts';
import { countRows } from './count-rows.ts';

/** While nothing is captured yet, and after a failure. */
const againAfterMs = 60_000;
/** However far off it is: somebody else may have counted meanwhile. */
const lookAfterMsMax = 3_600_000;

export interface RowsOptions {
  everyMs: number;
  tableBytesMax: number;
}

export interface KeepCountedOptions extends RowsOptions {
  endpoint: MysqlEndpoint;
  sourceName: string;
  stores: readonly { name: string; store: ObjectStore }[];
  /** What is captured; null before. */
  chain: () => ChainState | null;
  alarms: Alarms;
  logger: Logger;
  signal: AbortSignal;
}

/** Until the signal aborts; never rejects but by a bug. */
export async function keepCounted(options: KeepCountedOptions): Promise<void> {
  const { everyMs, chain, alarms, signal } = options;
  while (!signal.aborted) {
    let waitMs = Math.min(againAfterMs, everyMs);
    try {
      if (chain()?.range != null) waitMs = await countWhenDue(options);
      alarms.clear('rows');
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof QazynaError)) throw error;
      alarms.raise('rows', error);
    }
    await sleep(Math.min(waitMs, lookAfterMsMax), undefined, { signal, ref: false }).catch(() => undefined);
  }
}

/** By the newest record in any archive. Resolves with how long it is until it is due again. */
async function countWhenDue(options: KeepCountedOptions): Promise<number> {
  const { everyMs, sourceName, stores, signal } = options;
  let lastMs = 0;
  for (const { store } of stores) {
    const newest = await newestRecord(store, sourceName, 'rows', { sinceMs: Date.now() - everyMs, signal });
    lastMs = Math.max(lastMs, (newest?.atMicros ?? 0) / 1000);
  }
  const untilMs = lastMs + everyMs - Date.now();
  if (untilMs > 0) return untilMs;
  await countOnce(options);
  return everyMs;
}

async function countOnce(options: KeepCountedOptions): Promise<void> {
  const { endpoint, sourceName, stores, chain, tableBytesMax, logger, signal } = options;
  const connection = await connectMysql(endpoint, signal);
  try {
    const atMicros = await sourceClockMicros(connection);
    const counted = await countRows(connection, { tableBytesMax, signal });
    const generation = chain()?.generation ?? 0;
    const record = { format: 1 as const, id: newRecordId(), source: sourceName, generation, atMicros, ...counted };
    for (const { store } of stores) await putRecord(store, 'rows', record);
    logger.info(`counted up the rows of ${Object.keys(counted.tables).length} tables`, { component: 'rows' });
  } finally {
    await connection.close();
  }
}
