/** What would keep a real InfluxDB from being protected is found before it does: its account, its version, its databases. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { examineInfluxdb } from '../../agent/doctor/influxdb.ts';
import type { InfluxdbConfig } from '../../core/config/services.ts';
import { InfluxdbLab } from '../lab/influxdb.ts';

let influxdb: InfluxdbLab;
let dir: string;

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'qazyna-influxdb-doctor-'));
  influxdb = await InfluxdbLab.start({ settings: { http: ['auth-enabled = true'] } });
  await ask("CREATE USER admin WITH PASSWORD 'secret' WITH ALL PRIVILEGES");
  await ask('CREATE DATABASE telegraf', 'admin:secret');
  await ask("CREATE USER reader WITH PASSWORD 'reader'", 'admin:secret');
  await writeFile(join(dir, 'admin'), 'secret\n', { mode: 0o600 });
  await writeFile(join(dir, 'reader'), 'reader\n', { mode: 0o600 });
}, 120_000);

afterAll(async () => {
  await influxdb.stop();
  await rm(dir, { recursive: true, force: true });
});

async function ask(text: string, account = ''): Promise<void> {
  const authorization = account === '' ? {} : { authorization: `Basic ${Buffer.from(account).toString('base64')}` };
  const body = new URLSearchParams({ q: text });
  const response = await fetch(`${influxdb.url}/query`, { method: 'POST', body, headers: authorization });
  expect([text, response.status]).toEqual([text, 200]);
}

async function findings(change: Partial<InfluxdbConfig>): Promise<string[]> {
  const config: InfluxdbConfig = {
    kind: 'influxdb',
    name: 'syslog',
    url: influxdb.url,
    databases: null,
    user: 'admin',
    passwordFile: join(dir, 'admin'),
    listen: { host: '127.0.0.1', port: 8087 },
    advertise: 'http://127.0.0.1:8087',
    checkEveryMs: 5000,
    snapshotsEveryMs: 3_600_000,
    ...change,
  };
  const signal = AbortSignal.timeout(20_000);
  return (await examineInfluxdb(config, { environment: {}, signal })).map(
    ({ code, severity }) => `${severity} ${code}`,
  );
}

test('an administrator’s account is enough; a database that is not there yet is told of', async () => {
  expect(await findings({})).toEqual(['ok QZ2043']);
  expect(await findings({ databases: ['telegraf', 'telegraff'] })).toEqual(['ok QZ2043', 'warn QZ2044']);
});

test('no account, a wrong password and an account without rights are refused by name', async () => {
  expect(await findings({ user: null, passwordFile: null })).toEqual(['fail QZ2921']);
  expect(await findings({ passwordFile: join(dir, 'reader') })).toEqual(['fail QZ2921']);
  expect(await findings({ user: 'reader', passwordFile: join(dir, 'reader') })).toEqual(['fail QZ2921']);
});

test('a server that is away, or is none', async () => {
  expect(await findings({ url: 'http://127.0.0.1:1' })).toEqual(['fail QZ4925']);
});
