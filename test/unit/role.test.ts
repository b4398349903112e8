/** /primary and /replica as balancers ask for them. */
import { connect } from 'node:net';
import { afterEach, expect, test } from '@jest/globals';
import { notSo, type RoleTeller, roleAnswer } from '../../agent/http/role.ts';
import { type StatusServer, startStatusServer } from '../../agent/http/server.ts';
import { PairRoles, type PairRolesOptions, replicaVerdict } from '../../cli/pair-roles.ts';
import { GtidSet } from '../../core/binlog/gtid-set.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import type { FollowStatus } from '../../standby/follow.ts';

let server: StatusServer | null = null;
let asked: number[] = [];

afterEach(async () => {
  await server?.close();
  server = null;
  asked = [];
});

const yes = { holds: true, reason: 'It is.', generation: 3, serverUuid: 'u', lagMs: null };
const primary: RoleTeller = {
  primary: () => yes,
  replica: (withinMs) => {
    asked.push(withinMs);
    return { ...notSo('It is the primary.'), lagMs: 1500 };
  },
};

async function start(teller: RoleTeller | null = primary): Promise<number> {
  // A status that never comes: neither of the two may need it.
  const status = () => new Promise<never>(() => undefined);
  const listen = { host: '127.0.0.1', port: 0 };
  server = await startStatusServer({ listen, status, roles: () => teller, logger: silentLogger() });
  return server.address.port;
}

test('200 or 503 with the reason, without asking for the status', async () => {
  const url = `http://127.0.0.1:${await start()}`;
  const good = await fetch(`${url}/primary`);
  expect([good.status, good.headers.get('content-type')]).toEqual([200, 'application/json']);
  expect(await good.json()).toEqual({ role: 'primary', ...yes });
  const bad = await fetch(`${url}/replica`);
  expect([bad.status, bad.headers.get('cache-control')]).toEqual([503, 'no-store']);
  expect(await bad.json()).toMatchObject({ role: 'replica', holds: false, reason: 'It is the primary.', lagMs: 1500 });
});

test('HEAD and OPTIONS are answered alike, as HAProxy asks: HTTP/1.0 without a host', async () => {
  const port = await start();
  for (const [request, code] of [
    ['OPTIONS /primary HTTP/1.0\r\n\r\n', 200],
    ['OPTIONS /replica HTTP/1.0\r\n\r\n', 503],
    ['HEAD /primary HTTP/1.1\r\nhost: db\r\ncontent-length: 0\r\n\r\n', 200],
    ['GET /replica?within=5 HTTP/1.0\r\n\r\n', 503],
    ['POST /primary HTTP/1.0\r\n\r\n', 405],
  ] as const)
    expect([request, await raw(port, request)]).toEqual([request, expect.stringMatching(`^HTTP/1.1 ${code} `)]);
  expect(await raw(port, 'HEAD /primary HTTP/1.0\r\n\r\n')).toMatch(/\r\n\r\n$/);
});

test('within takes seconds; anything else is refused, not taken for the default', async () => {
  await start();
  const ask = (query: string) => roleAnswer('replica', query, primary).code;
  expect(['', 'within=5', 'within=0.25', 'x=1&within=86400'].map(ask)).toEqual([503, 503, 503, 503]);
  expect(asked).toEqual([10_000, 5000, 250, 86_400_000]);
  expect(['within=', 'within=-1', 'within=5s', 'within=1e3', 'within=99999', 'within=NaN'].map(ask)).toEqual(
    Array.from({ length: 6 }, () => 400),
  );
});

test('where no server is watched, neither holds', async () => {
  const url = `http://127.0.0.1:${await start(null)}`;
  expect((await fetch(`${url}/primary`)).status).toBe(503);
  expect((await fetch(`${url}/replica`)).status).toBe(503);
});

const nowMs = 1_700_000_100_000;
const following = (more: Partial<FollowStatus> = {}): FollowStatus => ({
  state: 'following',
  serverUuid: 'u',
  executed: new GtidSet(),
  behindTransactions: 0,
  throughMicros: (nowMs - 4000) * 1000,
  atMs: nowMs - 200,
  ...more,
});

test('a standby holds as a replica for as long as what it executed is recent, and it was seen just now', () => {
  expect(replicaVerdict(following(), 2, 5000, nowMs)).toEqual({
    ...{ holds: true, reason: 'It follows 4.00 s behind.', generation: 2, serverUuid: 'u', lagMs: 4000 },
  });
  expect(replicaVerdict(following(), 2, 3000, nowMs)).toMatchObject({ holds: false, lagMs: 4000 });
  expect(replicaVerdict(following({ throughMicros: 0 }), 2, 3000, nowMs)).toMatchObject({ holds: false, lagMs: null });
  expect(replicaVerdict(following({ state: 'broken' }), 2, 5000, nowMs)).toMatchObject({ holds: false });
  expect(replicaVerdict(following({ atMs: nowMs - 3500 }), 2, 5000, nowMs)).toMatchObject({ holds: false });
  // A clock that was set back must not make an old look new.
  expect(replicaVerdict(following({ atMs: nowMs + 60_000 }), 2, 5000, nowMs)).toMatchObject({ holds: false });
  expect(replicaVerdict(null, 2, 5000, nowMs)).toMatchObject({ holds: false });
});

test('a host of a pair has the one role or the other, and the primary’s only once its promotion is finished', () => {
  const roles = (
    pair: {
      role: 'starting' | 'filling' | 'standby' | 'promoting' | 'primary' | 'fenced';
      isWritable?: boolean;
    } | null,
    watch: RoleTeller | null = primary,
  ): [boolean, boolean] => {
    const options: PairRolesOptions = {
      pair: () => (pair === null ? null : { isWritable: false, following: following({ atMs: Date.now() }), ...pair }),
      watch: () => watch,
      generation: () => 2,
    };
    const teller = new PairRoles(options);
    return [teller.primary().holds, teller.replica(1e15).holds];
  };
  expect(roles(null)).toEqual([false, false]);
  for (const role of ['starting', 'filling', 'promoting', 'fenced'] as const)
    expect([role, roles({ role, isWritable: true })]).toEqual([role, [false, false]]);
  expect(roles({ role: 'standby' })).toEqual([false, true]);
  expect(roles({ role: 'primary' })).toEqual([false, false]);
  expect(roles({ role: 'primary', isWritable: true }, null)).toEqual([false, false]);
  expect(roles({ role: 'primary', isWritable: true })).toEqual([true, false]);
});

function raw(port: number, bytes: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect(port, '127.0.0.1', () => socket.write(bytes));
    let answer = '';
    socket.setTimeout(10_000, () => socket.destroy(new Error('no answer')));
    socket.on('data', (data) => {
      answer += data.toString('latin1');
      if (answer.includes('\r\n\r\n')) socket.end();
    });
    socket.on('error', reject);
    socket.on('close', () => resolve(answer));
  });
}
