/** Snapshots of a standby's server: restored, and another standby filled from them, as if they were of the source. */
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { openDirectoryStore } from '../../core/archive/directory.ts';
import type { MysqlConnection } from '../../core/mysql/connection.ts';
import { listCompleteSnapshots, readManifest } from '../../core/snapshot/manifest.ts';
import { askStandby } from '../../standby/control.ts';
import { fingerprint } from '../lab/fingerprint.ts';
import { Lab } from '../lab/lab.ts';
import { nastyRound, nastySchema } from '../lab/nasty.ts';
import { StandbyHost } from '../lab/pair.ts';
import { connected, endServer, executedSet, RunningDaemon, verb } from '../lab/running.ts';

const statementMs = 60_000;
const never = new AbortController().signal;

describe('snapshots of a standby', () => {
  let lab: Lab;
  let daemon: RunningDaemon;
  let source: MysqlConnection;
  let one: StandbyHost;
  let two: StandbyHost;
  let dir: string;
  let taken = '';

  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), 'qz-standby-snapshot-'));
    lab = await Lab.start({ kafka: 1 });
    source = await connected(lab.mysql.root);
    for (const statement of [...nastySchema, event('kept'), event('changed')]) await run(statement);
    const config = await readFile(lab.configFile, 'utf8');
    await writeFile(lab.configFile, config.replace('  engine: clone\n', '  engine: clone\n  from: standby\n'));
    daemon = new RunningDaemon(lab);
    one = await StandbyHost.create(lab, { name: 'one' });
    two = await StandbyHost.create(lab, { name: 'two' });
    one.start();
    await daemon.untilProtected();
    await one.untilFollowing();
  }, 180_000);

  afterAll(async () => {
    await one?.destroy();
    await two?.destroy();
    await daemon?.end('SIGKILL');
    await source?.close();
    await lab?.stop();
    await rm(dir, { recursive: true, force: true });
  }, 120_000);

  const run = (statement: string) => source.query(statement, [], statementMs);
  const event = (name: string) =>
    `CREATE EVENT nasty.${name} ON SCHEDULE EVERY 1 YEAR STARTS '2999-01-01 00:00:00' DO DELETE FROM nasty.audit`;
  const store = (archive: string) => openDirectoryStore(join(lab.dir, 'archives', archive), { create: false });
  const uuidOf = async (server: MysqlConnection) =>
    String((await server.query('SELECT @@GLOBAL.server_uuid AS uuid'))[0]?.uuid);

  async function executes(host: StandbyHost): Promise<void> {
    const wanted = await executedSet(source);
    await host.untilFollowing();
    const replica = await host.connect();
    const [row] = await replica.query('SELECT WAIT_FOR_EXECUTED_GTID_SET(?, 60) AS late', [wanted.toString()], 70_000);
    expect(row?.late).toBe(0);
    await replica.close();
    await host.untilFollowing();
  }

  test('asked for on its host, its own server is copied into every archive, in the name of the source', async () => {
    // A replica keeps these from running, whatever the source says.
    for (const statement of [...nastyRound(0), event('replayed'), event('off'), 'ALTER EVENT nasty.off DISABLE'])
      await run(statement);
    await executes(one);
    let isOver = false;
    const writing = (async () => {
      for (let n = 0; !isOver; n += 1) await run(`INSERT INTO nasty.no_key VALUES (${n}, 'while it is copied')`);
    })();
    const result = await verb(['snapshot', 'take', '--json', '--config', one.configFile]);
    isOver = true;
    await writing;
    expect({ code: result.code, stderr: result.code === 0 ? '' : result.stderr }).toEqual({ code: 0, stderr: '' });
    const { snapshot } = JSON.parse(result.stdout);
    expect(snapshot.copied).toBe('standby');
    taken = snapshot.id;
    const replica = await one.connect();
    for (const archive of ['onsite', 'offsite']) {
      const manifest = await readManifest(await store(archive), taken);
      expect(manifest).toMatchObject({ engine: 'clone', generation: 1, sourceUuid: await uuidOf(source) });
      expect(manifest.settings).toMatchObject({ server_uuid: await uuidOf(replica), event_scheduler: 'ON' });
      expect(manifest.events?.statuses).toMatchObject({ 'nasty.replayed': 'ENABLED', 'nasty.off': 'DISABLED' });
    }
    await replica.close();
    expect(await readdir(`${lab.dir}/one-scratch`)).toEqual([]);
  }, 120_000);

  test('restored from it: every row, definition, event and account as the source has them, and nobody’s replica', async () => {
    for (const statement of [...nastyRound(1), 'ALTER EVENT nasty.changed DISABLE', 'ALTER EVENT nasty.off ENABLE'])
      await run(statement);
    await daemon.untilArchived(source);
    const wanted = await fingerprint(source);
    const into = join(dir, 'restored');
    const asked = [
      'restore',
      '--to',
      'latest',
      '--into',
      into,
      '--from',
      'onsite',
      '--config',
      lab.configFile,
      '--json',
    ];
    const result = await verb(asked);
    expect({ code: result.code, stderr: result.code === 0 ? '' : result.stderr }).toEqual({ code: 0, stderr: '' });
    const { restore } = JSON.parse(result.stdout);
    expect(restore.snapshot).toBe(taken);
    const server = await connected({ ...lab.mysql.root, socketPath: restore.socket });
    expect(await fingerprint(server)).toEqual(wanted);
    expect(await server.query('SHOW REPLICA STATUS')).toEqual([]);
    const [scheduler] = await server.query('SELECT @@GLOBAL.event_scheduler AS it');
    expect(scheduler?.it).toBe('ON');
    await server.close();
    await endServer(restore.pid);
  }, 120_000);

  test('an archive that has none gets one by the schedule, from the standby alone', async () => {
    await rm(`${lab.dir}/archives/offsite/snapshots`, { recursive: true });
    await one.end('SIGTERM');
    one.start();
    const offsite = await store('offsite');
    const deadline = performance.now() + 60_000;
    while ((await listCompleteSnapshots(offsite)).length === 0 && performance.now() < deadline) await sleep(100);
    const [newest] = await listCompleteSnapshots(offsite);
    const manifest = await readManifest(offsite, newest?.id ?? '');
    expect(manifest.settings.server_uuid).not.toBe(await uuidOf(source));
    const here = (await listCompleteSnapshots(await store('onsite'))).map(({ id }) => id);
    expect(here).toContain(taken);
    expect(here).not.toContain(newest?.id);
  }, 120_000);

  test('another standby is filled from it, and is promoted with the events of the source; what was being copied is given up', async () => {
    two.start();
    await executes(two);
    const replica = await two.connect();
    // Holds the copy up: one at a time.
    await replica.query("SELECT GET_LOCK('qazyna.snapshot', 0)");
    const options = { onStep: () => undefined, signal: never };
    const copying = askStandby(two.dir, 'snapshot', {}, options).catch((error: unknown) => error);
    await two.until('the copy', ({ snapshots }) => snapshots.running);
    await askStandby(two.dir, 'promote', { oldPrimaryIsOff: true, reason: 'the test' }, options);
    expect(await copying).toMatchObject({ kind: 'transient', code: 'QZ4723' });
    const events = 'SELECT event_name AS name, status AS status FROM information_schema.events ORDER BY 1';
    expect(await replica.query(events)).toEqual(await source.query(events));
    await replica.query("DO RELEASE_LOCK('qazyna.snapshot')");
    await two.until('generation 2', ({ capture }) => capture?.generation === 2 && capture.state === 'running');
    const result = await verb(['snapshot', 'take', '--json', '--config', two.configFile]);
    expect({ code: result.code, stderr: result.code === 0 ? '' : result.stderr }).toEqual({ code: 0, stderr: '' });
    const { snapshot } = JSON.parse(result.stdout);
    const manifest = await readManifest(await store('onsite'), snapshot.id);
    expect([snapshot.copied, manifest.generation, manifest.sourceUuid]).toEqual(['source', 2, await uuidOf(replica)]);
    await replica.close();
  }, 120_000);
});
