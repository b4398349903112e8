/** Retention beside a running shipper: now and then, and through faults. */
import { expect, test } from '@jest/globals';
import { integrityError, transientError } from '../../core/errors/error.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import { keepPruned } from '../../shipper/prune/keep-pruned.ts';
import type { PruneReport } from '../../shipper/prune/prune.ts';

const logger = silentLogger();

test('beside a shipper it looks now and then; a fault ends one round and not the next, and what is refused is told', async () => {
  const told: (string | null)[] = [];
  const stop = new AbortController();
  const report: PruneReport = {
    chains: [],
    condemned: { chain: 0, snapshots: 0, packs: 0 },
    deleted: { objects: 0, bytes: 0 },
    waiting: 0,
    spared: [],
    refusals: [],
    uploads: 0,
    versions: null,
  };
  const refused = integrityError('QZ3444', 'A pack is missing.', 'Look for it.');
  const put = { deleted: 0, locked: 0, overwritten: ['packs/aa/x'] };
  const rounds: (() => PruneReport)[] = [
    () => {
      throw transientError('QZ4405', 'The bucket is away.', 'It is tried again.');
    },
    () => ({ ...report, refusals: [refused] }),
    () => ({ ...report, versions: put }),
    () => report,
  ];
  const working = keepPruned({
    run: async () => {
      const round = rounds.shift();
      if (round === undefined) throw new Error('it was stopped');
      return round();
    },
    archiveName: 'bucket',
    everyMs: 1,
    firstAfterMs: 1,
    onTrouble: (error) => {
      told.push(error?.code ?? null);
      if (rounds.length === 0) stop.abort();
    },
    signal: stop.signal,
    logger,
  });
  await working;
  expect(told).toEqual(['QZ4405', 'QZ3444', 'QZ3445', null]);
});
