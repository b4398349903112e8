/** The options of servers that replay: a restore and a standby do it alike, so that neither is slower, or tried less, than the other. */
import { expect, test } from '@jest/globals';
import { replayOptions, standbyOptions } from '../../core/restore/server-options.ts';

/** What a replay's speed depends on, and what makes it go on after a crash. */
const replayed =
  /^(replica-|relay-log|max-relay-log-size|sync-(relay-log|source-info)|innodb-(buffer-pool-size|redo-log-capacity)|max-allowed-packet)/;

test('a restore replays with the speed of a standby', () => {
  const pick = (options: object) =>
    Object.entries(options).filter(([name]) => replayed.test(name) && name !== 'replica-net-timeout');
  const restore = pick(replayOptions({}, 7)).sort();
  expect(pick(standbyOptions({}, 7, { semiSync: false })).sort()).toEqual(restore);
  expect(Object.fromEntries(restore)).toMatchObject({
    'replica-parallel-workers': 4,
    'replica-preserve-commit-order': true,
  });
  // Nothing that is replayed waits for a flush of its own, nor is it logged again.
  expect(replayOptions({}, 7)).toMatchObject({ 'disable-log-bin': true, 'innodb-flush-log-at-trx-commit': 0 });
  expect(standbyOptions({}, 7, { semiSync: false })).toMatchObject({
    'log-replica-updates': false,
    'innodb-flush-log-at-trx-commit': 2,
  });
});
