/** The command line as people and scripts use it: real processes, a real server, one JSON object on stdout, exit codes. */
import { type ChildProcess, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { connectMysql, type MysqlConnection } from '../../core/mysql/connection.ts';
import { Lab, secretPath } from '../lab/lab.ts';

const qazyna = fileURLToPath(new URL('../../bin/qazyna', import.meta.url));
const spoken: string[] = [];

interface Ended {
  exitCode: number | null;
  out: string;
  err: string;
}

function start(args: string, environment: NodeJS.ProcessEnv): { child: ChildProcess; ended: Promise<Ended> } {
  const child = spawn(process.execPath, [qazyna, ...args.split(' ')], {
    env: { ...process.env, ...environment },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let [out, err] = ['', ''];
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    out += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    err += text;
  });
  const ended = new Promise<Ended>((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (exitCode) => {
      spoken.push(out, err);
      resolve({ exitCode, out, err });
    });
  });
  return { child, ended };
}

let lab: Lab;
let root: MysqlConnection;
let work = '';
let daemon: ReturnType<typeof start> | null = null;
const { signal } = new AbortController();

/** With the lab's configuration, or with none at all. */
async function run(args: string): Promise<Ended> {
  return await start(args, { QAZYNA_CONFIG: lab.configFile }).ended;
}

async function runBare(args: string): Promise<Ended> {
  return await start(args, { QAZYNA_CONFIG: join(work, 'no-such.yaml') }).ended;
}

async function json(args: string): Promise<{ exitCode: number | null; value: Record<string, unknown> }> {
  const { exitCode, out } = await run(`${args} --json`);
  expect([args, out.endsWith('\n'), out.trimEnd().split('\n').length]).toEqual([args, true, 1]);
  return { exitCode, value: JSON.parse(out) };
}

async function until<T>(what: string, look: () => Promise<T | null>): Promise<T> {
  for (const end = Date.now() + 90_000; Date.now() < end; await sleep(200)) {
    const seen = await look();
    if (seen !== null) return seen;
  }
  throw new Error(`it never came to be that ${what}`);
}

async function executed(): Promise<string> {
  const [row] = await root.query('SELECT @@GLOBAL.gtid_executed AS gtids');
  return String(row?.gtids).replaceAll('\n', '');
}

beforeAll(async () => {
  work = await mkdtemp(join(tmpdir(), 'qazyna-cli-'));
  lab = await Lab.start({ mysql: { stock: true } });
  root = await connectMysql(lab.mysql.root, signal);
}, 240_000);

afterAll(async () => {
  if (daemon?.child.exitCode === null) daemon.child.kill('SIGKILL');
  await root.close();
  await lab[Symbol.asyncDispose]();
  await rm(work, { recursive: true });
}, 120_000);

describe('from a stock server to a restored one', () => {
  test('doctor names what is wrong, --fix mends it', async () => {
    const before = await json('doctor');
    expect(before).toMatchObject({
      exitCode: 5,
      value: { ready: false, findings: [{ code: 'QZ2110', severity: 'fail', fixable: true }, {}, {}] },
    });
    const admin = `--admin-socket ${lab.mysql.socket} --admin-password-file ${secretPath(lab.dir, 'root')}`;
    const after = await json(`doctor --fix ${admin}`);
    expect(after.value).toMatchObject({ done: expect.arrayContaining([expect.stringContaining('account')]) });
    expect((await json('doctor')).value).not.toMatchObject({
      findings: expect.arrayContaining([expect.objectContaining({ severity: 'fail' })]),
    });
  }, 120_000);

  test('status asks for attention while nothing runs', async () => {
    const { exitCode, value } = await json('status');
    expect([exitCode, value.wellBeing, value.from]).toEqual([5, 'attention', 'files']);
    expect((await run('status')).out).toMatch(/^ATTENTION: The agent of agama does not answer/);
  }, 120_000);

  test('run protects it, and status says so', async () => {
    daemon = start('run', { QAZYNA_CONFIG: lab.configFile });
    const well = await until('status is well', async () => {
      const { exitCode, value } = await json('status');
      return exitCode === 0 ? value : null;
    });
    expect(well).toMatchObject({
      from: 'agent',
      source: 'agama',
      capture: { state: 'running' },
      archives: [{ name: 'onsite' }, { name: 'offsite' }],
    });
    const text = await run('status');
    expect(text.out).toMatch(
      /^All is well: agama is captured and in 2 archives, .* behind at most; the last snapshot is .* old\.\nIf this host vanished now you would lose /,
    );
    const endpoint = `http://127.0.0.1:${lab.httpPort}`;
    expect((await fetch(`${endpoint}/health`)).status).toBe(200);
    expect(await (await fetch(`${endpoint}/metrics`)).text()).toContain('qazyna_well{source="agama"} 1');
  }, 150_000);

  test('a second one on the same log is refused, and the first goes on', async () => {
    const second = await run('run');
    expect(second.exitCode).toBe(2);
    expect(second.err).toMatch(/qazyna: QZ2301: /);
    expect((await run('status')).out).toMatch(/^All is well/);
  }, 120_000);

  test('what is committed can be planned within seconds, exactly', async () => {
    for (const sql of [
      'CREATE DATABASE shop',
      'CREATE TABLE shop.item (id INT PRIMARY KEY, value INT, state VARCHAR(20))',
      "INSERT INTO shop.item VALUES (1, 10, 'a'), (5, 50, 'b')",
      "UPDATE shop.item SET value = 51, state = 'it''s' WHERE id = 5",
      'FLUSH BINARY LOGS',
      'DELETE FROM shop.item WHERE id = 1',
    ])
      await root.query(sql);
    const gtids = await executed();
    const plan = await until('all of it is in both archives', async () => {
      const each = await Promise.all(['onsite', 'offsite'].map((name) => json(`plan --to latest --from ${name}`)));
      return each.every(({ value }) => (value.plan as { cut?: { gtids: string } })?.cut?.gtids === gtids)
        ? each[0]
        : null;
    });
    expect(plan).toMatchObject({
      exitCode: 0,
      value: { plan: { source: 'agama', archive: 'onsite', disorder: null } },
    });
    const windows = await json('windows');
    expect(windows).toMatchObject({
      exitCode: 0,
      value: {
        archives: [{ name: 'onsite', error: null, timelines: [{ generation: 1, gaps: [] }] }, { name: 'offsite' }],
      },
    });
  }, 150_000);

  test('history tells what happened to a row, one object a line', async () => {
    const { exitCode, out } = await run('history shop.item --json');
    const rows = out
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line))
      .filter(({ kind }) => kind === 'row');
    expect([exitCode, rows.map(({ operation }) => operation)]).toEqual([0, ['insert', 'insert', 'update', 'delete']]);
    const text = await runBare(`history shop.item --from ${join(lab.dir, 'archives', 'offsite')}`);
    expect(text.out).toMatch(/^\S+Z {2}\S+:\d+ {2}update {2}.*: 50 → 51 .*: "b" → "it's"$/m);
  }, 120_000);

  test('an exported binlog file is the server’s own', async () => {
    const [first] = await root.query('SHOW BINARY LOGS');
    const name = String(first?.Log_name);
    const output = join(work, name);
    const { exitCode, value } = await json(`binlog export ${name} --output ${output}`);
    const sha256 = (bytes: Buffer) => createHash('sha256').update(bytes).digest('hex');
    const own = sha256(await readFile(join(lab.mysql.dataDir, name)));
    expect([exitCode, (value.export as { sha256: string }).sha256, sha256(await readFile(output))]).toEqual([
      0,
      own,
      own,
    ]);
    expect(await run(`binlog export ${name} --output ${output}`)).toMatchObject({
      exitCode: 2,
      err: expect.stringContaining('QZ2412'),
    });
  }, 120_000);

  test('a snapshot taken beside the running agent is listed in both archives', async () => {
    const taken = await json('snapshot take');
    expect(taken.exitCode).toBe(0);
    const { id } = taken.value.snapshot as { id: string };
    const listed = await json('snapshot list');
    for (const archive of listed.value.archives as { snapshots: { id: string }[] }[])
      expect(archive.snapshots.map((each) => each.id)).toContain(id);
  }, 120_000);

  test('SIGTERM ends it within five seconds, losing nothing; then status says that nobody captures', async () => {
    await root.query("INSERT INTO shop.item VALUES (9, 90, 'last')");
    const [end] = await root.query('SHOW BINARY LOG STATUS');
    await until('the log has it', async () => {
      const { value } = await json('status');
      return (value.capture as { position: number }).position === Number(end?.Position) ? value : null;
    });
    const began = performance.now();
    daemon?.child.kill('SIGTERM');
    const ended = await daemon?.ended;
    expect(ended).toMatchObject({ exitCode: 0, out: '' });
    expect(performance.now() - began).toBeLessThan(5000);
    const { exitCode, value } = await json('status');
    expect([exitCode, value.firstLine]).toEqual([5, expect.stringContaining('does not answer')]);
  }, 120_000);

  test('restore needs nothing but an archive, and is exact; a second one into the same folder is refused', async () => {
    const gtids = await executed();
    const from = join(lab.dir, 'archives', 'onsite');
    const line = `restore --to latest --into ${join(work, 'restored')} --from ${from} --stop`;
    const { exitCode, out } = await runBare(`${line} --json`);
    expect(exitCode).toBe(0);
    expect(JSON.parse(out)).toMatchObject({ restore: { source: 'agama', to: 'latest', gtids, pid: null } });
    const again = await runBare(line);
    expect([again.exitCode, again.out]).toEqual([2, '']);
  }, 180_000);
});

describe('what scripts rely on', () => {
  test('a closed pipe is quiet', async () => {
    const { child, ended } = start('config example', {});
    child.stdout?.destroy();
    expect(await ended).toMatchObject({ exitCode: 0, err: '' });
  }, 120_000);

  test('a shipper without an agent waits for more, and one signal ends it', async () => {
    const { child, ended } = start('shipper --archive onsite', { QAZYNA_CONFIG: lab.configFile });
    const lock = join(lab.dir, 'log', 'lock');
    await until('it holds the log', async () =>
      (await readFile(lock, 'utf8')).trim() === String(child.pid) ? true : null,
    );
    expect((await run('shipper')).err).toContain('QZ2301');
    expect(child.exitCode).toBeNull();
    child.kill('SIGINT');
    expect((await ended).exitCode).toBe(0);
  }, 120_000);

  test('no secret was ever said', async () => {
    for (const user of ['root', 'qazyna', 'app']) {
      const secret = (await readFile(secretPath(lab.dir, user), 'utf8')).trim();
      expect(secret.length).toBeGreaterThan(8);
      expect(spoken.some((text) => text.includes(secret))).toBe(false);
    }
    expect(spoken.length).toBeGreaterThan(0);
  });
});
