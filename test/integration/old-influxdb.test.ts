/**
 * The oldest InfluxDB that is served, 1.6: captured behind a password and with the TSI index, with answers that its
 * configuration would cut, and restored by itself and by a 1.8; and qazyna's own metrics, sent to it.
 */
import { readFile, writeFile } from 'node:fs/promises';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { examineInfluxdb } from '../../agent/doctor/influxdb.ts';
import { openSender } from '../../agent/metrics/influxdb-client.ts';
import { loadConfig } from '../../core/config/config.ts';
import { findTool } from '../../scripts/setup/tools.ts';
import { InfluxdbLab } from '../lab/influxdb.ts';
import { InfluxdbWorld } from './influxdb-world.ts';

const program = await findTool('influxd-1.6');
if (program === null) process.stderr.write('not tested: this distribution has no package influxdb\n');
const account = { user: 'admin', password: 'it is secret' };
const at = 1_700_000_000_000_000_000n;

(program === null ? describe.skip : describe)('InfluxDB 1.6', () => {
  let world: InfluxdbWorld;

  beforeAll(async () => {
    const settings = {
      data: ['index-version = "tsi1"'],
      http: ['auth-enabled = true', 'max-row-limit = 2'],
      subscriber: ['write-buffer-size = 20', 'write-concurrency = 4'],
    };
    world = await InfluxdbWorld.start({ program: program ?? '', databases: ['app'], settings, account });
    await world.query('CREATE DATABASE app');
    await world.query('CREATE RETENTION POLICY "two weeks" ON app DURATION 336h REPLICATION 1 SHARD DURATION 24h');
    await world.query(
      'CREATE CONTINUOUS QUERY means ON app BEGIN SELECT mean(v) INTO app.autogen.mean FROM app.autogen.load GROUP BY time(1h) END',
    );
    await world.query("CREATE USER reader WITH PASSWORD 'reader'");
    await world.query('GRANT READ ON app TO reader');
  }, 120_000);

  afterAll(() => world[Symbol.asyncDispose]());

  async function taken(lines: string | Buffer, place: { precision?: string; rp?: string } = {}): Promise<void> {
    expect(await world.write('app', lines, place)).toEqual({ status: 204, reason: '' });
  }

  /** `what`: so that each of them is another series. */
  async function writeAll(what: string): Promise<void> {
    await taken(`integers,w=${what} a=9223372036854775807i,b=-9223372036854775808i ${at}`);
    await taken(`floats,w=${what} a=1.7976931348623157e308,b=5e-324,c=-0,d=0.1 ${at}`);
    await taken(`we\\ ir\\,d,w=${what},t\\ a\\=g=v\\,al\\ ue f="q\\"uo\\\\te\nline",g=t ${at}`);
    await taken(Buffer.from(`text,w=${what} f="\xc3\x28" ${at}`, 'latin1'));
    await taken(`early,w=${what} v=1 -1000000000`);
    await taken(`precise,w=${what} v=1 1700000000`, { precision: 's' });
    await taken(`policies,w=${what} v=1 ${Date.now()}000000`, { rp: 'two weeks' });
    await taken(
      Array.from({ length: 30 }, (_, day) => `days,w=${what} v=${day} ${at + BigInt(day) * 86_400_000_000_000n}`).join(
        '\n',
      ),
    );
    await taken(`conflict v=1 ${at}`);
    expect(await world.write('app', `conflict v="text" ${at + 1n}`)).toMatchObject({ status: 400 });
  }

  async function config() {
    return await loadConfig(world.configFile);
  }

  test('is captured: what was there, what is forwarded, and what was not, because it or the agent was down', async () => {
    const [influxdb] = (await config()).influxdb;
    if (influxdb === undefined) throw new Error('the configuration names no InfluxDB');
    const options = { environment: {}, signal: AbortSignal.timeout(20_000) };
    expect(await examineInfluxdb(influxdb, options)).toEqual([
      expect.objectContaining({ code: 'QZ2043', sentence: expect.stringContaining('(1.6.') }),
    ]);
    await writeAll('before');
    world.startAgent();
    await world.untilProtected();
    await writeAll('forwarded');
    await world.untilCaught();
    await world.daemon.end('SIGKILL');
    await writeAll('missed');
    await world.influxdb.kill();
    await world.influxdb.restart();
    await writeAll('restarted');
    world.startAgent();
    await world.until('what was missed', ({ service }) => (service.counters.reexported_points_total ?? 0) > 0);
    await world.untilCaught();
  }, 120_000);

  test('is restored by itself, and by a 1.8, point by point', async () => {
    const wanted = await world.content('app');
    expect(wanted.length).toBe(9);
    await using newer = await InfluxdbLab.start({ settings: { http: ['max-row-limit = 2'] } });
    for (const url of [world.influxdb.url, newer.url]) {
      const args = ['--to', 'latest', '--from-database', 'app', '--database', 'again', '--url', url];
      const { code, report, error } = await world.restore([...args, '--work', `${world.dir}/${new URL(url).port}`]);
      expect([code, error.replace(/^.*points.*$/gm, '').trim()]).toEqual([5, '']);
      expect(report.setAside).toBeGreaterThan(0);
      expect(await readFile(report.setAsideFile ?? '', 'utf8')).toMatch(/conflict v="text"/);
      expect(await world.content('again', url)).toEqual(wanted);
      expect(report.policies.map(({ name, duration, isApplied }) => [name, duration, isApplied])).toEqual([
        ['autogen', '0s', true],
        ['two weeks', '336h0m0s', true],
      ]);
      expect(report.statements).toEqual([
        '-- of app',
        expect.stringMatching(/^CREATE CONTINUOUS QUERY means ON app .*;$/),
        expect.stringContaining('CREATE USER "admin"'),
        expect.stringContaining('CREATE USER "reader"'),
        'GRANT READ ON "app" TO "reader";',
      ]);
    }
  }, 120_000);

  test('a database that is dropped and made anew: soon a snapshot has what is there now, and nothing of before', async () => {
    await world.query('DROP DATABASE app');
    await world.query('CREATE DATABASE app');
    // A line may come before the new subscription: then its shard is exported.
    await taken(`floats a="of another type" ${at}`);
    const { counters } = await world.until('it is captured', ({ service }) => service.state === 'running');
    await world.until(
      'a snapshot',
      ({ service }) => (service.counters.snapshots_total ?? 0) > (counters.snapshots_total ?? 0),
    );
    await world.untilCaught();
    const args = ['--to', 'latest', '--from-database', 'app', '--database', 'anew'];
    const { code, report, error } = await world.restore(args);
    expect([code, error.replace(/^.*points.*$/gm, '').trim(), report.setAside]).toEqual([0, '', 0]);
    await world.expectSame('app', 'anew');
  }, 90_000);

  test('its administrator’s password is changed: an alarm, and none once the file has the new one, without a restart', async () => {
    const isUp = ({ alarms }: { alarms: readonly { topic: string; code: string }[] }) =>
      alarms.some(({ topic, code }) => topic === 'influxdb.syslog:server' && code === 'QZ2921');
    await world.query("SET PASSWORD FOR admin = 'another'");
    account.password = 'another';
    // A new shard makes it look closely.
    await taken(`days,w=changed v=1 ${at + 1_000n * 86_400_000_000_000n}`);
    await world.until('the alarm', ({ report }) => isUp(report));
    await writeFile(world.passwordFile, 'another');
    await world.until('no alarm', ({ report }) => !isUp(report));
  }, 60_000);

  test('takes qazyna’s own metrics, by the path that every 1.x knows', async () => {
    const sender = openSender({ url: world.influxdb.url, database: 'app/autogen', account: 'admin:another' });
    expect(await sender.send([`qazyna,source=a well=1 ${Date.now()}`])).toBe('taken');
    const wrong = openSender({ url: world.influxdb.url, database: 'app', account: 'admin:wrong' });
    await expect(wrong.send(['qazyna well=1'])).rejects.toMatchObject({
      code: 'QZ4930',
      message: /authorization failed/,
    });
  });
});
