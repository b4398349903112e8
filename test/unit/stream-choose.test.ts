/** Which file a replica is served from by its GTIDs, and which replicas are refused, for good or for now. */
import { describe, expect, test } from '@jest/globals';
import { GtidSet } from '../../core/binlog/gtid-set.ts';
import { chooseFile, refuseOwnServerId } from '../../core/stream/choose-file.ts';
import type { HistoryReach, StreamFile } from '../../core/stream/types.ts';

const old = '11111111-2222-3333-4444-555555555555';
const now = '99999999-8888-7777-6666-555555555555';
const set = (text: string) => GtidSet.parse(text);

function file(name: string, before: string, after: string | null, serverId: number): StreamFile {
  const gtidsAfter = after === null ? null : set(after);
  return { name, gtidsBefore: set(before), gtidsAfter, serverIds: new Set([serverId]) };
}

/** Timeline 1 was written by server 11, timeline 2 by server 12 after a promotion, and it goes on. */
const files = [
  file('a.1', '', `${old}:1-10`, 11),
  file('a.2', `${old}:1-10`, `${old}:1-20`, 11),
  file('g2-a.1', `${old}:1-20`, null, 12),
];
const reach: HistoryReach = {
  gtids: set(`${old}:1-20,${now}:1-5`),
  lost: (ahead) => ahead.subtract(ahead.ofSource(now)),
};

describe('a file for a replica', () => {
  test.each([
    ['', 'a.1'],
    [`${old}:1-9`, 'a.1'],
    [`${old}:1-10`, 'a.2'],
    [`${old}:1-20`, 'g2-a.1'],
    [`${old}:1-20,${now}:1-5`, 'g2-a.1'],
  ])('that has executed %s', (executed, name) => {
    expect(chooseFile({ reach }, files, set(executed)).name).toBe(name);
  });

  test('one that has what can never come is refused for good; one that has what may still come, for now', () => {
    const choose = (executed: string) => () => chooseFile({ reach }, files, set(executed));
    expect(choose(`${old}:1-21`)).toThrow(expect.objectContaining({ code: 'QZ3705', kind: 'integrity' }));
    expect(choose(`${old}:1-20,${old}:tag:1`)).toThrow(expect.objectContaining({ code: 'QZ3705' }));
    expect(choose(`${old}:1-20,${now}:1-6`)).toThrow(expect.objectContaining({ code: 'QZ4708', kind: 'transient' }));
    expect(choose(`${old}:1-20,00000000-0000-0000-0000-000000000001:1`)).not.toThrow();
    expect(() => chooseFile({ reach }, [], set(''))).toThrow(expect.objectContaining({ code: 'QZ4709' }));
  });
});

describe('a server_id of the history', () => {
  const refuse = (serverId: number, executed: string | null) => () =>
    refuseOwnServerId({ serverIds: new Set([11, 12]) }, files, serverId, executed === null ? null : set(executed));

  test('is refused where the replica would ignore what it lacks', () => {
    expect(refuse(11, `${old}:1-19`)).toThrow(/server_id 11 is one of this history's own.*a\.2/);
    expect(refuse(11, null)).toThrow(expect.objectContaining({ code: 'QZ3707' }));
    // The file that it writes itself grows.
    expect(refuse(12, `${old}:1-20,${now}:1-5`)).toThrow(/server_id 12/);
  });

  test('is no hindrance to the server that wrote an earlier timeline, and has all of it', () => {
    expect(refuse(11, `${old}:1-20`)).not.toThrow();
    expect(refuse(13, '')).not.toThrow();
  });
});
