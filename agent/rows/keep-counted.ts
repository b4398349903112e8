/** Rows of the source counted up now and then, and noted in every archive. A failure raises an alarm, and costs nothing else. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { ObjectStore } from '../../core/archive/store.ts';
import type { ChainState } from '../../core/chain/types.ts';
import { QazynaError } from '../../core/errors/error.ts';
import type { Logger } from '../../core/logging/logger.ts';
import { connectMysql, type MysqlEndpoint } from '../../core/mysql/connection.ts';
import { sourceClockMicros } from '../../core/mysql/source-facts.ts';
import { listRecords, newRecordId, putRecord } from '../../core/verify/record.ts';
import type { Alarms } from '../alarms.ts';
import { countRows } from './count-rows.ts';

const lookEveryMs = 60_000;

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
  const { everyMs, alarms, signal } = options;
  while (!signal.aborted) {
    try {
      if (await isDue(options)) await countOnce(options);
      alarms.clear('rows');
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof QazynaError)) throw error;
      alarms.raise('rows', error);
    }
    await sleep(Math.min(lookEveryMs, everyMs), undefined, { signal, ref: false }).catch(() => undefined);
  }
}

/** By the newest record in any archive. */
async function isDue({ everyMs, sourceName, stores, chain, signal }: KeepCountedOptions): Promise<boolean> {
  if (chain()?.range == null) return false;
  for (const { store } of stores) {
    const since = { sinceMs: Date.now() - everyMs, newest: 1, signal };
    const [newest] = await listRecords(store, sourceName, 'rows', since);
    if (newest !== undefined && newest.atMicros / 1000 > Date.now() - everyMs) return false;
  }
  return true;
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
