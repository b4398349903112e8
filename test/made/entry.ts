/** Entries of every shape for codec tests. */
import { GtidSet } from '../../core/binlog/gtid-set.ts';
import type { Entry } from '../../core/chain/types.ts';
import { madeChainId, madeUuid } from './chain.ts';

/** An entry with a different value in every field, so that no two can be mixed up unseen. */
export function makeEntry(changes: Partial<Entry> = {}): Entry {
  const body = changes.body ?? Buffer.from('binlog bytes '.repeat(40));
  return {
    kind: 'events',
    chainId: madeChainId,
    generation: 3,
    writer: 'ab'.repeat(16),
    number: 77,
    sourceUuid: madeUuid,
    file: 'binlog.000042',
    start: 5_000_000_000,
    end: 5_000_000_000 + body.length,
    boundary: 5_000_000_000 + body.length - 7,
    transactionStart: 5_000_000_000 + 3,
    fileHeadSha256: Buffer.alloc(32, 0xcd),
    firstCommitMicros: 1_800_000_000_000_001,
    lastCommitMicros: 1_800_000_000_000_002,
    completeThroughMicros: 1_800_000_000_000_003,
    gtidsAdded: GtidSet.parse(`${madeUuid}:11-19`),
    gtidsBefore: GtidSet.parse(`${madeUuid}:1-10,${madeUuid}:tagged:1-4`),
    semiSync: true,
    note: 'a note',
    body,
    ...changes,
  };
}
