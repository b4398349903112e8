import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { examine, type Finding } from '../../agent/doctor/examine.ts';
import { fix } from '../../agent/doctor/fix.ts';
import { CaptureLab, Recording } from './capture-lab.ts';

const { signal } = new AbortController();
let lab: CaptureLab;
let dir: string;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'qazyna-doctor-'));
  // As installed: gtid_mode OFF.
  lab = await CaptureLab.start({
    'gtid-mode': false,
    'enforce-gtid-consistency': false,
    'binlog-expire-logs-seconds': 3600,
  });
  await lab.sql('CREATE DATABASE d', 'CREATE TABLE d.m (a INT) ENGINE=MyISAM', 'CREATE TABLE d.k (a INT PRIMARY KEY)');
}, 120_000);
afterAll(async () => {
  await lab[Symbol.asyncDispose]();
  await rm(dir, { recursive: true });
});

const bySeverity = (findings: Finding[], severity: Finding['severity']) =>
  findings.filter((finding) => finding.severity === severity).map((finding) => finding.code);

describe('doctor', () => {
  test('names what is wrong with a stock server, and what it can put right', async () => {
    const findings = await examine(lab.endpoint, signal);
    expect(bySeverity(findings, 'fail')).toEqual(['QZ2124', 'QZ2125']);
    expect(bySeverity(findings, 'warn')).toEqual(['QZ2130', 'QZ2131', 'QZ2140', 'QZ2134', 'QZ2135', 'QZ2136']);
    const of = (code: string) => findings.find((finding) => finding.code === code);
    expect(of('QZ2124')).toMatchObject({ fixable: true, sentence: expect.stringContaining('gtid_mode OFF') });
    expect(of('QZ2135')?.sentence).toContain('d.m (MyISAM)');
    expect(of('QZ2136')?.sentence).toContain('d.m');
    expect(of('QZ2136')?.sentence).not.toContain('d.k');
    expect(of('QZ2122')?.severity).toBe('ok');
  }, 120_000);

  test('a wrong password and a missing account are findings, not crashes', async () => {
    const findings = await examine({ ...lab.endpoint, user: 'qazyna', password: 'wrong' }, signal);
    expect(findings).toEqual([expect.objectContaining({ code: 'QZ2110', severity: 'fail', fixable: true })]);
  });

  test('--fix turns GTIDs on under load, installs clone, makes the account; then capture works with it', async () => {
    const passwordFile = join(dir, 'password');
    const said: string[] = [];
    let writing = true;
    const load = (async () => {
      const own = await CaptureLab.connect(lab);
      for (let i = 0; writing; i++) await own.query('REPLACE INTO d.k VALUES (?)', [i % 100]);
      await own.close();
    })();
    const options = {
      admin: lab.endpoint,
      clone: true,
      account: { user: 'qazyna', passwordFile },
      say: (sentence: string) => said.push(sentence),
      signal,
    };
    const done = await fix(options);
    writing = false;
    await load;
    expect(done.join()).toMatch(
      /WARN.*OFF_PERMISSIVE.*ON_PERMISSIVE.*gtid_mode to ON.*binlog_row_metadata to FULL.*account qazyna@localhost.*clone plugin/,
    );
    expect((await stat(passwordFile)).mode & 0o777).toBe(0o600);
    const password = (await readFile(passwordFile, 'utf8')).trim();
    expect(said.join()).not.toContain(password);
    const endpoint = { ...lab.endpoint, user: 'qazyna', password };
    const findings = await examine(endpoint, signal);
    expect(bySeverity(findings, 'fail')).toEqual([]);
    expect(findings.find((finding) => finding.code === 'QZ2116')?.severity).toBe('ok');
    expect(findings.find((finding) => finding.code === 'QZ2134')?.severity).toBe('ok');
    expect(findings.find((finding) => finding.code === 'QZ2140')?.severity).toBe('ok');
    const recording = new Recording(lab, { endpoint });
    await lab.sql('REPLACE INTO d.k VALUES (1)');
    await recording.caughtUp(lab);
    await recording.stop();
    // Again: nothing about GTIDs is left to do, and the password stays.
    expect((await fix(options)).join()).not.toContain('gtid_mode');
    expect((await readFile(passwordFile, 'utf8')).trim()).toBe(password);
  }, 120_000);

  test('what was set stays so after a restart', async () => {
    // The lab's servers run with --no-defaults, which leaves this file unread; an installed server reads it.
    const text = JSON.stringify(JSON.parse(await readFile(join(lab.dataDir, 'mysqld-auto.cnf'), 'utf8')));
    for (const [name, value] of [
      ['gtid_mode', 'ON'],
      ['enforce_gtid_consistency', 'ON'],
      ['binlog_row_metadata', 'FULL'],
    ])
      expect(text).toMatch(new RegExp(`"${name}":\\{"Value":"${value}"`));
    await lab.down('stop');
    lab.forget('gtid-mode', 'enforce-gtid-consistency');
    await lab.up();
  }, 120_000);

  test('missing grants are named; a bad password file is refused', async () => {
    await lab.sql("CREATE USER half IDENTIFIED BY 'p'", 'GRANT REPLICATION SLAVE, SELECT ON *.* TO half');
    const [first] = await examine({ ...lab.endpoint, user: 'half', password: 'p' }, signal);
    expect(first).toMatchObject({ code: 'QZ2116', severity: 'fail', fixable: true });
    expect(first?.sentence).toContain('lacks REPLICATION CLIENT, SHOW VIEW');
    await lab.sql('GRANT REPLICATION CLIENT ON *.* TO half');
    expect((await examine({ ...lab.endpoint, user: 'half', password: 'p' }, signal))[0]?.severity).toBe('warn');
    const bad = join(dir, 'bad');
    await writeFile(bad, 'two\nlines\n');
    const account = { user: 'qazyna', passwordFile: bad };
    await expect(fix({ admin: lab.endpoint, clone: true, account, say: () => {}, signal })).rejects.toMatchObject({
      code: 'QZ2138',
    });
  }, 120_000);

  test('where commits wait for us, accounts that offline_mode does not stop are named', async () => {
    const found = async () =>
      (await examine(lab.endpoint, signal, { semiSync: true })).find(({ code }) => code === 'QZ2142');
    expect(await found()).toMatchObject({ severity: 'ok' });
    await lab.sql(
      "CREATE USER past IDENTIFIED BY 'p'",
      'GRANT CONNECTION_ADMIN ON *.* TO past',
      "CREATE USER plain IDENTIFIED BY 'p'",
      'GRANT SELECT, INSERT ON *.* TO plain',
    );
    const finding = await found();
    expect(finding).toMatchObject({ severity: 'warn', sentence: expect.stringContaining("'past'@'%'") });
    expect(finding?.sentence).not.toMatch(/plain|root|mysql\.session/);
    await lab.sql('REVOKE CONNECTION_ADMIN ON *.* FROM past');
    expect(await found()).toMatchObject({ severity: 'ok' });
  }, 120_000);

  // The last one: from here on commits of this server wait.
  test('where commits wait for us, --fix makes them wait whatever happens, for good, and lets the agent shut the server', async () => {
    const passwordFile = join(dir, 'password');
    const password = (await readFile(passwordFile, 'utf8')).trim();
    const endpoint = { ...lab.endpoint, user: 'qazyna', password };
    const severities = async () => {
      const findings = await examine(endpoint, signal, { semiSync: true });
      const of = (wanted: string) => findings.find(({ code }) => code === wanted);
      return [of('QZ2141'), of('QZ2143')].map((finding) => [finding?.severity, finding?.fixable]);
    };
    expect(await severities()).toEqual([
      ['fail', true],
      ['warn', true],
    ]);
    await fix({
      admin: lab.endpoint,
      clone: true,
      account: { user: 'qazyna', passwordFile },
      semiSync: true,
      say: () => {},
      signal,
    });
    expect(await severities()).toEqual([
      ['ok', false],
      ['ok', false],
    ]);
    const text = JSON.stringify(JSON.parse(await readFile(join(lab.dataDir, 'mysqld-auto.cnf'), 'utf8')));
    for (const name of ['enabled', 'timeout', 'wait_no_replica'])
      expect(text.includes(`"rpl_semi_sync_source_${name}":{"Value":`)).toBe(name !== 'wait_no_replica');
  }, 120_000);
});
