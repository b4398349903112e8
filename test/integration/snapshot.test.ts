/** Snapshots of a real server, by both engines, and what is restored from them. */

import { spawn } from 'node:child_process';
import { mkdir, open, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { takeSnapshot } from '../../agent/snapshot/snapshot.ts';
import type { ObjectStore } from '../../core/archive/store.ts';
import { GtidSet } from '../../core/binlog/gtid-set.ts';
import { QazynaError, transientError } from '../../core/errors/error.ts';
import type { MysqlConnection, MysqlEndpoint } from '../../core/mysql/connection.ts';
import { findMysqlProgram } from '../../core/mysql/program.ts';
import { fetchSnapshot } from '../../core/restore/fetch.ts';
import { listSnapshots } from '../../core/snapshot/manifest.ts';
import { fingerprint } from '../lab/fingerprint.ts';
import { nastyRound, nastySchema } from '../lab/nasty.ts';
import { fill, newestManifest, request, SnapshotLab } from './snapshot-lab.ts';

const signal = new AbortController().signal;
let lab: SnapshotLab;
let source: MysqlEndpoint;
let connection: MysqlConnection;

beforeAll(async () => {
  lab = await SnapshotLab.create();
  source = await lab.start('source');
  connection = await lab.connect(source);
  for (const statement of [...nastySchema, ...nastyRound(0)]) await connection.query(statement);
  await fill(connection, 'first', 16);
}, 180_000);
afterAll(async () => lab[Symbol.asyncDispose](), 60_000);

async function errorOf(work: Promise<unknown>): Promise<QazynaError> {
  const error = await work.then(
    () => null,
    (reason: unknown) => reason,
  );
  if (error instanceof QazynaError) return error;
  throw new Error(`expected a QazynaError, got ${String(error)}`);
}

/** The whole store, but its puts fail from the nth on. */
function failingFrom(store: ObjectStore, puts: number): ObjectStore {
  let left = puts;
  return {
    url: store.url,
    probe: () => store.probe(),
    putIfMatch: (key, body, etag) => store.putIfMatch(key, body, etag),
    get: (key, range) => store.get(key, range),
    head: (key) => store.head(key),
    list: (prefix, options) => store.list(prefix, options),
    remove: (key) => store.remove(key),
    putIfAbsent: async (key, body) => {
      if (left === 0) throw transientError('QZ4499', 'The test store is full.', 'It is a test.');
      left -= 1;
      return await store.putIfAbsent(key, body);
    },
  };
}

describe('clone', () => {
  test('a server started on the fetched files has every row, definition, account and GTID', async () => {
    const [onsite, offsite] = [await lab.store('onsite'), await lab.store('offsite')];
    const report = await takeSnapshot(request(lab, source, { onsite, offsite }));
    expect(report.archives.map(({ name, error }) => [name, error])).toEqual([
      ['onsite', null],
      ['offsite', null],
    ]);
    expect(await readdir(lab.scratchDir)).toEqual([]);
    const expected = await fingerprint(connection);
    const [row] = await connection.query('SELECT @@GLOBAL.gtid_executed AS gtids');
    for (const [name, store] of Object.entries({ onsite, offsite })) {
      const manifest = await newestManifest(store);
      expect(manifest.columns['nasty.every_type']?.slice(0, 3)).toEqual(['id', 'c_tiny', 'c_tiny_u']);
      expect(manifest.settings).toMatchObject({ innodb_page_size: '16384', lower_case_table_names: '0' });
      const dir = join(lab.dir, `restored-${name}`);
      await fetchSnapshot(store, manifest, dir, { signal });
      const restored = await lab.connect(await lab.start(`r-${name}`, dir));
      expect(await fingerprint(restored)).toEqual(expected);
      const [after] = await restored.query('SELECT @@GLOBAL.gtid_executed AS gtids');
      expect(after).toEqual(row);
      const own = GtidSet.parse(String(after?.gtids));
      expect(own.containsAll(manifest.gtidsBefore) && manifest.gtidsAfter.containsAll(own)).toBe(true);
    }
  }, 180_000);

  test('a second snapshot stores what changed, and both can be fetched', async () => {
    const store = await lab.store('second');
    const first = await takeSnapshot(request(lab, source, { store }));
    await connection.query('UPDATE bulk.first SET s = LEFT(SHA2(RAND(), 256), 32) ORDER BY id DESC LIMIT 100');
    const second = await takeSnapshot(request(lab, source, { store }));
    await takeSnapshot(request(lab, source, { store }, { engine: 'logical' }));
    const third = await takeSnapshot(request(lab, source, { store }));
    expect(third.archives[0]?.newBytes).toBeLessThan((first.archives[0]?.newBytes ?? 0) / 5);
    const [before, after] = [first.archives[0]?.newBytes ?? 0, second.archives[0]?.newBytes ?? 0];
    expect(after).toBeGreaterThan(0);
    expect(after / before).toBeLessThan(0.2);
    const expected = await fingerprint(connection);
    const dir = join(lab.dir, 'restored-second');
    await fetchSnapshot(store, await newestManifest(store), dir, { signal });
    expect(await fingerprint(await lab.connect(await lab.start('r-second', dir)))).toEqual(expected);
    const listed = (await listSnapshots(store)).filter(({ complete }) => complete).map(({ id }) => id);
    const own = [third.id, second.id, first.id];
    expect(listed.filter((id) => own.includes(id))).toEqual(own);
  }, 120_000);

  test('an archive that fails does not stop the other one, and gets its copy next time', async () => {
    const [good, bad] = [await lab.store('good'), await lab.store('bad')];
    await takeSnapshot(request(lab, source, { bad })); // makes archive.json, so that only what follows fails
    const report = await takeSnapshot(request(lab, source, { bad: failingFrom(bad, 0), good }));
    expect(report.archives.map(({ name, error }) => [name, error instanceof QazynaError ? error.code : error])).toEqual(
      [
        ['bad', 'QZ4499'],
        ['good', null],
      ],
    );
    expect((await listSnapshots(bad)).map(({ id }) => id)).not.toContain(report.id);
    const next = await takeSnapshot(request(lab, source, { bad, good }));
    expect(next.archives.map(({ error }) => error)).toEqual([null, null]);
    const error = await errorOf(takeSnapshot(request(lab, source, { bad: failingFrom(bad, 0) })));
    expect(error.code).toBe('QZ4499');
  }, 120_000);

  test('tables of other engines are refused by name, before anything is written', async () => {
    const store = await lab.store('myisam');
    await connection.query('CREATE DATABASE old');
    await connection.query('CREATE TABLE old.isam (id INT) ENGINE = MyISAM');
    await connection.query('CREATE TABLE old.`csv table` (id INT NOT NULL) ENGINE = CSV');
    try {
      const error = await errorOf(takeSnapshot(request(lab, source, { store })));
      expect(error.code).toBe('QZ2502');
      expect(error.message).toContain('old.csv table (CSV), old.isam (MyISAM)');
      expect(error.hint).toContain('logical');
      expect(await listSnapshots(store)).toEqual([]);
    } finally {
      await connection.query('DROP DATABASE old');
    }
  });

  test('tablespaces outside the data directory are refused by name', async () => {
    const outside = join(lab.dir, 'outside');
    await mkdir(outside);
    const own = await lab.start('elsewhere', undefined, { 'innodb-directories': outside });
    const other = await lab.connect(own);
    await other.query('CREATE DATABASE far');
    await other.query(`CREATE TABLE far.away (id INT) DATA DIRECTORY = '${outside}'`);
    const store = await lab.store('elsewhere-archive');
    const error = await errorOf(takeSnapshot(request(lab, own, { store })));
    expect([error.code, error.message]).toEqual(['QZ2509', expect.stringContaining(join(outside, 'far/away.ibd'))]);
    expect(await readdir(lab.scratchDir)).toEqual([]);
  }, 120_000);

  test('says which privilege is missing, and never a password', async () => {
    const store = await lab.store('grants');
    await connection.query("CREATE USER weak IDENTIFIED BY 'sEcret-word'");
    await connection.query('GRANT SELECT, PROCESS ON *.* TO weak');
    const weak = { host: source.host, port: source.port, user: 'weak', password: 'sEcret-word' };
    const error = await errorOf(takeSnapshot(request(lab, weak, { store })));
    expect([error.code, error.message]).toEqual(['QZ2116', expect.stringContaining('BACKUP_ADMIN')]);
    const wrong = await errorOf(takeSnapshot(request(lab, { ...weak, password: 'wRong-word' }, { store })));
    expect(wrong.exitCode).toBe(2);
    for (const { message, hint, details } of [error, wrong]) {
      expect(JSON.stringify({ message, hint, details })).not.toMatch(/sEcret|wRong/);
    }
    await connection.query('DROP USER weak');
  });

  test('one at a time: a second one is sent away, and leftovers of a killed one are removed', async () => {
    const store = await lab.store('single');
    const holder = await lab.connect(source);
    await holder.query("SELECT GET_LOCK('qazyna.snapshot', 0)");
    expect((await errorOf(takeSnapshot(request(lab, source, { store })))).code).toBe('QZ4504');
    await holder.close();
    await connection.query(`CLONE LOCAL DATA DIRECTORY = '${lab.scratchDir}/clone-20260101T000000Z-00000000'`);
    expect(await readdir(lab.scratchDir)).toHaveLength(1);
    await takeSnapshot(request(lab, source, { store }));
    expect(await readdir(lab.scratchDir)).toEqual([]);
  }, 120_000);
});

describe('logical', () => {
  test('a dump loaded into an empty server gives every row, definition, account and GTID, MyISAM too', async () => {
    await connection.query('CREATE DATABASE old');
    await connection.query('CREATE TABLE old.isam (id INT PRIMARY KEY, t TEXT) ENGINE = MyISAM');
    await connection.query("INSERT INTO old.isam VALUES (1, 'one'), (2, 'two')");
    try {
      const store = await lab.store('logical');
      const report = await takeSnapshot(request(lab, source, { store }, { engine: 'logical' }));
      const [row] = await connection.query('SELECT @@GLOBAL.gtid_executed AS gtids');
      expect(report.gtidsAfter.equals(GtidSet.parse(String(row?.gtids)))).toBe(true);
      const dir = join(lab.dir, 'dump');
      await fetchSnapshot(store, await newestManifest(store), dir, { signal });
      const target = await lab.start('r-logical');
      await load(dir, target.socketPath ?? '');
      const restored = await lab.connect(target);
      // As the next start would: until then the accounts are those of the empty server.
      await restored.query('FLUSH NO_WRITE_TO_BINLOG PRIVILEGES');
      // A dump names character sets that were defaults, so definitions read differently and mean the same.
      const plain = (lines: string[]) => lines.map((line) => line.replace(/ CHARACTER SET utf8mb4/g, ''));
      expect(plain(await fingerprint(restored))).toEqual(plain(await fingerprint(connection)));
      expect(await restored.query('SELECT @@GLOBAL.gtid_executed AS gtids')).toEqual([row]);
    } finally {
      await connection.query('DROP DATABASE old');
    }
  }, 180_000);

  test('over the network, with a password of every character that option files know', async () => {
    const password = ` a"b'c\\d\\n#e;f=g[h] ü🏦\t`;
    const store = await lab.store('logical-network');
    await connection.query('CREATE USER odd IDENTIFIED BY ?', [password]);
    await connection.query('GRANT ALL ON *.* TO odd');
    try {
      for (const mode of ['preferred', 'disabled'] as const) {
        const endpoint = { host: '127.0.0.1', port: source.port, user: 'odd', password, tls: { mode } };
        const report = await takeSnapshot(request(lab, endpoint, { store }, { engine: 'logical' }));
        expect(report.sizeBytes).toBeGreaterThan(1_000_000);
      }
    } finally {
      await connection.query('DROP USER odd');
    }
  }, 120_000);

  test('a dump that breaks off counts nowhere', async () => {
    const store = await lab.store('logical-broken');
    await connection.query('CREATE VIEW bulk.broken AS SELECT id FROM bulk.first');
    await connection.query('RENAME TABLE bulk.first TO bulk.second');
    try {
      const error = await errorOf(takeSnapshot(request(lab, source, { store }, { engine: 'logical' })));
      expect([error.code, error.message]).toEqual(['QZ4506', expect.stringContaining('bulk.broken')]);
      expect(await listSnapshots(store)).toEqual([]);
    } finally {
      await connection.query('RENAME TABLE bulk.second TO bulk.first');
      await connection.query('DROP VIEW bulk.broken');
    }
  }, 120_000);
});

describe('under load', () => {
  test.each(['clone', 'logical'] as const)(
    '%s: the rows are exactly those of the GTIDs it says it holds',
    async (engine) => {
      const table = `bulk.ledger_${engine}`;
      await connection.query(`CREATE TABLE ${table} (n INT AUTO_INCREMENT PRIMARY KEY)`);
      const [before] = await connection.query('SELECT @@GLOBAL.gtid_executed AS gtids');
      const base = GtidSet.parse(String(before?.gtids));
      let stop = false;
      const writers = Array.from({ length: 4 }, async () => {
        const writer = await lab.connect(source);
        while (!stop) await writer.query(`INSERT INTO ${table} VALUES ()`);
      });
      try {
        const store = await lab.store(`load-${engine}`);
        const report = await takeSnapshot(request(lab, source, { store }, { engine }));
        const dir = join(lab.dir, `load-${engine}-files`);
        await fetchSnapshot(store, await newestManifest(store), dir, { signal });
        const target = await lab.start(`load-${engine}-server`, engine === 'clone' ? dir : undefined);
        if (engine === 'logical') await load(dir, target.socketPath ?? '');
        const restored = await lab.connect(target);
        const [row] = await restored.query(
          `SELECT @@GLOBAL.gtid_executed AS gtids, (SELECT COUNT(*) FROM ${table}) AS n`,
        );
        const own = GtidSet.parse(String(row?.gtids));
        expect(Number(row?.n)).toBeGreaterThan(0);
        expect(own.subtract(base).count).toBe(Number(row?.n));
        expect(own.containsAll(report.gtidsBefore) && report.gtidsAfter.containsAll(own)).toBe(true);
      } finally {
        stop = true;
        await Promise.all(writers);
      }
    },
    180_000,
  );
});

/** As made by mysqldump alone, or with mydumper where the machine has one. */
async function load(dir: string, socket: string): Promise<void> {
  const { path } = await findMysqlProgram('mysql');
  const names = await readdir(dir, { recursive: true });
  const rows = names.filter((name) => name.startsWith('data/')).sort();
  for (const name of names.includes('dump.sql') ? ['dump.sql'] : ['schema.sql', ...rows, 'after.sql']) {
    const input = await open(join(dir, name));
    try {
      const child = spawn(path, ['--no-defaults', '-uroot', `--socket=${socket}`], {
        stdio: [input.fd, 'ignore', 'inherit'],
      });
      expect(await new Promise((resolve) => child.once('close', resolve))).toBe(0);
    } finally {
      await input.close();
    }
  }
}
