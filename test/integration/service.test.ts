/**
 * The units of ops/systemd on a real systemd: a Debian host in systemd-nspawn. First the notifier's own mechanics with a
 * stand-in, then mysqld's shutdown with commits that wait (fault 41), then the installed package beside a mysqld.
 */
import { execFileSync } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { yieldingNice } from '../../cli/priority.ts';
import { connectMysql, type MysqlConnection } from '../../core/mysql/connection.ts';
import { Host, whyNoHost } from '../lab/host.ts';
import { bootBeside, HostedMysql, hosted, hostedPassword, startMysql } from '../lab/hosted-mysql.ts';
import { checkout, unpackInto } from '../lab/package.ts';
import { labPort } from '../lab/ports.ts';

const unit = readFileSync(join(checkout, 'ops/systemd/qazyna.service'), 'utf8');
const dropIn = readFileSync(join(checkout, 'ops/systemd/mysql.service.d/qazyna.conf'), 'utf8');
const node = '/opt/checkout/node_modules/node/bin/node';
const signal = new AbortController().signal;
const password = hostedPassword;
const reason = whyNoHost();
if (reason) process.stderr.write(`service tests are skipped: ${reason}\n`);
const withHost = reason ? describe.skip : describe;

async function until<T>(what: string, probe: () => Promise<T | false | null>, timeoutMs = 30_000): Promise<T> {
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    const found = await probe();
    if (found !== false && found !== null) return found;
    if (performance.now() > deadline) throw new Error(`${what}: not within ${timeoutMs} ms`);
    await sleep(100);
  }
}

withHost('the service unit, with a stand-in for the daemon', () => {
  let host: Host;

  const begin = async (behaviour: string) => {
    const lines = [
      '[Service]',
      'ExecStart=',
      `ExecStart=${node} /opt/checkout/test/integration/service-standin.ts ${behaviour}`,
    ];
    const folder = '/run/systemd/system/qazyna.service.d';
    mkdirSync(host.path('/tmp'), { recursive: true });
    await host.command('mkdir', ['-p', folder]);
    await host.command('sh', ['-c', `printf '%s\\n' "$@" > ${folder}/standin.conf`, 'sh', ...lines, 'WatchdogSec=3']);
    await host.command('systemctl', ['daemon-reload']);
    return await host.command('systemctl', ['start', 'qazyna.service']);
  };
  const main = () =>
    host.show(
      'qazyna.service',
      'ActiveState',
      'SubState',
      'StatusText',
      'NRestarts',
      'Result',
      'MainPID',
      'ExecMainStatus',
    );

  beforeAll(async () => {
    host = await Host.boot({
      readOnly: { '/opt/checkout': checkout },
      files: {
        '/etc/systemd/system/qazyna.service': unit,
        '/etc/qazyna/mysql.password': `${password}\n`,
        '/srv/qazyna/README': '',
      },
    });
    await host.command('chmod', ['600', '/etc/qazyna/mysql.password']);
    await host.command('chown', ['mysql:mysql', '/srv/qazyna']);
  }, 15 * 60_000);

  afterAll(() => host?.stop(), 60_000);

  test('the units have no mistake that systemd knows of', async () => {
    const { output } = await host.command('systemd-analyze', ['verify', 'qazyna.service']);
    expect(output.split('\n').filter((line) => /qazyna/.test(line) && !/is not executable/.test(line))).toEqual([]);
  });

  test('starts when ready, shows its status, sees its credential and little else, lives on by its pings', async () => {
    expect(await begin('steady')).toEqual({ code: 0, output: '' });
    const { MainPID } = await main();
    await until('the newest status', async () => (await main()).StatusText === 'capturing 49');
    // Twice the watchdog's time: without pings it would have been killed.
    await sleep(6500);
    expect(await main()).toMatchObject({ ActiveState: 'active', SubState: 'running', NRestarts: '0', MainPID });
    const journal = await host.journal('qazyna.service');
    expect(journal).toContain(`credential of ${password.length} characters`);
    expect(journal).toContain('writes /var/lib/qazyna: yes');
    expect(journal).toContain('writes /srv/qazyna: yes');
    expect(journal).toMatch(/writes \/etc: (EROFS|EACCES)/);
    expect(journal).toContain('reads the secret itself: EACCES');
    expect(journal).not.toContain('could not tell systemd');
  });

  test('SIGTERM ends it cleanly within 5 s', async () => {
    const begun = performance.now();
    expect((await host.command('systemctl', ['stop', 'qazyna.service'])).code).toBe(0);
    expect(performance.now() - begun).toBeLessThan(5000);
    expect(await main()).toMatchObject({ ActiveState: 'inactive', Result: 'success', ExecMainStatus: '0' });
  });

  test.each(['stuck', 'unhealthy'])('%s: the watchdog restarts it', async (behaviour) => {
    await begin(behaviour);
    await until('a restart by the watchdog', async () => Number((await main()).NRestarts) > 0);
    expect(await host.journal('qazyna.service')).toContain('Watchdog timeout');
    await host.command('systemctl', ['kill', '--signal=SIGKILL', 'qazyna.service']);
    await host.command('systemctl', ['stop', 'qazyna.service']);
    await host.command('systemctl', ['reset-failed', 'qazyna.service']);
  });

  test('a wrong configuration (exit 2) is not tried again', async () => {
    expect((await begin('misconfigured')).code).not.toBe(0);
    await sleep(3000);
    expect(await main()).toMatchObject({ ActiveState: 'failed', NRestarts: '0', ExecMainStatus: '2' });
  });
});

withHost('mysqld is stopped while commits wait for an acknowledgement that never comes', () => {
  const clients = 8;
  const mysql = new HostedMysql();
  let host: Host;

  beforeAll(async () => {
    await mysql.make();
    const client = `[client]\nuser=stopper\npassword=${password}\nsocket=${hosted}/run/mysql.sock\n`;
    writeFileSync(
      mysql.at('my.cnf'),
      `${readFileSync(mysql.at('my.cnf'), 'utf8')}plugin-load-add=semisync_source.so
rpl_semi_sync_source_enabled=ON
rpl_semi_sync_source_timeout=4294967295
rpl_semi_sync_source_wait_for_replica_count=1
rpl_semi_sync_source_wait_no_replica=ON
`,
    );
    host = await bootBeside(mysql, { '/etc/qazyna/offline-mode.cnf': client });
  }, 15 * 60_000);

  afterAll(async () => {
    await host?.stop();
    mysql.remove();
  }, 120_000);

  /** How many clients were told OK when the service was stopped under their waiting commits. */
  async function stopUnderCommits(): Promise<{ told: number; refused: number }> {
    await startMysql(host);
    const connections: MysqlConnection[] = [];
    for (let n = 0; n < clients; n++) connections.push(await connectMysql(mysql.endpoint, signal));
    const outcomes = connections.map((connection) =>
      connection.query('INSERT INTO t.item (v) VALUES (1)', [], 120_000).then(
        () => 'told',
        () => 'refused',
      ),
    );
    // The leader of the group waits for the acknowledgement, the others for the leader.
    const observer = await connectMysql(mysql.endpoint, signal);
    await until('all commits wait', async () => {
      const rows = await observer.query("SELECT state FROM performance_schema.processlist WHERE info LIKE 'INSERT%'");
      const waiting = rows
        .map(({ state }) => String(state))
        .filter((state) => /semi-sync ACK|handler commit/.test(state));
      return waiting.length === clients && waiting.some((state) => state.includes('semi-sync'));
    });
    await observer.close();
    expect((await host.command('systemctl', ['stop', 'mysql.service'])).code).toBe(0);
    const all = await Promise.all(outcomes);
    return { told: all.filter((one) => one === 'told').length, refused: all.filter((one) => one === 'refused').length };
  }

  test('as shipped by the distribution, every client is told OK (the fault that the drop-in is for)', async () => {
    expect(await stopUnderCommits()).toEqual({ told: clients, refused: 0 });
  }, 180_000);

  test('with the drop-in no client is told OK', async () => {
    const client = join(dirname(mysql.mysqld), 'mysql');
    await host.command('mkdir', ['-p', '/run/systemd/system/mysql.service.d']);
    const text = dropIn.replace('/usr/bin/mysql ', `${client} `);
    await host.command('sh', ['-c', 'printf %s "$1" > /run/systemd/system/mysql.service.d/qazyna.conf', 'sh', text]);
    await host.command('systemctl', ['daemon-reload']);
    expect(await stopUnderCommits()).toEqual({ told: 0, refused: clients });
    expect(await host.show('mysql.service', 'Result')).toEqual({ Result: 'success' });
  }, 180_000);
});

withHost('the installed package beside a mysqld', () => {
  const mysql = new HostedMysql();
  const packed = mkdtempSync(join(tmpdir(), 'qazyna-packed-'));
  let host: Host;
  let httpPort = 0;

  beforeAll(async () => {
    await mysql.make();
    await unpackInto(packed);
    mkdirSync(join(packed, 'node_modules'));
    chmodSync(packed, 0o755);
    httpPort = await labPort();
    const config = `source:
  name: agama
  mysql: { host: 127.0.0.1, port: ${mysql.port}, user: qazyna, password_file: /etc/qazyna/mysql.password }
log:
  local: { dir: /var/lib/qazyna/log }
archives:
  onsite: { url: "file:///srv/qazyna/agama" }
snapshots: { engine: clone, scratch_dir: /var/lib/mysql-clone }
http: { listen: "127.0.0.1:${httpPort}" }
`;
    host = await bootBeside(
      mysql,
      {
        '/etc/systemd/system/qazyna.service': unit,
        '/etc/qazyna/config.yaml': config,
        '/etc/qazyna/mysql.password': `${password}\n`,
      },
      {
        '/opt/qazyna/node_modules/qazyna': packed,
        '/opt/qazyna/node_modules/qazyna/node_modules': join(checkout, 'node_modules'),
        '/opt/qazyna/node_modules/node': join(checkout, 'node_modules/node'),
      },
      { '/var/lib/mysql-clone': mysql.at('clone'), '/srv/qazyna': mysql.at('archive') },
    );
    await host.command('chmod', ['600', '/etc/qazyna/mysql.password']);
  }, 15 * 60_000);

  afterAll(async () => {
    await host?.stop();
    mysql.remove();
    rmSync(packed, { recursive: true, force: true });
  }, 120_000);

  interface Status {
    archives: { completeThroughMicros: number; lastCommitMicros: number; snapshotId: string }[];
    alarms: { code: string }[];
  }

  const status = async (): Promise<Status | null> => {
    const answer = await fetch(`http://127.0.0.1:${httpPort}/status`).catch(() => null);
    return answer ? ((await answer.json()) as Status) : null;
  };
  /** GTIDs are dense here: as many transactions as the last one's number. */
  const commit = async (count: number): Promise<number> => {
    const connection = await connectMysql(mysql.endpoint, signal);
    for (let n = 0; n < count; n++) await connection.query('INSERT INTO t.item (v) VALUES (?)', [n]);
    const [row] = await connection.query('SELECT @@gtid_executed AS gtids');
    await connection.close();
    return Number(/(\d+)$/.exec(String(row?.gtids))?.[1]);
  };
  /** Read on this machine, from the archive alone. */
  const transactionsInArchive = (): number => {
    const args = ['windows', '--json', '--from', `file://${mysql.at('archive/agama')}`, '--source', 'agama'];
    const text = execFileSync(process.execPath, [join(checkout, 'bin/qazyna'), ...args], { encoding: 'utf8' });
    return JSON.parse(text).archives[0].timelines[0].transactions;
  };
  const showService = () =>
    host.show(
      'qazyna.service',
      'ActiveState',
      'Result',
      'NRestarts',
      'ActiveEnterTimestampMonotonic',
      'ExecMainStatus',
    );
  let committed = 0;

  test('is ready before mysqld is there, then captures, ships and takes a snapshot', async () => {
    const started = await host.command('systemctl', ['start', 'qazyna.service', 'mysql.service']);
    if (started.code !== 0) throw new Error(await host.journal('qazyna.service'));
    const before = await showService();
    const after = await host.show('mysql.service', 'ActiveEnterTimestampMonotonic');
    expect(Number(before.ActiveEnterTimestampMonotonic)).toBeLessThan(Number(after.ActiveEnterTimestampMonotonic));
    committed = await commit(100);
    const whenMicros = Date.now() * 1000;
    await until('a snapshot, and everything so far, in the archive', async () => {
      const archive = (await status())?.archives[0];
      return archive !== undefined && archive.snapshotId !== '' && archive.completeThroughMicros > whenMicros;
    });
    expect(transactionsInArchive()).toBe(committed);
    expect(await host.journal('qazyna.service')).not.toContain(password);
    // The unit's sandbox lets it step back behind mysqld.
    const { MainPID = '' } = await host.show('qazyna.service', 'MainPID');
    const { output: text } = await host.command('cat', [`/proc/${MainPID}/stat`]);
    // proc(5): nice is field 19, and the name in parentheses field 2.
    expect(text.slice(text.lastIndexOf(')') + 2).split(' ')[16]).toBe(String(yieldingNice));
  }, 120_000);

  test('killed, it is started again and goes on', async () => {
    await host.command('systemctl', ['kill', '--signal=SIGKILL', '--kill-who=main', 'qazyna.service']);
    committed = await commit(50);
    const whenMicros = Date.now() * 1000;
    await until('everything in the archive', async () => {
      return ((await status())?.archives[0]?.completeThroughMicros ?? 0) > whenMicros;
    });
    expect(await showService()).toMatchObject({ ActiveState: 'active', NRestarts: '1' });
    expect(transactionsInArchive()).toBe(committed);
  }, 120_000);

  test('SIGTERM ends it within 5 s and loses nothing', async () => {
    committed = await commit(50);
    const begun = performance.now();
    expect((await host.command('systemctl', ['stop', 'qazyna.service'])).code).toBe(0);
    expect(performance.now() - begun).toBeLessThan(5000);
    expect(await showService()).toMatchObject({ ActiveState: 'inactive', Result: 'success', ExecMainStatus: '0' });
    expect((await host.command('systemctl', ['start', 'qazyna.service'])).code).toBe(0);
    await until('everything in the archive', async () => transactionsInArchive() === committed);
  }, 120_000);

  test('a wrong configuration is said once, and not tried again', async () => {
    await host.command('systemctl', ['stop', 'qazyna.service']);
    await host.command('sed', ['-i', 's/^snapshots:/nonsense: 1\\nsnapshots:/', '/etc/qazyna/config.yaml']);
    expect((await host.command('systemctl', ['start', 'qazyna.service'])).code).not.toBe(0);
    expect(await showService()).toMatchObject({ ActiveState: 'failed', ExecMainStatus: '2' });
    expect(await host.journal('qazyna.service')).toMatch(/QZ20\d\d: .*nonsense/);
  }, 120_000);
});
