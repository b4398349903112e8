/**
 * Agent and shippers as processes of their own over a Kafka topic and an S3 server, each killed and started again, doubled,
 * cut off from every partner; and a restore by somebody who knows only the bucket. What was acknowledged is there.
 */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { MysqlConnection } from '../../core/mysql/connection.ts';
import type { TcpFault } from '../lab/fault-proxy.ts';
import { Lab } from '../lab/lab.ts';
import { compareWithLedger, makeAgamaSchema, readLedger, Workload } from '../lab/ledger.ts';
import { connected, endServer, RunningDaemon, verb } from '../lab/running.ts';

const stopWithinMs = 5000;
const caughtUpWithinMs = 40_000;
const outageMs = 2500;

let lab: Lab;
let dir: string;
let root: MysqlConnection;
let workload: Workload;
let agent: RunningDaemon;
let shippers: RunningDaemon[];

const startAgent = () => new RunningDaemon(lab, {}, ['agent']);
const ship = (archive: string) =>
  new RunningDaemon(lab, {}, ['shipper', '--archive', archive, '--listen', '127.0.0.1:0']);

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'qazyna-topology-'));
  lab = await Lab.start({ kafka: 1, s3: true, faults: true });
  root = await connected(lab.mysql.root);
  await makeAgamaSchema(lab.mysql.root);
  agent = startAgent();
  shippers = [ship('onsite'), ship('offsite')];
  workload = await Workload.start({
    endpoint: lab.mysql.app,
    ledgerFile: join(dir, 'ledger'),
    commitsPerSecond: 100,
    onDisconnect: () => undefined,
  });
  await agent.untilProtected();
}, 180_000);

afterAll(async () => {
  for (const daemon of [agent, ...(shippers ?? [])]) await daemon?.end('SIGKILL');
  await workload?.stop().catch(() => undefined);
  await root?.close();
  await lab?.stop();
  await rm(dir, { recursive: true, force: true });
}, 120_000);

const caughtUp = () => agent.untilArchived(root, caughtUpWithinMs);

/** Every alarm that was up is over again. */
async function untilWell(): Promise<void> {
  await agent.until('all is well', ({ wellBeing }) => wellBeing === 'well', caughtUpWithinMs);
}

async function untilSays(daemon: RunningDaemon, text: string): Promise<void> {
  const deadline = performance.now() + caughtUpWithinMs;
  while (!daemon.stderr.includes(text) && daemon.exitCode === null && performance.now() < deadline) await sleep(50);
  expect(daemon.stderr).toContain(text);
}

describe('agent, topic and shippers apart', () => {
  test('agent and shipper killed -9 go on where they were; two shippers for one archive do no harm', async () => {
    await agent.end('SIGKILL');
    agent = startAgent();
    await caughtUp();
    await shippers.pop()?.end('SIGKILL');
    shippers.push(ship('offsite'), ship('offsite'));
    await caughtUp();
    await untilWell();
  }, 120_000);

  const partners = ['mysql', 'kafka', 's3'];
  const faults: [string, TcpFault][] = [
    ['nobody hears anything', { kind: 'blackhole' }],
    ['nobody listens', { kind: 'refuse' }],
    ['answers are lost', { kind: 'lose-answer' }],
  ];
  const cases = partners.flatMap((partner) => faults.map(([what, fault]) => [partner, what, fault] as const));
  test.each(cases)(
    'cut off from %s (%s): it is told, and all catch up by themselves',
    async (partner, what, fault) => {
      await lab.faults?.set(partner, fault);
      await sleep(outageMs);
      await lab.faults?.set(partner, { kind: 'pass' });
      await lab.faults?.reset(partner);
      await caughtUp();
      await untilWell();
      expect(what).not.toBe('');
    },
    120_000,
  );

  test('an alarm names who cannot be reached', async () => {
    await lab.faults?.set('kafka', { kind: 'refuse' });
    const told = await agent.until('the alarm', ({ alarms }) => alarms.some(({ topic }) => topic === 'log'));
    await lab.faults?.set('kafka', { kind: 'pass' });
    expect(told.firstLine).toMatch(/^ATTENTION: .*Kafka/);
    await caughtUp();
    await untilWell();
  }, 120_000);

  test('a second agent stops the first one for good, whatever that one does', async () => {
    const file = join(dir, 'second.yaml');
    const text = (await readFile(lab.configFile, 'utf8'))
      .replace(/state_dir: [^ ,}]+/, `state_dir: ${dir}/second`)
      .replace(/listen: "[^"]*"/, 'listen: "127.0.0.1:0"');
    await writeFile(file, text);
    // Frozen while the other one claims: it wakes up with bytes in hand that must not count any more.
    process.kill(agent.pid, 'SIGSTOP');
    const second = new RunningDaemon({ ...lab, configFile: file } as Lab, {}, ['agent']);
    await untilSays(second, 'QZ4129');
    process.kill(agent.pid, 'SIGCONT');
    expect(await agent.end(null)).toBe(3);
    expect(agent.stderr).toContain('QZ3311');
    // It has the source to itself now, and goes on by itself.
    await untilSays(second, 'capturing from');
    expect(await second.end('SIGTERM')).toBe(0);
    agent = startAgent();
    await caughtUp();
  }, 120_000);

  test('SIGTERM ends each within 5 s, and what was acknowledged is restored from the bucket alone', async () => {
    await workload.stop();
    // A file that is still written to carries a mark of it on the server's disk.
    await root.query('FLUSH BINARY LOGS');
    await caughtUp();
    for (const daemon of [agent, ...shippers]) {
      const began = performance.now();
      expect(await daemon.end('SIGTERM')).toBe(0);
      expect(performance.now() - began).toBeLessThan(stopWithinMs);
    }
    const url = new URL(lab.offsiteUrl);
    const file = url.searchParams.get('credentials_file') ?? '';
    url.searchParams.delete('credentials_file');
    const from = ['--from', url.href, '--credentials-file', file];
    const windows = await verb(['windows', ...from, '--json']);
    expect(windows.code).toBe(0);

    const [files] = await root.query('SHOW BINARY LOGS');
    const name = String(files?.Log_name);
    const exported = join(dir, name);
    const { code: exportedCode } = await verb(['binlog', 'export', name, '--output', exported, ...from]);
    expect(exportedCode).toBe(0);
    expect((await readFile(exported)).equals(await readFile(join(lab.mysql.dataDir, name)))).toBe(true);

    const into = join(dir, 'restored');
    const { code, stdout, stderr } = await verb(['restore', '--to', 'latest', '--into', into, ...from, '--json']);
    expect([code, stderr.slice(-2000)]).toEqual([0, expect.any(String)]);
    const { pid, socket } = (JSON.parse(stdout) as { restore: { pid: number; socket: string } }).restore;
    try {
      const verdict = await compareWithLedger(
        { ...lab.mysql.root, socketPath: socket },
        readLedger(join(dir, 'ledger')),
        { doubtful: workload.doubtful },
      );
      expect(verdict).toMatchObject({ missing: [], unexpected: [] });
      expect(verdict.acknowledged).toBeGreaterThan(1000);
    } finally {
      await endServer(pid);
    }
  }, 180_000);
});
