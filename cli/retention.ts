/** Alarms long before the brokers' retention deletes what an archive still lacks. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Alarms } from '../agent/alarms.ts';
import { transientError } from '../core/errors/error.ts';
import type { ChainLog } from '../core/log/types.ts';
import type { Logger } from '../core/logging/logger.ts';
import { formatDuration } from '../core/progress/format.ts';
import type { ArchiveWorker } from './archive-worker.ts';

const lookEveryMs = 10_000;
/** Share of the retention at which the alarm comes: the same time again is left to mend the archive. */
const alarmFromShare = 0.5;

export interface RetentionWatch {
  log: ChainLog;
  workers: readonly Pick<ArchiveWorker, 'name' | 'progress' | 'chain'>[];
  alarms: Alarms;
  logger: Logger;
  signal: AbortSignal;
}

/** Until the signal aborts; never rejects. */
export async function watchRetention({ log, workers, alarms, logger, signal }: RetentionWatch): Promise<void> {
  let begun: number | null = null;
  while (!signal.aborted) {
    for (const worker of workers) {
      try {
        begun ??= (await log.bounds()).next;
        // One that could not be looked at so far lacks at least what came since.
        const lacks = worker.progress()?.nextLogNumber ?? worker.chain?.next ?? begun;
        await look(log, worker.name, lacks, alarms);
      } catch (error) {
        logger.debug(`the retention of ${log.name} could not be compared`, { reason: String(error) });
      }
    }
    await sleep(lookEveryMs, undefined, { signal, ref: false }).catch(() => undefined);
  }
}

/** `lacks`: the first entry that the archive does not have, as far as is known. */
async function look(log: ChainLog, archive: string, lacks: number, alarms: Alarms): Promise<void> {
  const topic = `retention:${archive}`;
  const headroom = await log.headroom(lacks);
  if (headroom === null || headroom.share < alarmFromShare) return alarms.clear(topic);
  const { share, ageMs, retentionMs } = headroom;
  const left = retentionMs === null ? '' : `, in about ${formatDuration(Math.max(0, retentionMs - ageMs))}`;
  alarms.raise(
    topic,
    transientError(
      'QZ4319',
      share < 1
        ? `The ${log.name} will delete what the archive ${archive} still lacks${left}.`
        : `The ${log.name} may already have deleted what the archive ${archive} still lacks.`,
      'See why the archive is behind and mend it; until then raise retention.ms of the topic (kafka-configs --alter).',
    ),
  );
}
