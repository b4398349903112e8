/** verify and drill as a user runs them, and as a daemon does by itself: a real server, a folder, an encrypted bucket. */
import { existsSync } from 'node:fs';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { openDirectoryStore } from '../../core/archive/directory.ts';
import { openStore } from '../../core/archive/open.ts';
import type { ObjectStore } from '../../core/archive/store.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import type { MysqlConnection } from '../../core/mysql/connection.ts';
import { newestRecord, type RowsRecord } from '../../core/verify/record.ts';
import { drill } from '../../restore-tool/drill/drill.ts';
import { Lab } from '../lab/lab.ts';
import { connected, executedSet, RunningDaemon, verb } from '../lab/running.ts';
import { keysBelow } from '../made/archive.ts';

const { signal } = new AbortController();
const osUser = process.getuid?.() === 0 ? 'root' : undefined;

let lab: Lab;
let source: MysqlConnection;
let dir: string;
let onsite: ObjectStore;
/** As its objects lie there: encrypted. */
let offsite: ObjectStore;
let plainConfig: string;
let counted: RowsRecord;

const configure = (more: string) => writeFile(lab.configFile, `${plainConfig}\n${more}`);
const run = async (args: readonly string[], environment: NodeJS.ProcessEnv = {}) => {
  const result = await verb([...args, '--json'], { QAZYNA_CONFIG: lab.configFile, ...environment });
  return { ...result, json: JSON.parse(result.stdout || '{}') };
};
const drillArgs = () => ['drill', '--dir', join(dir, 'scratch'), ...(osUser === undefined ? [] : ['--user', osUser])];

async function running(work: (daemon: RunningDaemon) => Promise<void>): Promise<void> {
  const daemon = new RunningDaemon(lab);
  try {
    await work(daemon);
    expect(await daemon.end('SIGTERM')).toBe(0);
  } finally {
    await daemon.end('SIGKILL');
  }
}

async function flip(store: ObjectStore, key: string): Promise<void> {
  const bytes = await store.get(key);
  if (bytes === null) throw new Error(`there is no ${key}`);
  const at = bytes.length - 5;
  bytes.writeUInt8(bytes.readUInt8(at) ^ 4, at);
  await store.remove(key);
  await store.putIfAbsent(key, [bytes]);
}

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'qazyna-trust-'));
  lab = await Lab.start({ s3: true });
  source = await connected(lab.mysql.root);
  const key = join(dir, 'key');
  expect((await verb(['key', 'new', key])).code).toBe(0);
  const text = await readFile(lab.configFile, 'utf8');
  plainConfig = text.replace('path_style: true', `path_style: true, encryption: { key_file: ${key} }`);
  await source.query('CREATE DATABASE shop');
  await source.query('CREATE TABLE shop.item (id INT AUTO_INCREMENT PRIMARY KEY, name VARCHAR(40), j JSON, f FLOAT)');
  await source.query('CREATE TABLE shop.`odd``name.` (id INT PRIMARY KEY, b VARBINARY(20))');
  await configure('drill: { rows_every: 1s }');
  await running(async (daemon) => {
    await daemon.untilProtected();
    for (let n = 0; n < 40; n += 1) {
      await source.query('INSERT INTO shop.item (name, j, f) VALUES (?, ?, ?)', [`item ${n}`, `{"n": ${n}}`, n / 7]);
      await source.query('REPLACE INTO shop.`odd``name.` VALUES (?, ?)', [n % 9, Buffer.from([n, 0, 255])]);
      if (n === 20) await source.query('FLUSH BINARY LOGS');
    }
    onsite = await openDirectoryStore(join(lab.dir, 'archives/onsite'), { create: false });
    const gtids = (await executedSet(source)).toString();
    for (let look = 0; look < 600 && counted?.gtids !== gtids; look += 1) {
      counted = (await newestRecord(onsite, 'agama', 'rows', { sinceMs: 0, signal })) ?? counted;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    expect(counted?.gtids).toBe(gtids);
    // A few segments behind what was counted: single ones are damaged below, never the last.
    for (let n = 0; n < 4; n += 1) {
      await source.query('INSERT INTO shop.item (name) VALUES (?)', [`behind what was counted: ${n}`]);
      await daemon.untilArchived(source);
    }
  });
  offsite = await openStore(lab.offsiteUrl, { create: false });
}, 180_000);

afterAll(async () => {
  await source?.close();
  await lab?.stop();
  await rm(dir, { recursive: true, force: true });
}, 120_000);

describe('verify', () => {
  test('everything the first time, then only what is new', async () => {
    const first = await run(['verify']);
    expect(first).toMatchObject({
      code: 0,
      json: {
        archives: [
          { full: true, sound: true },
          { full: true, sound: true },
        ],
      },
    });
    const [again] = (await run(['verify'])).json.archives;
    expect(again).toMatchObject({ full: false, sound: true, findings: [] });
    expect(again.objects).toBeLessThan(first.json.archives[0].objects / 3);
    // Also when the record of that is no longer the newest one.
    const { upkeep } = (await run(['status'])).json;
    expect(upkeep[0].verifiedFullMicros).toBe(first.json.archives[0].finishedMicros);
    const text = await verb(['verify', '--full'], { QAZYNA_CONFIG: lab.configFile });
    expect(text.stdout).toContain('everything is as it was written');
  }, 120_000);

  test('what is damaged is named with what heals it; a repair that is killed is ended by the next one', async () => {
    const [, segment = ''] = await keysBelow(onsite, 'sources/agama/chain/');
    const [pack = ''] = await keysBelow(onsite, 'packs/');
    const lost = (await keysBelow(offsite, 'sources/agama/chain/')).at(-2) ?? '';
    expect(lost > segment).toBe(true);
    await flip(onsite, segment);
    await onsite.remove(pack);
    await offsite.remove(lost);
    const found = await run(['verify', '--full']);
    expect(found.code).toBe(5);
    const objects = found.json.archives.map(({ findings }: { findings: { object: string; healableBy: string[] }[] }) =>
      findings.map(({ object, healableBy }) => [object, healableBy]),
    );
    expect(objects).toEqual([
      expect.arrayContaining([
        [segment, ['offsite']],
        [pack, ['offsite']],
      ]),
      [[lost, ['onsite']]],
    ]);
    const { stdout } = await verb(['verify'], { QAZYNA_CONFIG: lab.configFile });
    expect(stdout).toContain('healable by offsite (verify --repair)');
    for (const point of ['repair:before-put', 'repair:after-put#2', 'repair:before-floor'])
      await run(['verify', '--repair'], { QZ_CRASH_AT: point });
    expect(await run(['verify', '--repair'])).toMatchObject({ code: 0 });
    expect(await run(['verify', '--full'])).toMatchObject({
      code: 0,
      json: { archives: [{ findings: [] }, { findings: [] }] },
    });
    expect(await run(['windows'])).toMatchObject({
      code: 0,
      json: { archives: [{ cost: { stored: { objects: expect.any(Number) } } }, {}] },
    });
    await source.query("INSERT INTO shop.item (name) VALUES ('after the repair')");
    await running((daemon) => daemon.untilArchived(source));
  }, 120_000);

  test('a wrong key is said to be wrong, and nothing to be damaged', async () => {
    const wrong = join(dir, 'wrong');
    await verb(['key', 'new', wrong]);
    const result = await verb(['verify', '--json', '--from', lab.offsiteUrl, '--key-file', wrong]);
    expect(result).toMatchObject({ code: 2, stderr: expect.stringContaining('QZ2429') });
  }, 120_000);
});

describe('drill', () => {
  test('is good: restored to where the rows were counted up, compared, timed, noted, and gone', async () => {
    await configure(`drill: { assertions: ["SELECT COUNT(*) <= 100 FROM shop.item"] }`);
    const to = ['--to', `${counted.file}:${counted.position}`];
    const { code, json, stderr } = await run([...drillArgs(), ...to]);
    expect([code, stderr]).toEqual([0, expect.any(String)]);
    expect(json.drill).toMatchObject({
      good: true,
      problem: '',
      gtids: counted.gtids,
      assertions: [{ held: true, answer: '1' }],
    });
    expect(json.drill.rows).toMatchObject({ tables: 2, different: [] });
    expect(json.drill.restoreMs).toBeGreaterThan(100);
    expect(existsSync(join(dir, 'scratch/drill'))).toBe(false);
    const status = await run(['status']);
    expect(status.json.upkeep[0]).toMatchObject({ name: 'onsite', drilled: { good: true }, verified: { damaged: 0 } });
  }, 120_000);

  test('drawn by itself, and not good with an assertion that fails: exit code 5, and said by status', async () => {
    const sql = 'SELECT COUNT(*) > 1000 FROM shop.item';
    const { code, json } = await run([...drillArgs(), '--from', 'offsite', '--assert', sql]);
    expect(code).toBe(5);
    expect(json.drill).toMatchObject({ good: false, problem: '1 of 2 assertions failed' });
    const status = await run(['status']);
    expect(status.json.attention).toEqual(expect.arrayContaining([expect.objectContaining({ code: 'QZ4962' })]));
  }, 120_000);

  test('rows that differ are found', async () => {
    const { outcome } = await drill({
      store: onsite,
      sourceName: 'agama',
      to: `${counted.file}:${counted.position}`,
      dir: join(dir, 'scratch'),
      osUser,
      assertions: [],
      signal,
      logger: silentLogger(),
      onServer: async (server) => void (await server.query('UPDATE shop.item SET f = f + 1 WHERE id = 7')),
    });
    expect(outcome).toMatchObject({ good: false, rows: { different: ['`shop`.`item`'] } });
    expect(outcome.problem).toContain('rows differ');
  }, 120_000);
});

test('a daemon verifies by itself, and says what it found', async () => {
  await configure('verify: { every: 2s, full_every: 4s }');
  await running(async (daemon) => {
    const begunMicros = Date.now() * 1000;
    const isVerified = (micros: number | undefined) => (micros ?? 0) > begunMicros;
    await daemon.until(
      'both verified',
      ({ upkeep }) =>
        upkeep.filter((one) => isVerified(one.verified?.atMicros) && isVerified(one.verifiedFullMicros)).length === 2,
    );
    const metrics = await (await fetch(`http://127.0.0.1:${lab.httpPort}/metrics`)).text();
    expect(metrics).toMatch(/qazyna_archive_damaged_objects\{source="agama",archive="onsite"\} 0/);
    expect(metrics).toMatch(/qazyna_drill_good\{source="agama",archive="offsite"\} 0/);
    const [pack = ''] = await keysBelow(onsite, 'packs/');
    await flip(onsite, pack);
    const { attention } = await daemon.until('the damage', ({ attention: all }) =>
      all.some(({ code }) => code === 'QZ4961'),
    );
    expect(attention.find(({ code }) => code === 'QZ4961')?.sentence).toContain(pack);
    expect(await run(['verify', '--repair'])).toMatchObject({ code: 0 });
    await daemon.until('no more damage', ({ attention: all }) => all.every(({ code }) => code !== 'QZ4961'));
  });
}, 180_000);
