/** The lab and the mysqld it stands on: started, killed, started again; nothing stopped that was not started. */
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { parse } from 'yaml';
import { parseConfig } from '../../core/config/config.ts';
import { connectMysql, type MysqlEndpoint } from '../../core/mysql/connection.ts';
import { Mysqld } from '../../core/mysql/mysqld.ts';
import { Lab, labStatus, stopLab } from '../lab/lab.ts';
import { compareWithLedger, readLedger, Workload } from '../lab/ledger.ts';
import { checkout } from '../lab/package.ts';
import { labPort } from '../lab/ports.ts';
import { identify, isRunning } from '../lab/processes.ts';

const signal = new AbortController().signal;
const osUser = process.getuid?.() === 0 ? 'root' : undefined;
let dir = '';

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'qazyna-lab-test-'));
});

afterEach(async () => {
  await stopLab(dir).catch(() => {});
  rmSync(dir, { recursive: true, force: true });
});

async function rows(endpoint: MysqlEndpoint, sql: string) {
  const connection = await connectMysql(endpoint, signal);
  try {
    return await connection.query(sql);
  } finally {
    await connection.close();
  }
}

function lab(...args: string[]) {
  const { status, stdout, stderr } = spawnSync(process.execPath, [join(checkout, 'test/lab/cli.ts'), ...args], {
    encoding: 'utf8',
  });
  return { status, stdout, stderr };
}

describe('the lab', () => {
  test('makes a source that can be protected, three accounts, and a configuration that is good', async () => {
    await using started = await Lab.start({ dir });
    const [settings] = await rows(
      started.mysql.qazyna,
      'SELECT @@gtid_mode AS gtid, @@log_bin AS log_bin, @@binlog_format AS format, CURRENT_USER() AS me',
    );
    expect(settings).toEqual({ gtid: 'ON', log_bin: 1, format: 'ROW', me: 'qazyna@%' });
    await rows(started.mysql.app, 'CREATE DATABASE d');
    await expect(rows(started.mysql.qazyna, 'CREATE DATABASE e')).rejects.toMatchObject({ kind: 'configuration' });
    expect(await rows(started.mysql.root, 'SELECT @@gtid_executed AS g')).toEqual([
      { g: expect.stringMatching(/:1$/) },
    ]);
    const config = parseConfig(started.configFile, readFileSync(started.configFile, 'utf8'));
    expect(config.source.mysql?.port).toBe(started.mysql.port);
    expect(config.archives.map(({ name }) => name)).toEqual(['onsite', 'offsite']);
    const text = readFileSync(started.configFile, 'utf8');
    expect(text).not.toContain(started.mysql.qazyna.password);
    const { password_file } = parse(text).source.mysql;
    expect(statSync(password_file).mode & 0o077).toBe(0);
  }, 120_000);

  test('stock: the server’s own settings, and no account for us', async () => {
    await using started = await Lab.start({ dir, mysql: { stock: true } });
    const [row] = await rows(
      started.mysql.root,
      "SELECT @@gtid_mode AS gtid, (SELECT COUNT(*) FROM mysql.user WHERE user = 'qazyna') AS n",
    );
    expect(row).toEqual({ gtid: 'OFF', n: 0 });
  }, 120_000);

  test('up, status, up again, killed with its server, up, down: from the command line', async () => {
    const up = lab('up', '--dir', dir, '--json');
    expect({ status: up.status, stderr: up.stderr }).toEqual({ status: 0, stderr: '' });
    const facts = JSON.parse(up.stdout);
    expect(existsSync(facts.config)).toBe(true);
    expect(lab('up', '--dir', dir, '--json').stdout).toBe(up.stdout);
    const [before] = await labStatus(dir);
    const [pid = 0] = before?.pids ?? [];
    process.kill(pid, 'SIGKILL');
    for (let n = 0; identify(pid) !== null && n < 100; n++) await sleep(50);
    expect(lab('status', '--dir', dir)).toMatchObject({ status: 5, stdout: 'mysql does not run\n' });
    const again = lab('up', '--dir', dir, '--json');
    expect({ status: again.status, stderr: again.stderr }).toEqual({ status: 0, stderr: '' });
    // The same port, unless someone took it meanwhile.
    expect(JSON.parse(again.stdout)).toEqual({ ...facts, mysql: { ...facts.mysql, port: expect.any(Number) } });
    expect(lab('status', '--dir', dir).status).toBe(0);
    expect(lab('down', '--dir', dir).stdout).toMatch(/mysqld \(\d+\) ended/);
    expect(lab('down', '--dir', dir)).toMatchObject({ status: 0, stdout: 'nothing was running\n' });
  }, 180_000);

  test('the lab itself is killed while it starts the server: down still stops it', async () => {
    const up = spawn(process.execPath, [join(checkout, 'test/lab/cli.ts'), 'up', '--dir', dir], { stdio: 'ignore' });
    const recorded = () => {
      const file = join(dir, 'lab.json');
      return existsSync(file) ? (JSON.parse(readFileSync(file, 'utf8')).services.mysql?.processes ?? []) : [];
    };
    for (let n = 0; recorded().length === 0 && n < 600; n++) await sleep(25);
    up.kill('SIGKILL');
    const [server] = recorded();
    expect(isRunning(server)).toBe(true);
    expect(lab('down', '--dir', dir).stdout).toContain(`mysqld (${server.pid})`);
    expect(isRunning(server)).toBe(false);
  }, 120_000);

  test('a pid that is another process by now is left alone', async () => {
    await (await Lab.start({ dir })).stop();
    const stranger = spawn('sleep', ['60']);
    try {
      const file = join(dir, 'lab.json');
      const state = JSON.parse(readFileSync(file, 'utf8'));
      const identity = identify(stranger.pid ?? 0);
      state.services.mysql.processes = [{ ...identity, startTicks: (identity?.startTicks ?? 0) - 1, what: 'mysqld' }];
      writeFileSync(file, JSON.stringify(state));
      expect(await stopLab(dir)).toEqual([`mysql: mysqld (${stranger.pid}) gone`]);
      expect(identify(stranger.pid ?? 0)).not.toBeNull();
    } finally {
      stranger.kill('SIGKILL');
    }
  }, 120_000);

  test('a folder with somebody else’s files is refused, and --fresh does not touch them', async () => {
    writeFileSync(join(dir, 'thesis'), 'precious');
    await expect(Lab.start({ dir, fresh: true })).rejects.toMatchObject({ code: 'QZ2830' });
    expect(readFileSync(join(dir, 'thesis'), 'utf8')).toBe('precious');
    await expect(stopLab(dir)).rejects.toMatchObject({ code: 'QZ2830' });
  });
});

describe('mysqld', () => {
  const place = (name: string) => ({ dataDir: join(dir, name), errorLog: join(dir, `${name}.log`), osUser });

  test('why it did not start is said in its own words, and nothing is left running', async () => {
    const mysqld = await Mysqld.find();
    await mysqld.initialize(place('data'));
    const start = (more: object) => mysqld.start({ ...place('data'), socket: join(dir, 's'), port: null, ...more });
    await expect(start({ options: { nonsense: 1 } })).rejects.toMatchObject({
      code: 'QZ2814',
      message: expect.stringContaining("unknown variable 'nonsense=1'"),
    });
    await expect(mysqld.initialize(place('data'))).rejects.toMatchObject({
      code: 'QZ2814',
      message: expect.stringContaining('data directory has files in it'),
    });
    await expect(start({ socket: join(dir, 'x'.repeat(100)) })).rejects.toMatchObject({ code: 'QZ2812' });
    const server = await start({});
    try {
      await expect(start({})).rejects.toMatchObject({ code: 'QZ2813' });
    } finally {
      await server.stop();
    }
  }, 120_000);

  test('statements before the first client, a free port, and a stop within its deadline', async () => {
    const mysqld = await Mysqld.find();
    await mysqld.initialize(place('data'));
    const initSql = ["CREATE USER 'me'@'%' IDENTIFIED BY 'secret'", "GRANT PROCESS ON *.* TO 'me'@'%'"];
    const server = await mysqld.start({ ...place('data'), socket: join(dir, 's'), port: 'free', initSql });
    const endpoint = { host: '127.0.0.1', port: server.port ?? 0, user: 'me', password: 'secret' };
    expect(await rows(endpoint, 'SELECT USER() AS me')).toEqual([{ me: 'me@localhost' }]);
    expect(spawnSync('find', [dir, '-name', 'init-*']).stdout.toString()).toBe('');
    expect(await server.stop()).toEqual({ code: 0, signal: null });
    expect(await server.exited).toEqual({ code: 0, signal: null });
  }, 120_000);

  test('a port that somebody has is refused; an aborted start leaves nothing', async () => {
    const mysqld = await Mysqld.find();
    await mysqld.initialize(place('one'));
    await mysqld.initialize(place('two'));
    const port = await labPort();
    const first = await mysqld.start({ ...place('one'), socket: join(dir, '1'), port });
    try {
      await expect(mysqld.start({ ...place('two'), socket: join(dir, '2'), port })).rejects.toMatchObject({
        code: 'QZ4813',
        message: expect.stringMatching(/already in use/i),
      });
      const other = await mysqld.start({ ...place('two'), socket: join(dir, '2'), port: 'free', preferredPort: port });
      await other.kill();
      expect(other.port).not.toBe(port);
    } finally {
      await first.kill();
    }
    const stop = new AbortController();
    let pid = 0;
    const started = mysqld.start({
      ...place('two'),
      socket: join(dir, '3'),
      port: null,
      signal: stop.signal,
      onSpawn: (of) => {
        pid = of;
        stop.abort(new Error('enough'));
      },
    });
    await expect(started).rejects.toThrow('enough');
    expect(identify(pid)).toBeNull();
  }, 120_000);
});

describe('the ledger', () => {
  test('holds every acknowledged commit across a crash, and finds what is lost or too early', async () => {
    const started = await Lab.start({ dir });
    const ledgerFile = join(dir, 'ledger');
    const workload = await Workload.start({
      endpoint: started.mysql.app,
      ledgerFile,
      clients: 4,
      onDisconnect: () => {},
    });
    while (workload.figures.acknowledged < 200) await sleep(20);
    await started.mysql.handle?.kill();
    await workload.stop();
    const again = await Lab.start({ dir });
    const ledger = readLedger(ledgerFile);
    const { doubtful } = workload;
    expect(ledger).toHaveLength(workload.figures.acknowledged);
    expect(await compareWithLedger(again.mysql.app, ledger, { doubtful })).toEqual({
      acknowledged: ledger.length,
      present: ledger.length,
      missing: [],
      beyond: [],
      unexpected: [],
    });
    // The same server held against half of the ledger has too much, and without one item too little.
    const half = ledger[Math.floor(ledger.length / 2)];
    const early = await compareWithLedger(again.mysql.app, ledger, {
      doubtful,
      untilMicros: half?.acknowledgedMicros ?? 0,
    });
    expect(early.missing).toEqual([]);
    expect(early.beyond.length).toBeGreaterThan(0);
    const victim = ledger[10];
    const connection = await connectMysql(again.mysql.app, signal);
    await connection.query('DELETE FROM agama.item WHERE value = ?', [victim?.value]);
    await connection.close();
    const lossy = await compareWithLedger(again.mysql.app, ledger, { doubtful });
    expect(new Set(lossy.missing.map(({ value }) => value))).toEqual(new Set([victim?.value]));
  }, 180_000);
});
