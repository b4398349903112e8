/** The comparison after a restore, against a real InfluxDB: it finds whatever is not as it should be, and nothing else. */
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { InfluxdbServer } from '../../core/influxdb/server.ts';
import { Verifier, type VerifyOptions } from '../../restore-tool/influxdb/verify.ts';
import { InfluxdbLab } from '../lab/influxdb.ts';

const signal = new AbortController().signal;
const stored = 'cpu,dc=x,host=a s="t,\\"=",v=1.5 1000\ncpu,dc=x,host=a v=2.5 2000\nmem n=7i 1000\n';
let influxdb: InfluxdbLab;
let server: InfluxdbServer;
let dir: string;

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'qazyna-verify-'));
  influxdb = await InfluxdbLab.start();
  server = new InfluxdbServer({ url: influxdb.url, user: null, password: '' });
  await server.query('CREATE DATABASE d', signal);
  expect(await server.write({ database: 'd', policy: 'autogen', precision: 'ns' }, Buffer.from(stored), signal)).toBe(
    'taken',
  );
}, 120_000);

afterAll(async () => {
  server.close();
  await influxdb.stop();
  await rm(dir, { recursive: true, force: true });
});

async function compare(lines: string, isPlain: boolean, change: Partial<VerifyOptions> = {}) {
  const options = { server, database: 'd', types: {}, refused: new Set<string>(), isAlone: true, signal };
  const differencesFile = join(dir, 'differences.lp');
  const verifier = new Verifier({ ...options, differencesFile, onPoints: () => undefined, ...change });
  const read = async function* () {
    yield Buffer.from(lines);
  };
  const range = { policy: 'autogen', startNs: 0n, endNs: 10_000n };
  await verifier.compare({ range, sizeBytes: lines.length, isPlain, read });
  const { points, missing, different, unexpected } = await verifier.finish();
  return [points, missing, different, unexpected];
}

test('the same bytes, and the same points otherwise written, are the same', async () => {
  expect(await compare(stored, true)).toEqual([3, 0, 0, 0]);
  const other =
    'mem n=007i 1000\ncpu,host=a,dc=x v=9 2000\ncpu,host=a,dc=x v=1.50 1000\ncpu,host=a,dc=x s="t,\\"=" 1000\ncpu,host=a,dc=x v=25e-1 2000';
  expect(await compare(other, false)).toEqual([3, 0, 0, 0]);
  expect(await compare(other, true)).toEqual([3, 0, 0, 0]);
});

test('a point that is missing, differs, or is too much is found and written down', async () => {
  expect(await compare(`${stored}mem n=8i 3000\n`, true)).toEqual([3, 1, 0, 0]);
  expect(await readFile(join(dir, 'differences.lp'), 'utf8')).toBe('# missing, in "autogen"\nmem n=8i 3000\n');
  expect(await compare(stored.replace('v=1.5', 'v=1.6'), true)).toEqual([3, 0, 1, 0]);
  expect(await compare(stored.replace('n=7i', 'n=7'), false)).toEqual([3, 0, 1, 0]);
  expect(await compare(stored.replace('s="t,\\"=",', ''), false)).toEqual([3, 0, 1, 0]);
  expect(await compare(stored.replace('mem n=7i 1000\n', ''), true)).toEqual([3, 0, 0, 1]);
});

test('points that the server refused are not missed; beside other data only what is expected counts', async () => {
  const refused = new Set(['autogen mem 3000']);
  expect(await compare(`${stored}mem n=8i 3000\n`, false, { refused })).toEqual([3, 0, 0, 0]);
  expect(await compare('mem n=7i 1000\n', false, { isAlone: false })).toEqual([3, 0, 0, 0]);
  expect(await compare('mem n=8i 1000\n', false, { isAlone: false })).toEqual([3, 0, 1, 0]);
});
